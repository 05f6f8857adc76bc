/* Short-term reference picture sets (7.3.7, 7.4.8). */
#include "hevc_params.h"

/* Predicted from an earlier set. */
static void predict(hevc_reader *r, const hevc_rps *sets, int index, int in_slice, hevc_rps *out) {
    int back = 1;
    if (in_slice) back += (int)hevc_ue(r, (uint32_t)index - 1, "delta_idx_minus1");
    int sign = hevc_flag(r, "delta_rps_sign");
    int delta = (int)hevc_ue(r, 32767, "abs_delta_rps_minus1") + 1;
    if (sign) delta = -delta;
    const hevc_rps *from = &sets[index - back];
    uint8_t used[HEVC_MAX_REFS + 1], keep[HEVC_MAX_REFS + 1];
    for (int j = 0; j <= from->count; j++) {
        used[j] = hevc_flag(r, "used_by_curr_pic_flag");
        keep[j] = used[j] ? 1 : hevc_flag(r, "use_delta_flag");
    }
    /* candidates from the largest distance after to the largest before; then the two halves, nearest first */
    int32_t at[HEVC_MAX_REFS + 1];
    for (int j = 0; j <= from->count; j++) at[j] = delta + (j < from->count ? from->delta[j] : 0);
    int n = 0, last = from->count;
#define TAKE(j, condition)                                        \
    if (keep[j] && (condition)) {                                 \
        if (n == HEVC_MAX_REFS) { r->bits.error = 1; return; }    \
        out->delta[n] = at[j];                                    \
        out->used[n++] = used[j];                                 \
    }
    for (int j = from->count - 1; j >= from->negative; j--) TAKE(j, at[j] < 0)
    TAKE(last, at[last] < 0)
    for (int j = 0; j < from->negative; j++) TAKE(j, at[j] < 0)
    out->negative = (uint8_t)n;
    for (int j = from->negative - 1; j >= 0; j--) TAKE(j, at[j] > 0)
    TAKE(last, at[last] > 0)
    for (int j = from->negative; j < from->count; j++) TAKE(j, at[j] > 0)
    out->count = (uint8_t)n;
#undef TAKE
}

void hevc_read_rps(hevc_reader *r, const hevc_rps *sets, int index, int in_slice, hevc_rps *out) {
    out->negative = out->count = 0;
    if (index && hevc_flag(r, "inter_ref_pic_set_prediction_flag")) {
        predict(r, sets, index, in_slice, out);
        return;
    }
    uint32_t negative = hevc_ue(r, HEVC_MAX_REFS, "num_negative_pics");
    uint32_t positive = hevc_ue(r, HEVC_MAX_REFS - negative, "num_positive_pics");
    int32_t delta = 0;
    for (uint32_t i = 0; i < negative; i++) {
        delta -= (int32_t)hevc_ue(r, 32767, "delta_poc_s0_minus1") + 1;
        out->delta[i] = delta;
        out->used[i] = hevc_flag(r, "used_by_curr_pic_s0_flag");
    }
    delta = 0;
    for (uint32_t i = negative; i < negative + positive; i++) {
        delta += (int32_t)hevc_ue(r, 32767, "delta_poc_s1_minus1") + 1;
        out->delta[i] = delta;
        out->used[i] = hevc_flag(r, "used_by_curr_pic_s1_flag");
    }
    out->negative = (uint8_t)negative;
    out->count = (uint8_t)(negative + positive);
}
