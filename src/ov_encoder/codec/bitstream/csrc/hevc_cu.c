/* Coding quadtree and coding units (7.3.8.4, 7.3.8.5): splits, prediction modes, motion syntax, PCM. */
#include <string.h>

#include "hevc.h"
#include "hevc_part.h"

/* --- intra ---------------------------------------------------------------------------------------------------- */

/* Mode of the block at (x, y) as a candidate; DC where it has none (8.4.2). */
static int candidate_mode(const hevc *h, int x, int y) {
    if (h->picture->kind[(size_t)(y >> 3) * (size_t)h->width8 + (size_t)(x >> 3)] != OVB_INTRA) return 1;
    return h->mode4[(size_t)(y >> 2) * (size_t)h->width4 + (size_t)(x >> 2)];
}

static void most_probable_modes(const hevc *h, int x, int y, int mode[3]) {
    int a = hevc_has_left(h, x) ? candidate_mode(h, x - 1, y) : 1;
    int b = y & ((1 << h->sps->log2_ctb) - 1) ? candidate_mode(h, x, y - 1) : 1; /* not across CTB rows */
    if (a == b) {
        if (a < 2) {
            mode[0] = 0, mode[1] = 1, mode[2] = 26;
        } else {
            mode[0] = a, mode[1] = 2 + ((a + 29) & 31), mode[2] = 2 + ((a - 2 + 1) & 31);
        }
        return;
    }
    mode[0] = a, mode[1] = b;
    mode[2] = a != 0 && b != 0 ? 0 : a != 1 && b != 1 ? 1 : 26;
}

static void keep_mode(hevc *h, int x, int y, int size, int mode) {
    int n = size >> 2;
    uint8_t *row = h->mode4 + (size_t)(y >> 2) * (size_t)h->width4 + (size_t)(x >> 2);
    for (int j = 0; j < n; j++, row += h->width4) memset(row, mode, (size_t)n);
}

/* Chroma modes of 4:2:2 (Table 8-3). */
static const uint8_t mode_422[35] = {0,  1,  2,  2,  2,  2,  3,  5,  7,  8,  10, 11, 13, 15, 16, 18, 19, 20,
                                     21, 22, 23, 23, 24, 24, 25, 25, 26, 27, 27, 28, 28, 29, 29, 30, 31};

static uint8_t chroma_mode(hevc *h, int luma) {
    static const uint8_t table[4] = {0, 26, 10, 1};
    int mode = luma;
    if (hevc_bin(h, HEVC_INTRA_CHROMA)) {
        mode = table[ovb_bypass_bins(&h->cabac, 2)];
        if (mode == luma) mode = 34;
    }
    return h->sps->chroma == 2 ? mode_422[mode] : (uint8_t)mode;
}

static void read_intra_modes(hevc *h) {
    hevc_cu *cu = &h->cu;
    int parts = cu->split4 ? 4 : 1, size = (1 << cu->log2) >> cu->split4, predicted[4];
    for (int i = 0; i < parts; i++) predicted[i] = hevc_bin(h, HEVC_PREV_INTRA);
    for (int i = 0; i < parts; i++) {
        int x = cu->x + (i & 1) * size, y = cu->y + (i >> 1) * size, mpm[3], mode;
        most_probable_modes(h, x, y, mpm);
        if (predicted[i]) {
            mode = mpm[hevc_bypass(h) ? 1 + hevc_bypass(h) : 0];
        } else {
            mode = (int)ovb_bypass_bins(&h->cabac, 5);
            if (mpm[0] > mpm[1]) { int t = mpm[0]; mpm[0] = mpm[1]; mpm[1] = t; }
            if (mpm[0] > mpm[2]) { int t = mpm[0]; mpm[0] = mpm[2]; mpm[2] = t; }
            if (mpm[1] > mpm[2]) { int t = mpm[1]; mpm[1] = mpm[2]; mpm[2] = t; }
            for (int j = 0; j < 3; j++) mode += mode >= mpm[j];
        }
        cu->mode[i] = (uint8_t)mode;
        keep_mode(h, x, y, size, mode);
    }
    if (!cu->split4) memset(cu->mode + 1, cu->mode[0], 3);
    if (h->sps->chroma == 0) return;
    int chroma_parts = h->sps->chroma == 3 ? parts : 1;
    for (int i = 0; i < chroma_parts; i++) cu->mode_chroma[i] = chroma_mode(h, cu->mode[i]);
    if (chroma_parts == 1) memset(cu->mode_chroma + 1, cu->mode_chroma[0], 3);
}

