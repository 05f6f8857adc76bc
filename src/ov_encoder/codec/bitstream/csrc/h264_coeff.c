/* Transform coefficients under CABAC (7.3.5.3.3, 9.3.3.1.1.9, 9.3.3.1.3): the inner loop of the reader. */
#include "h264.h"
#include "h264_tables.h"

/* First context of each element by category (Table 9-34): 0..5 of Y, and those of Cb and Cr in 4:4:4. */
static const uint16_t first_significant[3][6] = {
    {105, 120, 134, 149, 152, 402}, {484, 499, 513, 0, 0, 660}, {528, 543, 557, 0, 0, 718}};
static const uint16_t first_last[3][6] = {
    {166, 181, 195, 210, 213, 417}, {572, 587, 601, 0, 0, 690}, {616, 631, 645, 0, 0, 748}};
static const uint16_t first_level[3][6] = {
    {227, 237, 247, 257, 266, 426}, {952, 962, 972, 0, 0, 708}, {982, 992, 1002, 0, 0, 766}};

/* coeff_abs_level_minus1 minus its first 14 bins: Exp-Golomb of order 0 in bypass bins. */
static inline uint32_t escape(ovb_cabac *c) {
    int k = 0;
    while (ovb_bypass(c))
        if (++k > 20) break; /* more than any legal level */
    return (1u << k) - 1 + ovb_bypass_bins(c, k);
}

int h264_cabac_block(h264 *h, int cat, int plane, int count, const float *weight, float *energy, int32_t *levels) {
    ovb_cabac c = h->cabac; /* a local copy lives in registers */
    uint8_t *significant = h->context + first_significant[plane][cat];
    uint8_t *last = h->context + first_last[plane][cat];
    uint8_t *level = h->context + first_level[plane][cat];
    uint8_t at[64];
    int n = 0, i = 0, end = count - 1;
    if (cat == COEFF_8X8) {
        for (; i < end; i++) {
            if (!ovb_decision(&c, significant + h264_sig8[i])) continue;
            at[n++] = (uint8_t)i;
            if (ovb_decision(&c, last + h264_last8[i])) goto found;
        }
    } else if (cat == COEFF_CHROMA_DC) {
        int shift = count == 8; /* Min(numDecod / NumC8x8, 2) */
        for (; i < end; i++) {
            int ctx = i >> shift > 2 ? 2 : i >> shift;
            if (!ovb_decision(&c, significant + ctx)) continue;
            at[n++] = (uint8_t)i;
            if (ovb_decision(&c, last + ctx)) goto found;
        }
    } else {
        for (; i < end; i++) {
            if (!ovb_decision(&c, significant + i)) continue;
            at[n++] = (uint8_t)i;
            if (ovb_decision(&c, last + i)) goto found;
        }
    }
    at[n++] = (uint8_t)i; /* the last one is not coded: it must be */
found:;
    int ones = 1, more = 0, most = 4 - (cat == COEFF_CHROMA_DC);
    float sum = 0;
    for (int k = n - 1; k >= 0; k--) {
        uint32_t value = 1;
        if (ovb_decision(&c, level + (more ? 0 : ones))) {
            uint8_t *context = level + 5 + (more < most ? more : most);
            value = 2;
            while (value < 15 && ovb_decision(&c, context)) value++;
            if (value == 15) value += escape(&c);
            more++;
        } else if (ones < 4) {
            ones++;
        }
        int negative = ovb_bypass(&c);
        if (weight) sum += (float)value * (float)value * weight[at[k]];
        if (levels) levels[at[k]] = negative ? -(int32_t)value : (int32_t)value;
    }
    if (weight) *energy += sum;
    h->cabac = c;
    return n;
}
