/* Slice segment headers (7.3.6), with the parameter sets that they name. */
#include <string.h>

#include "hevc.h"

#define U(bits, name) hevc_u(r, bits, #name)
#define FLAG(name) hevc_flag(r, #name)
#define UE(max, name) ((int32_t)hevc_ue(r, max, #name))
#define SE(min, max, name) hevc_se(r, min, max, #name)

static void read_long_term(const hevc_sps *sps, hevc_reader *r, hevc_slice *s) {
    uint32_t from_sps = 0;
    if (sps->lt_count) from_sps = hevc_ue(r, (uint32_t)(HEVC_MAX_REFS - s->rps.count), "num_long_term_sps");
    uint32_t own = hevc_ue(r, (uint32_t)(HEVC_MAX_REFS - s->rps.count) - from_sps, "num_long_term_pics");
    if (r->bits.error) return;
    s->lt_count = (int32_t)(from_sps + own);
    for (uint32_t i = 0; i < from_sps + own; i++) {
        if (i < from_sps) {
            uint32_t index = sps->lt_count > 1 ? U(hevc_ceil_log2((uint32_t)sps->lt_count), lt_idx_sps) : 0;
            if (index >= (uint32_t)sps->lt_count) {
                r->bits.error = 1;
                return;
            }
            s->lt_poc[i] = sps->lt_poc_lsb[index];
            s->lt_used[i] = sps->lt_used[index];
        } else {
            s->lt_poc[i] = (int32_t)U(sps->log2_poc_lsb, poc_lsb_lt);
            s->lt_used[i] = FLAG(used_by_curr_pic_lt_flag);
        }
        s->lt_has_msb[i] = FLAG(delta_poc_msb_present_flag);
        s->lt_msb_cycle[i] = s->lt_has_msb[i] ? hevc_ue(r, UINT32_MAX - 1, "delta_poc_msb_cycle_lt") : 0;
        if (i && i != from_sps) s->lt_msb_cycle[i] += s->lt_msb_cycle[i - 1]; /* (7-52) */
    }
}

static void read_references(const hevc_sps *sps, hevc_reader *r, hevc_slice *s) {
    s->poc_lsb = (int32_t)U(sps->log2_poc_lsb, slice_pic_order_cnt_lsb);
    if (!FLAG(short_term_ref_pic_set_sps_flag)) {
        hevc_read_rps(r, sps->rps, sps->rps_count, 1, &s->rps);
    } else {
        int bits = hevc_ceil_log2((uint32_t)sps->rps_count);
        uint32_t index = bits ? U(bits, short_term_ref_pic_set_idx) : 0;
        if (index >= (uint32_t)sps->rps_count)
            r->bits.error = 1;
        else
            s->rps = sps->rps[index];
    }
    if (r->bits.error) return;
    if (sps->long_term) read_long_term(sps, r, s);
    if (sps->temporal_mvp) s->temporal_mvp = FLAG(slice_temporal_mvp_enabled_flag);
}

/* NumPicTotalCurr */
static int total_references(const hevc_slice *s) {
    int total = 0;
    for (int i = 0; i < s->rps.count; i++) total += s->rps.used[i];
    for (int i = 0; i < s->lt_count; i++) total += s->lt_used[i];
    return total;
}

/* Weights change pixels only: read to get behind them. */
static void read_weights(const hevc_sps *sps, hevc_reader *r, const hevc_slice *s) {
    UE(7, luma_log2_weight_denom);
    if (sps->chroma) SE(-7, 7, delta_chroma_log2_weight_denom);
    for (int list = 0; list < (s->type == HEVC_B ? 2 : 1); list++) {
        uint8_t luma[HEVC_MAX_REFS] = {0}, chroma[HEVC_MAX_REFS] = {0};
        int count = s->refs[list] < HEVC_MAX_REFS ? s->refs[list] : HEVC_MAX_REFS;
        for (int i = 0; i < count; i++) luma[i] = hevc_flag(r, list ? "luma_weight_l1_flag" : "luma_weight_l0_flag");
        if (sps->chroma)
            for (int i = 0; i < count; i++)
                chroma[i] = hevc_flag(r, list ? "chroma_weight_l1_flag" : "chroma_weight_l0_flag");
        for (int i = 0; i < count; i++) {
            if (luma[i]) {
                hevc_se(r, -128, 127, list ? "delta_luma_weight_l1" : "delta_luma_weight_l0");
                hevc_se(r, -32768, 32767, list ? "luma_offset_l1" : "luma_offset_l0");
            }
            for (int c = 0; chroma[i] && c < 2; c++) {
                hevc_se(r, -128, 127, list ? "delta_chroma_weight_l1" : "delta_chroma_weight_l0");
                hevc_se(r, -131072, 131071, list ? "delta_chroma_offset_l1" : "delta_chroma_offset_l0");
            }
        }
    }
}

