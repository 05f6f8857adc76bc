/* H.264: from NAL units to slices and pictures. What happens inside a macroblock is h264_mb.c's. */
#include "h264.h"

/* --- memory -------------------------------------------------------------------------------------------------------- */

static void free_picture(ovb_parser *parser, h264_picture *p) {
    ovb_picture_free(parser, p->cells);
    ovb_free(parser, p->ref_idx[0]);
    ovb_free(parser, p->ref_idx[1]);
    memset(p, 0, sizeof *p);
}

static void free_size(h264 *h) { /* everything whose size depends on the picture's */
    for (int i = 0; i < H264_POOL; i++) free_picture(h->parser, &h->pool[i]);
    ovb_free(h->parser, h->mbs);
    ovb_free(h->parser, h->totals);
    ovb_free(h->parser, h->mvd);
    h->mbs = NULL;
    h->totals = NULL;
    h->mvd = NULL;
    h->mb_width = h->mb_height = 0;
}

static int use_size(h264 *h, int mb_width, int mb_height) {
    if (h->mb_width == mb_width && h->mb_height == mb_height) return 0;
    free_size(h);
    h->stride = mb_width + 1;
    size_t count = (size_t)h->stride * (size_t)(mb_height + 1) + 1;
    h->mbs = ovb_alloc(h->parser, count, sizeof *h->mbs);
    h->totals = ovb_alloc(h->parser, count, sizeof *h->totals);
    h->mvd = ovb_alloc(h->parser, count, sizeof *h->mvd);
    if (!h->mbs || !h->totals || !h->mvd) return -1;
    h->mb_width = mb_width;
    h->mb_height = mb_height;
    return 0;
}

static void *h264_open(ovb_parser *parser) {
    h264 *h = ovb_alloc(parser, 1, sizeof *h);
    if (!h) return NULL;
    h->parser = parser;
    h->prev_ref_frame_num = -1;
    return h;
}

static void h264_close(void *state) {
    h264 *h = state;
    free_size(h);
    for (int i = 0; i < 32; i++) ovb_free(h->parser, h->sps_by_id[i]);
    for (int i = 0; i < 256; i++) ovb_free(h->parser, h->pps_by_id[i]);
    ovb_free(h->parser, h);
}

/* --- pictures ------------------------------------------------------------------------------------------------------- */

static int use_sets(h264 *h, const h264_sps *sps, const h264_pps *pps) {
    int changed = !h->active || memcmp(&h->sps, sps, sizeof *sps) != 0;
    if (changed || memcmp(&h->pps, pps, sizeof *pps) != 0) {
        h->sps = *sps;
        h->pps = *pps;
        h264_reset_weights(h);
    }
    h->active = 1;
    return use_size(h, sps->mb_width, sps->mb_height);
}

static int begin_picture(h264 *h) {
    const h264_header *s = &h->header;
    int mask = (1 << h->sps.frame_num_bits) - 1, before = h->prev_ref_frame_num;
    if (s->idr) {
        h->sequence++;
        h->prev_mmco5 = 0;
    } else if (before >= 0 && s->frame_num != (before & mask) && s->frame_num != ((before + 1) & mask)) {
        if (!h->sps.gaps_allowed) ovb_damage(h->parser, "frame_num jumps from %d to %d", before, s->frame_num);
        h264_fill_gap(h, s->frame_num);
    }
    h264_picture *p = h264_free_picture(h);
    if (!p) return -1;
    size_t count = (size_t)h->stride * (size_t)(h->mb_height + 1) + 1;
    if (!p->cells) {
        p->cells = ovb_picture_new(h->parser, h->mb_width * 2, h->mb_height * 2);
        p->ref_idx[0] = ovb_alloc(h->parser, count, 4);
        p->ref_idx[1] = ovb_alloc(h->parser, count, 4);
        if (!p->cells || !p->ref_idx[0] || !p->ref_idx[1]) return -1;
    } else {
        ovb_picture_clear(p->cells);
    }
    memset(p->ref_idx[0], -1, count * 4);
    memset(p->ref_idx[1], -1, count * 4);
    for (size_t i = 0; i < count; i++) h->mbs[i].slice = 0;
    h->current = p;
    h->cells = p->cells;
    p->exists = 1;
    p->frame_num = s->frame_num;
    h264_order_count(h, p);
    p->id = p->cells->decode_index = h->parser->decode_index;
    p->cells->poc = p->poc;
    h->first = *s;
    h->started = 1;
    h->slices = h->broken = h->mbs_read = 0;
    h->slice_bits = 0;
    h->inexact = h->has_p = h->has_b = h->lossless_seen = 0;
    return 0;
}

