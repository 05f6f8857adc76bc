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
    uint32_t count = (uint32_t)(c.w * c.h), share = (uint32_t)bits / count, rest = (uint32_t)bits % count;
    for (int j = 0; j < c.h; j++, row += h->width8) {
        for (int i = 0; i < c.w; i++) {
            row[i] += share + (rest > 0);
            rest -= rest > 0;
        }
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

/* A row of equal vectors, two at a time. */
static void fill_row(ovb_mv *row, int n, ovb_mv mv) {
    ovb_mv two[2] = {mv, mv};
    int i = 0;
    for (; i + 1 < n; i += 2) memcpy(row + i, two, sizeof two);
    if (i < n) row[i] = mv;
}

void hevc_keep_motion(hevc *h, int x, int y, int w, int height, const hevc_motion *motion) {
    int stride = h->width4, w4 = w >> 2, h4 = height >> 2;
    size_t at = (size_t)(y >> 2) * (size_t)stride + (size_t)(x >> 2);
    hevc_motion *own = h->motion4 + at; /* later blocks look at the right column and the lowest row only */
    for (int j = 0; j < h4 - 1; j++, own += stride) own[w4 - 1] = *motion;
    for (int i = 0; i < w4; i++) own[i] = *motion;
    for (int list = 0; list < 2; list++) {
        if (motion->ref[list] < 0) continue; /* as the picture was cleared */
        ovb_mv *mv = h->picture->mv[list] + at;
        int8_t *ref = h->picture->ref[list] + at, out = h->refs[list][motion->ref[list]].out;
        for (int j = 0; j < h4; j++, mv += stride, ref += stride) {
            fill_row(mv, w4, motion->mv[list]);
            memset(ref, out, (size_t)w4);
        }
    }
}

void hevc_keep_kind(hevc *h, int x, int y, int log2, int kind, int depth) {
    cells c = in_cells(h, x, y, log2);
    size_t at = (size_t)c.y * (size_t)h->width8 + (size_t)c.x;
    for (int j = 0; j < c.h; j++, at += (size_t)h->width8) {
        memset(h->picture->kind + at, kind, (size_t)c.w);
        memset(h->depth8 + at, depth, (size_t)c.w);
    }
}

void hevc_keep_qp(hevc *h, int x, int y, int log2) {
    cells c = in_cells(h, x, y, log2);
    int8_t *row = h->picture->qp + (size_t)c.y * (size_t)h->width8 + (size_t)c.x;
    for (int j = 0; j < c.h; j++, row += h->width8) memset(row, h->qp, (size_t)c.w);
}