static const char *read_inter(const hevc_sps *sps, const hevc_pps *pps, hevc_reader *r, hevc_slice *s) {
    int lists = s->type == HEVC_B ? 2 : 1, total = total_references(s);
    s->refs[0] = pps->refs_default[0];
    s->refs[1] = lists == 2 ? pps->refs_default[1] : 0;
    if (FLAG(num_ref_idx_active_override_flag)) {
        s->refs[0] = 1 + UE(14, num_ref_idx_l0_active_minus1);
        if (lists == 2) s->refs[1] = 1 + UE(14, num_ref_idx_l1_active_minus1);
    }
    if (total == 0) return "an inter slice without references";
    if (pps->lists_modification && total > 1) {
        for (int list = 0; list < lists; list++) {
            s->list_modified[list] =
                hevc_flag(r, list ? "ref_pic_list_modification_flag_l1" : "ref_pic_list_modification_flag_l0");
            if (!s->list_modified[list]) continue;
            for (int i = 0; i < s->refs[list]; i++) {
                uint32_t entry = hevc_u(r, hevc_ceil_log2((uint32_t)total), list ? "list_entry_l1" : "list_entry_l0");
                if (entry >= (uint32_t)total) r->bits.error = 1;
                s->list_entry[list][i] = (uint8_t)(entry < (uint32_t)total ? entry : 0);
            }
        }
    }
    if (lists == 2) s->mvd_l1_zero = FLAG(mvd_l1_zero_flag);
    if (pps->cabac_init) s->cabac_init = FLAG(cabac_init_flag);
    if (s->temporal_mvp) {
        if (lists == 2) s->collocated_list = !FLAG(collocated_from_l0_flag);
        int count = s->refs[s->collocated_list];
        if (count > 1) s->collocated_ref = UE((uint32_t)count - 1, collocated_ref_idx);
    }
    if (s->type == HEVC_P ? pps->weighted_pred : pps->weighted_bipred) read_weights(sps, r, s);
    s->max_merge = 5 - UE(4, five_minus_max_num_merge_cand);
    return NULL;
}

static void read_filters(const hevc_pps *pps, hevc_reader *r, const hevc_slice *s) {
    int override = 0, disabled = pps->deblocking_disabled;
    if (pps->deblocking_override) override = FLAG(deblocking_filter_override_flag);
    if (override) {
        disabled = FLAG(slice_deblocking_filter_disabled_flag);
        if (!disabled) {
            SE(-6, 6, slice_beta_offset_div2);
            SE(-6, 6, slice_tc_offset_div2);
        }
    }
    if (pps->filter_across_slices && (s->sao_luma || s->sao_chroma || !disabled))
        FLAG(slice_loop_filter_across_slices_enabled_flag);
}

