/* What both codecs share inside the library: the parser behind ovb.h, its memory, and what a codec must provide.
 *
 * A codec is one `ovb_backend` (ovb_h264 in h264.c, ovb_hevc in hevc.c). parser.c splits the bytes into NAL units,
 * removes emulation prevention, and calls it.
 */
#ifndef OVB_PARSER_H
#define OVB_PARSER_H

#include "bitreader.h"
#include "ovb.h"
#include "picture.h"

enum ovb_nal_result {
    OVB_NAL_DONE,         /* taken, or of no interest */
    OVB_NAL_NEXT_PICTURE, /* starts another picture than the one in progress: nothing was taken, `finish` comes first */
};

typedef struct ovb_backend {
    /* The codec's state, or NULL without memory. */
    void *(*open)(ovb_parser *parser);
    void (*close)(void *state);
    /* One NAL unit without emulation prevention, header included; OVB_PAD zero bytes follow. Errors in it are the
     * codec's to handle: ovb_damage for a broken slice, ovb_refuse for what is not read at all. */
    int (*nal)(void *state, const uint8_t *payload, size_t size);
    /* The bytes end, or another picture begins: close the picture in progress. Returns it (it stays valid until the
     * next call of `nal`) and fills info (but for decode_index, and the flag OVB_DAMAGED that ovb_damage sets); NULL
     * if there is none to show. */
    const ovb_picture *(*finish)(void *state, ovb_frame_info *info);
} ovb_backend;

extern const ovb_backend ovb_h264, ovb_hevc;

struct ovb_parser {
    const ovb_backend *backend;
    void *state;
    ovb_limits limits;
    uint64_t allocated;       /* bytes, by ovb_alloc */
    int status;               /* OVB_NONE, OVB_REFUSED or OVB_MEMORY */
    int damaged;              /* ovb_damage was called for the picture in progress */
    int64_t decode_index;     /* of the picture in progress */
    const ovb_picture *shown; /* the picture of the last ovb_feed, or NULL */
    ovb_frame_info info;
    uint8_t *payload;         /* the NAL unit without emulation prevention */
    size_t payload_size;
    ovb_listener listener;    /* hears header syntax elements, or NULL */
    void *listener_user;
    char reason[200];
};

/* Zeroed memory for count items, counted against limits.bytes; NULL (and status OVB_MEMORY or OVB_REFUSED) without. */
void *ovb_alloc(ovb_parser *parser, size_t count, size_t size);
void ovb_free(ovb_parser *parser, void *memory); /* NULL is fine */

/* Say once what this parser cannot read: the stream is refused for good. */
void ovb_refuse(ovb_parser *parser, const char *format, ...) __attribute__((format(printf, 2, 3)));
/* The picture in progress is damaged; the first reason is kept. */
void ovb_damage(ovb_parser *parser, const char *format, ...) __attribute__((format(printf, 2, 3)));

#endif
