/* Hostile bytes for the bitstream reader: the body that libFuzzer calls, and a short round of its own.
 *
 * Input: one byte (bit 0: HEVC, else H.264; bits 1-2: cell size), then Annex B bytes. Built for libFuzzer by `make
 * fuzz`; with -DOVB_ROUND it has a main that mutates seed files with a fixed seed: ovb_fuzz ROUNDS SEED FILE...
 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "ovb.h"

static void check(int true_always, const char *what) {
    if (true_always) return;
    fprintf(stderr, "broken promise: %s\n", what);
    abort();
}

static void look(ovb_parser *parser, int cell) {
    ovb_frame_info info;
    check(ovb_frame_info_get(parser, &info) == 0, "a frame has an info");
    check(info.coded_width > 0 && info.coded_height > 0, "a frame has a size");
    size_t W = ((size_t)info.coded_width + (size_t)cell - 1) / (size_t)cell;
    size_t H = ((size_t)info.coded_height + (size_t)cell - 1) / (size_t)cell, cells = W * H;
    ovb_maps maps = {
        malloc(cells * 8), malloc(cells * 8), malloc(cells * 8), malloc(cells),
        malloc(cells),     malloc(cells * 2), malloc(cells * 4), malloc(cells * 4),
    };
    check(ovb_frame_copy(parser, cell, &maps) == 0, "a frame can be copied");
    double bits = 0;
    for (size_t i = 0; i < cells; i++) {
        check(maps.kind[i] <= OVB_INTRA || maps.kind[i] == OVB_MISSING, "kinds are known");
        check(maps.valid[i] <= 3, "two lists");
        check(maps.energy[i] >= 0, "energy is not negative");
        bits += (double)maps.bits[i];
    }
    if (cell == 8 && !(info.flags & OVB_DAMAGED)) check(bits == (double)info.slice_bits, "bits sum exactly");
    free(maps.motion), free(maps.poc), free(maps.age), free(maps.valid);
    free(maps.kind), free(maps.qp), free(maps.energy), free(maps.bits);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
    static const int cells[4] = {8, 4, 16, 8};
    if (size < 1) return 0;
    int cell = cells[data[0] >> 1 & 3];
    ovb_limits limits = {1 << 14, 16 << 20, (uint64_t)cell}; /* small pictures: more of them per second */
    ovb_parser *parser = ovb_open(data[0] & 1 ? 265 : 264, &limits);
    check(parser != NULL, "a parser opens");
    size_t at = 1;
    while (at < size) {
        size_t used = 0;
        int status = ovb_feed(parser, data + at, size - at, &used);
        check(used <= size - at, "no more is used than was given");
        if (status == OVB_FRAME) look(parser, cell);
        if (status == OVB_REFUSED || status == OVB_MEMORY) check(ovb_reason(parser)[0] != 0, "a refusal has a reason");
        check(used > 0 || status == OVB_REFUSED || status == OVB_MEMORY, "feeding ends");
        if (status == OVB_REFUSED || status == OVB_MEMORY) break;
        at += used;
    }
    ovb_close(parser);
    return 0;
}

#ifdef OVB_ROUND
static uint64_t state;

static uint32_t next(void) { /* xorshift */
    state ^= state << 13, state ^= state >> 7, state ^= state << 17;
    return (uint32_t)(state >> 32);
}

static void mutate(uint8_t *data, size_t size) {
    uint32_t changes = 1 + next() % 6;
    for (uint32_t i = 0; i < changes; i++) {
        size_t at = 1 + next() % (size - 1), end = at + next() % 16;
        switch (next() % 4) {
        case 0: data[at] ^= (uint8_t)(1u << next() % 8); break;
        case 1: data[at] = (uint8_t)next(); break;
        case 2:
            for (; at < end && at < size; at++) data[at] = 0;
            break;
        default: /* move something to where it does not belong */
            for (size_t from = 1 + next() % (size - 1); at < end && at < size && from < size; at++) data[at] = data[from++];
        }
    }
}

int main(int argc, char **argv) {
    int rounds = argc > 3 ? atoi(argv[1]) : 0;
    state = argc > 3 ? strtoull(argv[2], NULL, 10) * 2654435769u + 1 : 1;
    for (int i = 3; i < argc; i++) {
        FILE *file = fopen(argv[i], "rb");
        if (!file) return 2;
        static uint8_t seed[1 << 20];
        size_t size = fread(seed, 1, sizeof seed, file);
        fclose(file);
        LLVMFuzzerTestOneInput(seed, size);
        for (int round = 0; size > 1 && round < rounds; round++) {
            uint8_t *copy = malloc(size); /* of its own, so that reading past its end is seen */
            memcpy(copy, seed, size);
            mutate(copy, size);
            size_t cut = next() % 8 ? size : 1 + next() % size;
            uint8_t *exact = cut < size ? realloc(copy, cut) : copy;
            LLVMFuzzerTestOneInput(exact, cut);
            free(exact);
        }
    }
    return 0;
}
#endif
