/* State of the HEVC reader, shared by its files: headers (hevc_slice.c, hevc_dpb.c), slice data (hevc_data.c,
 * hevc_cu.c, hevc_tu.c, hevc_residual.c), motion (hevc_merge.c, hevc_amvp.c), and what is kept (hevc_keep.c).
 *
 * Clauses are those of ITU-T H.265. Coordinates are luma samples; `8` and `4` in names are grids of that size.
 */
#ifndef OVB_HEVC_H
#define OVB_HEVC_H

#include "cabac.h"
#include "hevc_contexts.h"
#include "hevc_params.h"

enum hevc_nal_type {
    HEVC_RADL_N = 6, HEVC_RASL_N = 8, HEVC_RASL_R = 9, HEVC_BLA_W_LP = 16, HEVC_IDR_W_RADL = 19, HEVC_IDR_N_LP = 20,
    HEVC_CRA = 21, HEVC_LAST_IRAP = 23, HEVC_LAST_VCL = 31, HEVC_VPS = 32, HEVC_SPS = 33, HEVC_PPS = 34, HEVC_AUD = 35,
    HEVC_EOS = 36, HEVC_EOB = 37, HEVC_PREFIX_SEI = 39,
};

enum hevc_slice_type { HEVC_B = 0, HEVC_P = 1, HEVC_I = 2 };

typedef struct hevc_slice {
    int32_t pps_id;
    uint8_t first, dependent, type, temporal_mvp, sao_luma, sao_chroma, mvd_l1_zero, cabac_init, collocated_list;
    uint8_t chroma_qp_offsets, list_modified[2];
    int32_t address;      /* of this segment's first CTB, raster */
    int32_t slice_address; /* SliceAddrRs: of the slice's first CTB */
    int32_t poc_lsb, qp, max_merge, collocated_ref;
    int32_t refs[2];      /* num_ref_idx_active */
    uint8_t list_entry[2][HEVC_MAX_REFS];
    hevc_rps rps;
    int32_t lt_count;
    int32_t lt_poc[HEVC_MAX_REFS];     /* whole POC where lt_has_msb, else its low bits */
    uint8_t lt_has_msb[HEVC_MAX_REFS], lt_used[HEVC_MAX_REFS];
    uint32_t lt_msb_cycle[HEVC_MAX_REFS];
    uint32_t entry_points;
    size_t data; /* byte of the payload where slice data begin */
} hevc_slice;

typedef struct hevc_frame {
    ovb_picture *picture;
    int32_t poc;
    uint8_t used;      /* holds a picture that may be referred to */
    uint8_t long_term;
    uint8_t keep;      /* named by the current reference picture set */
} hevc_frame;

/* Motion of a prediction block; mv of an unused list is 0, so that equal blocks have equal bytes. */
typedef struct hevc_motion {
    ovb_mv mv[2];
    int8_t ref[2]; /* index into the slice's lists, -1: not used */
    int8_t pad[2];
} hevc_motion;

typedef struct hevc_reference {
    int32_t poc;
    int32_t long_term;
    int8_t out;   /* index in picture->references */
    int8_t frame; /* index in frames */
} hevc_reference;

typedef struct hevc_cu {
    int x, y, log2, intra, part, bypass, merged;
    int split4;        /* IntraSplitFlag */
    int max_depth;     /* MaxTrafoDepth */
    uint8_t mode[4], mode_chroma[4];
} hevc_cu;

typedef float hevc_cells __attribute__((vector_size(16), aligned(4))); /* one number for each cell of a row or column */

typedef struct hevc_basis { /* of a transform of 16 or 32 samples; sample 8 * cell + y */
    hevc_cells at[32][8];    /* [frequency][y]; of 16: [frequency][y & 3], the last two numbers are of y + 4 */
    hevc_cells both[32][32]; /* [frequency][frequency]: products summed over y */
} hevc_basis;

typedef struct hevc_coefficient {
    int32_t value;
    uint16_t position; /* y * N + x */
} hevc_coefficient;