/* 7.4.1.2.4: does a slice with this header belong to another picture than the one in progress? */
static int is_new_picture(const h264_header *a, const h264_header *b) {
    return a->frame_num != b->frame_num || a->pps_id != b->pps_id || !a->nal_ref_idc != !b->nal_ref_idc ||
           a->poc_lsb != b->poc_lsb || a->delta_bottom != b->delta_bottom || a->delta_poc[0] != b->delta_poc[0] ||
           a->delta_poc[1] != b->delta_poc[1] || a->idr != b->idr || (a->idr && a->idr_pic_id != b->idr_pic_id);
}

static const ovb_picture *h264_finish(void *state, ovb_frame_info *info) {
    h264 *h = state;
    if (!h->started) return NULL;
    h264_picture *p = h->current;
    uint32_t total = (uint32_t)h->mb_width * (uint32_t)h->mb_height;
    if (h->mbs_read < total) ovb_damage(h->parser, "%u of %u macroblocks are missing", total - h->mbs_read, total);
    h264_mark_references(h);
    if (h->prev_mmco5) h->sequence++;
    info->coded_width = h->mb_width * 16;
    info->coded_height = h->mb_height * 16;
    info->left = h->sps.crop[0];
    info->top = h->sps.crop[2];
    info->width = info->coded_width - h->sps.crop[0] - h->sps.crop[1];
    info->height = info->coded_height - h->sps.crop[2] - h->sps.crop[3];
    info->poc = p->poc;
    info->sequence = h->sequence;
    info->slice_bits = h->slice_bits;
    info->slices = (int32_t)(h->slices - h->broken);
    info->flags = (h->first.idr ? OVB_IDR | OVB_RANDOM_ACCESS : h->recovery_point ? OVB_RANDOM_ACCESS : 0) |
                  (h->first.nal_ref_idc ? OVB_REFERENCE : 0) | (h->inexact || h->broken ? 0 : OVB_EXACT_END) |
                  (h->lossless_seen ? OVB_LOSSLESS : 0);
    info->type = h->has_b ? 'B' : h->has_p ? 'P' : 'I';
    info->bit_depth = h->sps.depth_luma;
    info->chroma = h->sps.chroma;
    info->references = p->cells->reference_count;
    h->started = 0;
    h->recovery_point = 0;
    h->current = NULL;
    return p->cells;
}

/* --- slices ---------------------------------------------------------------------------------------------------------- */

static const h264_mb *available(const h264 *h, int index) {
    const h264_mb *mb = &h->mbs[index];
    return mb->slice == h->slice ? mb : NULL;
}

/* The macroblock at (mb_x, mb_y) becomes the one in progress; -1: there is none, or it has been read already. */
static int enter(h264 *h) {
    if (h->mb_y >= h->mb_height) return -1;
    h->index = (h->mb_y + 1) * h->stride + h->mb_x + 1;
    size_t x = (size_t)h->mb_x, y = (size_t)h->mb_y, width = (size_t)h->mb_width;
    h->cell = (y * width * 2 + x) * 2;
    h->block = (y * width * 4 + x) * 4;
    h->mb = &h->mbs[h->index];
    h->a = available(h, h->index - 1);
    h->b = available(h, h->index - h->stride);
    h->c = available(h, h->index - h->stride + 1);
    h->d = available(h, h->index - h->stride - 1);
    return h->mb->slice ? -1 : 0;
}

