/* Reference pictures: picture order count (8.2.1), reference lists (8.2.4) and their marking (8.2.5), for frames.
 *
 * Numbers come from the stream, so sums of them wrap around (add, sub) instead of overflowing.
 */
#include "h264.h"

static int32_t add(int32_t a, int32_t b) { return (int32_t)((uint32_t)a + (uint32_t)b); }
static int32_t sub(int32_t a, int32_t b) { return (int32_t)((uint32_t)a - (uint32_t)b); }

static void release(h264_picture *p) { p->reference = H264_UNUSED; }

void h264_forget_references(h264 *h) {
    for (int i = 0; i < H264_POOL; i++) release(&h->pool[i]);
}

h264_picture *h264_free_picture(h264 *h) {
    for (int i = 0; i < H264_POOL; i++)
        if (!h->pool[i].reference && &h->pool[i] != h->current) return &h->pool[i];
    return NULL;
}

static int count_references(const h264 *h) {
    int n = 0;
    for (int i = 0; i < H264_POOL; i++) n += h->pool[i].reference != H264_UNUSED;
    return n;
}

/* FrameNumWrap of all short-term references, seen from a picture with this frame_num (8.2.4.1). */
static void wrap_frame_nums(h264 *h, int frame_num) {
    for (int i = 0; i < H264_POOL; i++) {
        h264_picture *p = &h->pool[i];
        p->frame_num_wrap = p->frame_num > frame_num ? p->frame_num - (1 << h->sps.frame_num_bits) : p->frame_num;
    }
}

/* Sliding window (8.2.5.3): make room for one more reference; long-term ones go only if nothing else is there. */
static void make_room(h264 *h, int frame_num) {
    int most = h->sps.max_refs > 0 ? h->sps.max_refs : 1;
    wrap_frame_nums(h, frame_num);
    while (count_references(h) >= most) {
        h264_picture *oldest = NULL;
        for (int i = 0; i < H264_POOL; i++) {
            h264_picture *p = &h->pool[i];
            if (!p->reference || p == h->current) continue;
            if (!oldest || p->reference < oldest->reference ||
                (p->reference == oldest->reference && p->frame_num_wrap < oldest->frame_num_wrap))
                oldest = p;
        }
        if (!oldest) return;
        release(oldest);
    }
}

void h264_fill_gap(h264 *h, int frame_num) {
    int most = 1 << h->sps.frame_num_bits, mask = most - 1;
    int next = (h->prev_ref_frame_num + 1) & mask;
    int missing = (frame_num - next) & mask;
    if (missing > 16) next = (frame_num - 16) & mask; /* those before would have left the window again */
    for (; next != frame_num; next = (next + 1) & mask) {
        make_room(h, next);
        h264_picture *p = h264_free_picture(h);
        if (!p) return;
        p->reference = H264_SHORT;
        p->exists = 0;
        p->frame_num = next;
        p->poc = p->top = p->bottom = 0;
        p->id = -2 - h->gaps++;
    }
    int last = (frame_num - 1) & mask;
    if (h->prev_frame_num > last) h->prev_frame_num_offset = add(h->prev_frame_num_offset, most);
    h->prev_frame_num = h->prev_ref_frame_num = last;
}

/* --- picture order count ------------------------------------------------------------------------------------- */

static void order_from_lsb(h264 *h, h264_picture *p) { /* 8.2.1.1 */
    const h264_header *s = &h->header;
    int32_t most = 1 << h->sps.poc_lsb_bits;
    int32_t msb = s->idr ? 0 : h->prev_poc_msb, before = s->idr ? 0 : h->prev_poc_lsb;
    if (s->poc_lsb < before && before - s->poc_lsb >= most / 2) {
        msb = add(msb, most);
    } else if (s->poc_lsb > before && s->poc_lsb - before > most / 2) {
        msb = sub(msb, most);
    }
    p->top = add(msb, s->poc_lsb);
    p->bottom = add(p->top, s->delta_bottom);
    if (s->nal_ref_idc) {
        h->prev_poc_msb = msb;
        h->prev_poc_lsb = s->poc_lsb;
    }
}

