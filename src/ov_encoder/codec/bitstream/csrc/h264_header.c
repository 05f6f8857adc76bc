/* Slice headers (7.3.3). What follows from them is done elsewhere. */
#include "h264.h"

static int read_reorder(ovb_bits *b, h264_header *s, int list) {
    s->reorders[list] = 0;
    if (!ovb_flag(b)) return 0;
    for (int i = 0; i <= H264_MAX_LIST; i++) {
        h264_command *c = &s->reorder[list][i];
        c->op = ovb_ue(b);
        if (c->op == 3) {
            s->reorders[list] = i;
            return 0;
        }
        if (c->op > 2 || b->error) return -1;
        c->a = ovb_ue(b);
    }
    return -1;
}

/* Weights change pixels, not syntax: they are only stepped over. */
static void skip_weights(ovb_bits *b, const h264_header *s, int chroma) {
    ovb_ue(b);
    if (chroma) ovb_ue(b);
    for (int list = 0; list < (s->type == H264_B ? 2 : 1); list++) {
        for (int i = 0; i < s->refs[list]; i++) {
            if (ovb_flag(b)) ovb_se(b), ovb_se(b);
            if (chroma && ovb_flag(b))
                for (int k = 0; k < 4; k++) ovb_se(b);
        }
    }
}

static int read_marking(ovb_bits *b, h264_header *s) {
    s->commands = 0;
    if (s->idr) {
        ovb_flag(b); /* no_output_of_prior_pics_flag */
        s->long_term_idr = ovb_flag(b);
        return 0;
    }
    s->adaptive = ovb_flag(b);
    if (!s->adaptive) return 0;
    for (;;) {
        uint32_t op = ovb_ue(b);
        if (op == 0) return 0;
        if (op > 6 || b->error || s->commands == (int)(sizeof s->command / sizeof *s->command)) return -1;
        h264_command *c = &s->command[s->commands++];
        c->op = op;
        if (op == 1 || op == 3) c->a = ovb_ue(b);       /* difference_of_pic_nums_minus1 */
        if (op == 2) c->a = ovb_ue(b);                  /* long_term_pic_num */
        if (op == 3 || op == 6) c->b = ovb_ue(b);       /* long_term_frame_idx */
        if (op == 4) c->a = ovb_ue(b);                  /* max_long_term_frame_idx_plus1 */
    }
}

static int read_references(ovb_bits *b, h264_header *s, const h264_sps *sps, const h264_pps *pps) {
    s->refs[0] = s->refs[1] = 0;
    s->reorders[0] = s->reorders[1] = 0;
    if (s->type == H264_I) return 0;
    s->refs[0] = pps->refs[0];
    s->refs[1] = s->type == H264_B ? pps->refs[1] : 0;
    if (s->type == H264_B) s->direct_spatial = ovb_flag(b);
    if (ovb_flag(b)) {
        for (int list = 0; list < (s->type == H264_B ? 2 : 1); list++) {
            uint32_t refs = ovb_ue(b);
            if (refs >= H264_MAX_LIST) return -1;
            s->refs[list] = (int)refs + 1;
        }
    }
    if (read_reorder(b, s, 0)) return -1;
    if (s->type == H264_B && read_reorder(b, s, 1)) return -1;
    if ((pps->weighted && s->type == H264_P) || (pps->bipred == 1 && s->type == H264_B))
        skip_weights(b, s, sps->chroma != 0);
    return 0;
}

int h264_read_header(h264 *h, ovb_bits *b, int nal_type, int nal_ref_idc, h264_header *s, const h264_sps **sps_out,
                     const h264_pps **pps_out) {
    static const int8_t types[5] = {H264_P, H264_B, H264_I, -1, -1};
    memset(s, 0, sizeof *s);
    s->nal_ref_idc = nal_ref_idc;
    s->idr = nal_type == 5;
    s->first_mb = ovb_ue(b);
    uint32_t type = ovb_ue(b), pps_id = ovb_ue(b);
    if (type > 9 || pps_id > 255 || !h->pps_by_id[pps_id]) return -1;
    const h264_pps *pps = h->pps_by_id[pps_id];
    const h264_sps *sps = h->sps_by_id[pps->sps_id];
    if (!sps) return -1;
    s->type = types[type % 5];
    if (s->type < 0) {
        ovb_refuse(h->parser, "switching slices (SP, SI)");
        return -1;
    }
    s->pps_id = (int)pps_id;
    s->frame_num = (int)ovb_u(b, sps->frame_num_bits);
    if (!sps->frame_mbs_only && (ovb_flag(b) || sps->mbaff)) {
        ovb_refuse(h->parser, "interlaced (field pictures or macroblock-adaptive fields)");
        return -1;
    }
    if (s->idr) s->idr_pic_id = (int)(ovb_ue(b) & 65535);
    if (sps->poc_type == 0) {
        s->poc_lsb = (int32_t)ovb_u(b, sps->poc_lsb_bits);
        if (pps->poc_present) s->delta_bottom = ovb_se(b);
    } else if (sps->poc_type == 1 && !sps->delta_poc_always_zero) {
        s->delta_poc[0] = ovb_se(b);
        if (pps->poc_present) s->delta_poc[1] = ovb_se(b);
    }
    if (pps->redundant_present) s->redundant = ovb_ue(b) > 0;
    if (read_references(b, s, sps, pps)) return -1;
    if (nal_ref_idc && read_marking(b, s)) return -1;
    if (pps->cabac && s->type != H264_I) {
        uint32_t idc = ovb_ue(b);
        if (idc > 2) return -1;
        s->cabac_init = (int)idc;
    }
    int64_t qp = (int64_t)pps->qp + ovb_se(b);
    if (qp < -6 * (sps->depth_luma - 8) || qp > 51) return -1;
    s->qp = (int)qp;
    if (pps->deblocking_control) {
        uint32_t idc = ovb_ue(b);
        if (idc > 6) return -1;
        if (idc != 1) ovb_se(b), ovb_se(b);
    }
    if (b->error) return -1;
    *sps_out = sps;
    *pps_out = pps;
    return 0;
}