/* Everything that dependent segments take over from the slice. */
static const char *read_independent(hevc *h, const hevc_sps *sps, const hevc_pps *pps, hevc_reader *r, hevc_slice *s) {
    for (int i = 0; i < pps->extra_slice_bits; i++) FLAG(slice_reserved_flag);
    s->type = (uint8_t)UE(2, slice_type);
    if (pps->output_flag) FLAG(pic_output_flag);
    if (h->nal_type != HEVC_IDR_W_RADL && h->nal_type != HEVC_IDR_N_LP) read_references(sps, r, s);
    if (sps->sao) {
        s->sao_luma = FLAG(slice_sao_luma_flag);
        if (sps->chroma) s->sao_chroma = FLAG(slice_sao_chroma_flag);
    }
    if (r->bits.error) return "a broken slice header";
    if (s->type != HEVC_I) {
        const char *wrong = read_inter(sps, pps, r, s);
        if (wrong) return wrong;
    }
    s->qp = pps->init_qp + SE(-(51 + 48), 51 + 48, slice_qp_delta);
    if (s->qp < -6 * (sps->depth_luma - 8) || s->qp > 51) return "a slice QP out of range";
    if (pps->slice_chroma_qp_offsets) {
        SE(-12, 12, slice_cb_qp_offset);
        SE(-12, 12, slice_cr_qp_offset);
    }
    if (pps->chroma_qp_offsets) s->chroma_qp_offsets = FLAG(cu_chroma_qp_offset_enabled_flag);
    read_filters(pps, r, s);
    return NULL;
}

static void read_entry_points(hevc *h, const hevc_pps *pps, hevc_reader *r, hevc_slice *s) {
    s->entry_points = 0;
    if (!pps->tiles && !pps->wavefront) return;
    s->entry_points = hevc_ue(r, h->entry_room, "num_entry_point_offsets");
    if (s->entry_points == 0) return;
    int bits = 1 + UE(31, offset_len_minus1);
    for (uint32_t i = 0; i < s->entry_points && !r->bits.error; i++) h->entry[i] = U(bits, entry_point_offset_minus1);
}

const char *hevc_read_slice(hevc *h, hevc_reader *r, hevc_slice *out) {
    uint8_t first = FLAG(first_slice_segment_in_pic_flag), dependent = 0;
    if (h->nal_type >= HEVC_BLA_W_LP && h->nal_type <= HEVC_LAST_IRAP) FLAG(no_output_of_prior_pics_flag);
    int pps_id = UE(HEVC_MAX_PPS - 1, slice_pic_parameter_set_id);
    const hevc_pps *pps = h->pps_sets[pps_id];
    if (r->bits.error) return "a broken slice header";
    if (!pps || !h->sps_sets[pps->sps_id]) return "a slice without its parameter sets";
    const hevc_sps *sps = h->sps_sets[pps->sps_id];
    const char *unsupported = sps->unsupported ? sps->unsupported : pps->unsupported;
    if (unsupported) {
        ovb_refuse(h->parser, "HEVC with %s is not read", unsupported);
        return "";
    }
    if (h->current >= 0) {
        if (pps != h->pps) return "slices of one picture with different parameter sets";
    } else {
        if (!hevc_layout(h, sps, pps)) return "tiles that do not fit the picture";
        h->slice_ok = 0;
    }
    uint32_t address = 0;
    if (!first) {
        if (pps->dependent_slices) dependent = FLAG(dependent_slice_segment_flag);
        address = U(hevc_ceil_log2((uint32_t)h->ctbs), slice_segment_address);
        if (address >= (uint32_t)h->ctbs) return "a slice address outside the picture";
    }
    if (dependent) {
        if (!h->slice_ok) return "a dependent slice segment without its slice";
        *out = h->slice;
    } else {
        memset(out, 0, sizeof *out);
        out->slice_address = (int32_t)address;
        const char *wrong = read_independent(h, sps, pps, r, out);
        if (wrong) return wrong;
    }
    out->pps_id = pps_id;
    out->first = first;
    out->dependent = dependent;
    out->address = (int32_t)address;
    read_entry_points(h, pps, r, out);
    if (pps->header_extension) {
        int length = UE(256, slice_segment_header_extension_length);
        for (int i = 0; i < length; i++) U(8, slice_segment_header_extension_data_byte);
    }
    if (!ovb_flag(&r->bits)) return "a broken slice header"; /* alignment_bit_equal_to_one */
    ovb_align(&r->bits);
    if (r->bits.error) return "a broken slice header";
    out->data = r->bits.pos >> 3;
    return NULL;
}
