/* Coefficients of a transform block (7.3.8.11, 9.3.4.2.3 to 9.3.4.2.7) and, of luma, the energy of its residual.
 *
 * Energy comes without a transform: the basis is orthogonal, so the sum of squares of the residual is that of the
 * scaled coefficients times (N / 128)^2 in the 8-bit scale (Parseval). Where rounding would decide whether anything is
 * left at all (DC alone, transform skip) the samples are computed. How it is shared by the cells of a large block is in
 * hevc_energy.c.
 */
#include <string.h>

#include "hevc.h"
#include "hevc_scan.h"

/* sigCtx inside a 4x4 sub-block by prevCsbf (bit 0: right one is coded, bit 1: lower one), position y * 4 + x. */
static const uint8_t significant[4][16] = {{2, 1, 1, 0, 1, 1, 0, 0, 1, 0, 0, 0, 0, 0, 0, 0},
                                           {2, 2, 2, 2, 1, 1, 1, 1, 0, 0, 0, 0, 0, 0, 0, 0},
                                           {2, 1, 0, 0, 2, 1, 0, 0, 2, 1, 0, 0, 2, 1, 0, 0},
                                           {2, 2, 2, 2, 2, 2, 2, 2, 2, 2, 2, 2, 2, 2, 2, 2}};
static const uint8_t significant_4x4[16] = {0, 1, 4, 5, 2, 3, 4, 5, 6, 6, 8, 8, 7, 7, 8, 8};
static const uint8_t level_scale[6] = {40, 45, 51, 57, 64, 72};

/* How levels become coefficients (8.6.2, 8.6.4.2), and what has been summed up. */
typedef struct scaler {
    int64_t scale;          /* levelScale << (qP / 6) */
    const uint16_t *factor; /* m of each position, NULL: 16 everywhere */
    int shift, log2, bypass, skip, skip_shift;
    int count;              /* coefficients so far */
    int64_t sum, dc;        /* of squares; of the only coefficient at 0 */
    int64_t cell[16];       /* bypass: sums of 8x8 cells, where levels are samples */
    hevc_coefficient coefficient[1024]; /* `count` of them */
} scaler;

static void start_scaler(const hevc *h, scaler *s, int log2, int skip) {
    int qp = h->qp + 6 * (h->sps->depth_luma - 8);
    s->scale = (int64_t)level_scale[qp % 6] << (qp / 6);
    s->factor = h->sps->scaling_enabled ? h->scaling[!h->cu.intra][log2 - 2] : NULL;
    s->shift = h->sps->depth_luma + log2 - 5;
    s->log2 = log2;
    s->bypass = h->cu.bypass;
    s->skip = skip;
    s->skip_shift = 20 - h->sps->depth_luma;
    s->count = 0;
    s->sum = s->dc = 0;
    if (s->bypass) memset(s->cell, 0, sizeof s->cell);
}

static inline void add_level(scaler *s, int64_t level, int position) {
    int64_t d = level;
    if (s->bypass) {
        int n = 1 << s->log2;
        s->cell[(position >> s->log2 >> 3) * 4 + ((position & (n - 1)) >> 3)] += d * d;
    } else {
        d = (level * s->scale * (s->factor ? s->factor[position] : 16) + ((int64_t)1 << (s->shift - 1))) >> s->shift;
        d = d < -32768 ? -32768 : d > 32767 ? 32767 : d;
        if (s->skip) d = (d * 128 + ((int64_t)1 << (s->skip_shift - 1))) >> s->skip_shift;
    }
    if (position == 0) s->dc = d;
    s->sum += d * d;
    s->coefficient[s->count++] = (hevc_coefficient){(int32_t)d, (uint16_t)position};
}

