/* The macroblock layer (7.3.5), the same for CAVLC and CABAC: what is read in which order, and whose bits they are.
 *
 * Bits of a macroblock's header, of its motion and of its chroma are shared by its four 8x8 cells; those of a luma
 * block belong to its cell. Energy is that of luma.
 */
#include "h264.h"

/* --- bits ------------------------------------------------------------------------------------------------------- */

static inline void charge_cell(h264 *h, int k) {
    int64_t now = h264_position(h);
    h->cell_bits[k] += (uint32_t)(now - h->position);
    h->position = now;
}

static inline void charge_all(h264 *h) {
    int64_t now = h264_position(h);
    uint32_t spent = (uint32_t)(now - h->position);
    for (int k = 0; k < 4; k++) h->cell_bits[k] += (spent + (uint32_t)k) >> 2; /* sums to `spent` */
    h->position = now;
}

/* --- residual ----------------------------------------------------------------------------------------------------- */

/* Number of coded neighbours of the block with bit `at`, as a context: left + 2 * above. `wide` blocks per row. */
static inline int coded_context(const h264 *h, int at, int wide, int high, int x, int y) {
    const h264_mb *mb = h->mb;
    uint64_t intra = (mb->type & MB_INTRA) != 0, left, above;
    if (x) {
        left = mb->coded >> (at - 1);
    } else {
        left = h->a ? h->a->coded >> (at + wide - 1) : intra;
    }
    if (y) {
        above = mb->coded >> (at - wide);
    } else {
        above = h->b ? h->b->coded >> (at + wide * (high - 1)) : intra;
    }
    return (int)(left & 1) + 2 * (int)(above & 1);
}

static inline int coded_flag(h264 *h, int cat, int plane, int ctx) {
    static const uint16_t first[3][6] = {
        {85, 89, 93, 97, 101, 1012}, {460, 464, 468, 0, 0, 1016}, {472, 476, 480, 0, 0, 1020}};
    return ovb_decision(&h->cabac, &h->context[first[plane][cat] + ctx]);
}

/* nC of the block at (x, y), whose count is totals[at]. */
static inline int expected_total(const h264 *h, int at, int wide, int high, int x, int y) {
    const uint8_t *mine = h->totals[h->index];
    int left = 0, above = 0, has_left = 1, has_above = 1;
    if (x) {
        left = mine[at - 1];
    } else if (h->a) {
        left = h->totals[h->a - h->mbs][at + wide - 1];
    } else {
        has_left = 0;
    }
    if (y) {
        above = mine[at - wide];
    } else if (h->b) {
        above = h->totals[h->b - h->mbs][at + wide * (high - 1)];
    } else {
        has_above = 0;
    }
    return has_left && has_above ? (left + above + 1) >> 1 : left + above;
}

/* One block of a plane of 4x4 blocks, under either entropy coder: -1 if it is broken. */
static inline int block(h264 *h, int cat, int plane, int at, int wide, int high, int x, int y, int count,
                        const float *weight, int step, float *energy) {
    int n;
    if (h->pps.cabac) {
        int table = wide == 4 ? plane : 0; /* chroma of 4:2:0 and 4:2:2 has contexts of its own category */
        if (!coded_flag(h, cat, table, coded_context(h, at, wide, high, x, y))) return 0;
        h->mb->coded |= (uint64_t)1 << at;
        n = h264_cabac_block(h, cat, table, count, weight, energy, NULL);
    } else {
        n = h264_cavlc_block(h, expected_total(h, at, wide, high, x, y), count, weight, step, energy, NULL);
        h->totals[h->index][at] = (uint8_t)n;
    }
    return n;
}

/* coded_block_flag of an 8x8 block in 4:4:4: only neighbours with the same transform count. */
static int coded_context8(const h264 *h, int at, int x, int y) {
    int intra = (h->mb->type & MB_INTRA) != 0, left, above;
    if (x) {
        left = h->mb->coded >> (at - 1) & 1;
    } else {
        left = !h->a ? intra : h->a->type & (MB_PCM | MB_8X8) ? (int)(h->a->coded >> (at + 3) & 1) : 0;
    }
    if (y) {
        above = h->mb->coded >> (at - 4) & 1;
    } else {
        above = !h->b ? intra : h->b->type & (MB_PCM | MB_8X8) ? (int)(h->b->coded >> (at + 12) & 1) : 0;
    }
    return left + 2 * above;
}

