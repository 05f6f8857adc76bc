/* Direct prediction in B slices (8.4.1.2): spatial and temporal, for frames. */
#include "h264.h"

static int32_t clip(int64_t v, int32_t low, int32_t high) { return v < low ? low : v > high ? high : (int32_t)v; }

/* Once per B slice: the colocated picture, and for temporal mode its references seen from this slice. */
void h264_direct_start(h264 *h) {
    h264_direct *d = &h->direct;
    h264_picture *col = h->list[1][0];
    if (col && (!col->exists || !col->cells)) col = NULL;
    if (!col) ovb_damage(h->parser, "the colocated picture of a B slice is missing");
    d->col = col;
    d->col_short = col && col->reference == H264_SHORT;
    if (h->header.direct_spatial || !col) return;
    for (int i = 0; i < col->cells->reference_count; i++) {
        d->map[i] = -1;
        for (int k = h->header.refs[0] - 1; k >= 0; k--)
            if (h->list[0][k] && h->list[0][k]->id == col->cells->references[i].decode_index) d->map[i] = (int8_t)k;
    }
    for (int k = 0; k < h->header.refs[0]; k++) {
        const h264_picture *p = h->list[0][k];
        int64_t current = h->current->poc, from = p ? p->poc : 0;
        int32_t tb = clip(current - from, -128, 127), td = clip(col->poc - from, -128, 127);
        d->unscaled[k] = !p || p->reference == H264_LONG || td == 0;
        if (d->unscaled[k]) continue;
        int32_t tx = (16384 + (td < 0 ? -td : td) / 2) / td;
        d->scale[k] = (int16_t)clip((tb * tx + 32) >> 6, -1024, 1023);
    }
}

/* The 4x4 block that speaks for block (x, y) of this macroblock in the colocated picture. */
static inline size_t colocated(const h264 *h, int x, int y) {
    if (h->sps.direct_8x8) {
        x = x & 2 ? 3 : 0;
        y = y & 2 ? 3 : 0;
    }
    return (size_t)(h->mb_y * 4 + y) * (size_t)(h->mb_width * 4) + (size_t)(h->mb_x * 4 + x);
}

/* List of the colocated 8x8 block that counts: 0, else 1, else -1 (intra). */
static inline int colocated_list(const h264 *h, int k) {
    const h264_picture *col = h->direct.col;
    if (!col) return -1;
    return col->ref_idx[0][h->index][k] >= 0 ? 0 : col->ref_idx[1][h->index][k] >= 0 ? 1 : -1;
}

typedef struct prediction { /* of the whole macroblock, before the colocated picture is asked */
    int ref[2];
    ovb_mv mv[2];
    int check[2]; /* the vector becomes 0 where the colocated block hardly moves */
} prediction;

static prediction predict_spatial(const h264 *h) {
    prediction p;
    for (int list = 0; list < 2; list++) {
        int near[3];
        ovb_mv near_mv[3];
        h264_neighbours16(h, list, near, near_mv);
        uint32_t a = (uint32_t)near[0], b = (uint32_t)near[1], c = (uint32_t)near[2]; /* below 0 is most */
        uint32_t least = a < b ? a : b;
        least = least < c ? least : c;
        p.ref[list] = (int)least < 0 ? -1 : (int)least;
        p.mv[list] = p.ref[list] < 0 ? (ovb_mv){0, 0} : h264_median(near, near_mv, p.ref[list]);
    }
    int nothing = p.ref[0] < 0 && p.ref[1] < 0;
    if (nothing) p.ref[0] = p.ref[1] = 0;
    for (int list = 0; list < 2; list++)
        p.check[list] = !nothing && p.ref[list] == 0 && (p.mv[list].x | p.mv[list].y) && h->direct.col_short;
    return p;
}