/* The same for the one behind; in a row its neighbours have been those of the one before. */
static inline int go_on(h264 *h) {
    if (++h->mb_x == h->mb_width) {
        h->mb_x = 0;
        h->mb_y++;
        return enter(h);
    }
    h->index++;
    h->cell += 2;
    h->block += 4;
    h->a = h->mb++;
    h->d = h->b;
    h->b = h->c;
    h->c = available(h, h->index - h->stride + 1);
    return h->mb->slice ? -1 : 0;
}

static int read_cabac_slice(h264 *h) {
    for (int failed = enter(h); !failed; failed = go_on(h)) {
        int skipped = h->header.type != H264_I && h264_cabac_skip(h);
        if (h264_read_macroblock(h, skipped)) return -1;
        h->mbs_read++;
        if (ovb_terminate(&h->cabac)) return 0;
    }
    return -1;
}

static int read_cavlc_slice(h264 *h) {
    for (int failed = enter(h); !failed; failed = go_on(h)) {
        if (h->header.type != H264_I) {
            uint32_t run = ovb_ue(&h->bits);
            if (run > (uint32_t)h->mb_width * (uint32_t)h->mb_height) return -1;
            int64_t spent = h264_position(h) - h->position, start = h->position;
            for (uint32_t i = 0; i < run; i++) { /* the run's bits are shared by its macroblocks */
                if (i && go_on(h)) return -1;
                h->position = h264_position(h) - (spent + i) / run;
                if (h264_read_macroblock(h, 1)) return -1;
                h->mbs_read++;
            }
            if (run == 0) h->position = start;
            if (!ovb_more_data(&h->bits, h->stop)) return run ? 0 : -1;
            if (run && go_on(h)) return -1;
        }
        if (h264_read_macroblock(h, 0)) return -1;
        h->mbs_read++;
        if (!ovb_more_data(&h->bits, h->stop)) return 0;
    }
    return -1;
}

/* The slice's last bits (its end, what the arithmetic coder flushes) belong to its last macroblock. */
static void charge_rest(h264 *h, int64_t bits) {
    uint32_t rest = (uint32_t)((bits << OVB_POS_SHIFT) - h->position);
    uint32_t *cells = h->cells->bits + h->cell;
    for (int k = 0; k < 4; k++) cells[(k >> 1) * h->cells->width8 + (k & 1)] += (rest + (uint32_t)k) >> 2;
}

static void read_slice_data(h264 *h, const uint8_t *payload, size_t size) {
    size_t start, end;
    int failed;
    uint32_t first = h->header.first_mb, width = (uint32_t)h->mb_width, total = width * (uint32_t)h->mb_height;
    first = first < total ? first : total; /* any number may come; behind the last there is none to find */
    h->mb_x = (int)(first % width);
    h->mb_y = (int)(first / width);
    if (h->pps.cabac) {
        ovb_align(&h->bits);
        start = h->bits.pos;
        h264_cabac_start(h, payload + start / 8, size - start / 8);
        h->position = 0;
        failed = h->bits.error ? -1 : read_cabac_slice(h);
        end = start + ovb_cabac_end(&h->cabac) - 1;
    } else {
        start = h->bits.pos;
        h->position = (int64_t)start << OVB_POS_SHIFT;
        failed = read_cavlc_slice(h);
        end = h->bits.pos;
    }
    if (failed) {
        h->broken++;
        ovb_damage(h->parser, "slice %u breaks at macroblock %d", h->slice, h->mb_y * h->mb_width + h->mb_x);
        return;
    }
    if (end > h->stop || end >> 3 != h->stop >> 3 || !(payload[end >> 3] >> (7 - (end & 7)) & 1)) {
        /* x264 leaves a mark behind the stop bit, in its byte */
        h->inexact = 1;
        ovb_damage(h->parser, "slice %u ends at bit %zu of %zu", h->slice, end, h->stop);
        return;
    }
    charge_rest(h, h->pps.cabac ? (int64_t)(end - start) : (int64_t)end);
    h->slice_bits += (int64_t)(end - start);
    if ((h->refs_used[0] & h->refs_missing[0]) | (h->refs_used[1] & h->refs_missing[1]))
        ovb_damage(h->parser, "slice %u refers to a picture that is missing", h->slice);
}

