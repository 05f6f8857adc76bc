/* What is read goes into the picture's cells: bits, energy, motion, kinds, QP. Blocks are cut at the picture's edge. */
#include <string.h>

#include "hevc.h"

/* A block in 8x8 cells; blocks below 8x8 take the cell they lie in. */
typedef struct cells {
    int x, y, w, h;
} cells;

static cells in_cells(const hevc *h, int x, int y, int log2) {
    int n = log2 > 3 ? 1 << (log2 - 3) : 1;
    cells c = {x >> 3, y >> 3, n, n};
    if (c.x + c.w > h->width8) c.w = h->width8 - c.x;
    if (c.y + c.h > h->height8) c.h = h->height8 - c.y;
    return c;
}

void hevc_credit_bits(hevc *h, int x, int y, int log2, int64_t bits) {
    cells c = in_cells(h, x, y, log2);
    uint32_t *row = h->picture->bits + (size_t)c.y * (size_t)h->width8 + (size_t)c.x;
    h->slice_bits += bits;
    if (c.w * c.h == 1) {
        *row += (uint32_t)bits;
        return;
    }
    uint32_t count = (uint32_t)(c.w * c.h), share = (uint32_t)bits / count;
    int rest = (int)((uint32_t)bits % count); /* one more for each of the first cells */
    for (int j = 0; j < c.h; j++, row += h->width8, rest -= c.w) {
        for (int i = 0; i < c.w; i++) row[i] += share + (i < rest);
    }
}

void hevc_credit(hevc *h, int x, int y, int log2) {
    int64_t now = ovb_cabac_position(&h->cabac), bits = now - h->mark;
    h->mark = now;
    hevc_credit_bits(h, x, y, log2, bits > 0 ? bits : 0);
}

void hevc_keep_energy(hevc *h, int x, int y, int log2, double energy) {
    cells c = in_cells(h, x, y, log2);
    float *row = h->picture->energy + (size_t)c.y * (size_t)h->width8 + (size_t)c.x;
    float share = (float)(energy / (c.w * c.h));
    for (int j = 0; j < c.h; j++, row += h->width8)
        for (int i = 0; i < c.w; i++) row[i] += share;
}

void hevc_keep_shares(hevc *h, int x, int y, int log2, double energy, float cell[16]) {
    cells c = in_cells(h, x, y, log2);
    float *row = h->picture->energy + (size_t)c.y * (size_t)h->width8 + (size_t)c.x, sum = 0;
    for (int i = 0; i < 16; i++) {
        cell[i] = cell[i] > 0 ? cell[i] : 0; /* rounding */
        sum += cell[i];
    }
    float scale = sum > 0 ? (float)energy / sum : 0;
    for (int j = 0; j < c.h; j++, row += h->width8)
        for (int i = 0; i < c.w; i++) row[i] += cell[j * 4 + i] * scale;
}

/* n equal bytes, mostly few: powers of two but at the picture's edge. */
static inline void fill(void *to, int value, int n) {
    switch (n) {
    case 1: memset(to, value, 1); return;
    case 2: memset(to, value, 2); return;
    case 4: memset(to, value, 4); return;
    case 8: memset(to, value, 8); return;
    default: memset(to, value, (size_t)n);
    }
}

/* Rows of equal vectors with their reference. */
static void fill_rows(ovb_mv *mv, int8_t *ref, size_t stride, int w, int height, ovb_mv value, int8_t out) {
    const ovb_mv four[4] = {value, value, value, value};
    for (int j = 0; j < height; j++, mv += stride, ref += stride) {
        int i = 0;
        for (; i + 3 < w; i += 4) {
            memcpy(mv + i, four, sizeof four);
            memset(ref + i, out, 4);
        }
        for (; i < w; i++) {
            mv[i] = value;
            ref[i] = out;
        }
    }
}

void hevc_keep_motion(hevc *h, int x, int y, int w, int height, const hevc_motion *motion) {
    size_t stride = (size_t)h->width4, at = (size_t)(y >> 2) * stride + (size_t)(x >> 2);
    int w4 = w >> 2, h4 = height >> 2;
    hevc_motion *own = h->motion4 + at; /* later blocks look at the right column and the lowest row only */
    for (int j = 0; j < h4 - 1; j++, own += stride) own[w4 - 1] = *motion;
    for (int i = 0; i < w4; i++) own[i] = *motion;
    int step = h->motion_step, first = -(y >> 2) & (step - 1), rows = (h4 - first + step - 1) / step;
    if (!rows) return;
    at += (size_t)first * stride;
    for (int list = 0; list < 2; list++) {
        int used = motion->ref[list];
        if (used < 0) continue; /* as the picture was cleared */
        fill_rows(h->picture->mv[list] + at, h->picture->ref[list] + at, stride * (size_t)step, w4, rows,
                  motion->mv[list], h->refs[list][used].out);
    }
}

void hevc_keep_kind(hevc *h, int x, int y, int log2, int kind, int depth) {
    cells c = in_cells(h, x, y, log2);
    size_t at = (size_t)c.y * (size_t)h->width8 + (size_t)c.x;
    for (int j = 0; j < c.h; j++, at += (size_t)h->width8) {
        fill(h->picture->kind + at, kind, c.w);
        fill(h->depth8 + at, depth, c.w);
    }
}

void hevc_keep_qp(hevc *h, int x, int y, int log2) {
    cells c = in_cells(h, x, y, log2);
    int8_t *row = h->picture->qp + (size_t)c.y * (size_t)h->width8 + (size_t)c.x;
    for (int j = 0; j < c.h; j++, row += h->width8) fill(row, h->qp, c.w);
}
