/* What is kept of one picture, and how it gets into the caller's maps. Knows nothing of any codec's syntax.
 *
 * Motion lies on 4x4 blocks, everything else on 8x8 cells. Pictures cover whole cells: width8 = ceil(width / 8).
 */
#ifndef OVB_PICTURE_H
#define OVB_PICTURE_H

#include "ovb.h"

typedef struct ovb_mv {
    int16_t x, y; /* quarter luma samples */
} ovb_mv;

typedef struct ovb_reference {
    int32_t poc;
    int64_t decode_index; /* -1: never read, stands in for a picture that is missing */
    int32_t long_term;
} ovb_reference;

typedef struct ovb_picture {
    int32_t width8, height8;
    ovb_mv *mv[2];    /* [height8 * 2, width8 * 2] by list; whatever where ref is -1 */
    int8_t *ref[2];   /* the same shape: index into references, -1 where the list is not used */
    uint8_t *kind;    /* [height8, width8] enum ovb_kind */
    int8_t *qp;       /* luma, without the bit depth's offset */
    uint32_t *bits;   /* in 1 / 4096 bit */
    float *energy;    /* sum of squares of the luma residual, 8-bit scale */
    ovb_reference references[OVB_MAX_REFERENCES]; /* every picture that a slice of this one refers to, once */
    int32_t reference_count;
    int32_t poc;
    int64_t decode_index;
} ovb_picture;

/* NULL without memory. */
ovb_picture *ovb_picture_new(ovb_parser *parser, int width8, int height8);
void ovb_picture_free(ovb_parser *parser, ovb_picture *picture); /* NULL is fine */

/* Forget the contents: every cell OVB_MISSING, no list used, no bits, no energy, no references. */
void ovb_picture_clear(ovb_picture *picture);

/* The index of a reference in picture->references; added if new. -1 if there is no room. */
int ovb_picture_reference(ovb_picture *picture, ovb_reference reference);

/* Age and POC distance of every reference, seen from the picture; how many. */
int ovb_picture_distances(const ovb_picture *picture, int32_t *age, int32_t *poc);

/* Fill the caller's maps; cell is 4, 8 or 16. */
void ovb_picture_copy(const ovb_picture *picture, int cell, int width, int height, const ovb_maps *maps);

#endif
