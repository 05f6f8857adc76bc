/* Declarations of the tables in h264_tables.c and h264_contexts.c; what they mean stands there. */
#ifndef OVB_H264_TABLES_H
#define OVB_H264_TABLES_H

#include <stdint.h>

extern const int8_t h264_context_init[4][1024 * 2];
extern const uint16_t h264_coeff_token[3][120];
extern const uint16_t h264_coeff_token_dc[2][88];
extern const uint8_t h264_total_zeros[15][40];
extern const uint8_t h264_total_zeros_420[3][24];
extern const uint8_t h264_total_zeros_422[7][24];
extern const uint8_t h264_run_before[7][48];
extern const uint8_t h264_cbp_grey[2][16];
extern const uint8_t h264_cbp[2][48];
extern const uint8_t h264_sig8[63];
extern const uint8_t h264_last8[63];
extern const uint8_t h264_default4[2][16];
extern const uint8_t h264_default8[2][64];
extern const uint8_t h264_zigzag4[16];
extern const uint8_t h264_zigzag8[64];

#endif