static int dc_context(const h264 *h, int plane) {
    int intra = (h->mb->type & MB_INTRA) != 0;
    int left = h->a ? (int)(h->a->coded >> (48 + plane) & 1) : intra;
    int above = h->b ? (int)(h->b->coded >> (48 + plane) & 1) : intra;
    return left + 2 * above;
}

static int dc16(h264 *h, int plane) {
    int32_t level[16] = {0};
    int n;
    if (h->pps.cabac) {
        if (!coded_flag(h, COEFF_DC16, plane, dc_context(h, plane))) return 0;
        h->mb->coded |= (uint64_t)1 << (48 + plane);
        n = h264_cabac_block(h, COEFF_DC16, plane, 16, NULL, NULL, level);
    } else {
        n = h264_cavlc_block(h, expected_total(h, plane * 16, 4, 4, 0, 0), 16, NULL, 1, NULL, level);
    }
    if (n <= 0 || plane) return n;
    int qp = h->qp + 6 * (h->sps.depth_luma - 8);
    const float *weight = h264_weights4(h, 0, qp);
    if (h->sps.lossless && qp == 0) {
        static const uint8_t cell[16] = {0, 0, 0, 2, 0, 1, 1, 1, 2, 2, 2, 3, 1, 3, 3, 3}; /* by zigzag index */
        for (int i = 0; i < 16; i++) h->cell_energy[cell[i]] += (float)level[i] * (float)level[i] * weight[0];
    } else {
        h264_dc_energy(level, weight[0], h->cell_energy);
    }
    return n;
}

/* One plane of 16x16 samples (luma; in 4:4:4 also Cb and Cr). */
static int residual16(h264 *h, int plane) {
    const h264_mb *mb = h->mb;
    int inter = (mb->type & MB_INTER) != 0, big = (mb->type & MB_8X8) != 0, is16 = (mb->type & MB_INTRA_16) != 0;
    int qp = h->qp + 6 * (h->sps.depth_luma - 8), base = plane * 16;
    const float *weight = NULL;
    if (is16) {
        if (dc16(h, plane) < 0) return -1;
        charge_all(h);
    }
    if (!(mb->cbp & 15)) return 0;
    if (plane == 0) weight = big ? h264_weights8(h, inter, qp) : h264_weights4(h, inter, qp);
    for (unsigned left = mb->cbp & 15; left; left &= left - 1) {
        int k = __builtin_ctz(left), x = (k & 1) * 2, y = k & 2;
        float *energy = &h->cell_energy[k];
        if (big && h->pps.cabac) {
            int at = base + y * 4 + x;
            if (h->sps.chroma != 3 || coded_flag(h, COEFF_8X8, plane, coded_context8(h, at, x, y))) {
                h->mb->coded |= (uint64_t)0x33 << at;
                h264_cabac_block(h, COEFF_8X8, plane, 64, weight, energy, NULL);
            }
        } else {
            for (int i = 0; i < 4; i++) {
                int bx = x + (i & 1), by = y + (i >> 1), at = base + by * 4 + bx;
                int cat = is16 ? COEFF_AC16 : COEFF_4X4, skip = big ? i : is16;
                const float *w = weight ? weight + skip : NULL;
                if (block(h, cat, plane, at, 4, 4, bx, by, 16 - is16, w, big ? 4 : 1, energy) < 0) return -1;
            }
        }
        charge_cell(h, k);
    }
    return 0;
}

/* Chroma of 4:2:0 and 4:2:2. */
static int chroma(h264 *h) {
    int count = h->sps.chroma == 2 ? 8 : 4, high = count / 2, cbp = h->mb->cbp >> 4;
    for (int plane = 1; cbp && plane < 3; plane++) {
        if (h->pps.cabac) {
            if (!coded_flag(h, COEFF_CHROMA_DC, 0, dc_context(h, plane))) continue;
            h->mb->coded |= (uint64_t)1 << (48 + plane);
            h264_cabac_block(h, COEFF_CHROMA_DC, 0, count, NULL, NULL, NULL);
        } else if (h264_cavlc_block(h, count == 4 ? -1 : -2, count, NULL, 1, NULL, NULL) < 0) {
            return -1;
        }
    }
    for (int plane = 1; cbp == 2 && plane < 3; plane++)
        for (int i = 0; i < count; i++) {
            int at = plane * 16 + i;
            if (block(h, COEFF_CHROMA_AC, plane, at, 2, high, i & 1, i >> 1, 15, NULL, 1, NULL) < 0) return -1;
        }
    return 0;
}

