/* H.264: NAL units to pictures. (In progress: nothing is read yet.) */
#include "parser.h"

static void *h264_open(ovb_parser *parser) { return parser; }
static void h264_close(void *state) { (void)state; }
static int h264_nal(void *state, const uint8_t *payload, size_t size) {
    (void)payload, (void)size;
    ovb_refuse(state, "H.264 is not read yet");
    return OVB_NAL_DONE;
}
static const ovb_picture *h264_finish(void *state, ovb_frame_info *info) {
    (void)state, (void)info;
    return NULL;
}

const ovb_backend ovb_h264 = {h264_open, h264_close, h264_nal, h264_finish};