static void keep_energy(hevc *h, int x, int y, const scaler *s) {
    double n2 = (double)(1 << (2 * s->log2)), to_8bit = 1.0 / (double)((int64_t)1 << (2 * (h->sps->depth_luma - 8)));
    double energy = (double)s->sum * n2 / 16384;
    if (s->bypass && s->log2 > 3) {
        for (int i = 0; i < 16; i++)
            if (s->cell[i]) hevc_keep_energy(h, x + (i & 3) * 8, y + (i >> 2) * 8, 3, (double)s->cell[i] * to_8bit);
        return;
    }
    int sine = h->cu.intra && s->log2 == 2;
    if (s->bypass || s->skip) {
        energy = (double)s->sum * to_8bit;
    } else if (s->count == 1 && s->sum == s->dc * s->dc && !sine) { /* every sample is the same */
        int64_t r = (64 * s->dc + 64) >> 7;
        r = (64 * r + ((int64_t)1 << (s->skip_shift - 1))) >> s->skip_shift;
        energy = n2 * (double)(r * r) * to_8bit;
    } else if (s->log2 > 3) {
        float cell[16];
        hevc_share_energy(&h->basis[s->log2 - 4], s->log2, s->coefficient, s->count, cell);
        hevc_keep_shares(h, x, y, s->log2, energy, cell);
        return;
    }
    hevc_keep_energy(h, x, y, s->log2, energy);
}

/* coeff_abs_level_remaining (9.3.3.11) */
static inline uint32_t read_remaining(hevc *h, ovb_cabac *c, int rice) {
    int prefix = 0;
    while (prefix < 21 && ovb_bypass(c)) prefix++;
    if (prefix < 4) return ((uint32_t)prefix << rice) + ovb_bypass_bins(c, rice);
    if (prefix == 21) h->broken = 1; /* more than 16 bits */
    return (((1u << (prefix - 3)) + 2) << rice) + ovb_bypass_bins(c, prefix - 3 + rice);
}

static inline int read_last_prefix(ovb_cabac *c, uint8_t *context, int log2, int chroma) {
    int offset = chroma ? 15 : 3 * (log2 - 2) + ((log2 - 1) >> 2), shift = chroma ? log2 - 2 : (log2 + 1) >> 2;
    int max = 2 * log2 - 1, n = 0;
    while (n < max && ovb_decision(c, &context[offset + (n >> shift)])) n++;
    return n;
}

static inline int last_position(ovb_cabac *c, int prefix) {
    if (prefix < 4) return prefix;
    int bits = (prefix >> 1) - 1;
    return ((2 + (prefix & 1)) << bits) + (int)ovb_bypass_bins(c, bits);
}

/* Levels of a sub-block with n > 0 coefficients at scan positions at[], last one first. set: ctxSet. */
static inline int read_levels(hevc *h, ovb_cabac *c, int n, int set, int chroma, int hidden, int32_t *level) {
    uint8_t *above1 = h->context + HEVC_ABOVE_1 + (chroma ? 16 : 0) + set * 4;
    int greater = 1, first = -1, flagged = n < 8 ? n : 8;
    for (int i = 0; i < flagged; i++) {
        int flag = ovb_decision(c, &above1[greater]);
        level[i] = 1 + flag;
        if (flag) {
            greater = 0;
            if (first < 0) first = i;
        } else if (greater > 0 && greater < 3) {
            greater++;
        }
    }
    for (int i = flagged; i < n; i++) level[i] = 1;
    if (first >= 0) level[first] += ovb_decision(c, h->context + HEVC_ABOVE_2 + (chroma ? 4 : 0) + set);
    int signs = n - hidden, rice = 0, parity = 0;
    uint32_t sign = ovb_bypass_bins(c, signs) << (16 - signs);
    for (int i = 0; i < n; i++) {
        int base = i < 8 ? (i == first ? 3 : 2) : 1;
        if (level[i] == base) {
            uint32_t value = (uint32_t)base + read_remaining(h, c, rice);
            level[i] = value > 32768 ? 32768 : (int32_t)value;
            if (level[i] > 3 << rice && rice < 4) rice++;
        }
        parity ^= level[i];
        if (sign & 0x8000) level[i] = -level[i];
        sign <<= 1;
    }
    if (hidden && (parity & 1)) level[n - 1] = -level[n - 1];
    return greater;
}

