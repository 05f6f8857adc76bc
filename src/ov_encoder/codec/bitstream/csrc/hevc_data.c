/* Slice segment data (7.3.8.1 to 7.3.8.3): CTBs in order, tiles and wavefronts with their contexts, SAO parameters. */
#include <string.h>

#include "hevc.h"

static int available(const hevc *h, int x, int y, int rs) {
    if (x < 0 || y < 0 || x >= h->width_ctb) return 0;
    int other = y * h->width_ctb + x;
    return h->ctb_slice[other] == h->slice.slice_address && h->tile[other] == h->tile[rs];
}

static void enter_ctb(hevc *h, int rs) {
    int x = rs % h->width_ctb, y = rs / h->width_ctb;
    h->ctb_x = x, h->ctb_y = y;
    h->left = available(h, x - 1, y, rs);
    h->up = available(h, x, y - 1, rs);
    h->up_left = available(h, x - 1, y - 1, rs);
    h->up_right = available(h, x + 1, y - 1, rs);
    h->ctb_slice[rs] = h->slice.slice_address;
}

/* Offsets change pixels only: read to get behind them. */
static void read_sao(hevc *h) {
    const hevc_slice *s = &h->slice;
    if (h->left && hevc_bin(h, HEVC_SAO_MERGE)) return;
    if (h->up && hevc_bin(h, HEVC_SAO_MERGE)) return;
    int type = 0;
    for (int component = 0; component < (h->sps->chroma ? 3 : 1); component++) {
        if (!(component ? s->sao_chroma : s->sao_luma)) continue;
        if (component < 2) type = hevc_bin(h, HEVC_SAO_TYPE) ? 1 + hevc_bypass(h) : 0;
        if (type == 0) continue;
        int depth = component ? h->sps->depth_chroma : h->sps->depth_luma;
        int max = (1 << ((depth < 10 ? depth : 10) - 5)) - 1, offset[4];
        for (int i = 0; i < 4; i++) {
            offset[i] = 0;
            while (offset[i] < max && hevc_bypass(h)) offset[i]++;
        }
        if (type == 1) {
            for (int i = 0; i < 4; i++)
                if (offset[i]) hevc_bypass(h);
            ovb_bypass_bins(&h->cabac, 5);
        } else if (component < 2) {
            ovb_bypass_bins(&h->cabac, 2);
        }
    }
}

/* Contexts and QP at the start of a segment, tile or wavefront row (9.3.1, 8.6.1). */
static void start_substream(hevc *h, int rs, int segment_start) {
    int ts = h->to_ts[rs], x = h->ctb_x;
    int tile_start = ts == 0 || h->tile[rs] != h->tile[h->to_rs[ts - 1]];
    int row_start = h->pps->wavefront && x == h->tile_left[x];
    int init_type = h->slice.type == HEVC_I ? 0 : (h->slice.type == HEVC_P) ^ h->slice.cabac_init ? 1 : 2;
    if (!tile_start && row_start && h->up_right)
        memcpy(h->context, h->context_row, HEVC_CONTEXTS);
    else if (!tile_start && !row_start && segment_start && h->slice.dependent)
        memcpy(h->context, h->context_segment, HEVC_CONTEXTS);
    else
        hevc_init_contexts(h->context, init_type, h->slice.qp);
    if (tile_start || row_start || !h->slice.dependent) h->qp = h->qp_last = h->slice.qp;
    h->delta_coded = h->chroma_delta_coded = 0;
}

/* Bytes of a substream in the NAL unit, where emulation prevention bytes stand: `zeros` runs over all of it. */
static size_t escaped_size(const uint8_t *data, size_t bytes, int *zeros) {
    size_t size = bytes;
    for (size_t i = 0; i < bytes; i++) {
        if (*zeros == 2 && data[i] <= 3) {
            size++;
            *zeros = 0;
        }
        *zeros = data[i] ? 0 : *zeros + 1;
        if (*zeros > 2) *zeros = 2;
    }
    return size;
}

typedef struct substreams {
    uint32_t read;
    int zeros, exact;
} substreams;

/* The substream ends at byte `end`: the bit before it and the zeros behind that are as they must be, and the header's
 * entry point says the same. */
