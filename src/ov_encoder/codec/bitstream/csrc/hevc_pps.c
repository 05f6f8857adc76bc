/* Picture parameter set (7.3.2.3). It is read without its SPS, which may come later. */
#include <string.h>

#include "hevc_params.h"

#define U(bits, name) hevc_u(r, bits, #name)
#define FLAG(name) hevc_flag(r, #name)
#define UE(max, name) ((int32_t)hevc_ue(r, max, #name))
#define SE(min, max, name) hevc_se(r, min, max, #name)

static void refuse(hevc_pps *p, int used, const char *tool) {
    if (used && !p->unsupported) p->unsupported = tool;
}

static void read_tiles(hevc_reader *r, hevc_pps *p) {
    p->tile_columns = 1 + UE(HEVC_MAX_TILE_COLUMNS - 1, num_tile_columns_minus1);
    p->tile_rows = 1 + UE(HEVC_MAX_TILE_ROWS - 1, num_tile_rows_minus1);
    p->uniform_tiles = FLAG(uniform_spacing_flag);
    if (!p->uniform_tiles) {
        for (int i = 0; i + 1 < p->tile_columns; i++)
            p->column_width[i] = (uint16_t)(UE(65534, column_width_minus1) + 1);
        for (int i = 0; i + 1 < p->tile_rows; i++)
            p->row_height[i] = (uint16_t)(UE(65534, row_height_minus1) + 1);
    }
    FLAG(loop_filter_across_tiles_enabled_flag);
}

static void read_range_extension(hevc_reader *r, hevc_pps *p) {
    if (p->transform_skip)
        refuse(p, UE(3, log2_max_transform_skip_block_size_minus2) > 0, "transform skip above 4x4 (range extension)");
    refuse(p, FLAG(cross_component_prediction_enabled_flag), "cross_component_prediction (range extension)");
    if (FLAG(chroma_qp_offset_list_enabled_flag)) {
        p->chroma_qp_offset_depth = UE(3, diff_cu_chroma_qp_offset_depth);
        p->chroma_qp_offsets = 1 + UE(5, chroma_qp_offset_list_len_minus1);
        for (int i = 0; i < p->chroma_qp_offsets; i++) {
            SE(-12, 12, cb_qp_offset_list);
            SE(-12, 12, cr_qp_offset_list);
        }
    }
    UE(8, log2_sao_offset_scale_luma);
    UE(8, log2_sao_offset_scale_chroma);
}

static void read_extensions(hevc_reader *r, hevc_pps *p) {
    if (!FLAG(pps_extension_present_flag)) return;
    int range = FLAG(pps_range_extension_flag), multilayer = FLAG(pps_multilayer_extension_flag);
    int depth = FLAG(pps_3d_extension_flag), screen = FLAG(pps_scc_extension_flag);
    U(4, pps_extension_4bits);
    if (range) read_range_extension(r, p);
    refuse(p, multilayer, "multilayer extension");
    refuse(p, depth, "3D extension");
    refuse(p, screen, "screen content coding extension");
}

int hevc_read_pps(hevc_reader *r, hevc_pps *p) {
    memset(p, 0, sizeof *p);
    int id = UE(HEVC_MAX_PPS - 1, pps_pic_parameter_set_id);
    p->sps_id = UE(HEVC_MAX_SPS - 1, pps_seq_parameter_set_id);
    p->dependent_slices = FLAG(dependent_slice_segments_enabled_flag);
    p->output_flag = FLAG(output_flag_present_flag);
    p->extra_slice_bits = (int32_t)U(3, num_extra_slice_header_bits);
    p->sign_hiding = FLAG(sign_data_hiding_enabled_flag);
    p->cabac_init = FLAG(cabac_init_present_flag);
    p->refs_default[0] = 1 + UE(14, num_ref_idx_l0_default_active_minus1);
    p->refs_default[1] = 1 + UE(14, num_ref_idx_l1_default_active_minus1);
    p->init_qp = 26 + SE(-(26 + 48), 25, init_qp_minus26);
    FLAG(constrained_intra_pred_flag);
    p->transform_skip = FLAG(transform_skip_enabled_flag);
    p->cu_qp_delta = FLAG(cu_qp_delta_enabled_flag);
    if (p->cu_qp_delta) p->diff_cu_qp_delta_depth = UE(3, diff_cu_qp_delta_depth);
    SE(-12, 12, pps_cb_qp_offset);
    SE(-12, 12, pps_cr_qp_offset);
    p->slice_chroma_qp_offsets = FLAG(pps_slice_chroma_qp_offsets_present_flag);
    p->weighted_pred = FLAG(weighted_pred_flag);
    p->weighted_bipred = FLAG(weighted_bipred_flag);
    p->transquant_bypass = FLAG(transquant_bypass_enabled_flag);
    p->tiles = FLAG(tiles_enabled_flag);
    p->wavefront = FLAG(entropy_coding_sync_enabled_flag);
    p->tile_columns = p->tile_rows = p->uniform_tiles = 1;
    if (p->tiles) read_tiles(r, p);
    p->filter_across_slices = FLAG(pps_loop_filter_across_slices_enabled_flag);
    if (FLAG(deblocking_filter_control_present_flag)) {
        p->deblocking_override = FLAG(deblocking_filter_override_enabled_flag);
        p->deblocking_disabled = FLAG(pps_deblocking_filter_disabled_flag);
        if (!p->deblocking_disabled) {
            SE(-6, 6, pps_beta_offset_div2);
            SE(-6, 6, pps_tc_offset_div2);
        }
    }
    p->scaling_present = FLAG(pps_scaling_list_data_present_flag);
    if (p->scaling_present) hevc_read_scaling(r, &p->scaling);
    p->lists_modification = FLAG(lists_modification_present_flag);
    p->log2_parallel_merge = 2 + UE(4, log2_parallel_merge_level_minus2);
    p->header_extension = FLAG(slice_segment_header_extension_present_flag);
    read_extensions(r, p);
    return r->bits.error ? -1 : id;
}