void hevc_read_residual(hevc *h, int x, int y, int log2, int component, int scan) {
    ovb_cabac c = h->cabac; /* in registers */
    const int chroma = component > 0;
    uint8_t *context = h->context;
    int skip = h->pps->transform_skip && !h->cu.bypass && log2 == 2 &&
               ovb_decision(&c, &context[HEVC_SKIP_TU + chroma]);
    int prefix_x = read_last_prefix(&c, context + HEVC_LAST_X, log2, chroma);
    int prefix_y = read_last_prefix(&c, context + HEVC_LAST_Y, log2, chroma);
    int last_x = last_position(&c, prefix_x), last_y = last_position(&c, prefix_y);
    if (scan == HEVC_VERTICAL) {
        int t = last_x;
        last_x = last_y, last_y = t;
    }
    const uint8_t *in_block = hevc_scan16[scan];
    const uint8_t *blocks = log2 == 5 ? hevc_scan64 : log2 == 4 ? hevc_scan16[0] : hevc_scan4[scan];
    const int sub = log2 - 2, sub_mask = (1 << sub) - 1;
    int last_block = 0, last_at = 0;
    while (blocks[last_block] != ((last_y >> 2) << sub | last_x >> 2)) last_block++;
    while (in_block[last_at] != ((last_y & 3) << 2 | (last_x & 3))) last_at++;

    scaler sum;
    start_scaler(h, &sum, log2, skip);
    uint8_t coded[9 * 9] = {0}; /* coded_sub_block_flag at y * 9 + x, with a border of zeros */
    uint8_t *sig = context + HEVC_SIG + (chroma ? 27 : 0);
    int sig_base = log2 == 3 ? (chroma ? 9 : scan ? 15 : 9) : (chroma ? 12 : 21), greater = 1;
    for (int i = last_block; i >= 0; i--) {
        int bx = sub ? blocks[i] & sub_mask : 0, by = sub ? blocks[i] >> sub : 0;
        uint8_t *flag = coded + by * 9 + bx;
        int around = flag[1] | flag[9] << 1, infer_dc = 0;
        if (i < last_block && i > 0) {
            infer_dc = *flag = (uint8_t)ovb_decision(&c, &context[HEVC_SUB_BLOCK + (chroma ? 2 : 0) + (around != 0)]);
            if (!infer_dc) continue;
        } else {
            *flag = 1;
        }
        uint8_t at[16];
        int n = 0, from = 15;
        if (i == last_block) {
            at[n++] = (uint8_t)last_at;
            from = last_at - 1;
        }
        const uint8_t *pattern = log2 == 2 ? significant_4x4 : significant[around];
        uint8_t *base = log2 == 2 ? sig : sig + sig_base + (!chroma && i > 0 ? 3 : 0);
        for (int k = from; k > 0; k--) {
            at[n] = (uint8_t)k;
            n += ovb_decision(&c, &base[pattern[in_block[k]]]);
        }
        if (from >= 0) {
            if (infer_dc && n == 0) {
                at[n++] = 0;
            } else {
                at[n] = 0;
                n += ovb_decision(&c, i == 0 ? sig : &base[pattern[0]]);
            }
        }
        if (n == 0) continue;
        int hidden = h->pps->sign_hiding && !h->cu.bypass && at[0] - at[n - 1] > 3;
        int set = (i == 0 || chroma ? 0 : 2) + (i != last_block && greater == 0);
        int32_t level[16];
        greater = read_levels(h, &c, n, set, chroma, hidden, level);
        if (chroma) continue;
        for (int k = 0; k < n; k++) {
            int p = in_block[at[k]];
            add_level(&sum, level[k], ((by << 2 | p >> 2) << log2) + (bx << 2 | (p & 3)));
        }
    }
    h->cabac = c;
    if (!chroma) keep_energy(h, x, y, &sum);
}
