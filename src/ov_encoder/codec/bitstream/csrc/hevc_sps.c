/* Sequence parameter set (7.3.2.2). Tools that we do not read are named in `unsupported`. */
#include <string.h>

#include "hevc_params.h"

#define U(bits, name) hevc_u(r, bits, #name)
#define FLAG(name) hevc_flag(r, #name)
#define UE(max, name) ((int32_t)hevc_ue(r, max, #name))

static void refuse(hevc_sps *s, int used, const char *tool) {
    if (used && !s->unsupported) s->unsupported = tool;
}

static void read_range_extension(hevc_reader *r, hevc_sps *s) {
    refuse(s, FLAG(transform_skip_rotation_enabled_flag), "transform_skip_rotation (range extension)");
    refuse(s, FLAG(transform_skip_context_enabled_flag), "transform_skip_context (range extension)");
    refuse(s, FLAG(implicit_rdpcm_enabled_flag), "implicit_rdpcm (range extension)");
    refuse(s, FLAG(explicit_rdpcm_enabled_flag), "explicit_rdpcm (range extension)");
    refuse(s, FLAG(extended_precision_processing_flag), "extended_precision_processing (range extension)");
    FLAG(intra_smoothing_disabled_flag);        /* changes pixels, not syntax */
    FLAG(high_precision_offsets_enabled_flag);  /* the same */
    refuse(s, FLAG(persistent_rice_adaptation_enabled_flag), "persistent_rice_adaptation (range extension)");
    refuse(s, FLAG(cabac_bypass_alignment_enabled_flag), "cabac_bypass_alignment (range extension)");
}

static void read_extensions(hevc_reader *r, hevc_sps *s) {
    if (!FLAG(sps_extension_present_flag)) return;
    int range = FLAG(sps_range_extension_flag), multilayer = FLAG(sps_multilayer_extension_flag);
    int depth = FLAG(sps_3d_extension_flag), screen = FLAG(sps_scc_extension_flag);
    U(4, sps_extension_4bits);
    if (range) read_range_extension(r, s);
    refuse(s, multilayer, "multilayer extension");
    refuse(s, depth, "3D extension");
    refuse(s, screen, "screen content coding extension");
}

/* Block sizes; 0 where they contradict the standard. */
static int read_block_sizes(hevc_reader *r, hevc_sps *s) {
    s->log2_min_cb = 3 + UE(3, log2_min_luma_coding_block_size_minus3);
    s->log2_ctb = s->log2_min_cb + UE(3, log2_diff_max_min_luma_coding_block_size);
    s->log2_min_tb = 2 + UE(3, log2_min_luma_transform_block_size_minus2);
    s->log2_max_tb = s->log2_min_tb + UE(3, log2_diff_max_min_luma_transform_block_size);
    s->depth_inter = UE(4, max_transform_hierarchy_depth_inter);
    s->depth_intra = UE(4, max_transform_hierarchy_depth_intra);
    if (s->log2_ctb < 4 || s->log2_ctb > 6 || s->log2_min_tb >= s->log2_min_cb) return 0;
    if (s->log2_max_tb > 5 || s->log2_max_tb > s->log2_ctb) return 0;
    int mask = (1 << s->log2_min_cb) - 1;
    return s->width && s->height && !(s->width & mask) && !(s->height & mask);
}

static int read_pcm(hevc_reader *r, hevc_sps *s) {
    s->pcm_depth_luma = (int)U(4, pcm_sample_bit_depth_luma_minus1) + 1;
    s->pcm_depth_chroma = (int)U(4, pcm_sample_bit_depth_chroma_minus1) + 1;
    s->log2_min_pcm = 3 + UE(2, log2_min_pcm_luma_coding_block_size_minus3);
    s->log2_max_pcm = s->log2_min_pcm + UE(2, log2_diff_max_min_pcm_luma_coding_block_size);
    FLAG(pcm_loop_filter_disabled_flag);
    return s->log2_max_pcm <= 5 && s->pcm_depth_luma <= s->depth_luma && s->pcm_depth_chroma <= s->depth_chroma;
}

