/* Scaling lists: the standard's defaults (7.4.5) and what parameter sets say (7.3.4). */
#include <string.h>

#include "hevc_params.h"

static const uint8_t default_intra[64] = {
    16, 16, 16, 16, 16, 16, 16, 16, 16, 16, 17, 16, 17, 16, 17, 18, 17, 18, 18, 17, 18, 21, 19, 20, 21, 20, 19, 21,
    24, 22, 22, 24,
    24, 22, 22, 24, 25, 25, 27, 30, 27, 25, 25, 29, 31, 35, 35, 31, 29, 36, 41, 44, 41, 36, 47, 54, 54, 47, 65, 70,
    65, 88, 88, 115};
static const uint8_t default_inter[64] = {
    16, 16, 16, 16, 16, 16, 16, 16, 16, 16, 17, 17, 17, 17, 17, 18, 18, 18, 18, 18, 18, 20, 20, 20, 20, 20, 20, 20,
    24, 24, 24, 24,
    24, 24, 24, 24, 25, 25, 25, 25, 25, 25, 25, 28, 28, 28, 28, 28, 28, 33, 33, 33, 33, 33, 41, 41, 41, 41, 54, 54,
    54, 71, 71, 91};

static void set_default(hevc_scaling *s, int size, int matrix) {
    if (size == 0)
        memset(s->list[0][matrix], 16, 64);
    else
        memcpy(s->list[size][matrix], matrix < 3 ? default_intra : default_inter, 64);
    if (size > 1) s->dc[size - 2][matrix] = 16;
}

void hevc_default_scaling(hevc_scaling *s) {
    for (int size = 0; size < 4; size++)
        for (int matrix = 0; matrix < 6; matrix++) set_default(s, size, matrix);
}

void hevc_read_scaling(hevc_reader *r, hevc_scaling *s) {
    hevc_default_scaling(s);
    for (int size = 0; size < 4; size++) {
        int step = size == 3 ? 3 : 1;
        for (int matrix = 0; matrix < 6; matrix += step) {
            if (!hevc_flag(r, "scaling_list_pred_mode_flag")) {
                int delta = (int)hevc_ue(r, (uint32_t)(matrix / step), "scaling_list_pred_matrix_id_delta") * step;
                if (delta == 0) {
                    set_default(s, size, matrix);
                } else {
                    memcpy(s->list[size][matrix], s->list[size][matrix - delta], 64);
                    if (size > 1) s->dc[size - 2][matrix] = s->dc[size - 2][matrix - delta];
                }
                continue;
            }
            int next = 8;
            if (size > 1) {
                next += hevc_se(r, -7, 247, "scaling_list_dc_coef_minus8");
                s->dc[size - 2][matrix] = (uint8_t)next;
            }
            for (int i = 0; i < (size ? 64 : 16); i++) {
                next = (next + hevc_se(r, -128, 127, "scaling_list_delta_coef") + 256) & 255;
                s->list[size][matrix][i] = (uint8_t)next;
            }
        }
    }
}
