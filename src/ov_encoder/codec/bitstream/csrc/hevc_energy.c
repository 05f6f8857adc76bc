/* Where in a 16x16 or 32x32 transform block its energy lies, by cells of 8x8, without an inverse transform of all samples.
 *
 * With coefficients in few columns v, the columns are transformed, V_v(y), and rows never are: the energy of a cell is the
 * sum over pairs of columns of (sum over the cell's rows of V_v V_w) * (sum over the cell's columns of b_v b_w), and the
 * second factor is a table. Four numbers at a time: those of the four cells in a row or column of 32 samples, or of the
 * two cells of 16 samples at y and at y + 4.
 */
#include <string.h>

#include "hevc.h"

/* transMatrix (8.6.4.2) by angle: 64 * sqrt(2) * cos(pi * k / 64), as the standard rounds it; 0 is not used. */
static const uint8_t cosine[33] = {90, 90, 90, 90, 89, 88, 87, 85, 83, 82, 80, 78, 75, 73, 70, 67, 64,
                                   61, 57, 54, 50, 46, 43, 38, 36, 31, 25, 22, 18, 13, 9,  4,  0};

static float basis_at(int u, int y, int n) {
    int angle = (2 * y + 1) * u * (32 / n) & 127;
    if (u == 0) return 1;
    if (angle > 64) angle = 128 - angle;
    return (angle > 32 ? -(float)cosine[64 - angle] : (float)cosine[angle]) / 64;
}

void hevc_basis_start(hevc_basis *basis, int log2) {
    int n = 1 << log2;
    float at[32][32];
    for (int u = 0; u < n; u++) {
        for (int y = 0; y < n; y++) {
            at[u][y] = basis_at(u, y, n);
            if (n == 32) basis->at[u][y & 7][y >> 3] = at[u][y];
            if (n == 16) basis->at[u][y & 3][(y & 4) / 2 + (y >> 3)] = at[u][y];
        }
    }
    for (int v = 0; v < n; v++)
        for (int w = 0; w < n; w++)
            for (int x = 0; x < n; x++) basis->both[v][w][x >> 3] += at[v][x] * at[w][x];
}

/* n = 16 or 32 */
static inline void share(const hevc_basis *basis, int n, const hevc_coefficient *coefficient, int count, float cell[16]) {
    const int depth = n / 4;
    int columns = 0;
    uint8_t slot[32], column[32];
    hevc_cells of[32][8], sum[4];
    memset(slot, 255, sizeof slot);
    memset(sum, 0, sizeof sum);
    for (int i = 0; i < count; i++) {
        int u = coefficient[i].position / n, v = coefficient[i].position % n;
        float value = (float)coefficient[i].value;
        if (slot[v] == 255) {
            hevc_cells *to = of[columns];
            for (int y = 0; y < depth; y++) to[y] = value * basis->at[u][y];
            column[columns] = (uint8_t)v;
            slot[v] = (uint8_t)columns++;
        } else {
            hevc_cells *to = of[slot[v]];
            for (int y = 0; y < depth; y++) to[y] += value * basis->at[u][y];
        }
    }
    for (int c = 0; c < columns; c++) {
        const hevc_cells *both = basis->both[column[c]];
        for (int d = 0; d <= c; d++) {
            hevc_cells rows = of[c][0] * of[d][0], more = of[c][1] * of[d][1], by = both[column[d]];
            for (int y = 2; y < depth; y += 2) rows += of[c][y] * of[d][y], more += of[c][y + 1] * of[d][y + 1];
            rows += more;
            if (d < c) by += by; /* the pair the other way round */
            if (n == 16) {
                sum[0] += (rows[0] + rows[2]) * by;
                sum[1] += (rows[1] + rows[3]) * by;
            } else {
                for (int j = 0; j < 4; j++) sum[j] += rows[j] * by;
            }
        }
    }
    memcpy(cell, sum, sizeof sum);
}

void hevc_share_energy(const hevc_basis *basis, int log2, const hevc_coefficient *coefficient, int count, float cell[16]) {
    if (log2 == 4) {
        share(basis, 16, coefficient, count, cell);
    } else {
        share(basis, 32, coefficient, count, cell);
    }
}
