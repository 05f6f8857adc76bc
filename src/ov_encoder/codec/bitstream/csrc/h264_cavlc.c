/* Coefficients and coded_block_pattern under CAVLC (9.1.2, 9.2). Everything else in CAVLC is plain ue(v) or se(v). */
#include "h264.h"
#include "h264_tables.h"

int h264_cavlc_cbp(h264 *h, int inter) {
    uint32_t code = ovb_ue(&h->bits);
    int in_color = h->sps.chroma == 1 || h->sps.chroma == 2;
    if (code >= (in_color ? 48 : 16)) return -1;
    return in_color ? h264_cbp[!inter][code] : h264_cbp_grey[!inter][code];
}

/* One look at a table that is indexed by leading zeros: returns the entry. */
static inline int look_up_index(uint32_t word, int most, int extra) {
    int zeros = word ? __builtin_clz(word) : 32;
    if (zeros > most) zeros = most;
    return zeros << extra | (int)(word << zeros << 1 >> (32 - extra));
}

/* total_coeff << 2 | trailing_ones, or -1. nc: -1 and -2 mean the DC of 4:2:0 and 4:2:2. */
static inline int coeff_token(ovb_bits *b, int nc) {
    uint32_t word = ovb_peek(b, 32);
    if (nc >= 8) {
        uint32_t code = word >> 26;
        ovb_skip(b, 6);
        return code == 3 ? 0 : (int)code + 4;
    }
    int entry;
    if (nc < 0) {
        entry = h264_coeff_token_dc[-nc - 1][look_up_index(word, 10, 3)];
    } else {
        entry = h264_coeff_token[nc < 2 ? 0 : nc < 4 ? 1 : 2][look_up_index(word, 14, 3)];
    }
    if (!entry) return -1;
    ovb_skip(b, (size_t)(entry >> 8));
    return entry & 255;
}

static inline int zeros_code(ovb_bits *b, const uint8_t *table, int most) {
    int entry = table[look_up_index(ovb_peek(b, 32), most, 2)];
    if (!entry) return -1;
    ovb_skip(b, (size_t)(entry >> 4));
    return entry & 15;
}

/* 9.2.2: levels from the highest frequency down. Returns 0 or -1. */
static inline int read_levels(ovb_bits *b, int32_t *level, int total, int ones) {
    int suffix_length = total > 10 && ones < 3;
    uint32_t signs = ones ? ovb_u(b, ones) : 0;
    for (int i = 0; i < ones; i++) level[i] = signs >> (ones - 1 - i) & 1 ? -1 : 1;
    for (int i = ones; i < total; i++) {
        uint32_t word = ovb_peek(b, 32);
        int prefix = word ? __builtin_clz(word) : 32;
        if (prefix > 25) return -1;
        ovb_skip(b, (size_t)prefix + 1);
        int size = prefix == 14 && suffix_length == 0 ? 4 : prefix >= 15 ? prefix - 3 : suffix_length;
        int32_t code = ((prefix < 15 ? prefix : 15) << suffix_length) + (int32_t)ovb_u(b, size);
        if (prefix >= 15 && suffix_length == 0) code += 15;
        if (prefix >= 16) code += (1 << (prefix - 3)) - 4096;
        if (i == ones && ones < 3) code += 2;
        level[i] = code & 1 ? (-code - 1) >> 1 : (code + 2) >> 1;
        int32_t magnitude = level[i] < 0 ? -level[i] : level[i];
        if (suffix_length == 0) suffix_length = 1;
        if (magnitude > 3 << (suffix_length - 1) && suffix_length < 6) suffix_length++;
    }
    return 0;
}

/* The coefficient with index i has zigzag index i * step in `weight` (step 4: interleaved blocks of 8x8). */
int h264_cavlc_block(h264 *h, int nc, int count, const float *weight, int step, float *energy, int32_t *levels) {
    ovb_bits *b = &h->bits;
    int32_t level[16];
    int token = coeff_token(b, nc);
    if (token <= 0) return token;
    int total = token >> 2, ones = token & 3, zeros = 0;
    if (total > count || ones > total || read_levels(b, level, total, ones)) return -1;
    if (total < count) {
        if (count == 4) {
            zeros = zeros_code(b, h264_total_zeros_420[total - 1], 5);
        } else if (count == 8) {
            zeros = zeros_code(b, h264_total_zeros_422[total - 1], 5);
        } else {
            zeros = zeros_code(b, h264_total_zeros[total - 1], 9);
        }
        if (zeros < 0 || zeros + total > count) return -1;
    }
    int at = zeros + total - 1;
    float sum = 0;
    for (int i = 0; i < total; i++) {
        if (weight) sum += (float)level[i] * (float)level[i] * weight[at * step];
        if (levels) levels[at] = level[i];
        int run = 0;
        if (zeros > 0 && i < total - 1) {
            run = zeros_code(b, h264_run_before[zeros > 6 ? 6 : zeros - 1], 11);
            if (run < 0 || run > zeros) return -1;
            zeros -= run;
        }
        at -= run + 1;
    }
    if (weight) *energy += sum;
    return total;
}