static int read_slice(h264 *h, const uint8_t *payload, size_t size, int type, int ref_idc) {
    ovb_bits b;
    h264_header header;
    const h264_sps *sps;
    const h264_pps *pps;
    size_t stop = ovb_stop_bit(payload, size);
    ovb_bits_init(&b, payload, size);
    b.pos = 8;
    b.end = stop > 8 ? stop : 8;
    if (h264_read_header(h, &b, type, ref_idc, &header, &sps, &pps)) {
        if (h->parser->status == OVB_NONE) ovb_damage(h->parser, "a slice header is broken or its parameter sets are missing");
        return OVB_NAL_DONE;
    }
    if (header.redundant) return OVB_NAL_DONE;
    if (h->started && is_new_picture(&h->first, &header)) return OVB_NAL_NEXT_PICTURE;
    if (h->started && memcmp(&h->sps, sps, sizeof *sps) != 0) {
        ovb_damage(h->parser, "a slice belongs to another sequence than its picture");
        return OVB_NAL_DONE;
    }
    if (use_sets(h, sps, pps)) return OVB_NAL_DONE;
    h->header = header;
    if (!h->started && begin_picture(h)) return OVB_NAL_DONE;
    h->slice = ++h->slices;
    h->has_p |= header.type == H264_P;
    h->has_b |= header.type == H264_B;
    h->qp = header.qp;
    h->qp_delta = 0;
    h->bits = b;
    h->stop = stop;
    if (h264_build_lists(h)) {
        h->broken++;
        ovb_damage(h->parser, "more reference pictures than can be");
        return OVB_NAL_DONE;
    }
    if (header.type == H264_B) h264_direct_start(h);
    read_slice_data(h, payload, size);
    return OVB_NAL_DONE;
}

/* --- NAL units -------------------------------------------------------------------------------------------------------- */

/* SEI: only whether decoding may start here at once (recovery point, D.1.7). */
static void read_sei(h264 *h, ovb_bits *b, size_t stop) {
    while (ovb_more_data(b, stop)) {
        uint32_t part, type = 0, size = 0;
        do type += part = ovb_u(b, 8); while (part == 255 && !b->error);
        do size += part = ovb_u(b, 8); while (part == 255 && !b->error);
        if (b->error) return;
        if (type == 6) {
            ovb_bits inner = *b;
            if (ovb_ue(&inner) == 0 && !inner.error) h->recovery_point = 1;
        }
        ovb_skip(b, (size_t)size * 8);
    }
}

static int h264_nal(void *state, const uint8_t *payload, size_t size) {
    h264 *h = state;
    int type = payload[0] & 31, ref_idc = payload[0] >> 5 & 3;
    if (type == 1 || type == 5) return read_slice(h, payload, size, type, ref_idc);
    if (type >= 2 && type <= 4) {
        ovb_refuse(h->parser, "data partitioning");
        return OVB_NAL_DONE;
    }
    if (type < 6 || type > 9) return OVB_NAL_DONE; /* fillers, auxiliary pictures, other views and layers */
    if (h->started) return OVB_NAL_NEXT_PICTURE;
    ovb_bits b;
    size_t stop = ovb_stop_bit(payload, size);
    ovb_bits_init(&b, payload, size);
    b.pos = 8;
    b.end = stop > 8 ? stop : 8;
    if (type == 6) read_sei(h, &b, stop);
    if (type == 7) h264_read_sps(h, &b);
    if (type == 8) h264_read_pps(h, &b, stop);
    return OVB_NAL_DONE;
}

const ovb_backend ovb_h264 = {h264_open, h264_close, h264_nal, h264_finish};
