/* One picture's memory, and the caller's maps from it. */
#include "picture.h"

#include <string.h>

#include "parser.h"

ovb_picture *ovb_picture_new(ovb_parser *parser, int width8, int height8) {
    size_t cells = (size_t)width8 * (size_t)height8;
    ovb_picture *p = ovb_alloc(parser, 1, sizeof *p);
    if (!p) return NULL;
    p->width8 = width8;
    p->height8 = height8;
    for (int list = 0; list < 2; list++) {
        p->mv[list] = ovb_alloc(parser, cells * 4, sizeof(ovb_mv));
        p->ref[list] = ovb_alloc(parser, cells * 4, 1);
    }
    p->kind = ovb_alloc(parser, cells, 1);
    p->qp = ovb_alloc(parser, cells, 1);
    p->bits = ovb_alloc(parser, cells, sizeof(uint32_t));
    p->energy = ovb_alloc(parser, cells, sizeof(float));
    if (!p->mv[0] || !p->mv[1] || !p->ref[0] || !p->ref[1] || !p->kind || !p->qp || !p->bits || !p->energy) {
        ovb_picture_free(parser, p);
        return NULL;
    }
    ovb_picture_clear(p);
    return p;
}

void ovb_picture_free(ovb_parser *parser, ovb_picture *p) {
    if (!p) return;
    for (int list = 0; list < 2; list++) {
        ovb_free(parser, p->mv[list]);
        ovb_free(parser, p->ref[list]);
    }
    ovb_free(parser, p->kind);
    ovb_free(parser, p->qp);
    ovb_free(parser, p->bits);
    ovb_free(parser, p->energy);
    ovb_free(parser, p);
}

void ovb_picture_clear(ovb_picture *p) {
    size_t cells = (size_t)p->width8 * (size_t)p->height8;
    memset(p->ref[0], -1, cells * 4);
    memset(p->ref[1], -1, cells * 4);
    memset(p->kind, OVB_MISSING, cells);
    memset(p->qp, 0, cells);
    memset(p->bits, 0, cells * sizeof(uint32_t));
    memset(p->energy, 0, cells * sizeof(float));
    p->reference_count = 0;
    p->poc = 0;
    p->decode_index = -1;
}

int ovb_picture_reference(ovb_picture *p, ovb_reference reference) {
    for (int i = 0; i < p->reference_count; i++) {
        const ovb_reference *r = &p->references[i];
        if (r->poc == reference.poc && r->decode_index == reference.decode_index &&
            r->long_term == reference.long_term)
            return i;
    }
    if (p->reference_count == OVB_MAX_REFERENCES) return -1;
    p->references[p->reference_count] = reference;
    return p->reference_count++;
}

int ovb_picture_distances(const ovb_picture *p, int32_t *age, int32_t *poc) {
    for (int i = 0; i < p->reference_count; i++) {
        const ovb_reference *r = &p->references[i];
        poc[i] = (int32_t)((uint32_t)p->poc - (uint32_t)r->poc);
        age[i] = r->decode_index < 0 ? 0 : (int32_t)(p->decode_index - r->decode_index);
    }
    return p->reference_count;
}

/* What a vector of each list weighs in the mean velocity: 1 / (4 * distance), halved where both lists count. */
typedef struct weights {
    float first, second;
} weights;

static void copy_velocity(const ovb_picture *p, int cell, int W, int H, const ovb_maps *maps) {
    int step = cell / 4, stride = p->width8 * 2, n = p->reference_count + 1;
    weights of[(OVB_MAX_REFERENCES + 1) * (OVB_MAX_REFERENCES + 1)]; /* by reference of list 0, of list 1; 0: none */
    float per[OVB_MAX_REFERENCES + 1] = {0};
    for (int i = 1; i < n; i++)
        if (maps->distance[i - 1] != 0) per[i] = 0.25f / maps->distance[i - 1];
    for (int i = 0; i < n * n; i++) {
        float first = per[i / n], second = per[i % n], share = first != 0 && second != 0 ? 0.5f : 1.0f;
        of[i] = (weights){first * share, second * share};
    }
    float *to = maps->velocity;
    for (int y = 0; y < H; y++) {
        size_t row = (size_t)y * (size_t)step * (size_t)stride;
        const int8_t *first = p->ref[0] + row, *second = p->ref[1] + row;
        const ovb_mv *a = p->mv[0] + row, *b = p->mv[1] + row;
        for (int x = 0; x < W * step; x += step, to += 2) {
            weights w = of[(first[x] + 1) * n + second[x] + 1];
            to[0] = w.first * a[x].x + w.second * b[x].x + 0.0f; /* never -0, whatever an unused vector is */
            to[1] = w.first * a[x].y + w.second * b[x].y + 0.0f;
        }
    }
}