/* Samples stand behind pcm_flag as they are; the arithmetic decoder starts again after them. */
static void read_pcm(hevc *h) {
    const hevc_sps *sps = h->sps;
    ovb_cabac *c = &h->cabac;
    size_t luma = (size_t)1 << (2 * h->cu.log2), chroma = sps->chroma == 0 ? 0 : luma * 2;
    if (sps->chroma < 3) chroma >>= sps->chroma == 1 ? 2 : 1;
    size_t before = (size_t)(ovb_cabac_position(c) >> OVB_POS_SHIFT), room = (size_t)(c->end - c->start);
    size_t bits = luma * (size_t)sps->pcm_depth_luma + chroma * (size_t)sps->pcm_depth_chroma;
    size_t end = (ovb_cabac_end(c) + 7) / 8 + (bits + 7) / 8;
    hevc_credit(h, h->cu.x, h->cu.y, h->cu.log2);
    if (end >= room) {
        h->broken = 1;
        return;
    }
    hevc_credit_bits(h, h->cu.x, h->cu.y, h->cu.log2, (int64_t)(end * 8 - before) << OVB_POS_SHIFT);
    ovb_cabac_init(c, c->start + end, room - end);
    h->mark = 0;
    keep_mode(h, h->cu.x, h->cu.y, 1 << h->cu.log2, 1);
    h->flags |= OVB_LOSSLESS;
}

/* --- inter ---------------------------------------------------------------------------------------------------- */

static int read_part_mode(hevc *h, int log2) {
    if (hevc_bin(h, HEVC_PART_MODE)) return HEVC_2Nx2N;
    if (h->cu.intra) return HEVC_NxN;
    int horizontal = hevc_bin(h, HEVC_PART_MODE + 1);
    if (log2 == h->sps->log2_min_cb) {
        if (horizontal) return HEVC_2NxN;
        if (log2 == 3) return HEVC_Nx2N;
        return hevc_bin(h, HEVC_PART_MODE + 2) ? HEVC_Nx2N : HEVC_NxN;
    }
    if (!h->sps->amp || hevc_bin(h, HEVC_PART_MODE + 3)) return horizontal ? HEVC_2NxN : HEVC_Nx2N;
    int second = hevc_bypass(h);
    return horizontal ? HEVC_2NxnU + second : HEVC_nLx2N + second;
}

static int read_merge_idx(hevc *h) {
    int max = h->slice.max_merge - 1, index = 0;
    if (max > 0 && hevc_bin(h, HEVC_MERGE_IDX))
        for (index = 1; index < max && hevc_bypass(h); index++) {}
    return index;
}

static int read_ref_idx(hevc *h, int count) {
    int index = 0, max = count - 1;
    while (index < max && index < 2 && hevc_bin(h, HEVC_REF_IDX + index)) index++;
    if (index == 2)
        while (index < max && hevc_bypass(h)) index++;
    return index;
}

static int read_mvd_part(hevc *h, int above0, int above1) {
    if (!above0) return 0;
    int value = 1;
    if (above1) { /* EG1 */
        int k = 1;
        uint32_t magnitude = 0;
        while (k < 17 && hevc_bypass(h)) magnitude += 1u << k++;
        if (k == 17) h->broken = 1; /* above 2^15 */
        magnitude += ovb_bypass_bins(&h->cabac, k);
        value = (int)magnitude + 2;
    }
    return hevc_bypass(h) ? -value : value;
}