/* 4x4 blocks (bit 4 * k + i) whose colocated block hardly moves: colZeroFlag. */
static int still_blocks(const h264 *h) {
    int still = 0;
    for (int k = 0; k < 4; k++) {
        int from = colocated_list(h, k);
        if (from < 0 || h->direct.col->ref_idx[from][h->index][k] != 0) continue;
        const ovb_mv *mv = h->direct.col->cells->mv[from];
        for (int i = 0; i < (h->sps.direct_8x8 ? 1 : 4); i++) { /* else one corner speaks for all four */
            ovb_mv c = mv[colocated(h, (k & 1) * 2 + (i & 1), (k & 2) + (i >> 1))];
            int is = ((uint32_t)(c.x + 1) < 3) & ((uint32_t)(c.y + 1) < 3);
            still |= (h->sps.direct_8x8 ? 15 * is : is << i) << 4 * k;
        }
    }
    return still;
}

static void spatial(h264 *h, const prediction *p, int still, int blocks) { /* 8.4.1.2.2 */
    for (int list = 0; list < 2; list++) {
        const ovb_mv mv[2] = {p->mv[list], p->check[list] ? (ovb_mv){0, 0} : p->mv[list]};
        for (int k = 0; k < 4; k++) {
            if (!(blocks >> k & 1)) continue;
            ovb_mv *to = h->motion[list].mv + AT((k & 1) * 2, k & 2);
            h->ref[list][k] = (int8_t)p->ref[list];
            for (int i = 0; i < 4; i++) to[(i >> 1) * 8 + (i & 1)] = mv[still >> (4 * k + i) & 1];
        }
    }
}

static void temporal(h264 *h, int blocks) { /* 8.4.1.2.3 */
    const h264_direct *d = &h->direct;
    for (int k = 0; k < 4; k++) {
        if (!(blocks >> k & 1)) continue;
        int from = colocated_list(h, k), ref = 0;
        if (from >= 0) {
            int of = d->col->cells->ref[from][colocated(h, (k & 1) * 2, k & 2)];
            ref = of >= 0 && of < d->col->cells->reference_count ? d->map[of] : -1;
            if (ref < 0) {
                ovb_damage(h->parser, "temporal direct prediction from a picture that is not in list 0");
                ref = 0;
            }
        }
        h->ref[0][k] = (int8_t)ref;
        h->ref[1][k] = 0;
        for (int i = 0; i < 4; i++) {
            int x = (k & 1) * 2 + (i & 1), y = (k & 2) + (i >> 1);
            ovb_mv c = {0, 0}, to0, to1 = {0, 0};
            if (from >= 0) c = d->col->cells->mv[from][colocated(h, x, y)];
            to0 = c;
            if (from >= 0 && !d->unscaled[ref]) {
                to0.x = (int16_t)((d->scale[ref] * c.x + 128) >> 8);
                to0.y = (int16_t)((d->scale[ref] * c.y + 128) >> 8);
                to1.x = (int16_t)(to0.x - c.x);
                to1.y = (int16_t)(to0.y - c.y);
            }
            h->motion[0].mv[AT(x, y)] = to0;
            h->motion[1].mv[AT(x, y)] = to1;
        }
    }
}

/* Motion of the 8x8 blocks in the bit mask `blocks`: into h->ref and h->motion, not stored yet. */
void h264_direct_motion(h264 *h, int blocks) {
    if (h->header.direct_spatial) {
        const prediction p = predict_spatial(h);
        spatial(h, &p, p.check[0] | p.check[1] ? still_blocks(h) : 0, blocks);
    } else {
        temporal(h, blocks);
    }
}

/* B_Skip and B_Direct_16x16: all of it, and stored. */
void h264_direct16(h264 *h) {
    if (h->header.direct_spatial) {
        const prediction p = predict_spatial(h);
        int still = p.check[0] | p.check[1] ? still_blocks(h) : 0;
        if (still == 0 || still == 0xffff) {
            for (int list = 0; list < 2; list++)
                h264_store16(h, list, p.ref[list], still && p.check[list] ? (ovb_mv){0, 0} : p.mv[list]);
            return;
        }
        spatial(h, &p, still, 15);
    } else {
        temporal(h, 15);
    }
    h264_store_motion(h);
}
