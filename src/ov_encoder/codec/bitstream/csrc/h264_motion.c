/* Motion vectors of P and B macroblocks (8.4.1): neighbours, median prediction, P_Skip, partitions, and storing them.
 * Direct prediction has a file of its own.
 */
#include "h264.h"

/* One block of a neighbouring macroblock: its reference index, and its vector (0 without one). */
static inline int neighbour(const h264 *h, int list, int index, int quarter, size_t block, ovb_mv *mv) {
    int ref = h->current->ref_idx[list][index][quarter];
    uint32_t both;
    memcpy(&both, &h->cells->mv[list][block], sizeof both);
    both &= ~(uint32_t)(ref >> 31); /* no jump: references are hard to predict */
    memcpy(mv, &both, sizeof both);
    return ref;
}

static inline int at_left(const h264 *h, int list, ovb_mv *mv) {
    if (h->a) return neighbour(h, list, h->index - 1, 1, h->block - 1, mv);
    *mv = (ovb_mv){0, 0};
    return REF_AWAY;
}

static inline int at_above(const h264 *h, int list, ovb_mv *mv) {
    if (h->b) return neighbour(h, list, h->index - h->stride, 2, h->block - (size_t)h->mb_width * 4, mv);
    *mv = (ovb_mv){0, 0};
    return REF_AWAY;
}

static inline int at_above_right(const h264 *h, int list, ovb_mv *mv) {
    if (h->c) return neighbour(h, list, h->index - h->stride + 1, 2, h->block - (size_t)h->mb_width * 4 + 4, mv);
    *mv = (ovb_mv){0, 0};
    return REF_AWAY;
}

static inline int at_above_left(const h264 *h, int list, ovb_mv *mv) {
    if (h->d) return neighbour(h, list, h->index - h->stride - 1, 3, h->block - (size_t)h->mb_width * 4 - 1, mv);
    *mv = (ovb_mv){0, 0};
    return REF_AWAY;
}

/* Left, above and above right (or above left) of the whole macroblock. */
void h264_neighbours16(const h264 *h, int list, int ref[3], ovb_mv mv[3]) {
    ref[0] = at_left(h, list, &mv[0]);
    ref[1] = at_above(h, list, &mv[1]);
    ref[2] = h->c ? at_above_right(h, list, &mv[2]) : at_above_left(h, list, &mv[2]);
}

static inline int16_t middle(int a, int b, int c) {
    int low = a < b ? a : b, high = a < b ? b : a;
    return (int16_t)(c < low ? low : c > high ? high : c);
}

/* 8.4.1.3.1. By masks: which neighbour has the wanted reference is hard to predict. */
ovb_mv h264_median(const int ref[3], const ovb_mv mv[3], int want) {
    if (ref[1] == REF_AWAY && ref[2] == REF_AWAY && ref[0] != REF_AWAY) return mv[0];
    ovb_mv mid = {middle(mv[0].x, mv[1].x, mv[2].x), middle(mv[0].y, mv[1].y, mv[2].y)};
    uint32_t all[3], only = 0, median, same = 0;
    memcpy(all, mv, sizeof all);
    memcpy(&median, &mid, sizeof median);
    for (int i = 0; i < 3; i++) {
        uint32_t is = (uint32_t)0 - (ref[i] == want);
        only |= all[i] & is;
        same -= is;
    }
    median ^= (median ^ only) & ((uint32_t)0 - (same == 1));
    memcpy(&mid, &median, sizeof mid);
    return mid;
}

/* --- storing -------------------------------------------------------------------------------------------------- */

/* Reference indices of the four 8x8 blocks, and the same as indices into the picture's references. */
static inline void store_refs(h264 *h, int list, const int8_t ref[4]) {
    int8_t of[4], *to = h->cells->ref[list] + h->block;
    size_t stride = (size_t)h->mb_width * 4;
    memcpy(h->current->ref_idx[list][h->index], ref, 4);
    for (int i = 0; i < 4; i++) {
        int used = ref[i] >= 0;
        of[i] = (int8_t)(used ? h->reference_of[list][ref[i] & (H264_MAX_LIST - 1)] : -1);
        h->refs_used[list] |= (uint32_t)used << (ref[i] & (H264_MAX_LIST - 1));
    }
    const int8_t upper[4] = {of[0], of[0], of[1], of[1]}, lower[4] = {of[2], of[2], of[3], of[3]};
    memcpy(to, upper, 4);
    memcpy(to + stride, upper, 4);
    memcpy(to + 2 * stride, lower, 4);
    memcpy(to + 3 * stride, lower, 4);
}