static void copy_motion(const ovb_picture *p, int cell, int W, int H, int list, const ovb_maps *maps) {
    int step = cell / 4, stride = p->width8 * 2;
    int32_t poc[OVB_MAX_REFERENCES], age[OVB_MAX_REFERENCES];
    ovb_picture_distances(p, age, poc);
    size_t plane = (size_t)list * (size_t)W * (size_t)H;
    for (int y = 0; y < H; y++) {
        const ovb_mv *mv = p->mv[list] + (size_t)y * (size_t)step * (size_t)stride;
        const int8_t *ref = p->ref[list] + (size_t)y * (size_t)step * (size_t)stride;
        size_t row = plane + (size_t)y * (size_t)W;
        for (int x = 0; x < W; x++) {
            int r = ref[x * step], used = r >= 0 && r < p->reference_count;
            if (maps->motion) {
                maps->motion[(row + (size_t)x) * 2] = used ? mv[x * step].x : 0;
                maps->motion[(row + (size_t)x) * 2 + 1] = used ? mv[x * step].y : 0;
            }
            if (maps->poc) maps->poc[row + (size_t)x] = used ? poc[r] : 0;
            if (maps->age) maps->age[row + (size_t)x] = used ? age[r] : 0;
            if (maps->valid) {
                uint8_t *valid = &maps->valid[(size_t)y * (size_t)W + (size_t)x];
                *valid = (uint8_t)(list ? *valid | used << 1 : used);
            }
        }
    }
}

/* Cells as they are kept: a row of all, so that the loops are plain. */
static void copy_row8(const ovb_picture *p, size_t from, size_t to, size_t n, const ovb_maps *maps) {
    const int8_t *restrict qp = p->qp + from;
    const uint32_t *restrict bits = p->bits + from;
    if (maps->kind) memcpy(maps->kind + to, p->kind + from, n);
    if (maps->energy) memcpy(maps->energy + to, p->energy + from, n * sizeof(float));
    if (maps->qp) {
        int16_t *restrict out = maps->qp + to;
        for (size_t x = 0; x < n; x++) out[x] = qp[x];
    }
    if (maps->bits) {
        float *restrict out = maps->bits + to;
        for (size_t x = 0; x < n; x++) out[x] = (float)bits[x] / 4096;
    }
}

static void copy_cells8(const ovb_picture *p, int W, int H, const ovb_maps *maps) {
    for (int y = 0; y < H; y++)
        copy_row8(p, (size_t)y * (size_t)p->width8, (size_t)y * (size_t)W, (size_t)W, maps);
}

/* Cells of another size: a quarter of one, or the sum of up to four. */
static void copy_cells(const ovb_picture *p, int cell, int W, int H, const ovb_maps *maps) {
    for (int y = 0; y < H; y++) {
        for (int x = 0; x < W; x++) {
            size_t to = (size_t)y * (size_t)W + (size_t)x;
            int from_y = y * cell / 8, from_x = x * cell / 8;
            size_t from = (size_t)from_y * (size_t)p->width8 + (size_t)from_x;
            if (maps->kind) maps->kind[to] = p->kind[from];
            if (maps->qp) maps->qp[to] = p->qp[from];
            double bits = p->bits[from], energy = (double)p->energy[from];
            if (cell == 16) {
                int right = from_x + 1 < p->width8, below = from_y + 1 < p->height8;
                size_t down = from + (size_t)p->width8;
                bits += (right ? p->bits[from + 1] : 0.0) + (below ? p->bits[down] : 0.0);
                bits += right && below ? p->bits[down + 1] : 0.0;
                energy += (right ? (double)p->energy[from + 1] : 0.0) + (below ? (double)p->energy[down] : 0.0);
                energy += right && below ? (double)p->energy[down + 1] : 0.0;
            }
            double share = cell == 4 ? 0.25 : 1.0;
            if (maps->bits) maps->bits[to] = (float)(bits * share / 4096);
            if (maps->energy) maps->energy[to] = (float)(energy * share);
        }
    }
}

void ovb_picture_copy(const ovb_picture *p, int cell, int width, int height, const ovb_maps *maps) {
    int W = (width + cell - 1) / cell, H = (height + cell - 1) / cell;
    if (maps->motion || maps->poc || maps->age || maps->valid)
        for (int list = 0; list < 2; list++) copy_motion(p, cell, W, H, list, maps);
    if (maps->velocity && maps->distance) copy_velocity(p, cell, W, H, maps);
    if (!maps->kind && !maps->qp && !maps->bits && !maps->energy) return;
    if (cell == 8) {
        copy_cells8(p, W, H, maps);
    } else {
        copy_cells(p, cell, W, H, maps);
    }
}
