/* Raw byte sequence payloads: NAL units without emulation prevention, and a bounded bit reader over them.
 *
 * Contract: OVB_PAD readable zero bytes follow the payload. Reading past its end sets `error` and gives zeros.
 */
#ifndef OVB_BITREADER_H
#define OVB_BITREADER_H

#include <stddef.h>
#include <stdint.h>
#include <string.h>

#define OVB_PAD 64

#define OVB_LIKELY(x) __builtin_expect(!!(x), 1)
#define OVB_UNLIKELY(x) __builtin_expect(!!(x), 0)

typedef struct ovb_bits {
    const uint8_t *data;
    size_t pos;  /* next bit */
    size_t end;  /* bits that may be read */
    int error;   /* something was read past the end, or a code was too long */
} ovb_bits;

static inline uint64_t ovb_load64(const uint8_t *p) { /* big endian; the compiler makes one load and one swap of it */
    return (uint64_t)p[0] << 56 | (uint64_t)p[1] << 48 | (uint64_t)p[2] << 40 | (uint64_t)p[3] << 32 |
           (uint64_t)p[4] << 24 | (uint64_t)p[5] << 16 | (uint64_t)p[6] << 8 | (uint64_t)p[7];
}

static inline void ovb_bits_init(ovb_bits *b, const uint8_t *data, size_t bytes) {
    b->data = data;
    b->pos = 0;
    b->end = bytes * 8;
    b->error = 0;
}

static inline size_t ovb_bits_left(const ovb_bits *b) { return b->end - b->pos; }

/* The next n bits, 1 <= n <= 32, without moving; zeros after the end. */
static inline uint32_t ovb_peek(const ovb_bits *b, int n) {
    uint64_t word = ovb_load64(b->data + (b->pos >> 3)) << (b->pos & 7);
    return (uint32_t)(word >> (64 - n));
}

static inline void ovb_skip(ovb_bits *b, size_t n) {
    if (OVB_UNLIKELY(n > b->end - b->pos)) {
        b->error = 1;
        b->pos = b->end;
        return;
    }
    b->pos += n;
}

/* u(n), 0 <= n <= 32. */
static inline uint32_t ovb_u(ovb_bits *b, int n) {
    if (n == 0) return 0;
    if (OVB_UNLIKELY((size_t)n > b->end - b->pos)) {
        b->error = 1;
        b->pos = b->end;
        return 0;
    }
    uint32_t value = ovb_peek(b, n);
    b->pos += (size_t)n;
    return value;
}

static inline int ovb_flag(ovb_bits *b) { return (int)ovb_u(b, 1); }

/* ue(v) up to 2^32 - 2 (clause 9.1 of both standards). */
static inline uint32_t ovb_ue(ovb_bits *b) {
    uint32_t word = ovb_peek(b, 32);
    int zeros = word ? __builtin_clz(word) : 32;
    if (OVB_UNLIKELY(zeros > 31)) {
        b->error = 1;
        b->pos = b->end;
        return 0;
    }
    ovb_skip(b, (size_t)zeros);
    uint32_t code = ovb_u(b, zeros + 1);
    return code ? code - 1 : 0; /* 0: past the end */
}

/* se(v). */
static inline int32_t ovb_se(ovb_bits *b) {
    uint32_t k = ovb_ue(b);
    return k & 1 ? (int32_t)(k >> 1) + 1 : -(int32_t)(k >> 1);
}

static inline void ovb_align(ovb_bits *b) { ovb_skip(b, (size_t)(-(ptrdiff_t)b->pos & 7)); }

/* Position of the rbsp_stop_one_bit: the last 1 bit of the payload (cabac_zero_words are skipped); 0 if all zero. */
static inline size_t ovb_stop_bit(const uint8_t *data, size_t bytes) {
    while (bytes && data[bytes - 1] == 0) bytes--;
    return bytes ? bytes * 8 - 1 - (size_t)__builtin_ctz(data[bytes - 1]) : 0;
}

/* more_rbsp_data(): `stop` from ovb_stop_bit. */
static inline int ovb_more_data(const ovb_bits *b, size_t stop) { return b->pos < stop; }

/* The next NAL unit in Annex B bytes from *offset on. Returns its first byte (header) and sets *size (trailing zero
 * bytes removed) and *offset (behind it); NULL when there is none. */
const uint8_t *ovb_next_nal(const uint8_t *bytes, size_t size, size_t *offset, size_t *nal_size);

/* Copy a NAL unit without its emulation prevention bytes; `out` has room for size + OVB_PAD bytes, and is padded.
 * Returns the size of the payload (with the NAL header, which is copied as it is). */
size_t ovb_unescape(const uint8_t *nal, size_t size, uint8_t *out);

#endif
