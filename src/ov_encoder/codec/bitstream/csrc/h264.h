/* The state of an H.264 reader, shared by the h264_*.c files. Clause numbers are those of ITU-T H.264.
 *
 * Each file has one idea: h264.c NAL units and pictures, h264_params.c parameter sets, h264_header.c slice headers,
 * h264_dpb.c reference pictures, h264_mb.c macroblocks, h264_cabac.c and h264_cavlc.c their syntax elements,
 * h264_coeff.c transform coefficients, h264_motion.c motion vectors, h264_direct.c direct prediction,
 * h264_energy.c what a coefficient weighs in pixels.
 */
#ifndef OVB_H264_H
#define OVB_H264_H

#include "cabac.h"
#include "parser.h"

#define H264_MAX_LIST 32
#define H264_POOL 18 /* 16 references, the picture in progress, and one to spare */
#define H264_MAX_QP 88

enum { H264_P = 0, H264_B = 1, H264_I = 2 };

typedef struct h264_sps {
    int chroma;                /* ChromaArrayType: 0 grey, 1 4:2:0, 2 4:2:2, 3 4:4:4 */
    int depth_luma, depth_chroma;
    int lossless;              /* qpprime_y_zero_transform_bypass_flag */
    int frame_num_bits, poc_type, poc_lsb_bits;
    int delta_poc_always_zero;
    int32_t offset_non_ref, offset_bottom;
    int cycle;
    int32_t offsets[255];
    int max_refs, gaps_allowed;
    int mb_width, mb_height, frame_mbs_only, mbaff, direct_8x8;
    int crop[4];               /* left, right, top, bottom in luma samples */
    int has_lists;
    uint8_t list4[2][16], list8[2][64]; /* scaling lists of luma, intra then inter, in zigzag order */
} h264_sps;

enum { H264_LIST_ABSENT, H264_LIST_DEFAULT, H264_LIST_GIVEN };

typedef struct h264_pps {
    int sps_id;
    int cabac, poc_present, refs[2], weighted, bipred, qp, deblocking_control, redundant_present, transform8x8;
    int has_lists;
    uint8_t given4[2], given8[2]; /* H264_LIST_* */
    uint8_t list4[2][16], list8[2][64];
} h264_pps;

typedef struct h264_command { /* a reordering command or a memory management control operation */
    uint32_t op, a, b;
} h264_command;

typedef struct h264_header {
    int nal_ref_idc, idr, type;
    uint32_t first_mb;
    int pps_id, frame_num, idr_pic_id;
    int32_t poc_lsb, delta_bottom, delta_poc[2];
    int redundant, direct_spatial;
    int refs[2];
    int reorders[2];
    h264_command reorder[2][H264_MAX_LIST + 2];
    int long_term_idr, adaptive, commands;
    h264_command command[36];
    int cabac_init, qp;
} h264_header;

enum { H264_UNUSED = 0, H264_SHORT = 1, H264_LONG = 2 };

typedef struct h264_picture {
    ovb_picture *cells;
    int8_t (*ref_idx[2])[4]; /* by list and macroblock: reference index of each 8x8, -1 if unused */
    int reference;           /* H264_UNUSED, _SHORT or _LONG */
    int exists;              /* 0: stands in for a gap in frame_num */
    int frame_num, long_idx;
    int32_t frame_num_wrap, poc, top, bottom;
    int64_t id;              /* decode index; below 0 for gaps */
} h264_picture;

/* Classes of macroblocks; several bits may be set. */
enum {
    MB_INTRA_NXN = 1,
    MB_INTRA_16 = 2,
    MB_PCM = 4,
    MB_INTER = 8,
    MB_SKIP = 16,
    MB_DIRECT = 32, /* B_Skip or B_Direct_16x16 */
    MB_8X8 = 64,    /* transform_size_8x8_flag */
    MB_INTRA = MB_INTRA_NXN | MB_INTRA_16 | MB_PCM,
};

