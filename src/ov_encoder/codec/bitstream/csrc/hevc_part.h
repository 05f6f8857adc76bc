/* How a coding unit is cut into prediction blocks (Table 7-10). */
#ifndef OVB_HEVC_PART_H
#define OVB_HEVC_PART_H

enum hevc_part_mode { HEVC_2Nx2N, HEVC_2NxN, HEVC_Nx2N, HEVC_NxN, HEVC_2NxnU, HEVC_2NxnD, HEVC_nLx2N, HEVC_nRx2N };

typedef struct hevc_block {
    int x, y, w, h;
} hevc_block;

static inline int hevc_parts(int mode) { return mode == HEVC_2Nx2N ? 1 : mode == HEVC_NxN ? 4 : 2; }

/* Two blocks, one upon the other (1) or side by side (2); else 0. */
static inline int hevc_part_direction(int mode) {
    return mode == HEVC_2NxN || mode == HEVC_2NxnU || mode == HEVC_2NxnD   ? 1
           : mode == HEVC_Nx2N || mode == HEVC_nLx2N || mode == HEVC_nRx2N ? 2
                                                                           : 0;
}

/* The block of one part, inside its coding unit of `size`. */
static inline void hevc_part_block(int mode, int part, int size, hevc_block *block) {
    int half = size >> 1, quarter = size >> 2;
    int cut = half;
    if (mode == HEVC_2NxnU || mode == HEVC_nLx2N) cut = quarter;
    if (mode == HEVC_2NxnD || mode == HEVC_nRx2N) cut = size - quarter;
    int direction = hevc_part_direction(mode);
    block->x = block->y = 0;
    block->w = block->h = size;
    if (direction == 1) {
        block->y = part ? cut : 0;
        block->h = part ? size - cut : cut;
    } else if (direction == 2) {
        block->x = part ? cut : 0;
        block->w = part ? size - cut : cut;
    } else if (mode == HEVC_NxN) {
        block->x = (part & 1) * half;
        block->y = (part >> 1) * half;
        block->w = block->h = half;
    }
}

#endif