static ovb_mv read_mvd(hevc *h) {
    int x0 = hevc_bin(h, HEVC_MVD_0), y0 = hevc_bin(h, HEVC_MVD_0);
    int x1 = x0 ? hevc_bin(h, HEVC_MVD_1) : 0, y1 = y0 ? hevc_bin(h, HEVC_MVD_1) : 0;
    ovb_mv mvd;
    mvd.x = (int16_t)(uint16_t)read_mvd_part(h, x0, x1);
    mvd.y = (int16_t)(uint16_t)read_mvd_part(h, y0, y1);
    return mvd;
}

static ovb_mv add_mv(ovb_mv a, ovb_mv b) { /* modulo 2^16 (8.5.3.2.1) */
    ovb_mv sum = {(int16_t)(uint16_t)((uint16_t)a.x + (uint16_t)b.x),
                  (int16_t)(uint16_t)((uint16_t)a.y + (uint16_t)b.y)};
    return sum;
}

static void read_amvp(hevc *h, int x, int y, int w, int height, hevc_motion *m) {
    int lists = 1; /* bit 0: list 0, bit 1: list 1 */
    if (h->slice.type == HEVC_B) {
        int depth = h->sps->log2_ctb - h->cu.log2;
        if (w + height != 12 && hevc_bin(h, HEVC_INTER_IDC + depth))
            lists = 3;
        else
            lists = 1 << hevc_bin(h, HEVC_INTER_IDC + 4);
    }
    memset(m, 0, sizeof *m);
    m->ref[0] = m->ref[1] = -1;
    ovb_mv mvd[2] = {{0, 0}, {0, 0}};
    int index[2] = {0, 0};
    for (int list = 0; list < 2; list++) {
        if (!(lists >> list & 1)) continue;
        m->ref[list] = (int8_t)read_ref_idx(h, h->slice.refs[list]);
        if (!(list == 1 && lists == 3 && h->slice.mvd_l1_zero)) mvd[list] = read_mvd(h);
        index[list] = hevc_bin(h, HEVC_MVP);
    }
    for (int list = 0; list < 2; list++) {
        if (m->ref[list] < 0) continue;
        ovb_mv predicted = hevc_predict_mv(h, x, y, w, height, list, m->ref[list], index[list]);
        m->mv[list] = add_mv(predicted, mvd[list]);
    }
}

static void read_prediction_unit(hevc *h, int x, int y, int w, int height, int part, int skip) {
    hevc_motion motion;
    h->cu.merged = skip || hevc_bin(h, HEVC_MERGE_FLAG);
    if (h->cu.merged)
        hevc_merge(h, x, y, w, height, part, read_merge_idx(h), &motion);
    else
        read_amvp(h, x, y, w, height, &motion);
    hevc_keep_motion(h, x, y, w, height, &motion);
}

static void read_prediction_units(hevc *h) {
    hevc_block block;
    for (int part = 0; part < hevc_parts(h->cu.part); part++) {
        hevc_part_block(h->cu.part, part, 1 << h->cu.log2, &block);
        read_prediction_unit(h, h->cu.x + block.x, h->cu.y + block.y, block.w, block.h, part, 0);
    }
}

/* --- coding units --------------------------------------------------------------------------------------------- */

static int neighbours_skipped(const hevc *h, int x, int y) {
    const uint8_t *at = h->picture->kind + (size_t)(y >> 3) * (size_t)h->width8 + (size_t)(x >> 3);
    int n = hevc_has_left(h, x) && at[-1] == OVB_SKIP;
    return n + (hevc_has_up(h, y) && at[-h->width8] == OVB_SKIP);
}

static int pcm_here(hevc *h, int log2) {
    return h->sps->pcm && h->cu.part == HEVC_2Nx2N && log2 >= h->sps->log2_min_pcm && log2 <= h->sps->log2_max_pcm &&
           ovb_terminate(&h->cabac);
}