/* --- parts of a macroblock ------------------------------------------------------------------------------------------ */

static int read_qp(h264 *h) {
    int offset = 6 * (h->sps.depth_luma - 8);
    int delta = h->pps.cabac ? h264_cabac_qp_delta(h) : ovb_se(&h->bits);
    if (delta < -26 - offset / 2 || delta > 25 + offset / 2) return -1;
    h->qp_delta = delta;
    h->qp = (h->qp + delta + 52 + 2 * offset) % (52 + offset) - offset;
    return 0;
}

/* Samples without any coding. Nothing predicts them, so what prediction missed is their distance from mid-grey. */
static int read_pcm(h264 *h) {
    ovb_bits b = h->bits;
    if (h->pps.cabac) {
        ovb_bits_init(&b, h->cabac.start, (size_t)(h->cabac.end - h->cabac.start));
        ovb_skip(&b, ovb_cabac_end(&h->cabac));
    }
    ovb_align(&b);
    int depth = h->sps.depth_luma, middle = 1 << (depth - 1);
    for (int i = 0; i < 256; i++) {
        int missed = (int)ovb_u(&b, depth) - middle;
        h->cell_energy[(i >> 7) * 2 + (i >> 3 & 1)] += (float)(missed * missed) * h->unit;
    }
    static const int samples[4] = {0, 128, 256, 512};
    ovb_skip(&b, (size_t)(samples[h->sps.chroma] * h->sps.depth_chroma));
    if (b.error) return -1;
    if (h->pps.cabac) {
        size_t bytes = b.pos / 8; /* the arithmetic decoder starts again; bits so far stay charged */
        charge_all(h);
        int64_t offset = ((int64_t)bytes << OVB_POS_SHIFT) * 8;
        const uint8_t *start = h->cabac.start;
        ovb_cabac_init(&h->cabac, start + bytes, (size_t)(h->cabac.end - start) - bytes);
        h->cabac.start = start;
        for (int k = 0; k < 4; k++) h->cell_bits[k] += (uint32_t)((offset - h->position + k) >> 2);
        h->position = offset;
    } else {
        h->bits = b;
    }
    h->qp_delta = 0;
    h->mb->type = MB_PCM;
    h->mb->cbp = 0x2f;
    h->mb->coded = ~(uint64_t)0;
    if (!h->pps.cabac) memset(h->totals[h->index], 16, 48);
    return 0;
}

static int read_intra_modes(h264 *h, int nxn) {
    if (nxn) {
        int blocks = h->mb->type & MB_8X8 ? 4 : 16;
        for (int i = 0; i < blocks; i++) {
            if (h->pps.cabac) {
                h264_cabac_intra_mode(h);
            } else if (!ovb_flag(&h->bits)) {
                ovb_u(&h->bits, 3);
            }
        }
    }
    if (h->sps.chroma == 1 || h->sps.chroma == 2) {
        uint32_t mode = h->pps.cabac ? (uint32_t)h264_cabac_chroma_mode(h) : ovb_ue(&h->bits);
        if (mode > 3) return -1;
        h->mb->chroma_mode = (uint8_t)mode;
    }
    return 0;
}

static int read_transform_flag(h264 *h) {
    if (!h->pps.cabac) return ovb_flag(&h->bits);
    int ctx = (h->a && h->a->type & MB_8X8) + (h->b && h->b->type & MB_8X8);
    return ovb_decision(&h->cabac, &h->context[399 + ctx]);
}

static int read_intra(h264 *h, int type) {
    h264_mb *mb = h->mb;
    if (type == 25) return read_pcm(h);
    if (type == 0) {
        mb->type = MB_INTRA_NXN;
        if (h->pps.transform8x8 && read_transform_flag(h)) mb->type |= MB_8X8;
        if (read_intra_modes(h, 1)) return -1;
        int cbp = h->pps.cabac ? h264_cabac_cbp(h) : h264_cavlc_cbp(h, 0);
        if (cbp < 0) return -1;
        mb->cbp = (uint8_t)cbp;
        return 0;
    }
    mb->type = MB_INTRA_16;
    mb->cbp = (uint8_t)((type > 12 ? 15 : 0) | (type - 1) / 4 % 3 << 4);
    if (mb->cbp >> 4 && h->sps.chroma != 1 && h->sps.chroma != 2) return -1;
    return read_intra_modes(h, 0);
}