static void order_from_frame_num(h264 *h, h264_picture *p) { /* 8.2.1.2, 8.2.1.3 */
    const h264_header *s = &h->header;
    const h264_sps *sps = &h->sps;
    int32_t offset = h->prev_frame_num_offset;
    if (s->idr) {
        offset = 0;
    } else if (h->prev_frame_num > s->frame_num) {
        offset = add(offset, 1 << sps->frame_num_bits);
    }
    h->prev_frame_num_offset = offset;
    int32_t n = add(offset, s->frame_num);
    if (sps->poc_type == 2) {
        p->top = p->bottom = s->idr ? 0 : sub(add(n, n), s->nal_ref_idc == 0);
        return;
    }
    uint32_t count = sps->cycle ? (uint32_t)n : 0;
    if (s->nal_ref_idc == 0 && count > 0) count--;
    uint32_t expected = 0, per_cycle = 0;
    for (int i = 0; i < sps->cycle; i++) per_cycle += (uint32_t)sps->offsets[i];
    if (count > 0) {
        uint32_t cycles = (count - 1) / (uint32_t)sps->cycle, rest = (count - 1) % (uint32_t)sps->cycle;
        expected = cycles * per_cycle;
        for (uint32_t i = 0; i <= rest; i++) expected += (uint32_t)sps->offsets[i];
    }
    if (s->nal_ref_idc == 0) expected += (uint32_t)sps->offset_non_ref;
    p->top = add((int32_t)expected, s->delta_poc[0]);
    p->bottom = add(add(p->top, sps->offset_bottom), s->delta_poc[1]);
}

void h264_order_count(h264 *h, h264_picture *p) {
    if (h->prev_mmco5) h->prev_frame_num_offset = 0;
    if (h->sps.poc_type == 0) {
        order_from_lsb(h, p);
    } else {
        order_from_frame_num(h, p);
    }
    p->poc = p->top < p->bottom ? p->top : p->bottom;
}

/* --- reference lists ------------------------------------------------------------------------------------------ */

/* Order of a sort: ascending by this key. */
static void insert_sorted(h264_picture **list, int64_t *keys, int *n, h264_picture *p, int64_t key) {
    int i = (*n)++;
    for (; i > 0 && keys[i - 1] > key; i--) {
        list[i] = list[i - 1];
        keys[i] = keys[i - 1];
    }
    list[i] = p;
    keys[i] = key;
}

/* Initial list (8.2.4.2.1, 8.2.4.2.3); its length. */
static int initial_list(h264 *h, int which, h264_picture **list) {
    int64_t keys[H264_POOL];
    int n = 0, b = h->header.type == H264_B;
    int64_t poc = h->current->poc;
    for (int i = 0; i < H264_POOL; i++) {
        h264_picture *p = &h->pool[i];
        if (p->reference == H264_SHORT && p != h->current) {
            if (b && !p->exists) continue;
            int64_t away = which ? p->poc - poc : poc - p->poc; /* of the side that comes first: not below 0 */
            int64_t key = !b ? -(int64_t)p->frame_num_wrap : away > 0 ? away : ((int64_t)1 << 34) - away;
            insert_sorted(list, keys, &n, p, key);
        } else if (p->reference == H264_LONG && p != h->current) {
            insert_sorted(list, keys, &n, p, ((int64_t)1 << 40) + p->long_idx);
        }
    }
    return n;
}

static h264_picture *find(h264 *h, int reference, int32_t number) {
    for (int i = 0; i < H264_POOL; i++) {
        h264_picture *p = &h->pool[i];
        if (p->reference == reference && p != h->current &&
            (reference == H264_SHORT ? p->frame_num_wrap : p->long_idx) == number)
            return p;
    }
    return NULL;
}

/* 8.2.4.3 */
static void reorder(h264 *h, int which) {
    const h264_header *s = &h->header;
    h264_picture **list = h->list[which];
    int32_t most = 1 << h->sps.frame_num_bits, number = s->frame_num;
    for (int k = 0; k < s->reorders[which] && k < s->refs[which]; k++) {
        const h264_command *c = &s->reorder[which][k];
        h264_picture *p;
        if (c->op == 2) {
            p = find(h, H264_LONG, (int32_t)(c->a & 0x7fffffff));
        } else {
            int32_t step = (int32_t)((c->a + 1) & (uint32_t)(most - 1));
            number = (c->op == 0 ? number - step : number + step) & (most - 1);
            p = find(h, H264_SHORT, number > s->frame_num ? number - most : number);
        }
        for (int i = s->refs[which]; i > k; i--) list[i] = list[i - 1];
        list[k] = p;
        int to = k + 1;
        for (int from = k + 1; from <= s->refs[which]; from++)
            if (!p || list[from] != p) list[to++] = list[from];
    }
    list[s->refs[which]] = NULL;
}

