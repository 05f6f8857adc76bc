/* Motion vector prediction: spatial candidates (8.5.3.2.6, 8.5.3.2.7) and the collocated one (8.5.3.2.8, 8.5.3.2.9). */
#include <stdlib.h>
#include <string.h>

#include "hevc.h"

static int clip(int value, int min, int max) { return value < min ? min : value > max ? max : value; }
static int distance(int32_t a, int32_t b) { /* DiffPicOrderCnt, clipped as it is used */
    int64_t d = (int64_t)a - b;
    return d < -128 ? -128 : d > 127 ? 127 : (int)d;
}

static int16_t scale_one(int factor, int value) {
    int product = factor * value;
    return (int16_t)clip((product < 0 ? -1 : 1) * ((abs(product) + 127) >> 8), -32768, 32767);
}

/* A vector over td pictures for a distance of tb, both of -128..127. */
static ovb_mv scale(ovb_mv mv, int tb, int td) {
    if (td == 0) return mv; /* only in broken streams */
    int tx = (16384 + (abs(td) >> 1)) / td;
    int factor = clip((tb * tx + 32) >> 6, -4096, 4095);
    ovb_mv out = {scale_one(factor, mv.x), scale_one(factor, mv.y)};
    return out;
}

/* --- collocated ------------------------------------------------------------------------------------------------- */

/* The motion that the collocated picture holds at (x, y), of the 16x16 block around it. */
static int collocated_at(const hevc *h, int x, int y, int list, int ref, ovb_mv *out) {
    const ovb_picture *picture = h->collocated;
    size_t at = (size_t)((y >> 4) << 2) * (size_t)h->width4 + (size_t)((x >> 4) << 2);
    int from; /* the list that its vector is taken of */
    if (picture->ref[0][at] < 0)
        from = 1;
    else if (picture->ref[1][at] < 0)
        from = 0;
    else
        from = h->no_backward ? list : !h->slice.collocated_list;
    int index = picture->ref[from][at];
    if (index < 0) return 0;
    const ovb_reference *there = &picture->references[index];
    const hevc_reference *here = &h->refs[list][ref];
    if ((there->long_term != 0) != (here->long_term != 0)) return 0;
    *out = picture->mv[from][at];
    int64_t td = (int64_t)picture->poc - there->poc, tb = (int64_t)h->picture->poc - here->poc;
    if (!here->long_term && td != tb)
        *out = scale(*out, distance(h->picture->poc, here->poc), distance(picture->poc, there->poc));
    return 1;
}

int hevc_temporal_mv(const hevc *h, int x, int y, int w, int height, int list, int ref, ovb_mv *out) {
    int right = x + w, below = y + height, log2 = h->sps->log2_ctb;
    if (!h->collocated) return 0;
    if (y >> log2 == below >> log2 && below < h->sps->height && right < h->sps->width &&
        collocated_at(h, right, below, list, ref, out))
        return 1;
    return collocated_at(h, x + (w >> 1), y + (height >> 1), list, ref, out);
}

/* --- neighbours ------------------------------------------------------------------------------------------------- */

/* The neighbour's vector to the very picture that is referred to. */
static int same_reference(const hevc *h, const hevc_motion *m, int list, int ref, ovb_mv *out) {
    for (int i = 0; m && i < 2; i++) {
        int other = i ? !list : list;
        if (m->ref[other] < 0 || h->refs[other][m->ref[other]].poc != h->refs[list][ref].poc) continue;
        *out = m->mv[other];
        return 1;
    }
    return 0;
}

/* The neighbour's vector to any picture, scaled to the distance of the one that is referred to. */
static int any_reference(const hevc *h, const hevc_motion *m, int list, int ref, ovb_mv *out) {
    const hevc_reference *here = &h->refs[list][ref];
    for (int i = 0; m && i < 2; i++) {
        int other = i ? !list : list;
        if (m->ref[other] < 0) continue;
        const hevc_reference *there = &h->refs[other][m->ref[other]];
        if ((there->long_term != 0) != (here->long_term != 0)) continue;
        *out = m->mv[other];
        if (!here->long_term) /* equal distances change nothing */
            *out = scale(*out, distance(h->picture->poc, here->poc), distance(h->picture->poc, there->poc));
        return 1;
    }
    return 0;
}

ovb_mv hevc_predict_mv(const hevc *h, int x, int y, int w, int height, int list, int ref, int index) {
    const hevc_motion *a[2] = {hevc_neighbour(h, x, y, x - 1, y + height),
                               hevc_neighbour(h, x, y, x - 1, y + height - 1)};
    const hevc_motion *b[3] = {hevc_neighbour(h, x, y, x + w, y - 1), hevc_neighbour(h, x, y, x + w - 1, y - 1),
                               hevc_neighbour(h, x, y, x - 1, y - 1)};
    ovb_mv mv_a = {0, 0}, mv_b = {0, 0}, out = {0, 0};
    int has_a = 0, has_b = 0;
    for (int i = 0; i < 2 && !has_a; i++) has_a = same_reference(h, a[i], list, ref, &mv_a);
    for (int i = 0; i < 2 && !has_a; i++) has_a = any_reference(h, a[i], list, ref, &mv_a);
    for (int i = 0; i < 3 && !has_b; i++) has_b = same_reference(h, b[i], list, ref, &mv_b);
    if (!a[0] && !a[1]) { /* isScaledFlag is 0 */
        if (has_b) has_a = 1, mv_a = mv_b;
        has_b = 0;
        for (int i = 0; i < 3 && !has_b; i++) has_b = any_reference(h, b[i], list, ref, &mv_b);
    }
    if (has_a && has_b && memcmp(&mv_a, &mv_b, sizeof mv_a) == 0) has_b = 0;
    if (has_a && index == 0) return mv_a;
    if (has_b && index == has_a) return mv_b;
    if (has_a + has_b < 2 && h->slice.temporal_mvp && index == has_a + has_b)
        hevc_temporal_mv(h, x, y, w, height, list, ref, &out);
    return out;
}
