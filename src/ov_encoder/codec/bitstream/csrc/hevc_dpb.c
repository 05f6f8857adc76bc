/* Which pictures are kept and referred to: picture order count (8.3.1), reference picture set (8.3.2), reference lists
 * (8.3.4). */
#include <string.h>

#include "hevc.h"

static int32_t wrap_add(int32_t a, int32_t b) { return (int32_t)((uint32_t)a + (uint32_t)b); }

void hevc_forget_pictures(hevc *h) {
    for (int i = 0; i <= HEVC_MAX_REFS; i++) {
        ovb_picture_free(h->parser, h->frames[i].picture);
        memset(&h->frames[i], 0, sizeof h->frames[i]);
    }
    h->current = -1;
    h->picture = NULL;
    h->collocated = NULL;
}

static int is_irap(const hevc *h) { return h->nal_type >= HEVC_BLA_W_LP && h->nal_type <= HEVC_LAST_IRAP; }
static int is_idr(const hevc *h) { return h->nal_type == HEVC_IDR_W_RADL || h->nal_type == HEVC_IDR_N_LP; }

/* 8.3.1 */
static int32_t picture_order(hevc *h, const hevc_slice *s) {
    if (is_idr(h)) return 0;
    int32_t range = 1 << h->sps->log2_poc_lsb, msb = 0;
    if (!(is_irap(h) && h->no_rasl)) {
        int32_t before_lsb = h->poc_tid0 & (range - 1), before_msb = wrap_add(h->poc_tid0, -before_lsb);
        msb = before_msb;
        if (s->poc_lsb < before_lsb && before_lsb - s->poc_lsb >= range / 2) msb = wrap_add(before_msb, range);
        if (s->poc_lsb > before_lsb && s->poc_lsb - before_lsb > range / 2) msb = wrap_add(before_msb, -range);
    }
    return wrap_add(msb, s->poc_lsb);
}

static int find_frame(const hevc *h, int32_t poc, int32_t mask) {
    for (int i = 0; i <= HEVC_MAX_REFS; i++)
        if (h->frames[i].used && i != h->current && (h->frames[i].poc & mask) == (poc & mask)) return i;
    return -1;
}

static int free_frame(const hevc *h) {
    for (int i = 0; i <= HEVC_MAX_REFS; i++)
        if (!h->frames[i].used) return i;
    return -1;
}

/* A frame for a picture with this POC; its memory is made when first needed. -1 without. */
static int new_frame(hevc *h, int32_t poc) {
    int i = free_frame(h);
    if (i < 0) return -1;
    hevc_frame *f = &h->frames[i];
    if (f->picture)
        ovb_picture_clear(f->picture);
    else
        f->picture = ovb_picture_new(h->parser, h->width8, h->height8);
    if (!f->picture) return -1;
    f->picture->poc = f->poc = poc;
    f->used = 1;
    f->long_term = 0;
    f->keep = 1;
    return i;
}

/* POC of the i-th long-term reference, and the bits of it that are known. */
static int32_t long_term_poc(const hevc *h, const hevc_slice *s, int i, int32_t poc, int32_t *mask) {
    int32_t range = 1 << h->sps->log2_poc_lsb;
    if (!s->lt_has_msb[i]) {
        *mask = range - 1;
        return s->lt_poc[i];
    }
    *mask = -1;
    uint32_t cycles = s->lt_msb_cycle[i] * (uint32_t)range;
    return (int32_t)((uint32_t)poc + (uint32_t)s->lt_poc[i] - cycles - (uint32_t)(poc & (range - 1)));
}

/* 8.3.2: keep what the set names, forget the rest. */
static void apply_reference_set(hevc *h, const hevc_slice *s, int32_t poc) {
    for (int i = 0; i <= HEVC_MAX_REFS; i++) h->frames[i].keep = 0;
    if (!(is_irap(h) && h->no_rasl)) {
        uint8_t is_long[HEVC_MAX_REFS + 1] = {0};
        for (int i = 0; i < s->lt_count; i++) {
            int32_t mask, lt = long_term_poc(h, s, i, poc, &mask);
            int f = find_frame(h, lt, mask);
            if (f >= 0) h->frames[f].keep = is_long[f] = 1;
        }
        for (int i = 0; i < s->rps.count; i++) {
            int f = find_frame(h, wrap_add(poc, s->rps.delta[i]), -1);
            if (f >= 0 && !h->frames[f].long_term) h->frames[f].keep = 1;
        }
        for (int i = 0; i <= HEVC_MAX_REFS; i++) h->frames[i].long_term |= is_long[i];
    }
    for (int i = 0; i <= HEVC_MAX_REFS; i++)
        if (!h->frames[i].keep) h->frames[i].used = 0;
}

