/* Annex B: finding NAL units and removing their emulation prevention bytes. Bits are read in bitreader.h. */
#include "bitreader.h"

/* The first 00 00 01 at or after `offset`; `size` if none. */
static size_t start_code(const uint8_t *bytes, size_t size, size_t offset) {
    while (offset + 3 <= size) {
        /* A start code ends in 01 after two zeros: look for the 01, which is rarer than zeros are. */
        const uint8_t *one = memchr(bytes + offset + 2, 1, size - offset - 2);
        if (!one) return size;
        size_t at = (size_t)(one - bytes);
        if (bytes[at - 1] == 0 && bytes[at - 2] == 0) return at - 2;
        offset = at - 1;
    }
    return size;
}

const uint8_t *ovb_next_nal(const uint8_t *bytes, size_t size, size_t *offset, size_t *nal_size) {
    for (;;) {
        size_t begin = start_code(bytes, size, *offset);
        if (begin == size) {
            *offset = size;
            return NULL;
        }
        begin += 3;
        size_t end = start_code(bytes, size, begin);
        *offset = end;
        while (end > begin && bytes[end - 1] == 0) end--;
        if (end > begin) {
            *nal_size = end - begin;
            return bytes + begin;
        }
    }
}

size_t ovb_unescape(const uint8_t *nal, size_t size, uint8_t *out) {
    size_t read = 0, written = 0;
    while (read < size) {
        const uint8_t *three = size - read > 2 ? memchr(nal + read + 2, 3, size - read - 2) : NULL;
        size_t upto = three ? (size_t)(three - nal) : size;
        memcpy(out + written, nal + read, upto - read);
        written += upto - read;
        read = upto;
        if (!three) break;
        if (nal[read - 1] == 0 && nal[read - 2] == 0) {
            read++; /* 00 00 03: the 03 goes, and zeros count afresh */
        } else {
            out[written++] = nal[read++];
        }
    }
    memset(out + written, 0, OVB_PAD);
    return written;
}
