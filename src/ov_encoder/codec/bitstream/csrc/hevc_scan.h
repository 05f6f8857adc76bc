/* Scans of coefficients (6.5.3 to 6.5.5). */
#ifndef OVB_HEVC_SCAN_H
#define OVB_HEVC_SCAN_H

#include <stdint.h>

enum hevc_scan { HEVC_DIAGONAL, HEVC_HORIZONTAL, HEVC_VERTICAL };

extern const uint8_t hevc_scan4[3][4];   /* 2x2, positions y * 2 + x */
extern const uint8_t hevc_scan16[3][16]; /* 4x4, positions y * 4 + x */
extern const uint8_t hevc_scan64[64];    /* 8x8 diagonal, positions y * 8 + x */

#endif
