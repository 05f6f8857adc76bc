/* The arithmetic decoder that H.264 (9.3) and HEVC (9.3.4.3) share, with its exact fractional position in bits.
 *
 * `value` holds codIOffset in its top 10 bits (the first is spare, for bypass bins), below it bits that the standard's
 * decoder has not read yet, and behind the last of them a mark: the lowest bit that is 1. range << OVB_TOP is compared
 * with it. A context is 7 bits: pStateIdx << 1 | valMPS. Reading is bounded: past the end come zeros, and
 * ovb_cabac_overran tells.
 */
#ifndef OVB_CABAC_H
#define OVB_CABAC_H

#include "bitreader.h"

#define OVB_POS_SHIFT 12 /* positions are in 1 / 4096 bit, so differences of blocks sum exactly */

#define OVB_TOP 54

extern const uint8_t ovb_cabac_lps[512];   /* rangeTabLPS by (range >> 6) & 3, then context */
extern const uint8_t ovb_cabac_next[256];  /* at 128 + context: the context after an MPS; at 127 - context: after an LPS */
extern const uint16_t ovb_cabac_log2[256]; /* log2 of a range of 256..511, in 1 / 4096 bit */

typedef struct ovb_cabac {
    uint64_t value;
    uint32_t range; /* 256..510 between bins */
    const uint8_t *next, *end, *start;
} ovb_cabac;

/* 32 more bits at the mark, which is not below bit 32. Behind `end` lies the zero padding, in which `next` stops. */
static inline void ovb_cabac_fill(ovb_cabac *c) {
    const uint8_t *p = c->next;
    uint64_t word = (uint32_t)p[0] << 24 | (uint32_t)p[1] << 16 | (uint32_t)p[2] << 8 | (uint32_t)p[3];
    int mark = __builtin_ctzll(c->value);
    c->value += ((word << 1 | 1) << (mark - 32)) - ((uint64_t)1 << mark);
    c->next += p < c->end + 32 ? 4 : 0;
}

/* At least 22 bits are there afterwards: a bin takes 8 at most, so this is enough for two. */
static inline void ovb_cabac_need(ovb_cabac *c) {
    if (OVB_UNLIKELY((uint32_t)c->value == 0)) ovb_cabac_fill(c);
}

/* Start at the byte `data`; OVB_PAD readable bytes follow `bytes`. */
static inline void ovb_cabac_init(ovb_cabac *c, const uint8_t *data, size_t bytes) {
    c->start = c->next = data;
    c->end = data + bytes;
    c->value = (uint64_t)1 << (OVB_TOP + 8); /* 9 bits are missing */
    c->range = 510;
    ovb_cabac_fill(c);
}

static inline int ovb_decision(ovb_cabac *c, uint8_t *context) {
    ovb_cabac_need(c);
    int64_t state = *context;
    uint32_t lps = ovb_cabac_lps[(c->range & 192) * 2 + (uint64_t)state];
    uint32_t range = c->range - lps;
    uint64_t scaled = (uint64_t)range << OVB_TOP;
    int64_t is_lps = -(int64_t)(c->value >= scaled); /* a mask: bins are hard to predict */
    state ^= is_lps;
    *context = ovb_cabac_next[128 + state];
    range += (lps - range) & (uint32_t)is_lps;
    int shift = __builtin_clz(range) - 23;
    c->value = (c->value - (scaled & (uint64_t)is_lps)) << shift;
    c->range = range << shift;
    return (int)(state & 1);
}

static inline int ovb_bypass(ovb_cabac *c) {
    ovb_cabac_need(c);
    uint64_t scaled = (uint64_t)c->range << OVB_TOP, value = c->value << 1;
    uint64_t bin = (uint64_t)0 - (uint64_t)(value >= scaled);
    c->value = value - (scaled & bin);
    return (int)(bin & 1);
}

/* n bypass bins, first one highest, 0 <= n <= 32. */
static inline uint32_t ovb_bypass_bins(ovb_cabac *c, int n) {
    uint32_t bins = 0;
    while (n-- > 0) bins = bins << 1 | (uint32_t)ovb_bypass(c);
    return bins;
}

/* A terminate bin. After a 1 the decoder is at ovb_cabac_end, and must be initialised again before more bins. */
static inline int ovb_terminate(ovb_cabac *c) {
    ovb_cabac_need(c);
    uint32_t range = c->range - 2;
    if (c->value >= (uint64_t)range << OVB_TOP) {
        c->range = 256; /* 2, renormalised: 7 more bits are read */
        c->value <<= 7;
        return 1;
    }
    int shift = range < 256;
    c->value <<= shift;
    c->range = range << shift;
    return 0;
}

/* Bits that the standard's decoder has read since `start`. */
static inline size_t ovb_cabac_read(const ovb_cabac *c) {
    size_t ahead = OVB_TOP - 1 - (size_t)__builtin_ctzll(c->value);
    return (size_t)(c->next - c->start) * 8 - ahead;
}

/* After a terminate bin of 1: bits up to and with the last bit that the encoder flushed, which is the
 * rbsp_stop_one_bit at the end of a slice or substream. PCM alignment or the next substream's alignment starts here.
 * (The 7 bits of the last renormalisation are not part of the code.) */
static inline size_t ovb_cabac_end(const ovb_cabac *c) { return ovb_cabac_read(c) - 7; }

/* Fractional position in bits << OVB_POS_SHIFT: what the bins so far have cost. Close to 0 after init. */
static inline int64_t ovb_cabac_position(const ovb_cabac *c) {
    return ((int64_t)ovb_cabac_read(c) << OVB_POS_SHIFT) - ovb_cabac_log2[c->range - 256];
}

/* Whether more bits were needed than there are (the last renormalisation's 7 do not count). Check it at least once per
 * block: after the end zeros come. */
static inline int ovb_cabac_overran(const ovb_cabac *c) {
    return ovb_cabac_read(c) > (size_t)(c->end - c->start) * 8 + 7;
}

#endif