/* One reference and one vector for the whole macroblock. Without a reference it stays as the picture was cleared. */
void h264_store16(h264 *h, int list, int ref, ovb_mv mv) {
    if (ref < 0) return;
    const ovb_mv row[4] = {mv, mv, mv, mv};
    size_t stride = (size_t)h->mb_width * 4;
    ovb_mv *to = h->cells->mv[list] + h->block;
    int8_t *of = h->cells->ref[list] + h->block;
    for (int y = 0; y < 4; y++, to += stride, of += stride) {
        memcpy(to, row, sizeof row);
        memset(of, h->reference_of[list][ref], 4);
    }
    memset(h->current->ref_idx[list][h->index], ref, 4);
    h->refs_used[list] |= 1u << ref;
}

/* As the picture was cleared. */
void h264_forget_motion(h264 *h) {
    for (int list = 0; list < 2; list++) {
        int8_t *of = h->cells->ref[list] + h->block;
        for (int y = 0; y < 4; y++, of += h->mb_width * 4) memset(of, -1, 4);
        memset(h->current->ref_idx[list][h->index], -1, 4);
    }
}

/* What is in h->ref and h->motion. */
void h264_store_motion(h264 *h) {
    for (int list = 0; list < (h->header.type == H264_B ? 2 : 1); list++) {
        const int8_t *ref = h->ref[list];
        if ((ref[0] & ref[1] & ref[2] & ref[3]) < 0) continue; /* the list is not used at all */
        store_refs(h, list, ref);
        ovb_mv *to = h->cells->mv[list] + h->block;
        for (int y = 0; y < 4; y++, to += h->mb_width * 4) memcpy(to, h->motion[list].mv + AT(0, y), 4 * sizeof *to);
    }
}

/* P_Skip (8.4.1.1) */
void h264_skip_motion(h264 *h) {
    ovb_mv mv = {0, 0}, near[3];
    int ref[3];
    if (h->a && h->b) {
        h264_neighbours16(h, 0, ref, near);
        int still = (ref[0] == 0 && near[0].x == 0 && near[0].y == 0) || (ref[1] == 0 && near[1].x == 0 && near[1].y == 0);
        if (!still) mv = h264_median(ref, near, 0);
    }
    h264_store16(h, 0, 0, mv);
}

/* --- a macroblock with its neighbours -------------------------------------------------------------------------- */

/* |mvd| of the left column (from 4 on) or the bottom row of a neighbour; NULL where it counts as 0. */
static inline const uint8_t (*neighbour_mvd(const h264 *h, int list, const h264_mb *mb))[2] {
    if (!mb || mb->type & (MB_INTRA | MB_SKIP | MB_DIRECT)) return NULL;
    return (const uint8_t(*)[2])h->mvd[mb - h->mbs][list];
}

static void load_neighbours(h264 *h, int list) {
    h264_motion *m = &h->motion[list];
    const h264_picture *p = h->current;
    const ovb_mv *mv = h->cells->mv[list] + h->block;
    ptrdiff_t stride = h->mb_width * 4;
    memset(m, 0, sizeof *m);
    memset(m->ref + AT(-1, -1), REF_AWAY, 6);
    if (h->b) {
        const int8_t *ref = p->ref_idx[list][h->index - h->stride];
        m->ref[AT(0, -1)] = m->ref[AT(1, -1)] = ref[2];
        m->ref[AT(2, -1)] = m->ref[AT(3, -1)] = ref[3];
        if (ref[2] >= 0) memcpy(m->mv + AT(0, -1), mv - stride, 2 * sizeof *mv);
        if (ref[3] >= 0) memcpy(m->mv + AT(2, -1), mv - stride + 2, 2 * sizeof *mv);
    }
    const int8_t *beside = h->a ? p->ref_idx[list][h->index - 1] : NULL;
    for (int y = 0; y < 4; y++) {
        int ref = beside ? beside[1 + (y & 2)] : REF_AWAY;
        m->ref[AT(-1, y)] = (int8_t)ref;
        if (ref >= 0) m->mv[AT(-1, y)] = mv[y * stride - 1];
    }
    m->ref[AT(4, -1)] = (int8_t)at_above_right(h, list, &m->mv[AT(4, -1)]);
    m->ref[AT(-1, -1)] = (int8_t)at_above_left(h, list, &m->mv[AT(-1, -1)]);
    if (!h->pps.cabac) return;
    const uint8_t(*before)[2] = neighbour_mvd(h, list, h->a), (*over)[2] = neighbour_mvd(h, list, h->b);
    if (before)
        for (int i = 0; i < 4; i++) memcpy(m->mvd[AT(-1, i)], before[4 + i], 2);
    if (over) memcpy(m->mvd[AT(0, -1)], over, 8);
}