int h264_build_lists(h264 *h) {
    const h264_header *s = &h->header;
    h264_picture *initial[2][H264_POOL] = {{NULL}, {NULL}};
    int lists = s->type == H264_I ? 0 : s->type == H264_P ? 1 : 2, n[2] = {0, 0};
    wrap_frame_nums(h, s->frame_num);
    for (int which = 0; which < lists; which++) n[which] = initial_list(h, which, initial[which]);
    if (lists == 2 && n[1] > 1 && n[0] == n[1] && !memcmp(initial[0], initial[1], (size_t)n[1] * sizeof *initial[1])) {
        h264_picture *first = initial[1][0];
        initial[1][0] = initial[1][1];
        initial[1][1] = first;
    }
    for (int which = 0; which < lists; which++) {
        for (int i = 0; i <= H264_MAX_LIST; i++)
            h->list[which][i] = i < n[which] && i < s->refs[which] ? initial[which][i] : NULL;
        reorder(h, which);
        h->refs_missing[which] = h->refs_used[which] = 0;
        for (int i = 0; i < s->refs[which]; i++) {
            h264_picture *p = h->list[which][i];
            ovb_reference r = {h->current->poc, -1, 0};
            if (p) r = (ovb_reference){p->poc, p->id, p->reference == H264_LONG};
            if (!p || !p->exists) h->refs_missing[which] |= 1u << i;
            int index = ovb_picture_reference(h->current->cells, r);
            if (index < 0) return -1;
            h->reference_of[which][i] = (int8_t)index;
        }
    }
    return 0;
}

/* --- marking -------------------------------------------------------------------------------------------------- */

static void make_long(h264 *h, h264_picture *p, int32_t long_idx) {
    h264_picture *other = find(h, H264_LONG, long_idx);
    if (other && other != p) release(other);
    p->reference = H264_LONG;
    p->long_idx = long_idx;
}

static void adaptive_marking(h264 *h) { /* 8.2.5.4 */
    const h264_header *s = &h->first;
    h264_picture *current = h->current;
    for (int i = 0; i < s->commands; i++) {
        const h264_command *c = &s->command[i];
        int32_t number = sub(s->frame_num, (int32_t)(c->a + 1)), long_idx = (int32_t)(c->b & 0x7fffffff);
        h264_picture *p = NULL;
        if (c->op == 1 && (p = find(h, H264_SHORT, number))) release(p);
        if (c->op == 2 && (p = find(h, H264_LONG, (int32_t)(c->a & 0x7fffffff)))) release(p);
        if (c->op == 3 && (p = find(h, H264_SHORT, number))) make_long(h, p, long_idx);
        for (int k = 0; c->op == 4 && k < H264_POOL; k++)
            if (h->pool[k].reference == H264_LONG && (uint32_t)h->pool[k].long_idx + 1 > c->a) release(&h->pool[k]);
        if (c->op == 5) {
            h264_forget_references(h);
            h->prev_mmco5 = 1;
        }
        if (c->op == 6) make_long(h, current, long_idx);
    }
}

void h264_mark_references(h264 *h) {
    const h264_header *s = &h->first;
    h264_picture *current = h->current;
    h->prev_mmco5 = 0;
    h->prev_frame_num = s->frame_num;
    if (!s->nal_ref_idc) return;
    wrap_frame_nums(h, s->frame_num);
    if (s->idr) {
        h264_forget_references(h);
        if (s->long_term_idr) make_long(h, current, 0);
    } else if (s->adaptive) {
        adaptive_marking(h);
    }
    if (current->reference == H264_UNUSED) {
        make_room(h, s->frame_num);
        current->reference = H264_SHORT;
    }
    while (count_references(h) > 16) make_room(h, s->frame_num); /* only a broken stream gets here */
    if (h->prev_mmco5) {
        current->bottom = sub(current->bottom, current->poc);
        current->top = sub(current->top, current->poc);
        current->poc = 0;
        current->frame_num = 0;
        h->prev_poc_msb = 0;
        h->prev_poc_lsb = current->top;
        h->prev_frame_num = 0;
    }
    h->prev_ref_frame_num = current->frame_num;
}
