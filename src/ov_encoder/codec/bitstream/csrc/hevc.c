/* HEVC: NAL units to pictures (7.4.2.2, 8.1.3), as the backend that parser.c calls. */
#include "hevc.h"

#include <string.h>

static void *hevc_open(ovb_parser *parser) {
    hevc *h = ovb_alloc(parser, 1, sizeof *h);
    if (!h) return NULL;
    h->parser = parser;
    h->current = -1;
    h->no_rasl = 1;
    h->sequence = -1;
    h->motion_step = parser->limits.cell >= 16 ? 4 : parser->limits.cell >= 8 ? 2 : 1;
    for (int i = 0; i < 2; i++) hevc_basis_start(&h->basis[i], 4 + i);
    return h;
}

static void hevc_close(void *state) {
    hevc *h = state;
    hevc_forget_pictures(h);
    hevc_layout_free(h);
    for (int i = 0; i < HEVC_MAX_SPS; i++) ovb_free(h->parser, h->sps_sets[i]);
    for (int i = 0; i < HEVC_MAX_PPS; i++) ovb_free(h->parser, h->pps_sets[i]);
    ovb_free(h->parser, h);
}

static void read_sps(hevc *h, hevc_reader *r) {
    hevc_sps *set = ovb_alloc(h->parser, 1, sizeof *set);
    if (!set) return;
    int id = hevc_read_sps(r, set);
    if (id < 0) {
        ovb_free(h->parser, set);
        return;
    }
    set->serial = ++h->serial;
    ovb_free(h->parser, h->sps_sets[id]);
    h->sps_sets[id] = set;
}

static void read_pps(hevc *h, hevc_reader *r) {
    hevc_pps *set = ovb_alloc(h->parser, 1, sizeof *set);
    if (!set) return;
    int id = hevc_read_pps(r, set);
    if (id < 0) {
        ovb_free(h->parser, set);
        return;
    }
    set->serial = ++h->serial;
    ovb_free(h->parser, h->pps_sets[id]);
    h->pps_sets[id] = set;
}

/* Whether the picture that begins is to be read; sets NoRaslOutputFlag. */
static int may_start(hevc *h) {
    int irap = h->nal_type >= HEVC_BLA_W_LP && h->nal_type <= HEVC_LAST_IRAP;
    if (irap) {
        h->no_rasl = !h->started || h->sequence_ended || h->nal_type < HEVC_CRA;
        if (h->no_rasl) h->sequence++;
        h->started = 1;
        h->sequence_ended = 0;
    }
    int rasl = h->nal_type == HEVC_RASL_N || h->nal_type == HEVC_RASL_R;
    return h->started && !(rasl && h->no_rasl);
}

static void read_slice(hevc *h, hevc_reader *r, const uint8_t *payload, size_t size) {
    hevc_slice slice;
    if (h->current < 0 && !may_start(h)) return;
    const char *wrong = hevc_read_slice(h, r, &slice);
    if (!wrong && h->current < 0) {
        h->slice = slice;
        if (!hevc_start_picture(h)) return;
        if (!slice.first) ovb_damage(h->parser, "the picture's first slice is missing");
    }
    if (!wrong) {
        h->slice = slice;
        if (!slice.dependent) wrong = hevc_start_slice(h);
    }
    if (!wrong) wrong = hevc_read_data(h, payload, size);
    h->slice_ok = wrong == NULL;
    if (wrong) {
        ovb_damage(h->parser, "%s", wrong);
        h->flags &= ~OVB_EXACT_END;
    }
}

/* Units that, behind a picture's slices, belong to the next picture (7.4.2.4.4). */
static int starts_picture(int type, const uint8_t *payload) {
    if (type <= HEVC_LAST_VCL) return payload[2] >> 7; /* first_slice_segment_in_pic_flag */
    return (type >= HEVC_VPS && type <= HEVC_AUD) || type == HEVC_PREFIX_SEI || (type >= 41 && type <= 44) ||
           (type >= 48 && type <= 55);
}

static int hevc_nal(void *state, const uint8_t *payload, size_t size) {
    hevc *h = state;
    if (size < 3) return OVB_NAL_DONE;
    int type = payload[0] >> 1 & 63, layer = (payload[0] & 1) << 5 | payload[1] >> 3, temporal = payload[1] & 7;
    if (payload[0] & 0x80 || layer != 0 || temporal == 0) return OVB_NAL_DONE; /* other layers are not ours */
    if (h->current >= 0 && starts_picture(type, payload)) return OVB_NAL_NEXT_PICTURE;
    hevc_reader r;
    r.parser = h->parser;
    ovb_bits_init(&r.bits, payload, size);
    ovb_skip(&r.bits, 16);
    if (type <= HEVC_RASL_R || (type >= HEVC_BLA_W_LP && type <= HEVC_CRA)) { /* the others are reserved */
        h->nal_type = type;
        h->temporal_id = temporal - 1;
        read_slice(h, &r, payload, size);
    } else if (type == HEVC_VPS) {
        hevc_read_vps(&r);
    } else if (type == HEVC_SPS) {
        read_sps(h, &r);
    } else if (type == HEVC_PPS) {
        read_pps(h, &r);
    } else if (type == HEVC_EOS || type == HEVC_EOB) {
        h->sequence_ended = 1;
    }
    return OVB_NAL_DONE;
}

static const ovb_picture *hevc_finish(void *state, ovb_frame_info *info) {
    hevc *h = state;
    if (h->current < 0) return NULL;
    const hevc_sps *s = h->sps;
    if (h->ctbs_read < h->ctbs) {
        ovb_damage(h->parser, "%d of %d coding tree units were not read", h->ctbs - h->ctbs_read, h->ctbs);
        h->flags &= ~OVB_EXACT_END;
    }
    info->coded_width = s->width;
    info->coded_height = s->height;
    info->left = s->crop_left;
    info->top = s->crop_top;
    info->width = s->width - s->crop_left - s->crop_right;
    info->height = s->height - s->crop_top - s->crop_bottom;
    info->poc = h->picture->poc;
    info->sequence = h->sequence;
    info->slice_bits = h->slice_bits >> OVB_POS_SHIFT;
    info->slices = h->slices;
    info->flags = h->flags;
    info->type = h->type;
    info->bit_depth = s->depth_luma;
    info->chroma = s->chroma;
    info->references = h->picture->reference_count;
    h->current = -1;
    return h->picture;
}

const ovb_backend ovb_hevc = {hevc_open, hevc_close, hevc_nal, hevc_finish};