static void keep_mvd(h264 *h, int list) {
    const h264_motion *m = &h->motion[list];
    uint8_t(*to)[2] = h->mvd[h->index][list];
    memcpy(to, m->mvd[AT(0, 3)], 8);
    for (int i = 0; i < 4; i++) memcpy(to[4 + i], m->mvd[AT(3, i)], 2);
}

/* Prediction for the block at (x, y), `wide` 4x4 blocks wide: 8.4.1.3.2 and the median. */
static ovb_mv predict(const h264_motion *m, int x, int y, int wide, int want) {
    static const uint8_t order[16] = {0, 1, 4, 5, 2, 3, 6, 7, 8, 9, 12, 13, 10, 11, 14, 15};
    int corner = AT(x + wide, y - 1);
    int later = y > 0 && (x + wide > 3 || order[(y - 1) * 4 + x + wide] > order[y * 4 + x]);
    if (later || m->ref[corner] == REF_AWAY) corner = AT(x - 1, y - 1);
    int ref[3] = {m->ref[AT(x - 1, y)], m->ref[AT(x, y - 1)], m->ref[corner]};
    ovb_mv mv[3] = {m->mv[AT(x - 1, y)], m->mv[AT(x, y - 1)], m->mv[corner]};
    return h264_median(ref, mv, want);
}

/* 16x8 and 8x16 look at one neighbour first (8.4.1.3). */
static ovb_mv predict_half(const h264_motion *m, int x, int y, int wide, int want) {
    int first;
    if (wide == 4) {
        first = y == 0 ? AT(0, -1) : AT(-1, 2);
    } else if (x == 0) {
        first = AT(-1, 0);
    } else {
        first = m->ref[AT(4, -1)] == REF_AWAY ? AT(1, -1) : AT(4, -1);
    }
    return m->ref[first] == want ? m->mv[first] : predict(m, x, y, wide, want);
}

/* `high` rows of `wide` values of `size` bytes each, rows of a h264_motion apart; wide is 1, 2 or 4. */
static inline void fill(void *to, const void *row, int wide, int high, size_t size) {
    for (int j = 0; j < high; j++, to = (uint8_t *)to + 8 * size) {
        if (wide == 4) {
            memcpy(to, row, 4 * size);
        } else if (wide == 2) {
            memcpy(to, row, 2 * size);
        } else {
            memcpy(to, row, size);
        }
    }
}

static inline ovb_mv read_mvd(h264 *h, ovb_mv mv, const uint8_t left[2], const uint8_t above[2], uint8_t big[2]) {
    if (h->pps.cabac) {
        int mvd[2];
        h264_cabac_mvd(h, left, above, mvd, big);
        mv.x = (int16_t)(mv.x + mvd[0]);
        mv.y = (int16_t)(mv.y + mvd[1]);
    } else {
        mv.x = (int16_t)((uint32_t)mv.x + (uint32_t)ovb_se(&h->bits));
        mv.y = (int16_t)((uint32_t)mv.y + (uint32_t)ovb_se(&h->bits));
    }
    return mv;
}

/* The vector of a block: its prediction and what the stream adds to it. */
static inline void read_vector(h264 *h, int list, int x, int y, int wide, int high, ovb_mv mv) {
    h264_motion *m = &h->motion[list];
    uint8_t big[2] = {0, 0};
    mv = read_mvd(h, mv, m->mvd[AT(x - 1, y)], m->mvd[AT(x, y - 1)], big);
    const ovb_mv row[4] = {mv, mv, mv, mv};
    fill(m->mv + AT(x, y), row, wide, high, sizeof mv);
    if (big[0] | big[1]) { /* the others are 0 from the start */
        const uint8_t bigs[4][2] = {{big[0], big[1]}, {big[0], big[1]}, {big[0], big[1]}, {big[0], big[1]}};
        fill(m->mvd + AT(x, y), bigs, wide, high, 2);
    }
}

