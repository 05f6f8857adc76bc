/* What follows from a pair of parameter sets: CTB order with tiles (6.5.1), scaling factors, memory for one picture. */
#include <string.h>

#include "hevc.h"
#include "hevc_scan.h"

void hevc_layout_free(hevc *h) {
    ovb_free(h->parser, h->to_ts);
    ovb_free(h->parser, h->to_rs);
    ovb_free(h->parser, h->tile);
    ovb_free(h->parser, h->tile_left);
    ovb_free(h->parser, h->ctb_slice);
    ovb_free(h->parser, h->depth8);
    ovb_free(h->parser, h->mode4);
    ovb_free(h->parser, h->motion4);
    ovb_free(h->parser, h->entry);
    h->to_ts = h->to_rs = h->ctb_slice = NULL;
    h->tile = h->tile_left = NULL;
    h->depth8 = h->mode4 = NULL;
    h->motion4 = NULL;
    h->entry = NULL;
    h->layout_sps = h->layout_pps = 0;
    h->width8 = h->height8 = h->ctbs = 0;
}

static int allocate(hevc *h) {
    size_t cells = (size_t)h->width8 * (size_t)h->height8, ctbs = (size_t)h->ctbs;
    h->entry_room = (uint32_t)h->height_ctb * HEVC_MAX_TILE_COLUMNS;
    h->to_ts = ovb_alloc(h->parser, ctbs, sizeof *h->to_ts);
    h->to_rs = ovb_alloc(h->parser, ctbs, sizeof *h->to_rs);
    h->tile = ovb_alloc(h->parser, ctbs, sizeof *h->tile);
    h->tile_left = ovb_alloc(h->parser, (size_t)h->width_ctb, sizeof *h->tile_left);
    h->ctb_slice = ovb_alloc(h->parser, ctbs, sizeof *h->ctb_slice);
    h->depth8 = ovb_alloc(h->parser, cells, 1);
    h->mode4 = ovb_alloc(h->parser, cells * 4, 1);
    h->motion4 = ovb_alloc(h->parser, cells * 4, sizeof *h->motion4);
    h->entry = ovb_alloc(h->parser, h->entry_room, sizeof *h->entry);
    return h->to_ts && h->to_rs && h->tile && h->tile_left && h->ctb_slice && h->depth8 && h->mode4 && h->motion4 &&
           h->entry;
}

/* Borders of n tiles over `total` CTBs: border[0] = 0 .. border[n] = total. 0 if they do not fit. */
static int borders(int n, int total, int uniform, const uint16_t *size, int *border) {
    if (n > total) return 0;
    border[0] = 0;
    for (int i = 0; i < n; i++) {
        if (uniform)
            border[i + 1] = (i + 1) * total / n;
        else
            border[i + 1] = i + 1 < n ? border[i] + size[i] : total;
        if (border[i + 1] <= border[i] || border[i + 1] > total) return 0;
    }
    return 1;
}

static int order_ctbs(hevc *h, const hevc_pps *p) {
    int column[HEVC_MAX_TILE_COLUMNS + 1], row[HEVC_MAX_TILE_ROWS + 1], ts = 0, tile = 0;
    if (!borders(p->tile_columns, h->width_ctb, p->uniform_tiles, p->column_width, column)) return 0;
    if (!borders(p->tile_rows, h->height_ctb, p->uniform_tiles, p->row_height, row)) return 0;
    for (int r = 0; r < p->tile_rows; r++) {
        for (int c = 0; c < p->tile_columns; c++, tile++) {
            for (int y = row[r]; y < row[r + 1]; y++) {
                for (int x = column[c]; x < column[c + 1]; x++, ts++) {
                    int rs = y * h->width_ctb + x;
                    h->to_ts[rs] = ts;
                    h->to_rs[ts] = rs;
                    h->tile[rs] = (uint16_t)tile;
                    h->tile_left[x] = (uint16_t)column[c];
                }
            }
        }
    }
    return 1;
}

/* ScalingFactor of luma (7.3.4): the 8x8 list is enlarged for 16x16 and 32x32, whose DC stands apart. */
static void make_factors(hevc *h, const hevc_scaling *s) {
    for (int inter = 0; inter < 2; inter++) {
        for (int size = 0; size < 4; size++) {
            const uint8_t *list = s->list[size][inter * 3];
            uint16_t *factor = h->scaling[inter][size];
            int n = 4 << size, up = size > 1 ? size - 1 : 0;
            for (int i = 0; i < (size ? 64 : 16); i++) {
                int at = size ? hevc_scan64[i] : hevc_scan16[HEVC_DIAGONAL][i];
                int at_x = size ? at & 7 : at & 3, at_y = size ? at >> 3 : at >> 2;
                for (int y = at_y << up; y < (at_y + 1) << up; y++)
                    for (int x = at_x << up; x < (at_x + 1) << up; x++) factor[y * n + x] = list[i];
            }
            if (size > 1) factor[0] = s->dc[size - 2][inter * 3];
        }
    }
}

int hevc_layout(hevc *h, const hevc_sps *sps, const hevc_pps *pps) {
    h->sps = sps;
    h->pps = pps;
    if (h->layout_sps == sps->serial && h->layout_pps == pps->serial) return 1;
    int width8 = sps->width / 8, height8 = sps->height / 8, ctb = 1 << sps->log2_ctb;
    int width_ctb = (sps->width + ctb - 1) / ctb, height_ctb = (sps->height + ctb - 1) / ctb;
    if (width8 != h->width8 || height8 != h->height8 || width_ctb * height_ctb != h->ctbs) {
        if ((uint64_t)sps->width * (uint64_t)sps->height > h->parser->limits.pixels) {
            ovb_refuse(h->parser, "pictures of %dx%d are larger than the limit", sps->width, sps->height);
            return 0;
        }
        if (width8 != h->width8 || height8 != h->height8) hevc_forget_pictures(h);
        hevc_layout_free(h);
        h->width8 = width8, h->height8 = height8, h->width4 = width8 * 2;
        h->width_ctb = width_ctb, h->height_ctb = height_ctb, h->ctbs = width_ctb * height_ctb;
        if (!allocate(h)) {
            hevc_layout_free(h);
            return 0;
        }
    }
    h->layout_sps = h->layout_pps = 0;
    if (!order_ctbs(h, pps)) return 0;
    if (sps->scaling_enabled) make_factors(h, pps->scaling_present ? &pps->scaling : &sps->scaling);
    h->layout_sps = sps->serial, h->layout_pps = pps->serial;
    return 1;
}
