/* The public functions of ovb.h: NAL units in, one picture out. Which bits mean what is the codecs' business. */
#include "parser.h"

#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>

static void vsay(char *reason, size_t size, const char *format, va_list arguments) {
    vsnprintf(reason, size, format, arguments);
}

void ovb_refuse(ovb_parser *parser, const char *format, ...) {
    if (parser->status != OVB_NONE) return;
    parser->status = OVB_REFUSED;
    va_list arguments;
    va_start(arguments, format);
    vsay(parser->reason, sizeof parser->reason, format, arguments);
    va_end(arguments);
}

void ovb_damage(ovb_parser *parser, const char *format, ...) {
    if (parser->status != OVB_NONE || parser->damaged) return;
    parser->damaged = 1;
    va_list arguments;
    va_start(arguments, format);
    vsay(parser->reason, sizeof parser->reason, format, arguments);
    va_end(arguments);
}

/* --- memory ------------------------------------------------------------------------------------------------- */

typedef union header {
    uint64_t size;
    max_align_t align;
} header;

void *ovb_alloc(ovb_parser *parser, size_t count, size_t size) {
    uint64_t room = parser->limits.bytes - parser->allocated;
    if (size == 0 || count > (SIZE_MAX - sizeof(header)) / size || count * size > room) {
        ovb_refuse(parser, "needs more than the limit of %llu bytes", (unsigned long long)parser->limits.bytes);
        return NULL;
    }
    header *block = calloc(1, sizeof(header) + count * size);
    if (!block) {
        if (parser->status == OVB_NONE) parser->status = OVB_MEMORY;
        return NULL;
    }
    block->size = count * size;
    parser->allocated += block->size;
    return block + 1;
}

void ovb_free(ovb_parser *parser, void *memory) {
    if (!memory) return;
    header *block = (header *)memory - 1;
    parser->allocated -= block->size;
    free(block);
}

/* --- parser ------------------------------------------------------------------------------------------------- */

ovb_parser *ovb_open(int codec, const ovb_limits *limits) {
    const ovb_backend *backend = codec == 264 ? &ovb_h264 : codec == 265 ? &ovb_hevc : NULL;
    ovb_parser *parser = backend ? calloc(1, sizeof *parser) : NULL;
    if (!parser) return NULL;
    parser->limits.pixels = limits && limits->pixels ? limits->pixels : (uint64_t)8192 * 8192;
    parser->limits.bytes = limits && limits->bytes ? limits->bytes : (uint64_t)1 << 30;
    parser->limits.cell = limits && limits->cell ? limits->cell : 4;
    parser->backend = backend;
    parser->state = backend->open(parser);
    if (!parser->state) {
        free(parser);
        return NULL;
    }
    return parser;
}

void ovb_close(ovb_parser *parser) {
    if (!parser) return;
    parser->backend->close(parser->state);
    ovb_free(parser, parser->payload);
    free(parser);
}

/* Room for a payload of `size` bytes and its padding. */
static int make_room(ovb_parser *parser, size_t size) {
    if (size <= parser->payload_size) return 1;
    ovb_free(parser, parser->payload);
    parser->payload_size = 0;
    size += size / 2;
    parser->payload = ovb_alloc(parser, size + OVB_PAD, 1);
    if (!parser->payload) return 0;
    parser->payload_size = size;
    return 1;
}

int ovb_feed(ovb_parser *parser, const uint8_t *bytes, size_t size, size_t *used) {
    size_t offset = 0, nal_size;
    *used = size;
    parser->shown = NULL;
    if (parser->status != OVB_NONE) return parser->status;
    parser->reason[0] = 0;
    parser->damaged = 0;
    for (;;) {
        size_t before = offset;
        const uint8_t *nal = ovb_next_nal(bytes, size, &offset, &nal_size);
        if (!nal) break;
        if (!make_room(parser, nal_size)) return parser->status;
        size_t payload_size = ovb_unescape(nal, nal_size, parser->payload);
        int result = parser->backend->nal(parser->state, parser->payload, payload_size);
        if (parser->status != OVB_NONE) return parser->status;
        if (result == OVB_NAL_NEXT_PICTURE) {
            *used = before;
            break;
        }
    }
    memset(&parser->info, 0, sizeof parser->info);
    parser->shown = parser->backend->finish(parser->state, &parser->info);
    if (parser->status != OVB_NONE) {
        parser->shown = NULL;
        return parser->status;
    }
    if (!parser->shown) return OVB_NONE;
    if (parser->damaged) parser->info.flags |= OVB_DAMAGED;
    parser->info.decode_index = parser->decode_index++;
    return OVB_FRAME;
}

const char *ovb_reason(const ovb_parser *parser) {
    if (parser->status == OVB_MEMORY) return "out of memory";
    return parser->reason;
}

int ovb_frame_info_get(const ovb_parser *parser, ovb_frame_info *info) {
    if (!parser->shown) return -1;
    *info = parser->info;
    return 0;
}

int ovb_frame_references(const ovb_parser *parser, int32_t *age, int32_t *poc) {
    return parser->shown ? ovb_picture_distances(parser->shown, age, poc) : -1;
}

int ovb_frame_copy(const ovb_parser *parser, int cell, const ovb_maps *maps) {
    if (!parser->shown || (cell != 4 && cell != 8 && cell != 16)) return -1;
    if ((uint64_t)cell < parser->limits.cell) return -1;
    ovb_picture_copy(parser->shown, cell, parser->info.coded_width, parser->info.coded_height, maps);
    return 0;
}

void ovb_listen(ovb_parser *parser, ovb_listener listener, void *user) {
    parser->listener = listener;
    parser->listener_user = user;
}

int ovb_version(void) { return OVB_VERSION; }