/* --- reference indices ----------------------------------------------------------------------------------------- */

/* ctxIdxInc of ref_idx for 8x8 block k: neighbours that refer to a later entry, and not by direct prediction. */
static int ref_context(const h264 *h, int list, int k, int direct) {
    const int8_t *mine = h->ref[list];
    int8_t(*ref_idx)[4] = h->current->ref_idx[list];
    int a, b;
    if (k & 1) {
        a = mine[k - 1] > 0 && !(direct >> (k - 1) & 1);
    } else {
        a = h->a && ref_idx[h->index - 1][k + 1] > 0 && !(h->a->direct >> (k + 1) & 1);
    }
    if (k & 2) {
        b = mine[k - 2] > 0 && !(direct >> (k - 2) & 1);
    } else {
        b = h->b && ref_idx[h->index - h->stride][k + 2] > 0 && !(h->b->direct >> (k + 2) & 1);
    }
    return a + 2 * b;
}

static int read_ref(h264 *h, int list, int k, int direct) {
    int refs = h->header.refs[list], ref;
    if (refs == 1) return 0;
    if (h->pps.cabac) {
        ref = h264_cabac_ref(h, ref_context(h, list, k, direct));
    } else if (refs == 2) {
        ref = !ovb_flag(&h->bits);
    } else {
        uint32_t code = ovb_ue(&h->bits);
        ref = code < H264_MAX_LIST ? (int)code : -1;
    }
    return ref < refs ? ref : -1;
}

/* --- macroblock types -------------------------------------------------------------------------------------------- */

/* Lists used (bit 0, bit 1) by the two halves, for the mb_types of B from 4 on in pairs (Table 7-14). */
static const uint8_t halves[9][2] = {{1, 1}, {2, 2}, {1, 2}, {2, 1}, {1, 3}, {2, 3}, {3, 1}, {3, 2}, {3, 3}};
/* Sub-macroblocks of B: lists and shape (Table 7-18); shapes: 0 8x8, 1 8x4, 2 4x8, 3 4x4. */
static const uint8_t sub_lists[13] = {0, 1, 2, 3, 1, 1, 2, 2, 3, 3, 1, 2, 3};
static const uint8_t sub_shape[13] = {3, 0, 0, 0, 1, 2, 1, 2, 1, 2, 3, 3, 3};

static int read_sub_types(h264 *h, uint8_t lists[4], uint8_t shape[4], int *direct) {
    int b = h->header.type == H264_B;
    for (int k = 0; k < 4; k++) {
        uint32_t type = h->pps.cabac ? (uint32_t)h264_cabac_sub_type(h) : ovb_ue(&h->bits);
        if (type > (b ? 12u : 3u)) return -1;
        lists[k] = b ? sub_lists[type] : 1;
        shape[k] = b ? sub_shape[type] : (uint8_t)type;
        if (b && type == 0) *direct |= 1 << k;
    }
    return 0;
}

static void fill_refs(h264_motion *m, int k, int ref) {
    int x = (k & 1) * 2, y = k & 2;
    m->ref[AT(x, y)] = m->ref[AT(x + 1, y)] = m->ref[AT(x, y + 1)] = m->ref[AT(x + 1, y + 1)] = (int8_t)ref;
}

