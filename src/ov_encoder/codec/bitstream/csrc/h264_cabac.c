/* Macroblock syntax elements under CABAC (9.3.3.1): binarisation and choice of contexts, except coefficients. */
#include "h264.h"
#include "h264_tables.h"

static inline int bin(h264 *h, int context) { return ovb_decision(&h->cabac, &h->context[context]); }

void h264_cabac_start(h264 *h, const uint8_t *data, size_t bytes) {
    const int8_t *init = h264_context_init[h->header.type == H264_I ? 0 : 1 + h->header.cabac_init];
    int qp = h->header.qp < 0 ? 0 : h->header.qp;
    for (int i = 0; i < 1024; i++) {
        int state = ((init[2 * i] * qp) >> 4) + init[2 * i + 1];
        state = state < 1 ? 1 : state > 126 ? 126 : state;
        h->context[i] = (uint8_t)(state > 63 ? (state - 64) << 1 | 1 : (63 - state) << 1);
    }
    ovb_cabac_init(&h->cabac, data, bytes);
}

int h264_cabac_skip(h264 *h) {
    int ctx = (h->a && !(h->a->type & MB_SKIP)) + (h->b && !(h->b->type & MB_SKIP));
    return bin(h, (h->header.type == H264_B ? 24 : 11) + ctx);
}

/* mb_type of an I slice, or (prefixed) of a P or B slice, whose contexts start at `base`. */
static int intra_type(h264 *h, int base, int in_intra_slice) {
    int next = base + 1, more = 0;
    if (in_intra_slice) {
        int ctx = (h->a && !(h->a->type & MB_INTRA_NXN)) + (h->b && !(h->b->type & MB_INTRA_NXN));
        if (!bin(h, base + ctx)) return 0;
        next = base + 3;
        more = 1;
    } else if (!bin(h, base)) {
        return 0;
    }
    if (ovb_terminate(&h->cabac)) return 25;
    int type = 1 + 12 * bin(h, next);
    if (bin(h, next + 1)) type += 4 + 4 * bin(h, next + 1 + more);
    type += 2 * bin(h, next + 2 + more);
    return type + bin(h, next + 2 + 2 * more);
}

static int b_type(h264 *h) {
    int ctx = (h->a && !(h->a->type & MB_DIRECT)) + (h->b && !(h->b->type & MB_DIRECT));
    if (!bin(h, 27 + ctx)) return 0;
    if (!bin(h, 27 + 3)) return 1 + bin(h, 27 + 5);
    int bits = bin(h, 27 + 4) << 3;
    bits |= bin(h, 27 + 5) << 2;
    bits |= bin(h, 27 + 5) << 1;
    bits |= bin(h, 27 + 5);
    if (bits < 8) return bits + 3;
    if (bits == 13) return 23 + intra_type(h, 32, 0);
    if (bits == 14) return 11;
    if (bits == 15) return 22;
    return (bits << 1 | bin(h, 27 + 5)) - 4;
}

int h264_cabac_mb_type(h264 *h) {
    if (h->header.type == H264_I) return intra_type(h, 3, 1);
    if (h->header.type == H264_B) return b_type(h);
    if (bin(h, 14)) return 5 + intra_type(h, 17, 0);
    if (!bin(h, 15)) return 3 * bin(h, 16);
    return 2 - bin(h, 17);
}

int h264_cabac_sub_type(h264 *h) {
    if (h->header.type == H264_P) {
        if (bin(h, 21)) return 0;
        if (!bin(h, 22)) return 1;
        return bin(h, 23) ? 2 : 3;
    }
    if (!bin(h, 36)) return 0;
    if (!bin(h, 37)) return 1 + bin(h, 39);
    int type = 3;
    if (bin(h, 38)) {
        if (bin(h, 39)) return 11 + bin(h, 39);
        type += 4;
    }
    type += 2 * bin(h, 39);
    return type + bin(h, 39);
}

int h264_cabac_ref(h264 *h, int ctx) {
    int ref = 0;
    while (bin(h, 54 + ctx)) {
        if (++ref >= H264_MAX_LIST) return -1;
        ctx = (ctx >> 2) + 4;
    }
    return ref;
}

/* One component of mvd. sum: of the neighbours' magnitudes. */
static inline int component(ovb_cabac *c, uint8_t *context, int sum, uint8_t *magnitude) {
    *magnitude = 0;
    if (!ovb_decision(c, context + (sum > 2) + (sum > 32))) return 0;
    int value = 1, ctx = 3;
    while (value < 9 && ovb_decision(c, context + ctx)) {
        if (value < 4) ctx++;
        value++;
    }
    if (value == 9) {
        int k = 3;
        while (ovb_bypass(c)) {
            value += 1 << k;
            if (++k > 20) break; /* far beyond any legal vector */
        }
        value += (int)ovb_bypass_bins(c, k);
    }
    *magnitude = (uint8_t)(value > 70 ? 70 : value); /* more makes no difference in a sum compared with 32 */
    return ovb_bypass(c) ? -value : value;
}

void h264_cabac_mvd(h264 *h, const uint8_t left[2], const uint8_t above[2], int mvd[2], uint8_t magnitude[2]) {
    ovb_cabac c = h->cabac; /* a local copy lives in registers */
    mvd[0] = component(&c, h->context + 40, left[0] + above[0], &magnitude[0]);
    mvd[1] = component(&c, h->context + 47, left[1] + above[1], &magnitude[1]);
    h->cabac = c;
}

int h264_cabac_cbp(h264 *h) {
    int a = h->a ? ~h->a->cbp : 0, b = h->b ? ~h->b->cbp : 0, cbp;
    ovb_cabac c = h->cabac;
    uint8_t *luma = h->context + 73, *chroma = h->context + 77;
    cbp = ovb_decision(&c, luma + (a >> 1 & 1) + 2 * (b >> 2 & 1));
    cbp |= ovb_decision(&c, luma + !(cbp & 1) + 2 * (b >> 3 & 1)) << 1;
    cbp |= ovb_decision(&c, luma + (a >> 3 & 1) + 2 * !(cbp & 1)) << 2;
    cbp |= ovb_decision(&c, luma + !(cbp & 4) + 2 * !(cbp & 2)) << 3;
    if (h->sps.chroma == 1 || h->sps.chroma == 2) {
        int left = h->a ? h->a->cbp >> 4 : 0, above = h->b ? h->b->cbp >> 4 : 0;
        if (ovb_decision(&c, chroma + (left != 0) + 2 * (above != 0)))
            cbp |= 16 << ovb_decision(&c, chroma + 4 + (left == 2) + 2 * (above == 2));
    }
    h->cabac = c;
    return cbp;
}

int h264_cabac_qp_delta(h264 *h) {
    int ctx = h->qp_delta != 0, value = 0;
    while (bin(h, 60 + ctx)) {
        ctx = 2 + (ctx >> 1);
        if (++value > 2 * H264_MAX_QP) break;
    }
    return value & 1 ? (value + 1) >> 1 : -(value >> 1);
}

int h264_cabac_chroma_mode(h264 *h) {
    int ctx = (h->a && h->a->chroma_mode) + (h->b && h->b->chroma_mode);
    if (!bin(h, 64 + ctx)) return 0;
    if (!bin(h, 64 + 3)) return 1;
    return 2 + bin(h, 64 + 3);
}

void h264_cabac_intra_mode(h264 *h) {
    if (bin(h, 68)) return;
    bin(h, 69);
    bin(h, 69);
    bin(h, 69);
}