/* Everything of a coding unit that is not skipped. */
static void read_modes_and_residual(hevc *h, int depth) {
    hevc_cu *cu = &h->cu;
    if (h->slice.type != HEVC_I) cu->intra = hevc_bin(h, HEVC_PRED_MODE);
    hevc_keep_kind(h, cu->x, cu->y, cu->log2, cu->intra ? OVB_INTRA : OVB_INTER, depth);
    if (!cu->intra || cu->log2 == h->sps->log2_min_cb) cu->part = read_part_mode(h, cu->log2);
    cu->split4 = cu->intra && cu->part == HEVC_NxN;
    cu->max_depth = cu->intra ? h->sps->depth_intra + cu->split4 : h->sps->depth_inter;
    if (cu->intra) {
        if (pcm_here(h, cu->log2)) {
            read_pcm(h);
            return;
        }
        read_intra_modes(h);
    } else {
        read_prediction_units(h);
    }
    int coded = cu->intra || (cu->part == HEVC_2Nx2N && cu->merged) || hevc_bin(h, HEVC_ROOT_CBF);
    hevc_credit(h, cu->x, cu->y, cu->log2);
    if (coded) hevc_read_transform_tree(h);
}

static void read_coding_unit(hevc *h, int x, int y, int log2, int depth) {
    hevc_cu *cu = &h->cu;
    memset(cu, 0, sizeof *cu);
    cu->x = x, cu->y = y, cu->log2 = log2;
    cu->intra = h->slice.type == HEVC_I;
    cu->part = HEVC_2Nx2N;
    if (h->pps->transquant_bypass && hevc_bin(h, HEVC_BYPASS_CU)) {
        cu->bypass = 1;
        h->flags |= OVB_LOSSLESS;
    }
    if (h->slice.type != HEVC_I && hevc_bin(h, HEVC_SKIP + neighbours_skipped(h, x, y))) {
        hevc_keep_kind(h, x, y, log2, OVB_SKIP, depth);
        read_prediction_unit(h, x, y, 1 << log2, 1 << log2, 0, 1);
        hevc_credit(h, x, y, log2);
    } else {
        read_modes_and_residual(h, depth);
    }
    hevc_keep_qp(h, x, y, log2);
    h->qp_last = h->qp;
    if (ovb_cabac_overran(&h->cabac)) h->broken = 1;
}

/* A new quantisation group starts: predict its QP (8.6.1). */
static void start_group(hevc *h, int x, int y) {
    int mask = (1 << h->sps->log2_ctb) - 1;
    const int8_t *at = h->picture->qp + (size_t)(y >> 3) * (size_t)h->width8 + (size_t)(x >> 3);
    int a = x & mask ? at[-1] : h->qp_last, b = y & mask ? at[-h->width8] : h->qp_last;
    h->delta_coded = 0;
    h->qp = h->qp_pred = (a + b + 1) >> 1;
}

static int read_split(hevc *h, int x, int y, int depth) {
    const uint8_t *at = h->depth8 + (size_t)(y >> 3) * (size_t)h->width8 + (size_t)(x >> 3);
    int deeper = hevc_has_left(h, x) && at[-1] > depth;
    deeper += hevc_has_up(h, y) && at[-h->width8] > depth;
    return hevc_bin(h, HEVC_SPLIT_CU + deeper);
}

/* Recursion is as deep as log2_ctb - log2_min_cb, at most 3. */
void hevc_read_quadtree(hevc *h, int x, int y, int log2, int depth) {
    const hevc_sps *sps = h->sps;
    int size = 1 << log2, half = size >> 1, split = log2 > sps->log2_min_cb;
    if (x + size <= sps->width && y + size <= sps->height && split) split = read_split(h, x, y, depth);
    if (h->pps->cu_qp_delta && log2 >= sps->log2_ctb - h->pps->diff_cu_qp_delta_depth) start_group(h, x, y);
    if (h->slice.chroma_qp_offsets && log2 >= sps->log2_ctb - h->pps->chroma_qp_offset_depth) h->chroma_delta_coded = 0;
    if (!split) {
        read_coding_unit(h, x, y, log2, depth);
        return;
    }
    hevc_credit(h, x, y, log2);
    for (int i = 0; i < 4; i++) {
        int xi = x + (i & 1) * half, yi = y + (i >> 1) * half;
        if (xi < sps->width && yi < sps->height && !h->broken) hevc_read_quadtree(h, xi, yi, log2 - 1, depth + 1);
    }
}