static void read_references(hevc_reader *r, hevc_sps *s) {
    s->rps_count = UE(HEVC_MAX_RPS, num_short_term_ref_pic_sets);
    for (int i = 0; i < s->rps_count && !r->bits.error; i++) hevc_read_rps(r, s->rps, i, 0, &s->rps[i]);
    s->long_term = FLAG(long_term_ref_pics_present_flag);
    if (!s->long_term) return;
    s->lt_count = UE(32, num_long_term_ref_pics_sps);
    for (int i = 0; i < s->lt_count; i++) {
        s->lt_poc_lsb[i] = (uint16_t)U(s->log2_poc_lsb, lt_ref_pic_poc_lsb_sps);
        s->lt_used[i] = FLAG(used_by_curr_pic_lt_sps_flag);
    }
}

static int read_window(hevc_reader *r, hevc_sps *s) {
    if (!FLAG(conformance_window_flag)) return 1;
    uint32_t unit_x = s->chroma == 1 || s->chroma == 2 ? 2 : 1, unit_y = s->chroma == 1 ? 2 : 1;
    uint32_t w = (uint32_t)s->width, h = (uint32_t)s->height;
    uint32_t left = hevc_ue(r, w, "conf_win_left_offset") * unit_x;
    uint32_t right = hevc_ue(r, w, "conf_win_right_offset") * unit_x;
    uint32_t top = hevc_ue(r, h, "conf_win_top_offset") * unit_y;
    uint32_t bottom = hevc_ue(r, h, "conf_win_bottom_offset") * unit_y;
    if (left + right >= w || top + bottom >= h) return 0;
    s->crop_left = (int32_t)left, s->crop_right = (int32_t)right;
    s->crop_top = (int32_t)top, s->crop_bottom = (int32_t)bottom;
    return 1;
}

int hevc_read_sps(hevc_reader *r, hevc_sps *s) {
    memset(s, 0, sizeof *s);
    U(4, sps_video_parameter_set_id);
    int sub_layers = (int)U(3, sps_max_sub_layers_minus1);
    FLAG(sps_temporal_id_nesting_flag);
    if (sub_layers > 6) return -1;
    hevc_read_profile(r, sub_layers);
    int id = UE(HEVC_MAX_SPS - 1, sps_seq_parameter_set_id);
    s->chroma = UE(3, chroma_format_idc);
    if (s->chroma == 3) refuse(s, FLAG(separate_colour_plane_flag), "separate colour planes");
    s->width = UE(65535, pic_width_in_luma_samples);
    s->height = UE(65535, pic_height_in_luma_samples);
    if (r->bits.error || !read_window(r, s)) return -1;
    s->depth_luma = 8 + UE(8, bit_depth_luma_minus8);
    s->depth_chroma = 8 + UE(8, bit_depth_chroma_minus8);
    s->log2_poc_lsb = 4 + UE(12, log2_max_pic_order_cnt_lsb_minus4);
    int all = FLAG(sps_sub_layer_ordering_info_present_flag);
    for (int i = all ? 0 : sub_layers; i <= sub_layers; i++) {
        UE(HEVC_MAX_REFS, sps_max_dec_pic_buffering_minus1);
        UE(HEVC_MAX_REFS, sps_max_num_reorder_pics);
        UE(UINT32_MAX - 1, sps_max_latency_increase_plus1);
    }
    if (!read_block_sizes(r, s)) return -1;
    s->scaling_enabled = FLAG(scaling_list_enabled_flag);
    if (s->scaling_enabled) {
        if (FLAG(sps_scaling_list_data_present_flag))
            hevc_read_scaling(r, &s->scaling);
        else
            hevc_default_scaling(&s->scaling);
    }
    s->amp = FLAG(amp_enabled_flag);
    s->sao = FLAG(sample_adaptive_offset_enabled_flag);
    s->pcm = FLAG(pcm_enabled_flag);
    if (s->pcm && !read_pcm(r, s)) return -1;
    read_references(r, s);
    s->temporal_mvp = FLAG(sps_temporal_mvp_enabled_flag);
    FLAG(strong_intra_smoothing_enabled_flag);
    if (FLAG(vui_parameters_present_flag)) hevc_read_vui(r, sub_layers);
    read_extensions(r, s);
    return r->bits.error ? -1 : id;
}