typedef struct h264_mb { /* what later macroblocks need to know of one */
    uint32_t slice;      /* number of its slice in the picture, from 1; 0: not read yet */
    uint8_t type, cbp;   /* cbp: luma in bits 0..3, chroma in bits 4..5 */
    uint8_t direct;      /* bit per 8x8: predicted in direct mode */
    uint8_t chroma_mode; /* intra_chroma_pred_mode */
    uint64_t coded;      /* coded_block_flag: 16 bits each for Y, Cb, Cr in raster order, then their DC blocks */
} h264_mb;

/* Motion of a macroblock with its neighbours: 4x4 block (x, y), -1 <= x <= 4, -1 <= y <= 3. */
#define AT(x, y) (((y) + 1) * 8 + (x) + 1)
#define REF_NONE (-1)  /* intra, or the list is not used */
#define REF_AWAY (-2)  /* outside the slice, or later in decoding order */

typedef struct h264_motion {
    int8_t ref[40];
    ovb_mv mv[40];
    uint8_t mvd[40][2]; /* |mvd|, clipped; x then y */
} h264_motion;

typedef struct h264_direct {
    h264_picture *col;                 /* RefPicList1[0] */
    int col_short;                     /* it is a short-term reference */
    int8_t map[OVB_MAX_REFERENCES];    /* its references -> index in list 0, -1 if not there (temporal) */
    int16_t scale[H264_MAX_LIST];      /* DistScaleFactor by index in list 0 */
    uint8_t unscaled[H264_MAX_LIST];   /* long-term, or no distance */
} h264_direct;

typedef struct h264 {
    ovb_parser *parser;
    h264_sps *sps_by_id[32];
    h264_pps *pps_by_id[256];
    h264_sps sps; /* those in use */
    h264_pps pps;
    int active, sps_id, pps_id;

    /* the picture in progress */
    int started;
    int mb_width, mb_height, stride;
    h264_mb *mbs;                  /* one column to the left and one row above belong to no slice */
    uint8_t (*totals)[48];         /* total_coeff of every 4x4 block, raster, Y, Cb, Cr (CAVLC) */
    uint8_t (*mvd)[2][8][2];       /* |mvd| by list: bottom row, then right column (CABAC) */
    h264_picture *current;
    ovb_picture *cells;            /* current->cells */
    h264_header first;             /* header of its first slice */
    uint32_t slices, broken;
    uint32_t mbs_read;
    int64_t slice_bits;
    int inexact, has_p, has_b, lossless_seen;

    /* reference pictures */
    h264_picture pool[H264_POOL];
    int prev_ref_frame_num, prev_frame_num;
    int32_t prev_poc_msb, prev_poc_lsb, prev_frame_num_offset;
    int prev_mmco5, recovery_point;
    int64_t gaps;
    int32_t sequence;

    /* the slice in progress */
    h264_header header;
    uint32_t slice;
    h264_picture *list[2][H264_MAX_LIST + 1];
    int8_t reference_of[2][H264_MAX_LIST]; /* index in list -> index in current->cells->references */
    uint32_t refs_missing[2], refs_used[2];
    h264_direct direct;
    ovb_bits bits;
    size_t stop;
    ovb_cabac cabac;
    uint8_t context[1024];
    int skip_run;

    /* the macroblock in progress */
    int mb_x, mb_y, index;
    size_t cell, block;           /* its first 8x8 cell and 4x4 block in the picture's maps */
    h264_mb *mb;
    const h264_mb *a, *b, *c, *d; /* left, above, above right, above left; NULL where not available */
    int qp;                       /* QP'Y without the offset: QPY */
    int qp_delta;                 /* mb_qp_delta of the macroblock before */
    int64_t position;             /* up to where bits have been charged */
    uint32_t cell_bits[4];
    float cell_energy[4];
    int8_t ref[2][4];
    h264_motion motion[2];

    /* squares of what one level weighs in pixels, by (intra, inter) and QP'; filled when first needed */
    float weight4[2][H264_MAX_QP][16], weight8[2][H264_MAX_QP][64];
    uint8_t have4[2][H264_MAX_QP], have8[2][H264_MAX_QP];
    float unit; /* from this bit depth to the 8-bit scale, squared */
    float lossless_weight[64];
} h264;

