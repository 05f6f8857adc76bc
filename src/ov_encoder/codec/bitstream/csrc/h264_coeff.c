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

typedef struct levels { /* contexts of the next level's bins, as offsets from the category's first */
    int first, above, most;
} levels;

static inline uint32_t read_level(ovb_cabac *c, uint8_t *context, levels *s) {
    uint32_t value = 1;
    if (ovb_decision(c, context + s->first)) {
        value = 2;
        while (value < 15 && ovb_decision(c, context + s->above)) value++;
        if (value == 15) value += escape(c);
        s->first = 0;
        s->above += s->above < s->most;
    } else {
        s->first += s->first > 0 && s->first < 4;
    }
    return value;
}

int h264_cabac_block(h264 *h, int cat, int plane, int count, const float *weight, float *energy, int32_t *levels_out) {
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
    levels s = {1, 5, 9 - (cat == COEFF_CHROMA_DC)};
    if (weight) {
        float sum = 0;
        for (int k = n - 1; k >= 0; k--) {
            float value = (float)read_level(&c, level, &s);
            ovb_bypass(&c); /* sign */
            sum += value * value * weight[at[k]];
        }
        *energy += sum;
    } else {
        for (int k = n - 1; k >= 0; k--) {
            int32_t value = (int32_t)read_level(&c, level, &s);
            int negative = ovb_bypass(&c);
            if (levels_out) levels_out[at[k]] = negative ? -value : value;
        }
    }
    h->cabac = c;
    return n;
}