/* One partition: no neighbours but those of the whole macroblock are looked at. */
static int inter16(h264 *h, int lists) {
    static const uint8_t none[8][2];
    int lists_here = h->header.type == H264_B ? 2 : 1, refs[2] = {REF_NONE, REF_NONE};
    for (int list = 0; list < lists_here; list++)
        if (lists >> list & 1 && (refs[list] = read_ref(h, list, 0, 0)) < 0) return -1;
    for (int list = 0; list < lists_here; list++) {
        uint8_t big[2] = {0, 0};
        ovb_mv mv = {0, 0}, near[3];
        int ref[3];
        if (lists >> list & 1) {
            const uint8_t(*left)[2] = neighbour_mvd(h, list, h->a), (*above)[2] = neighbour_mvd(h, list, h->b);
            h264_neighbours16(h, list, ref, near);
            mv = h264_median(ref, near, refs[list]);
            mv = read_mvd(h, mv, left ? left[4] : none[0], above ? above[0] : none[0], big);
        }
        h264_store16(h, list, refs[list], mv);
        if (h->pps.cabac) {
            const uint64_t four = 0x0001000100010001u * (uint64_t)(uint32_t)(big[0] | big[1] << 8), all[2] = {four, four};
            memcpy(h->mvd[h->index][list], all, sizeof all);
        }
    }
    h->mb->direct = 0;
    return 0;
}

/* mb_type counts from P_L0_16x16 = 0 in P, from B_Direct_16x16 = 0 in B. Returns the 8x8 blocks that have a partition
 * below 8x8 (bits 0..3), bit 4 if a block is predicted in direct mode, or -1. */
int h264_inter_motion(h264 *h, int mb_type) {
    int b = h->header.type == H264_B, lists_here = b ? 2 : 1, direct = 0, small = 0;
    int shape16 = b ? (mb_type < 4 ? 0 : mb_type == 22 ? 3 : 1 + (mb_type & 1)) : mb_type > 3 ? 3 : mb_type;
    uint8_t lists[4], shape[4] = {0, 0, 0, 0};
    if (shape16 == 0) return inter16(h, b ? mb_type : 1);
    if (shape16 == 3) {
        if (read_sub_types(h, lists, shape, &direct)) return -1;
    } else {
        for (int k = 0; k < 4; k++) lists[k] = b ? halves[(mb_type - 4) >> 1][shape16 == 1 ? k >> 1 : k & 1] : 1;
    }
    int used = lists[0] | lists[1] | lists[2] | lists[3];
    for (int list = 0; list < lists_here; list++)
        if (used >> list & 1) load_neighbours(h, list);
    if (direct) h264_direct_motion(h, direct);
    /* 16x8 has partitions at blocks 0 and 2; 8x16 at 0 and 1; 8x8 at all four */
    const int starts = shape16 == 1 ? 5 : shape16 == 2 ? 3 : 15;
    for (int list = 0; list < lists_here; list++) {
        for (int k = 0; k < 4; k++) {
            if (direct >> k & 1) {
                fill_refs(&h->motion[list], k, h->ref[list][k]);
                continue;
            }
            int ref = REF_NONE;
            if (!(starts >> k & 1)) {
                ref = h->ref[list][shape16 == 1 ? k - 1 : k - 2];
            } else if (lists[k] >> list & 1) {
                ref = mb_type == 4 && !b ? 0 : read_ref(h, list, k, direct);
                if (ref < 0) return -1;
            }
            h->ref[list][k] = (int8_t)ref;
            fill_refs(&h->motion[list], k, ref);
        }
    }
    for (int list = 0; list < lists_here; list++) {
        h264_motion *m = &h->motion[list];
        for (int k = 0; k < 4; k++) {
            int ref = h->ref[list][k], x = (k & 1) * 2, y = k & 2;
            if (!(starts >> k & 1) || (direct >> k & 1) || !(lists[k] >> list & 1)) continue;
            if (shape16 == 1) {
                read_vector(h, list, 0, y, 4, 2, predict_half(m, 0, y, 4, ref));
            } else if (shape16 == 2) {
                read_vector(h, list, x, 0, 2, 4, predict_half(m, x, 0, 2, ref));
            } else {
                int wide = shape[k] < 2 ? 2 : 1, high = shape[k] & 1 ? 1 : 2;
                if (shape[k]) small |= 1 << k;
                for (int j = 0; j < 2; j += high)
                    for (int i = 0; i < 2; i += wide)
                        read_vector(h, list, x + i, y + j, wide, high, predict(m, x + i, y + j, wide, ref));
            }
        }
        if (!h->pps.cabac) continue;
        if (used >> list & 1) {
            keep_mvd(h, list);
        } else {
            memset(h->mvd[h->index][list], 0, sizeof h->mvd[h->index][list]);
        }
    }
    h->mb->direct = (uint8_t)direct;
    h264_store_motion(h);
    return small | (direct ? 16 : 0);
}
