/* ovb: read motion, kinds, QP, residual energy and bits from H.264 and HEVC streams without decoding a pixel.
 *
 * The public interface, and nothing else: what Python sees through ctypes. One parser reads one stream; parsers share
 * nothing, so each may live in a thread of its own. No function here aborts, recurses on input or reads past a buffer.
 */
#ifndef OVB_H
#define OVB_H

#include <stddef.h>
#include <stdint.h>

#if defined(_WIN32)
#define OVB_API __declspec(dllexport)
#else
#define OVB_API __attribute__((visibility("default")))
#endif

#define OVB_VERSION 3
#define OVB_MAX_REFERENCES 64

typedef struct ovb_parser ovb_parser;

/* Caps on what a stream may ask for; 0 means the default in brackets. */
typedef struct ovb_limits {
    uint64_t pixels; /* luma samples of a picture [8192 * 8192] */
    uint64_t bytes;  /* memory of one parser [1 GiB] */
    uint64_t cell;   /* the smallest cell that ovb_frame_copy will be asked for: 4, 8 or 16 [4] */
} ovb_limits;

/* What ovb_feed found. */
enum ovb_status {
    OVB_NONE = 0,    /* no picture in these bytes (parameter sets, SEI, a leading picture that cannot be read) */
    OVB_FRAME = 1,   /* a picture: ovb_frame_info and ovb_frame_copy speak of it until the next ovb_feed */
    OVB_REFUSED = 2, /* the stream uses what this parser does not read; ovb_reason says what. Final. */
    OVB_MEMORY = 3,  /* out of memory. Final. */
};

enum ovb_flags {
    OVB_IDR = 1,           /* decoding can start here, and nothing after refers to before */
    OVB_RANDOM_ACCESS = 2, /* decoding can start here (IDR, CRA, BLA, recovery point at once) */
    OVB_REFERENCE = 4,     /* other pictures may refer to this one */
    OVB_DAMAGED = 8,       /* a slice broke or is missing, or a reference was missing; ovb_reason says what */
    OVB_EXACT_END = 16,    /* entropy decoding ended exactly on the last bit of every slice (tile, WPP row) */
    OVB_LOSSLESS = 32,     /* some block bypasses the transform */
};

/* Kinds of cells: as KIND_* in codec/signals.py. */
enum ovb_kind { OVB_SKIP = 0, OVB_INTER = 1, OVB_INTRA = 2, OVB_MISSING = 255 };

typedef struct ovb_frame_info {
    int32_t coded_width, coded_height;      /* luma samples; the grid covers these */
    int32_t left, top, width, height;       /* the part that is shown, in luma samples */
    int32_t poc;                            /* picture order count; orders the pictures of one sequence */
    int32_t sequence;                       /* counts IDRs (and what acts like one): order is (sequence, poc) */
    int64_t decode_index;                   /* counts pictures returned, from 0 */
    int64_t slice_bits;                     /* bits of slice data (no headers, no trailing bits) of all slices */
    int32_t slices;                         /* slices (HEVC: slice segments) read without error */
    int32_t flags;                          /* enum ovb_flags */
    int32_t type;                           /* 'I', 'P' or 'B': the most general slice type in it */
    int32_t bit_depth;                      /* of luma */
    int32_t chroma;                         /* chroma_format_idc, 0..3 */
    int32_t references;                     /* pictures it refers to may be found by `age` in ovb_maps */
} ovb_frame_info;

/* Buffers that the caller owns, on a grid of H x W cells, H = ceil(coded_height / cell), W = ceil(coded_width / cell),
 * contiguous in the order given. A NULL buffer is not filled. Cells bigger than the blocks below take the motion of
 * their top left block; cells smaller share energy and bits evenly. */
typedef struct ovb_maps {
    int16_t *motion;  /* [2, H, W, 2] quarter luma samples, x then y, list 0 then list 1; 0 where not valid */
    int32_t *poc;     /* [2, H, W] POC of this picture minus POC of the reference; 0 where not valid */
    int32_t *age;     /* [2, H, W] decode_index of this picture minus that of the reference; 0 where not valid
                         or where the reference was never read (a gap in the stream) */
    uint8_t *valid;   /* [H, W] bit 0: list 0 is used, bit 1: list 1 */
    uint8_t *kind;    /* [H, W] enum ovb_kind */
    int16_t *qp;      /* [H, W] luma quantiser, without the bit depth's offset (may be negative above 8 bits) */
    float *energy;    /* [H, W] sum of squares of the luma residual in the cell, in units of the 8-bit scale */
    float *bits;      /* [H, W] fractional bits of slice data; all cells sum to slice_bits */
    float *velocity;  /* [H, W, 2] luma samples per frame, x then y: mean over the lists of vector / distance */
    const float *distance; /* in, for velocity: display distance in frames (past references above 0, future ones below)
                              of each reference of ovb_frame_references; 0: not known, its vectors do not count */
} ovb_maps;

/* codec: 264 or 265. limits may be NULL. Returns NULL for another codec, or without memory. */
OVB_API ovb_parser *ovb_open(int codec, const ovb_limits *limits);

/* Read Annex B bytes up to the end of one picture. *used tells how many bytes were taken: call again with the rest
 * until all are. A packet of a demuxer (through h264_mp4toannexb / hevc_mp4toannexb) holds one picture. */
OVB_API int ovb_feed(ovb_parser *parser, const uint8_t *bytes, size_t size, size_t *used);

/* Why the stream was refused, or what is damaged in the last picture; "" if nothing is. Valid until the next call. */
OVB_API const char *ovb_reason(const ovb_parser *parser);

/* The picture that ovb_feed returned last. Returns 0, or -1 if it returned none. */
OVB_API int ovb_frame_info_get(const ovb_parser *parser, ovb_frame_info *info);

/* Pictures that blocks of the last picture may refer to: their age (as in ovb_maps) and POC distance. Both arrays have
 * room for OVB_MAX_REFERENCES. Returns how many, or -1: no picture. */
OVB_API int ovb_frame_references(const ovb_parser *parser, int32_t *age, int32_t *poc);

/* Fill maps for cells of 4, 8 or 16 luma samples. Returns 0, or -1: no picture, or another or too small
 * a cell. */
OVB_API int ovb_frame_copy(const ovb_parser *parser, int cell, const ovb_maps *maps);

OVB_API void ovb_close(ovb_parser *parser);

/* Hear every syntax element of the headers in order, by its name in the standard (without indices). NULL: none. */
typedef void (*ovb_listener)(void *user, const char *name, int64_t value);
OVB_API void ovb_listen(ovb_parser *parser, ovb_listener listener, void *user);

OVB_API int ovb_version(void);

#endif