typedef struct hevc {
    ovb_parser *parser;
    hevc_basis basis[2]; /* of 16 and 32 samples */
    hevc_sps *sps_sets[HEVC_MAX_SPS];
    hevc_pps *pps_sets[HEVC_MAX_PPS];
    uint32_t serial;

    /* the active sets, and what follows from them (hevc_layout.c) */
    const hevc_sps *sps;
    const hevc_pps *pps;
    uint32_t layout_sps, layout_pps; /* serials that the layout was made from */
    int width8, height8, width4;
    int motion_step; /* every so many rows of 4x4 blocks have their motion in the picture; nobody looks at the others */
    int width_ctb, height_ctb, ctbs;
    int32_t *to_ts, *to_rs;     /* CTB addresses, raster to tile scan and back */
    uint16_t *tile;             /* [ctbs] by raster address */
    uint16_t *tile_left;        /* [width_ctb] first column of the tile that a column is in */
    int32_t *ctb_slice;         /* [ctbs] SliceAddrRs by raster address, -1: not read in this picture */
    uint8_t *depth8;            /* coding quadtree depth */
    uint8_t *mode4;             /* intra prediction modes; only where kind is intra */
    hevc_motion *motion4;       /* only where kind is not intra */
    uint16_t scaling[2][4][1024]; /* factors of luma by intra / inter, size; [y * N + x] */
    uint32_t *entry;            /* entry points of the segment, bytes of each substream */
    uint32_t entry_room;

    /* pictures */
    hevc_frame frames[HEVC_MAX_REFS + 1];
    int current;          /* in frames; -1: no picture in progress */
    int started;          /* an IRAP picture was read */
    int no_rasl;          /* NoRaslOutputFlag of the last IRAP picture */
    int sequence_ended;   /* an end of sequence NAL unit came */
    int32_t poc_tid0;     /* of the last picture of temporal layer 0 */
    int32_t sequence;
    int ctbs_read, slices, flags, type;
    int64_t slice_bits;   /* in 1 / 4096 */

    /* slice */
    hevc_slice slice;
    int slice_ok;         /* `slice` may be continued by a dependent segment */
    int nal_type, temporal_id;
    hevc_reference refs[2][HEVC_MAX_REFS];
    const ovb_picture *collocated;
    int no_backward;      /* NoBackwardPredFlag: no reference is later than the picture */

    /* slice data */
    ovb_picture *picture;
    ovb_cabac cabac;
    int64_t mark;         /* position up to which bits are credited */
    uint8_t context[HEVC_CONTEXTS], context_row[HEVC_CONTEXTS], context_segment[HEVC_CONTEXTS];
    int ctb_x, ctb_y;
    int left, up, up_left, up_right; /* availability of the CTBs around */
    int qp, qp_pred, qp_last;        /* QpY; qPY_PRED; QpY of the coding unit before */
    int delta_coded, chroma_delta_coded;
    int broken;           /* the slice data contradict the standard */
    hevc_cu cu;
} hevc;

/* hevc_layout.c: make the picture's layout for sps and pps. 0 if it cannot be (then refused or out of memory). */
int hevc_layout(hevc *h, const hevc_sps *sps, const hevc_pps *pps);
void hevc_layout_free(hevc *h);

/* hevc_slice.c: read a slice segment header into *out (a copy of the previous slice's for a dependent one).
 * Returns NULL, or what is wrong. */
const char *hevc_read_slice(hevc *h, hevc_reader *r, hevc_slice *out);

/* hevc_dpb.c */
int hevc_start_picture(hevc *h);  /* POC, reference picture set, memory; 0 if it cannot be */
const char *hevc_start_slice(hevc *h); /* reference lists; NULL, or what is wrong */
void hevc_forget_pictures(hevc *h); /* free all */

/* hevc_data.c: read the slice segment's data. NULL, or what is wrong. */
const char *hevc_read_data(hevc *h, const uint8_t *payload, size_t size);

/* hevc_cu.c: the coding quadtree of a CTB. Sets h->broken. */
void hevc_read_quadtree(hevc *h, int x, int y, int log2, int depth);

/* hevc_tu.c: the residual quadtree of h->cu. */
void hevc_read_transform_tree(hevc *h);

/* hevc_residual.c: one block of coefficients; energy of a luma block goes to its cells. */
void hevc_read_residual(hevc *h, int x, int y, int log2, int component, int scan);

/* hevc_energy.c: shares of the 8x8 cells of a block, [row * 4 + column], in any unit; at most one value per position */
void hevc_basis_start(hevc_basis *basis, int log2);
void hevc_share_energy(const hevc_basis *basis, int log2, const hevc_coefficient *coefficient, int count, float cell[16]);

/* hevc_merge.c, hevc_amvp.c */
void hevc_merge(const hevc *h, int x, int y, int w, int height, int part, int index, hevc_motion *out);
ovb_mv hevc_predict_mv(const hevc *h, int x, int y, int w, int height, int list, int ref, int index);
int hevc_temporal_mv(const hevc *h, int x, int y, int w, int height, int list, int ref, ovb_mv *out);
/* The motion at (xn, yn) if that is available to the block at (x, y), decoded before, and inter; else NULL. */
const hevc_motion *hevc_neighbour(const hevc *h, int x, int y, int xn, int yn);

/* hevc_keep.c: into the picture's cells */
void hevc_credit(hevc *h, int x, int y, int log2); /* bits since the mark, to a square block */
void hevc_credit_bits(hevc *h, int x, int y, int log2, int64_t bits);
void hevc_keep_energy(hevc *h, int x, int y, int log2, double energy); /* the same to every cell */
void hevc_keep_shares(hevc *h, int x, int y, int log2, double energy, float cell[16]); /* as in hevc_share_energy */
void hevc_keep_motion(hevc *h, int x, int y, int w, int height, const hevc_motion *motion);
void hevc_keep_kind(hevc *h, int x, int y, int log2, int kind, int depth);
void hevc_keep_qp(hevc *h, int x, int y, int log2);

/* A context-coded bin, and the same for bypass. */
static inline int hevc_bin(hevc *h, int context) { return ovb_decision(&h->cabac, &h->context[context]); }
static inline int hevc_bypass(hevc *h) { return ovb_bypass(&h->cabac); }

/* Left and upper neighbours of a block are available unless they lie in a CTB that is not. */
static inline int hevc_has_left(const hevc *h, int x) { return (x & ((1 << h->sps->log2_ctb) - 1)) || h->left; }
static inline int hevc_has_up(const hevc *h, int y) { return (y & ((1 << h->sps->log2_ctb) - 1)) || h->up; }

#endif