static void check_end(const hevc *h, const uint8_t *data, size_t bits, size_t bytes, int last, substreams *sub) {
    size_t end = (bits + 7) / 8;
    if (end == 0 || end > bytes || !(data[(bits - 1) >> 3] >> (7 - ((bits - 1) & 7)) & 1)) {
        sub->exact = 0;
        return;
    }
    if (bits & 7 && (uint8_t)(data[end - 1] << (bits & 7))) sub->exact = 0;
    if (last) {
        if (ovb_stop_bit(data, bytes) + 1 != bits) sub->exact = 0;
    } else if (sub->read >= h->slice.entry_points ||
               escaped_size(data, end, &sub->zeros) != (size_t)h->entry[sub->read] + 1) {
        sub->exact = 0;
    }
    sub->read++;
}

/* Bits from `data` to the end that a terminate bin has found; PCM blocks start the arithmetic decoder anew. */
static size_t bits_read(const hevc *h, const uint8_t *data) {
    return (size_t)(h->cabac.start - data) * 8 + ovb_cabac_end(&h->cabac);
}

/* One CTB. Returns 1 if it is the segment's last. */
static int read_ctb(hevc *h) {
    int log2 = h->sps->log2_ctb, x = h->ctb_x << log2, y = h->ctb_y << log2;
    if (h->slice.sao_luma || h->slice.sao_chroma) read_sao(h); /* its bits go with those of the first split */
    hevc_read_quadtree(h, x, y, log2, 0);
    h->ctbs_read++;
    if (h->broken) return 1;
    int end = ovb_terminate(&h->cabac); /* a hundredth of a bit, that goes to the next CTB if there is one */
    if (end) hevc_credit(h, x, y, log2);
    return end;
}

const char *hevc_read_data(hevc *h, const uint8_t *payload, size_t size) {
    const uint8_t *data = payload + h->slice.data, *end = payload + size;
    int ts = h->to_ts[h->slice.address], width = h->width_ctb, zeros = 0;
    escaped_size(payload, h->slice.data, &zeros);
    substreams sub = {0, zeros, 1};
    if (data >= end) return "a slice without data";
    if (h->slice.dependent && (ts == 0 || h->ctb_slice[h->to_rs[ts - 1]] != h->slice.slice_address))
        return "a dependent slice segment that does not follow its slice";
    ovb_cabac_init(&h->cabac, data, (size_t)(end - data));
    h->mark = 0;
    h->broken = 0;
    for (int start = 1, segment_start = 1;; start = 0) {
        int rs = h->to_rs[ts], log2 = h->sps->log2_ctb;
        if (h->ctb_slice[rs] >= 0) return "slices that overlap";
        enter_ctb(h, rs);
        int row_start = h->pps->wavefront && h->ctb_x == h->tile_left[h->ctb_x];
        int new_tile = ts > 0 && h->tile[rs] != h->tile[h->to_rs[ts - 1]];
        if (!segment_start && (row_start || new_tile)) {
            if (!ovb_terminate(&h->cabac)) return "a substream without an end"; /* end_of_subset_one_bit */
            int before = h->to_rs[ts - 1];
            hevc_credit(h, (before % width) << log2, (before / width) << log2, log2);
            size_t bits = bits_read(h, data), bytes = (bits + 7) / 8;
            check_end(h, data, bits, (size_t)(end - data), 0, &sub);
            if (bytes >= (size_t)(end - data)) return "slice data that end early";
            data += bytes;
            ovb_cabac_init(&h->cabac, data, (size_t)(end - data));
            h->mark = 0;
            start = 1;
        }
        if (start) start_substream(h, rs, segment_start);
        segment_start = 0;
        int last = read_ctb(h);
        if (!h->broken && ovb_cabac_overran(&h->cabac)) h->broken = 1;
        if (h->broken) return "slice data that contradict the standard";
        if (h->pps->wavefront && h->ctb_x == h->tile_left[h->ctb_x] + 1)
            memcpy(h->context_row, h->context, HEVC_CONTEXTS);
        if (last) break;
        if (++ts == h->ctbs) return "slice data beyond the picture";
    }
    memcpy(h->context_segment, h->context, HEVC_CONTEXTS);
    check_end(h, data, bits_read(h, data), (size_t)(end - data), 1, &sub);
    if (!sub.exact) h->flags &= ~OVB_EXACT_END;
    h->slices++;
    return NULL;
}
