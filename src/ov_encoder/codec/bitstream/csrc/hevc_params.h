/* HEVC parameter sets as they are kept: what the slices need of them, checked against the standard's ranges. */
#ifndef OVB_HEVC_PARAMS_H
#define OVB_HEVC_PARAMS_H

#include "hevc_read.h"

enum {
    HEVC_MAX_REFS = 16,     /* pictures that one picture may keep or refer to */
    HEVC_MAX_SPS = 16,
    HEVC_MAX_PPS = 64,
    HEVC_MAX_TILE_COLUMNS = 20, /* level 6.2 (Table A.8) */
    HEVC_MAX_TILE_ROWS = 22,
    HEVC_MAX_RPS = 64,
};

/* Short-term reference picture set: first the pictures before (nearest first), then those after. */
typedef struct hevc_rps {
    uint8_t negative, count;
    uint8_t used[HEVC_MAX_REFS];
    int32_t delta[HEVC_MAX_REFS]; /* POC of the reference minus POC of the picture */
} hevc_rps;

/* ScalingList and its DC (7.3.4), coefficients in up-right diagonal order. */
typedef struct hevc_scaling {
    uint8_t list[4][6][64];
    uint8_t dc[2][6]; /* of 16x16 and 32x32 */
} hevc_scaling;

typedef struct hevc_sps {
    uint32_t serial;         /* a new number for every set received */
    const char *unsupported; /* the tool that we do not read, or NULL */
    int32_t chroma;          /* chroma_format_idc: 0 to 3, equal to ChromaArrayType */
    int32_t width, height;
    int32_t crop_left, crop_right, crop_top, crop_bottom; /* luma samples */
    int32_t depth_luma, depth_chroma;
    int32_t log2_poc_lsb;
    int32_t log2_min_cb, log2_ctb, log2_min_tb, log2_max_tb;
    int32_t depth_inter, depth_intra; /* max_transform_hierarchy_depth */
    int32_t rps_count;
    int32_t lt_count;
    int32_t pcm_depth_luma, pcm_depth_chroma, log2_min_pcm, log2_max_pcm;
    uint16_t lt_poc_lsb[32];
    uint8_t lt_used[32];
    uint8_t scaling_enabled, amp, sao, pcm, long_term, temporal_mvp;
    hevc_rps rps[HEVC_MAX_RPS];
    hevc_scaling scaling;
} hevc_sps;

typedef struct hevc_pps {
    uint32_t serial;
    const char *unsupported;
    int32_t sps_id;
    int32_t extra_slice_bits;
    int32_t refs_default[2];
    int32_t init_qp;
    int32_t diff_cu_qp_delta_depth;
    int32_t tile_columns, tile_rows;
    int32_t log2_parallel_merge;
    int32_t chroma_qp_offset_depth, chroma_qp_offsets; /* diff_cu_chroma_qp_offset_depth, length of its list */
    uint8_t dependent_slices, output_flag, sign_hiding, cabac_init, transform_skip, cu_qp_delta;
    uint8_t slice_chroma_qp_offsets, weighted_pred, weighted_bipred, transquant_bypass, tiles, wavefront;
    uint8_t filter_across_slices, deblocking_override, deblocking_disabled, lists_modification, header_extension;
    uint8_t uniform_tiles, scaling_present;
    uint16_t column_width[HEVC_MAX_TILE_COLUMNS], row_height[HEVC_MAX_TILE_ROWS]; /* in CTBs, when not uniform */
    hevc_scaling scaling;
} hevc_pps;

/* Each reads one parameter set behind its NAL header. Returns its id, or -1 for a broken one (*out is then garbage). */
int hevc_read_sps(hevc_reader *r, hevc_sps *out);
int hevc_read_pps(hevc_reader *r, hevc_pps *out);
void hevc_read_vps(hevc_reader *r); /* nothing in it is needed; a listener hears it */

void hevc_read_profile(hevc_reader *r, int max_sub_layers_minus1); /* profile_tier_level */
void hevc_read_hrd(hevc_reader *r, int common, int max_sub_layers_minus1);
void hevc_read_vui(hevc_reader *r, int max_sub_layers_minus1);

/* st_ref_pic_set(index); `sets` holds the sets before it; in_slice: index == count. */
void hevc_read_rps(hevc_reader *r, const hevc_rps *sets, int index, int in_slice, hevc_rps *out);

void hevc_default_scaling(hevc_scaling *scaling);
void hevc_read_scaling(hevc_reader *r, hevc_scaling *scaling);

#endif
