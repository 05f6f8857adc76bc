/* What stands in parameter sets and is not needed for reading pictures: the VPS, profile and level, buffering model
 * (Annex E.2.2) and usability information (E.2.1). Read to get behind it, and so that a listener hears it.
 */
#include "hevc_params.h"

#define U(bits, name) hevc_u(r, bits, #name)
#define FLAG(name) hevc_flag(r, #name)
#define UE(max, name) hevc_ue(r, max, #name)
#define ANY (UINT32_MAX - 1)

void hevc_read_profile(hevc_reader *r, int max_sub_layers_minus1) {
    U(2, general_profile_space);
    FLAG(general_tier_flag);
    U(5, general_profile_idc);
    for (int i = 0; i < 32; i++) FLAG(general_profile_compatibility_flag);
    FLAG(general_progressive_source_flag);
    FLAG(general_interlaced_source_flag);
    FLAG(general_non_packed_constraint_flag);
    FLAG(general_frame_only_constraint_flag);
    ovb_skip(&r->bits, 44); /* constraint flags whose names depend on the profile */
    U(8, general_level_idc);
    uint8_t profile[8] = {0}, level[8] = {0};
    for (int i = 0; i < max_sub_layers_minus1; i++) {
        profile[i] = FLAG(sub_layer_profile_present_flag);
        level[i] = FLAG(sub_layer_level_present_flag);
    }
    if (max_sub_layers_minus1 > 0)
        for (int i = max_sub_layers_minus1; i < 8; i++) U(2, reserved_zero_2bits);
    for (int i = 0; i < max_sub_layers_minus1; i++) {
        if (profile[i]) ovb_skip(&r->bits, 88);
        if (level[i]) U(8, sub_layer_level_idc);
    }
}

static void read_sub_layer_hrd(hevc_reader *r, uint32_t count, int sub_picture) {
    for (uint32_t i = 0; i < count; i++) {
        UE(ANY, bit_rate_value_minus1);
        UE(ANY, cpb_size_value_minus1);
        if (sub_picture) {
            UE(ANY, cpb_size_du_value_minus1);
            UE(ANY, bit_rate_du_value_minus1);
        }
        FLAG(cbr_flag);
    }
}

void hevc_read_hrd(hevc_reader *r, int common, int max_sub_layers_minus1) {
    int nal = 0, vcl = 0, sub_picture = 0;
    if (common) {
        nal = FLAG(nal_hrd_parameters_present_flag);
        vcl = FLAG(vcl_hrd_parameters_present_flag);
        if (nal || vcl) {
            sub_picture = FLAG(sub_pic_hrd_params_present_flag);
            if (sub_picture) {
                U(8, tick_divisor_minus2);
                U(5, du_cpb_removal_delay_increment_length_minus1);
                FLAG(sub_pic_cpb_params_in_pic_timing_sei_flag);
                U(5, dpb_output_delay_du_length_minus1);
            }
            U(4, bit_rate_scale);
            U(4, cpb_size_scale);
            if (sub_picture) U(4, cpb_size_du_scale);
            U(5, initial_cpb_removal_delay_length_minus1);
            U(5, au_cpb_removal_delay_length_minus1);
            U(5, dpb_output_delay_length_minus1);
        }
    }
    for (int i = 0; i <= max_sub_layers_minus1; i++) {
        int fixed = FLAG(fixed_pic_rate_general_flag), low_delay = 0;
        if (!fixed) fixed = FLAG(fixed_pic_rate_within_cvs_flag);
        if (fixed)
            UE(2047, elemental_duration_in_tc_minus1);
        else
            low_delay = FLAG(low_delay_hrd_flag);
        uint32_t count = 1 + (low_delay ? 0 : UE(31, cpb_cnt_minus1));
        if (nal) read_sub_layer_hrd(r, count, sub_picture);
        if (vcl) read_sub_layer_hrd(r, count, sub_picture);
    }
}

