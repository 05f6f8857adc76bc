/* Merge candidates (8.5.3.2.2 to 8.5.3.2.5): neighbours, collocated, combined, zero. */
#include <string.h>

#include "hevc.h"
#include "hevc_part.h"

/* Position in z-order of a 4x4 block of a CTB, from its x and y. */
static const uint8_t spread[16] = {0, 1, 4, 5, 16, 17, 20, 21, 64, 65, 68, 69, 80, 81, 84, 85};

/* Of one CTB: is (xn, yn) decoded when the block at (x, y) is? (6.4.1, and 6.4.2 inside a coding unit) */
static int decoded_before(const hevc *h, int x, int y, int xn, int yn) {
    const hevc_cu *cu = &h->cu;
    int size = 1 << cu->log2, mask = (1 << h->sps->log2_ctb) - 1;
    int inside = xn >= cu->x && xn < cu->x + size && yn >= cu->y && yn < cu->y + size;
    if (inside && cu->part != HEVC_NxN) return 1;
    int there = spread[(xn & mask) >> 2] | spread[(yn & mask) >> 2] << 1;
    int here = spread[(x & mask) >> 2] | spread[(y & mask) >> 2] << 1;
    return there < here;
}

const hevc_motion *hevc_neighbour(const hevc *h, int x, int y, int xn, int yn) {
    int log2 = h->sps->log2_ctb;
    if (xn < 0 || yn < 0 || xn >= h->sps->width || yn >= h->sps->height) return NULL;
    int dx = (xn >> log2) - h->ctb_x, dy = (yn >> log2) - h->ctb_y, there;
    if (dy == 0)
        there = dx == 0 ? decoded_before(h, x, y, xn, yn) : dx == -1 && h->left;
    else
        there = dy == -1 && (dx == 0 ? h->up : dx == -1 ? h->up_left : dx == 1 && h->up_right);
    if (!there || h->picture->kind[(size_t)(yn >> 3) * (size_t)h->width8 + (size_t)(xn >> 3)] == OVB_INTRA) return NULL;
    return h->motion4 + (size_t)(yn >> 2) * (size_t)h->width4 + (size_t)(xn >> 2);
}

static int same_motion(const hevc_motion *a, const hevc_motion *b) {
    return a && b && memcmp(a, b, sizeof *a) == 0; /* unused parts are 0 */
}

/* One of the spatial neighbours, unless it lies in the same merge region (8.5.3.2.3). */
static const hevc_motion *merge_neighbour(const hevc *h, int x, int y, int xn, int yn) {
    int region = h->pps->log2_parallel_merge;
    if (x >> region == xn >> region && y >> region == yn >> region) return NULL;
    return hevc_neighbour(h, x, y, xn, yn);
}

/* Up to four neighbours in their order; stops when `index` is found. Returns their number. */
static int neighbours(const hevc *h, int x, int y, int w, int height, int part, int index, hevc_motion *list) {
    int direction = part == 1 ? hevc_part_direction(h->cu.part) : 0, n = 0;
    const hevc_motion *a1 = direction == 2 ? NULL : merge_neighbour(h, x, y, x - 1, y + height - 1);
    if (a1) list[n++] = *a1;
    if (n > index) return n;
    const hevc_motion *b1 = direction == 1 ? NULL : merge_neighbour(h, x, y, x + w - 1, y - 1);
    if (b1 && !same_motion(a1, b1)) list[n++] = *b1;
    if (n > index) return n;
    const hevc_motion *b0 = merge_neighbour(h, x, y, x + w, y - 1);
    if (b0 && !same_motion(b1, b0)) list[n++] = *b0;
    if (n > index) return n;
    const hevc_motion *a0 = merge_neighbour(h, x, y, x - 1, y + height);
    if (a0 && !same_motion(a1, a0)) list[n++] = *a0;
    if (n > index || n == 4) return n;
    const hevc_motion *b2 = merge_neighbour(h, x, y, x - 1, y - 1);
    if (b2 && !same_motion(a1, b2) && !same_motion(b1, b2)) list[n++] = *b2;
    return n;
}

static int collocated(const hevc *h, int x, int y, int w, int height, hevc_motion *out) {
    memset(out, 0, sizeof *out);
    for (int list = 0; list < 2; list++) {
        int wanted = list == 0 || h->slice.type == HEVC_B;
        out->ref[list] = wanted && hevc_temporal_mv(h, x, y, w, height, list, 0, &out->mv[list]) ? 0 : -1;
    }
    return out->ref[0] >= 0 || out->ref[1] >= 0;
}

/* Pairs of candidates of a B slice (8.5.3.2.4): n are there; returns how many are then. */
static int combine(const hevc *h, int n, int index, hevc_motion *list) {
    static const uint8_t pairs[12][2] = {{0, 1}, {1, 0}, {0, 2}, {2, 0}, {1, 2}, {2, 1},
                                         {0, 3}, {3, 0}, {1, 3}, {3, 1}, {2, 3}, {3, 2}};
    int original = n;
    for (int i = 0; i < original * (original - 1) && n < h->slice.max_merge && n <= index; i++) {
        const hevc_motion *a = &list[pairs[i][0]], *b = &list[pairs[i][1]];
        if (a->ref[0] < 0 || b->ref[1] < 0) continue;
        int same_picture = h->refs[0][a->ref[0]].poc == h->refs[1][b->ref[1]].poc;
        if (same_picture && memcmp(&a->mv[0], &b->mv[1], sizeof(ovb_mv)) == 0) continue;
        hevc_motion *m = &list[n++];
        memset(m, 0, sizeof *m);
        m->mv[0] = a->mv[0], m->mv[1] = b->mv[1];
        m->ref[0] = a->ref[0], m->ref[1] = b->ref[1];
    }
    return n;
}

static void zero_candidate(const hevc *h, int nth, hevc_motion *out) {
    int both = h->slice.type == HEVC_B;
    int count = both && h->slice.refs[1] < h->slice.refs[0] ? h->slice.refs[1] : h->slice.refs[0];
    memset(out, 0, sizeof *out);
    out->ref[0] = (int8_t)(nth < count ? nth : 0);
    out->ref[1] = both ? out->ref[0] : -1;
}

static void find(const hevc *h, int x, int y, int w, int height, int part, int index, hevc_motion *out) {
    hevc_motion list[6];
    int n = neighbours(h, x, y, w, height, part, index, list);
    if (n <= index && h->slice.temporal_mvp) n += collocated(h, x, y, w, height, &list[n]);
    if (n <= index && n > 1 && h->slice.type == HEVC_B) n = combine(h, n, index, list);
    if (n <= index)
        zero_candidate(h, index - n, out);
    else
        *out = list[index];
}

void hevc_merge(const hevc *h, int x, int y, int w, int height, int part, int index, hevc_motion *out) {
    const hevc_cu *cu = &h->cu;
    int small = w + height == 12;
    if (h->pps->log2_parallel_merge > 2 && cu->log2 == 3) /* all blocks of the unit share its candidates */
        find(h, cu->x, cu->y, 8, 8, 0, index, out);
    else
        find(h, x, y, w, height, part, index, out);
    if (small && out->ref[0] >= 0 && out->ref[1] >= 0) {
        out->ref[1] = -1;
        out->mv[1].x = out->mv[1].y = 0;
    }
}
