/* The residual quadtree of a coding unit (7.3.8.8 to 7.3.8.10, 7.3.8.14): coded block flags and changes of QP. */
#include "hevc.h"
#include "hevc_part.h"
#include "hevc_scan.h"

/* Coded block flags: of chroma two bits, the lower block's (4:2:2) the higher one. */
typedef struct flags {
    int luma, cb, cr;
} flags;

static void read_qp_delta(hevc *h) {
    int value = 0, range = 6 * (h->sps->depth_luma - 8);
    while (value < 5 && hevc_bin(h, HEVC_QP_DELTA + (value > 0))) value++;
    if (value == 5) { /* EG0 */
        int k = 0;
        while (k < 8 && hevc_bypass(h)) value += 1 << k++;
        value += (int)ovb_bypass_bins(&h->cabac, k);
    }
    if (value && hevc_bypass(h)) value = -value;
    if (value < -(26 + range / 2) || value > 25 + range / 2) {
        h->broken = 1;
        return;
    }
    h->delta_coded = 1;
    h->qp = (h->qp_pred + value + 52 + 2 * range) % (52 + range) - range;
}

static void read_chroma_qp_offset(hevc *h) {
    int max = h->pps->chroma_qp_offsets - 1;
    if (hevc_bin(h, HEVC_CHROMA_QP_FLAG))
        for (int i = 0; i < max && hevc_bin(h, HEVC_CHROMA_QP_IDX); i++) {}
    h->chroma_delta_coded = 1;
}

/* 7.4.9.11: scans follow the mode in small intra blocks. */
static int scan_of(const hevc *h, int log2, int component, int mode) {
    if (!h->cu.intra || !(log2 == 2 || (log2 == 3 && (component == 0 || h->sps->chroma == 3)))) return HEVC_DIAGONAL;
    return mode >= 6 && mode <= 14 ? HEVC_VERTICAL : mode >= 22 && mode <= 30 ? HEVC_HORIZONTAL : HEVC_DIAGONAL;
}

static void read_chroma(hevc *h, int x, int y, int log2, int part, flags f) {
    int blocks = h->sps->chroma == 2 ? 2 : 1;
    for (int component = 1; component < 3; component++) {
        int coded = component == 1 ? f.cb : f.cr, scan = scan_of(h, log2, component, h->cu.mode_chroma[part]);
        for (int i = 0; i < blocks; i++)
            if (coded >> i & 1) hevc_read_residual(h, x, y, log2, component, scan);
    }
}

/* block: index in the parent; part: index of the intra part. Chroma of four 4x4 luma blocks comes with the last. */
static void read_transform_unit(hevc *h, int x, int y, int base_x, int base_y, int log2, int block, int part, flags f) {
    int chroma = f.cb | f.cr, format = h->sps->chroma;
    if (!f.luma && !chroma) return;
    if (h->pps->cu_qp_delta && !h->delta_coded) read_qp_delta(h);
    if (h->slice.chroma_qp_offsets && chroma && !h->cu.bypass && !h->chroma_delta_coded) read_chroma_qp_offset(h);
    if (f.luma) hevc_read_residual(h, x, y, log2, 0, scan_of(h, log2, 0, h->cu.mode[part]));
    if (log2 > 2 || format == 3) {
        if (chroma) read_chroma(h, x, y, format == 3 ? log2 : log2 - 1, part, f);
        hevc_credit(h, x, y, log2);
    } else {
        hevc_credit(h, x, y, log2);
        if (block == 3 && chroma) {
            read_chroma(h, base_x, base_y, 2, 0, f);
            hevc_credit(h, base_x, base_y, 3);
        }
    }
}

static int read_chroma_flags(hevc *h, int depth, int both) {
    int value = hevc_bin(h, HEVC_CBF_CHROMA + depth);
    if (both) value |= hevc_bin(h, HEVC_CBF_CHROMA + depth) << 1;
    return value;
}

/* Recursion is as deep as log2_ctb - log2_min_tb, at most 4. */
static void read_tree(hevc *h, int x, int y, int base_x, int base_y, int log2, int depth, int block, int part,
                      flags parent) {
    const hevc_sps *sps = h->sps;
    const hevc_cu *cu = &h->cu;
    int split;
    if (log2 <= sps->log2_max_tb && log2 > sps->log2_min_tb && depth < cu->max_depth && !(cu->split4 && depth == 0))
        split = hevc_bin(h, HEVC_SPLIT_TU + 5 - log2);
    else
        split = log2 > sps->log2_max_tb || (cu->split4 && depth == 0) ||
                (depth == 0 && sps->depth_inter == 0 && !cu->intra && cu->part != HEVC_2Nx2N);
    flags f = {0, 0, 0};
    if ((log2 > 2 && sps->chroma) || sps->chroma == 3) {
        int both = sps->chroma == 2 && (!split || log2 == 3);
        if (parent.cb) f.cb = read_chroma_flags(h, depth, both);
        if (parent.cr) f.cr = read_chroma_flags(h, depth, both);
    } else if (log2 == 2 && sps->chroma) {
        f.cb = parent.cb, f.cr = parent.cr;
    }
    if (split) {
        int half = 1 << (log2 - 1);
        hevc_credit(h, x, y, log2);
        for (int i = 0; i < 4 && !h->broken; i++)
            read_tree(h, x + (i & 1) * half, y + (i >> 1) * half, x, y, log2 - 1, depth + 1, i,
                      cu->split4 && depth == 0 ? i : part, f);
        return;
    }
    f.luma = cu->intra || depth || f.cb || f.cr ? hevc_bin(h, HEVC_CBF_LUMA + (depth == 0)) : 1;
    if (f.luma || f.cb || f.cr)
        read_transform_unit(h, x, y, base_x, base_y, log2, block, part, f);
    else
        hevc_credit(h, x, y, log2);
}

void hevc_read_transform_tree(hevc *h) {
    flags all = {1, 1, 1};
    if (h->sps->chroma == 0) all.cb = all.cr = 0;
    read_tree(h, h->cu.x, h->cu.y, h->cu.x, h->cu.y, h->cu.log2, 0, 0, 0, all);
}