int hevc_start_picture(hevc *h) {
    const hevc_slice *s = &h->slice;
    h->current = -1;
    int32_t poc = picture_order(h, s);
    int leading = h->nal_type >= HEVC_RADL_N && h->nal_type <= HEVC_RASL_R;
    int sub_layer_non_reference = h->nal_type < HEVC_BLA_W_LP && !(h->nal_type & 1);
    if (h->temporal_id == 0 && !leading && !sub_layer_non_reference) h->poc_tid0 = poc;
    apply_reference_set(h, s, poc);
    h->current = new_frame(h, poc);
    if (h->current < 0) return 0;
    h->picture = h->frames[h->current].picture;
    h->picture->decode_index = h->parser->decode_index;
    memset(h->ctb_slice, -1, (size_t)h->ctbs * sizeof *h->ctb_slice);
    h->ctbs_read = h->slices = 0;
    h->slice_bits = 0;
    h->type = 'I';
    h->flags = OVB_EXACT_END | OVB_REFERENCE;
    if (is_idr(h)) h->flags |= OVB_IDR;
    if (is_irap(h)) h->flags |= OVB_RANDOM_ACCESS;
    return 1;
}

/* The frame of a reference, or one that stands in for it. */
static int reference_frame(hevc *h, int32_t poc, int32_t mask) {
    int f = find_frame(h, poc, mask);
    if (f >= 0 && h->frames[f].keep) return f;
    f = new_frame(h, poc);
    if (f < 0) return -1;
    ovb_damage(h->parser, "the reference with picture order count %d is missing", (int)poc);
    return f;
}

/* The candidates in the order that list `list` takes them (RefPicListTemp0 and 1). Returns their number. */
static int candidates(hevc *h, int list, hevc_reference *out) {
    const hevc_slice *s = &h->slice;
    int32_t poc = h->picture->poc;
    int n = 0;
    for (int half = 0; half < 2; half++) {
        int after = half ^ list;
        int from = after ? s->rps.negative : 0, to = after ? s->rps.count : s->rps.negative;
        for (int i = from; i < to; i++) {
            if (!s->rps.used[i]) continue;
            out[n].poc = wrap_add(poc, s->rps.delta[i]);
            out[n].long_term = 0;
            out[n++].frame = (int8_t)reference_frame(h, wrap_add(poc, s->rps.delta[i]), -1);
        }
    }
    for (int i = 0; i < s->lt_count; i++) {
        if (!s->lt_used[i]) continue;
        int32_t mask, lt = long_term_poc(h, s, i, poc, &mask);
        int frame = reference_frame(h, lt, mask);
        if (frame >= 0) h->frames[frame].long_term = 1;
        out[n].poc = frame >= 0 ? h->frames[frame].poc : lt;
        out[n].long_term = 1;
        out[n++].frame = (int8_t)frame;
    }
    return n;
}

const char *hevc_start_slice(hevc *h) {
    const hevc_slice *s = &h->slice;
    h->collocated = NULL;
    h->no_backward = 1;
    for (int list = 0; list < 2 && s->type != HEVC_I && s->refs[list]; list++) {
        hevc_reference from[HEVC_MAX_REFS];
        int n = candidates(h, list, from);
        for (int i = 0; i < s->refs[list]; i++) {
            hevc_reference *ref = &h->refs[list][i];
            *ref = from[s->list_modified[list] ? s->list_entry[list][i] : i % n];
            if (ref->frame < 0) return "more references than a picture may have";
            const ovb_picture *picture = h->frames[ref->frame].picture;
            ovb_reference kept = {ref->poc, picture->decode_index, ref->long_term};
            ref->out = (int8_t)ovb_picture_reference(h->picture, kept);
            if (ref->poc > h->picture->poc) h->no_backward = 0;
        }
    }
    if (s->type != HEVC_I && s->temporal_mvp)
        h->collocated = h->frames[h->refs[s->collocated_list][s->collocated_ref].frame].picture;
    if (s->type == HEVC_B) h->type = 'B';
    if (s->type == HEVC_P && h->type == 'I') h->type = 'P';
    return NULL;
}