static int read_inter(h264 *h, int type) {
    h264_mb *mb = h->mb;
    int small;
    mb->type = MB_INTER;
    if (h->header.type == H264_B && type == 0) {
        mb->type |= MB_DIRECT;
        mb->direct = 15;
        h264_direct16(h);
        small = 16;
    } else {
        small = h264_inter_motion(h, type);
        if (small < 0) return -1;
    }
    int cbp = h->pps.cabac ? h264_cabac_cbp(h) : h264_cavlc_cbp(h, 1);
    if (cbp < 0) return -1;
    mb->cbp = (uint8_t)cbp;
    int fine = (small & 15) || (small & 16 && !h->sps.direct_8x8);
    if (cbp & 15 && h->pps.transform8x8 && !fine && read_transform_flag(h)) mb->type |= MB_8X8;
    return 0;
}

static void skip(h264 *h) {
    h->mb->type = MB_INTER | MB_SKIP;
    h->qp_delta = 0;
    if (h->header.type == H264_P) {
        h264_skip_motion(h);
    } else {
        h->mb->type |= MB_DIRECT;
        h->mb->direct = 15;
        h264_direct16(h);
    }
}

static int read_mb_type(h264 *h) {
    static const uint32_t most[3] = {30, 48, 25};
    if (h->pps.cabac) return h264_cabac_mb_type(h);
    uint32_t type = ovb_ue(&h->bits);
    return type <= most[h->header.type] ? (int)type : -1;
}

static int read_coded(h264 *h) {
    h264_mb *mb = h->mb;
    int type = read_mb_type(h), first_intra = h->header.type == H264_I ? 0 : h->header.type == H264_P ? 5 : 23;
    if (type < 0) return -1;
    if (type >= first_intra ? read_intra(h, type - first_intra) : read_inter(h, type)) return -1;
    if (mb->type & MB_PCM) return 0;
    if (!mb->cbp && !(mb->type & MB_INTRA_16)) {
        h->qp_delta = 0;
        charge_all(h);
        return 0;
    }
    if (read_qp(h)) return -1;
    charge_all(h);
    for (int plane = 0; plane < (h->sps.chroma == 3 ? 3 : 1); plane++)
        if (residual16(h, plane)) return -1;
    if (mb->cbp >> 4 && chroma(h)) return -1;
    return 0;
}

static void keep(h264 *h) {
    ovb_picture *p = h->cells;
    const h264_mb *mb = h->mb;
    int kind = mb->type & MB_INTRA ? OVB_INTRA : mb->type & MB_SKIP ? OVB_SKIP : OVB_INTER;
    int qp = mb->type & MB_PCM ? 0 : h->qp;
    size_t at = h->cell;
    for (int row = 0; row < 2; row++, at += (size_t)p->width8) {
        memset(p->kind + at, kind, 2);
        memset(p->qp + at, qp, 2);
        memcpy(p->bits + at, h->cell_bits + row * 2, 2 * sizeof *p->bits);
        memcpy(p->energy + at, h->cell_energy + row * 2, 2 * sizeof *p->energy);
    }
}

int h264_read_macroblock(h264 *h, int skipped) {
    h264_mb *mb = h->mb;
    mb->type = mb->cbp = mb->direct = mb->chroma_mode = 0;
    mb->coded = 0;
    memset(h->cell_bits, 0, sizeof h->cell_bits);
    memset(h->cell_energy, 0, sizeof h->cell_energy);
    if (!h->pps.cabac) memset(h->totals[h->index], 0, sizeof *h->totals);
    int failed = 0;
    if (skipped) {
        skip(h);
    } else {
        failed = read_coded(h);
    }
    charge_all(h);
    if (failed || (h->pps.cabac ? ovb_cabac_overran(&h->cabac) : h->bits.error)) {
        h264_forget_motion(h); /* another slice may hold this macroblock */
        return -1;
    }
    if (h->sps.lossless && h->qp + 6 * (h->sps.depth_luma - 8) == 0) h->lossless_seen = 1;
    keep(h);
    mb->slice = h->slice;
    return 0;
}