/* h264_params.c */
int h264_read_sps(h264 *h, ovb_bits *b);
int h264_read_pps(h264 *h, ovb_bits *b, size_t stop);

/* h264_header.c: 0, or -1 if the header is broken or names sets that are not there. */
int h264_read_header(h264 *h, ovb_bits *b, int nal_type, int nal_ref_idc, h264_header *header, const h264_sps **sps,
                     const h264_pps **pps);

/* h264_dpb.c */
void h264_forget_references(h264 *h);
h264_picture *h264_free_picture(h264 *h);
void h264_fill_gap(h264 *h, int frame_num);
void h264_order_count(h264 *h, h264_picture *p);
int h264_build_lists(h264 *h);
void h264_mark_references(h264 *h);

/* h264_energy.c: weights by zigzag index. */
const float *h264_weights4(h264 *h, int inter, int qp);
const float *h264_weights8(h264 *h, int inter, int qp);
void h264_reset_weights(h264 *h);
void h264_dc_energy(const int32_t *level, float weight, float energy[4]);

/* h264_cabac.c */
void h264_cabac_start(h264 *h, const uint8_t *data, size_t bytes);
int h264_cabac_skip(h264 *h);
int h264_cabac_mb_type(h264 *h);
int h264_cabac_sub_type(h264 *h);
int h264_cabac_ref(h264 *h, int ctx);
void h264_cabac_mvd(h264 *h, const uint8_t left[2], const uint8_t above[2], int mvd[2], uint8_t magnitude[2]);
int h264_cabac_cbp(h264 *h);
int h264_cabac_qp_delta(h264 *h);
int h264_cabac_chroma_mode(h264 *h);
void h264_cabac_intra_mode(h264 *h);

/* h264_coeff.c: one block of `count` coefficients. `plane` 0..2; `at` = raster index of the 4x4 block in its plane;
 * energy grows by the squares of the levels times weight (NULL: not wanted); levels[0..count) are set (NULL: not
 * wanted; zeroed by the caller). Returns the number of coefficients, or -1. */
enum { COEFF_DC16, COEFF_AC16, COEFF_4X4, COEFF_CHROMA_DC, COEFF_CHROMA_AC, COEFF_8X8 };
int h264_cabac_block(h264 *h, int cat, int plane, int count, const float *weight, float *energy, int32_t *levels);

/* h264_cavlc.c */
int h264_cavlc_block(h264 *h, int nc, int count, const float *weight, int step, float *energy, int32_t *levels);
int h264_cavlc_cbp(h264 *h, int inter);

/* h264_motion.c */
void h264_skip_motion(h264 *h);
int h264_inter_motion(h264 *h, int mb_type);
void h264_store_motion(h264 *h);
void h264_store16(h264 *h, int list, int ref, ovb_mv mv);
void h264_forget_motion(h264 *h);
void h264_neighbours16(const h264 *h, int list, int ref[3], ovb_mv mv[3]);
ovb_mv h264_median(const int ref[3], const ovb_mv mv[3], int want);

/* h264_direct.c */
void h264_direct_start(h264 *h);
void h264_direct_motion(h264 *h, int blocks);
void h264_direct16(h264 *h);

/* h264_mb.c: 0, or -1 if the slice is broken. */
int h264_read_macroblock(h264 *h, int skipped);

static inline int64_t h264_position(const h264 *h) {
    return h->pps.cabac ? ovb_cabac_position(&h->cabac) : (int64_t)h->bits.pos << OVB_POS_SHIFT;
}

#endif