void hevc_read_vui(hevc_reader *r, int max_sub_layers_minus1) {
    if (FLAG(aspect_ratio_info_present_flag) && U(8, aspect_ratio_idc) == 255) {
        U(16, sar_width);
        U(16, sar_height);
    }
    if (FLAG(overscan_info_present_flag)) FLAG(overscan_appropriate_flag);
    if (FLAG(video_signal_type_present_flag)) {
        U(3, video_format);
        FLAG(video_full_range_flag);
        if (FLAG(colour_description_present_flag)) {
            U(8, colour_primaries);
            U(8, transfer_characteristics);
            U(8, matrix_coefficients);
        }
    }
    if (FLAG(chroma_loc_info_present_flag)) {
        UE(5, chroma_sample_loc_type_top_field);
        UE(5, chroma_sample_loc_type_bottom_field);
    }
    FLAG(neutral_chroma_indication_flag);
    FLAG(field_seq_flag);
    FLAG(frame_field_info_present_flag);
    if (FLAG(default_display_window_flag)) {
        UE(ANY, def_disp_win_left_offset);
        UE(ANY, def_disp_win_right_offset);
        UE(ANY, def_disp_win_top_offset);
        UE(ANY, def_disp_win_bottom_offset);
    }
    if (FLAG(vui_timing_info_present_flag)) {
        U(32, vui_num_units_in_tick);
        U(32, vui_time_scale);
        if (FLAG(vui_poc_proportional_to_timing_flag)) UE(ANY, vui_num_ticks_poc_diff_one_minus1);
        if (FLAG(vui_hrd_parameters_present_flag)) hevc_read_hrd(r, 1, max_sub_layers_minus1);
    }
    if (FLAG(bitstream_restriction_flag)) {
        FLAG(tiles_fixed_structure_flag);
        FLAG(motion_vectors_over_pic_boundaries_flag);
        FLAG(restricted_ref_pic_lists_flag);
        UE(4095, min_spatial_segmentation_idc);
        UE(16, max_bytes_per_pic_denom);
        UE(16, max_bits_per_min_cu_denom);
        UE(16, log2_max_mv_length_horizontal);
        UE(16, log2_max_mv_length_vertical);
    }
}

void hevc_read_vps(hevc_reader *r) {
    U(4, vps_video_parameter_set_id);
    FLAG(vps_base_layer_internal_flag);
    FLAG(vps_base_layer_available_flag);
    U(6, vps_max_layers_minus1);
    int sub_layers = (int)U(3, vps_max_sub_layers_minus1);
    FLAG(vps_temporal_id_nesting_flag);
    U(16, vps_reserved_0xffff_16bits);
    if (sub_layers > 6) return;
    hevc_read_profile(r, sub_layers);
    int all = FLAG(vps_sub_layer_ordering_info_present_flag);
    for (int i = all ? 0 : sub_layers; i <= sub_layers; i++) {
        UE(15, vps_max_dec_pic_buffering_minus1);
        UE(15, vps_max_num_reorder_pics);
        UE(ANY, vps_max_latency_increase_plus1);
    }
    uint32_t layers = U(6, vps_max_layer_id) + 1;
    uint32_t sets = UE(1023, vps_num_layer_sets_minus1);
    for (uint32_t i = 0; i < sets; i++)
        for (uint32_t j = 0; j < layers; j++) FLAG(layer_id_included_flag);
    if (FLAG(vps_timing_info_present_flag)) {
        U(32, vps_num_units_in_tick);
        U(32, vps_time_scale);
        if (FLAG(vps_poc_proportional_to_timing_flag)) UE(ANY, vps_num_ticks_poc_diff_one_minus1);
        uint32_t count = UE(1024, vps_num_hrd_parameters);
        for (uint32_t i = 0; i < count && !r->bits.error; i++) {
            UE(1023, hrd_layer_set_idx);
            hevc_read_hrd(r, i ? FLAG(cprms_present_flag) : 1, sub_layers);
        }
    }
    FLAG(vps_extension_flag); /* of other layers: not read */
}
