/* Sequence and picture parameter sets (7.3.2.1, 7.3.2.2), checked while they are read. Not which of them is in use. */
#include "h264.h"
#include "h264_tables.h"

static int has_chroma_fields(int profile) {
    static const uint8_t high[] = {100, 110, 122, 244, 44, 83, 86, 118, 128, 138, 139, 134, 135};
    for (size_t i = 0; i < sizeof high; i++)
        if (profile == high[i]) return 1;
    return 0;
}

/* 7.3.2.1.1.1: H264_LIST_DEFAULT or H264_LIST_GIVEN. */
static int read_list(ovb_bits *b, uint8_t *list, int size) {
    int last = 8, next = 8;
    for (int i = 0; i < size; i++) {
        if (next) {
            next = (last + (int)(ovb_se(b) & 255)) & 255;
            if (i == 0 && next == 0) return H264_LIST_DEFAULT;
        }
        list[i] = (uint8_t)(next ? next : last);
        last = list[i];
    }
    return H264_LIST_GIVEN;
}

/* All lists of a set; those of luma are kept: 4x4 lists 0 and 3, 8x8 lists 0 and 1. */
static void read_lists(ovb_bits *b, int count, uint8_t given4[2], uint8_t list4[2][16], uint8_t given8[2],
                       uint8_t list8[2][64]) {
    uint8_t other[64];
    given4[0] = given4[1] = given8[0] = given8[1] = H264_LIST_ABSENT;
    for (int i = 0; i < count; i++) {
        if (!ovb_flag(b)) continue;
        if (i == 0 || i == 3) {
            given4[i == 3] = (uint8_t)read_list(b, list4[i == 3], 16);
        } else if (i == 6 || i == 7) {
            given8[i == 7] = (uint8_t)read_list(b, list8[i == 7], 64);
        } else {
            read_list(b, other, i < 6 ? 16 : 64);
        }
    }
}

static void read_sps_lists(ovb_bits *b, h264_sps *s, int count) {
    uint8_t given4[2], given8[2];
    read_lists(b, count, given4, s->list4, given8, s->list8);
    for (int i = 0; i < 2; i++) { /* fall-back rule set A (Table 7-2) */
        if (given4[i] != H264_LIST_GIVEN) memcpy(s->list4[i], h264_default4[i], 16);
        if (given8[i] != H264_LIST_GIVEN) memcpy(s->list8[i], h264_default8[i], 64);
    }
}

static int read_order(ovb_bits *b, h264_sps *s) {
    uint32_t poc_type = ovb_ue(b);
    if (poc_type > 2) return -1;
    s->poc_type = (int)poc_type;
    if (poc_type == 0) {
        uint32_t bits = ovb_ue(b);
        if (bits > 12) return -1;
        s->poc_lsb_bits = (int)bits + 4;
    } else if (poc_type == 1) {
        s->delta_poc_always_zero = ovb_flag(b);
        s->offset_non_ref = ovb_se(b);
        s->offset_bottom = ovb_se(b);
        uint32_t cycle = ovb_ue(b);
        if (cycle > 255) return -1;
        s->cycle = (int)cycle;
        for (uint32_t i = 0; i < cycle; i++) s->offsets[i] = ovb_se(b);
    }
    return 0;
}

static int read_crop(ovb_bits *b, h264_sps *s) {
    if (!ovb_flag(b)) return 0;
    int unit_x = s->chroma == 1 || s->chroma == 2 ? 2 : 1;
    int unit_y = (s->chroma == 1 ? 2 : 1) * (2 - s->frame_mbs_only);
    for (int i = 0; i < 4; i++) {
        uint32_t n = ovb_ue(b);
        if (n > 65536) return -1;
        s->crop[i] = (int)n * (i < 2 ? unit_x : unit_y);
    }
    return s->crop[0] + s->crop[1] < s->mb_width * 16 && s->crop[2] + s->crop[3] < s->mb_height * 16 ? 0 : -1;
}

