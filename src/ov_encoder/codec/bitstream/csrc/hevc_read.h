/* Reading HEVC headers: bounded syntax elements with their names, which a listener hears. No meaning here. */
#ifndef OVB_HEVC_READ_H
#define OVB_HEVC_READ_H

#include "parser.h"

typedef struct hevc_reader {
    ovb_bits bits;
    ovb_parser *parser;
} hevc_reader;

static inline void hevc_say(hevc_reader *r, const char *name, int64_t value) {
    if (OVB_UNLIKELY(r->parser->listener != NULL)) r->parser->listener(r->parser->listener_user, name, value);
}

static inline uint32_t hevc_u(hevc_reader *r, int n, const char *name) {
    uint32_t value = ovb_u(&r->bits, n);
    hevc_say(r, name, value);
    return value;
}

static inline uint8_t hevc_flag(hevc_reader *r, const char *name) { return (uint8_t)hevc_u(r, 1, name); }

/* ue(v) of 0..max; a larger one is an error and reads as 0. */
static inline uint32_t hevc_ue(hevc_reader *r, uint32_t max, const char *name) {
    uint32_t value = ovb_ue(&r->bits);
    hevc_say(r, name, value);
    if (OVB_UNLIKELY(value > max)) {
        r->bits.error = 1;
        return 0;
    }
    return value;
}

/* se(v) of min..max; another one is an error and reads as 0. */
static inline int32_t hevc_se(hevc_reader *r, int32_t min, int32_t max, const char *name) {
    int32_t value = ovb_se(&r->bits);
    hevc_say(r, name, value);
    if (OVB_UNLIKELY(value < min || value > max)) {
        r->bits.error = 1;
        return 0;
    }
    return value;
}

static inline int hevc_ceil_log2(uint32_t value) { return value <= 1 ? 0 : 32 - __builtin_clz(value - 1); }

#endif
