/* What a transform coefficient weighs in pixels: residual energy without an inverse transform (Parseval).
 *
 * The inverse transforms of H.264 are orthogonal up to the norms of their basis functions, so the sum of squares of
 * the residual is the sum over coefficients of (level * LevelScale / 64)^2 * norm of its basis function (8.5.12,
 * 8.5.13). Weights are kept per QP' in zigzag order, for intra and inter scaling lists.
 */
#include "h264.h"
#include "h264_tables.h"

static const double norm4[4] = {4, 2.5, 4, 2.5};
static const double norm8[8] = {8, 9.03125, 5, 9.03125, 8, 9.03125, 5, 9.03125};

static const uint8_t scale4[6][3] = {{10, 16, 13}, {11, 18, 14}, {13, 20, 16}, {14, 23, 18}, {16, 25, 20}, {18, 29, 23}};
static const uint8_t scale8[6][6] = {{20, 18, 32, 19, 25, 24}, {22, 19, 35, 21, 28, 26}, {26, 23, 42, 24, 33, 31},
                                     {28, 25, 45, 26, 35, 33}, {32, 28, 51, 30, 40, 38}, {36, 32, 58, 34, 46, 43}};

static int class4(int y, int x) { return (y & 1) && (x & 1) ? 1 : (y & 1) || (x & 1) ? 2 : 0; }

static int class8(int y, int x) {
    if ((y & 1) && (x & 1)) return 1;
    if (y & 1) return (x & 3) == 0 ? 3 : 5;
    if (x & 1) return (y & 3) == 0 ? 3 : 5;
    return (y & 3) == 0 && (x & 3) == 0 ? 0 : (y & 3) == 2 && (x & 3) == 2 ? 2 : 4;
}

/* The scaling lists in use: the picture's, else the sequence's, else the default (Table 7-2). */
static const uint8_t *list4(const h264 *h, int inter) {
    if (h->pps.has_lists && h->pps.given4[inter] == H264_LIST_GIVEN) return h->pps.list4[inter];
    if (h->pps.has_lists && (h->pps.given4[inter] == H264_LIST_DEFAULT || !h->sps.has_lists)) return h264_default4[inter];
    return h->sps.list4[inter];
}

static const uint8_t *list8(const h264 *h, int inter) {
    if (h->pps.has_lists && h->pps.given8[inter] == H264_LIST_GIVEN) return h->pps.list8[inter];
    if (h->pps.has_lists && (h->pps.given8[inter] == H264_LIST_DEFAULT || !h->sps.has_lists)) return h264_default8[inter];
    return h->sps.list8[inter];
}

void h264_reset_weights(h264 *h) {
    memset(h->have4, 0, sizeof h->have4);
    memset(h->have8, 0, sizeof h->have8);
    h->unit = 1.0f / (float)(1 << (2 * (h->sps.depth_luma - 8)));
    for (int i = 0; i < 64; i++) h->lossless_weight[i] = h->unit;
}

const float *h264_weights4(h264 *h, int inter, int qp) {
    if (h->sps.lossless && qp == 0) return h->lossless_weight;
    float *weight = h->weight4[inter][qp];
    if (h->have4[inter][qp]) return weight;
    const uint8_t *list = list4(h, inter);
    for (int i = 0; i < 16; i++) {
        int y = h264_zigzag4[i] >> 2, x = h264_zigzag4[i] & 3;
        double scaled = (double)list[i] * scale4[qp % 6][class4(y, x)] * (double)(1 << (qp / 6)) / (16 * 64);
        weight[i] = (float)(scaled * scaled * norm4[y] * norm4[x]) * h->unit;
    }
    h->have4[inter][qp] = 1;
    return weight;
}

const float *h264_weights8(h264 *h, int inter, int qp) {
    if (h->sps.lossless && qp == 0) return h->lossless_weight;
    float *weight = h->weight8[inter][qp];
    if (h->have8[inter][qp]) return weight;
    const uint8_t *list = list8(h, inter);
    for (int i = 0; i < 64; i++) {
        int y = h264_zigzag8[i] >> 3, x = h264_zigzag8[i] & 7;
        double scaled = (double)list[i] * scale8[qp % 6][class8(y, x)] * (double)(1 << (qp / 6)) / (64 * 64);
        weight[i] = (float)(scaled * scaled * norm8[y] * norm8[x]) * h->unit;
    }
    h->have8[inter][qp] = 1;
    return weight;
}

/* The 16 DC levels of an Intra_16x16 macroblock (zigzag order) go through a Hadamard transform first (8.5.10);
 * `weight` is that of a DC level of an ordinary 4x4 block. */
void h264_dc_energy(const int32_t *level, float weight, float energy[4]) {
    float f[4][4], g[4][4];
    for (int i = 0; i < 16; i++) f[h264_zigzag4[i] >> 2][h264_zigzag4[i] & 3] = (float)level[i];
    for (int y = 0; y < 4; y++) {
        float a = f[y][0] + f[y][1], b = f[y][0] - f[y][1], c = f[y][2] + f[y][3], d = f[y][2] - f[y][3];
        g[y][0] = a + c, g[y][1] = a - c, g[y][2] = b - d, g[y][3] = b + d;
    }
    for (int x = 0; x < 4; x++) {
        float a = g[0][x] + g[1][x], b = g[0][x] - g[1][x], c = g[2][x] + g[3][x], d = g[2][x] - g[3][x];
        float out[4] = {a + c, a - c, b - d, b + d};
        for (int y = 0; y < 4; y++) energy[(y >> 1) * 2 + (x >> 1)] += out[y] * out[y] * weight / 16;
    }
}