int h264_read_sps(h264 *h, ovb_bits *b) {
    h264_sps s;
    memset(&s, 0, sizeof s);
    int profile = (int)ovb_u(b, 8);
    ovb_u(b, 16); /* constraint flags, level */
    uint32_t id = ovb_ue(b);
    if (id > 31) return -1;
    s.chroma = 1;
    s.depth_luma = s.depth_chroma = 8;
    memset(s.list4, 16, sizeof s.list4);
    memset(s.list8, 16, sizeof s.list8);
    if (has_chroma_fields(profile)) {
        uint32_t chroma = ovb_ue(b);
        if (chroma > 3) return -1;
        s.chroma = (int)chroma;
        if (chroma == 3 && ovb_flag(b)) {
            ovb_refuse(h->parser, "separate colour planes");
            return -1;
        }
        uint32_t luma = ovb_ue(b), chroma_depth = ovb_ue(b);
        if (luma > 6 || chroma_depth > 6) return -1;
        s.depth_luma = 8 + (int)luma;
        s.depth_chroma = 8 + (int)chroma_depth;
        s.lossless = ovb_flag(b);
        s.has_lists = ovb_flag(b);
        if (s.has_lists) read_sps_lists(b, &s, chroma == 3 ? 12 : 8);
    }
    uint32_t frame_num_bits = ovb_ue(b);
    if (frame_num_bits > 12) return -1;
    s.frame_num_bits = (int)frame_num_bits + 4;
    if (read_order(b, &s)) return -1;
    uint32_t refs = ovb_ue(b);
    if (refs > 16) return -1;
    s.max_refs = (int)refs;
    s.gaps_allowed = ovb_flag(b);
    uint32_t width = ovb_ue(b), height = ovb_ue(b);
    s.frame_mbs_only = ovb_flag(b);
    if (width > 4095 || height > 4095) return -1;
    s.mb_width = (int)width + 1;
    s.mb_height = ((int)height + 1) * (2 - s.frame_mbs_only);
    if (!s.frame_mbs_only) s.mbaff = ovb_flag(b);
    s.direct_8x8 = ovb_flag(b);
    if (read_crop(b, &s)) return -1;
    if (b->error) return -1;
    if ((uint64_t)s.mb_width * (uint64_t)s.mb_height * 256 > h->parser->limits.pixels) {
        ovb_refuse(h->parser, "a picture of %d x %d pixels; the limit is %llu", s.mb_width * 16, s.mb_height * 16,
                   (unsigned long long)h->parser->limits.pixels);
        return -1;
    }
    if (!h->sps_by_id[id] && !(h->sps_by_id[id] = ovb_alloc(h->parser, 1, sizeof s))) return -1;
    *h->sps_by_id[id] = s;
    return 0;
}

int h264_read_pps(h264 *h, ovb_bits *b, size_t stop) {
    h264_pps p;
    memset(&p, 0, sizeof p);
    uint32_t id = ovb_ue(b), sps_id = ovb_ue(b);
    if (id > 255 || sps_id > 31 || !h->sps_by_id[sps_id]) return -1;
    p.sps_id = (int)sps_id;
    p.cabac = ovb_flag(b);
    p.poc_present = ovb_flag(b);
    if (ovb_ue(b) > 0) {
        ovb_refuse(h->parser, "slice groups (flexible macroblock ordering)");
        return -1;
    }
    for (int i = 0; i < 2; i++) {
        uint32_t refs = ovb_ue(b);
        if (refs >= H264_MAX_LIST) return -1;
        p.refs[i] = (int)refs + 1;
    }
    p.weighted = ovb_flag(b);
    p.bipred = (int)ovb_u(b, 2);
    int32_t qp = ovb_se(b);
    if (qp < -26 - 36 || qp > 25) return -1;
    p.qp = 26 + qp;
    ovb_se(b); /* pic_init_qs */
    ovb_se(b); /* chroma_qp_index_offset */
    p.deblocking_control = ovb_flag(b);
    ovb_flag(b); /* constrained_intra_pred_flag: matters for pixels only */
    p.redundant_present = ovb_flag(b);
    if (ovb_more_data(b, stop)) {
        p.transform8x8 = ovb_flag(b);
        p.has_lists = ovb_flag(b);
        if (p.has_lists) {
            int lists8 = p.transform8x8 ? (h->sps_by_id[sps_id]->chroma == 3 ? 6 : 2) : 0;
            read_lists(b, 6 + lists8, p.given4, p.list4, p.given8, p.list8);
        }
        ovb_se(b); /* second_chroma_qp_index_offset */
    }
    if (b->error) return -1;
    if (!h->pps_by_id[id] && !(h->pps_by_id[id] = ovb_alloc(h->parser, 1, sizeof p))) return -1;
    *h->pps_by_id[id] = p;
    return 0;
}
