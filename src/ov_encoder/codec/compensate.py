"""Motion compensation: what prediction from the previous picture misses, per cell.

Two ways. `exact_residual`: the H.264 luma filter (6 taps, quarter pixel; H.264 clause 8.4.2.2.1), identical to the
decoder's prediction on streams with one reference, no B-frames and no deblocking. `derived_energy`: bilinear on a
reduced picture, for ordinary streams, where the true references are not known anyway.

Shapes: Y, X = pixel rows and columns, H, W = rows and columns of cells, M = vectors.
"""

from __future__ import annotations

import numba
import numpy as np

from ov_encoder.codec.signals import CELL

_PAD = 8  # beyond this many pixels outside the picture every filtered sample equals the border sample

# For quarter-pel offset (x + 4y): two (plane, dx, dy) whose rounded mean is the sample. Planes: 0 integer,
# 1 half-pel in x, 2 half-pel in y, 3 half-pel in both (H.264 figure 8-4: b, h, j).
_G, _b, _h, _j, _m, _s = (0, 0, 0), (1, 0, 0), (2, 0, 0), (3, 0, 0), (2, 1, 0), (1, 0, 1)
_QUARTER = np.array(
    [
        *[(_G, _G), (_G, _b), (_b, _b), (_b, (0, 1, 0))],
        *[(_G, _h), (_b, _h), (_b, _j), (_b, _m)],
        *[(_h, _h), (_h, _j), (_j, _j), (_j, _m)],
        *[(_h, (0, 0, 1)), (_h, _s), (_j, _s), (_s, _m)],
    ],
    np.int64,
)


def exact_residual(
    luma_YX: np.ndarray, reference_YX: np.ndarray, vectors_M: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Luma minus the decoder's inter prediction, pixel for pixel.

    luma_YX, reference_YX: uint8, sides multiples of 16 (whole macroblocks). vectors_M: dtype vectors.VECTOR, past
    reference only. Returns residual_YX int16 and inter_YX bool (False in intra blocks, where residual is 0).
    """
    planes = _half_planes(np.pad(reference_YX, _PAD, mode="edge"))
    residual_YX = np.zeros(luma_YX.shape, np.int16)
    inter_YX = np.zeros(luma_YX.shape, np.bool_)
    _subtract(luma_YX, planes, vectors_M, _QUARTER, residual_YX, inter_YX)
    return residual_YX, inter_YX


@numba.njit(cache=True, nogil=True)
def _half_planes(padded):
    """The integer plane and the three half-pel planes, each uint8 [Y, X]; float32 holds every value exactly."""
    Y, X = padded.shape
    planes = np.empty((4, Y, X), np.uint8)
    full = padded.astype(np.float32)
    across = np.empty((Y, X), np.float32)  # horizontal filter, not yet rounded
    for y in range(Y):
        for x in range(X):
            planes[:, y, x] = padded[y, x]
    for y in range(Y):
        row = full[y]
        for x in range(2, X - 3):
            across[y, x] = (
                row[x - 2] + row[x + 3] - np.float32(5) * (row[x - 1] + row[x + 2])
                + np.float32(20) * (row[x] + row[x + 1])
            )  # fmt: skip
        for x in (0, 1, X - 3, X - 2, X - 1):
            across[y, x] = np.float32(32) * row[x]
    for y in range(Y):
        for x in range(X):
            v = np.floor((across[y, x] + np.float32(16)) * np.float32(1 / 32))
            planes[1, y, x] = np.uint8(min(max(v, np.float32(0)), np.float32(255)))
    for y in range(2, Y - 3):
        for x in range(X):
            v = (
                full[y - 2, x] + full[y + 3, x] - np.float32(5) * (full[y - 1, x] + full[y + 2, x])
                + np.float32(20) * (full[y, x] + full[y + 1, x])
            )  # fmt: skip
            v = np.floor((v + np.float32(16)) * np.float32(1 / 32))
            planes[2, y, x] = np.uint8(min(max(v, np.float32(0)), np.float32(255)))
        for x in range(X):
            v = (
                across[y - 2, x] + across[y + 3, x] - np.float32(5) * (across[y - 1, x] + across[y + 2, x])
                + np.float32(20) * (across[y, x] + across[y + 1, x])
            )  # fmt: skip
            v = np.floor((v + np.float32(512)) * np.float32(1 / 1024))
            planes[3, y, x] = np.uint8(min(max(v, np.float32(0)), np.float32(255)))
    for y in (0, 1, Y - 3, Y - 2, Y - 1):  # constant in y there, so filtering in y changes nothing
        for x in range(X):
            planes[3, y, x] = planes[1, y, x]
    return planes


@numba.njit(cache=True, nogil=True)
def _subtract(luma_YX, planes, vectors_M, quarter, residual_YX, inter_YX):
    Y, X = luma_YX.shape
    _, PY, PX = planes.shape
    for m in range(len(vectors_M)):
        v = vectors_M[m]
        q = quarter[(v.motion_x & 3) + 4 * (v.motion_y & 3)]
        left, top = v.dst_x - v.w // 2, v.dst_y - v.h // 2
        sx, sy = left + (v.motion_x >> 2) + _PAD, top + (v.motion_y >> 2) + _PAD
        for y in range(max(-top, 0), min(v.h, Y - top)):
            ya = min(max(sy + y + q[0, 2], 0), PY - 1)
            yb = min(max(sy + y + q[1, 2], 0), PY - 1)
            for x in range(max(-left, 0), min(v.w, X - left)):
                xa = min(max(sx + x + q[0, 1], 0), PX - 1)
                xb = min(max(sx + x + q[1, 1], 0), PX - 1)
                a, b = np.int32(planes[q[0, 0], ya, xa]), np.int32(planes[q[1, 0], yb, xb])
                residual_YX[top + y, left + x] = np.int32(luma_YX[top + y, left + x]) - ((a + b + 1) >> 1)
                inter_YX[top + y, left + x] = True


@numba.njit(cache=True, nogil=True)
def residual_energy(residual_YX, inter_YX, luma_YX, reference_YX):
    """Mean squared residual of every cell, [H, W] float32.

    In intra cells the encoder's prediction is not known: the smaller of the frame difference and the variance
    inside the cell stands in (both bound what intra prediction would have left).
    """
    Y, X = residual_YX.shape
    H, W = (Y + CELL - 1) // CELL, (X + CELL - 1) // CELL
    energy_HW = np.empty((H, W), np.float32)
    for i in range(H):
        for j in range(W):
            y0, x0 = i * CELL, j * CELL
            y1, x1 = min(y0 + CELL, Y), min(x0 + CELL, X)
            if inter_YX[y0, x0]:
                total = np.float32(0)
                for y in range(y0, y1):
                    for x in range(x0, x1):
                        r = np.float32(residual_YX[y, x])
                        total += r * r
                energy_HW[i, j] = total / ((y1 - y0) * (x1 - x0))
            else:
                energy_HW[i, j] = _unpredicted(luma_YX, reference_YX, y0, y1, x0, x1)
    return energy_HW


@numba.njit(cache=True, nogil=True, inline="always")
def _unpredicted(luma_YX, reference_YX, y0, y1, x0, x1):
    n = np.float32((y1 - y0) * (x1 - x0))
    diff = total = square = np.float32(0)
    for y in range(y0, y1):
        for x in range(x0, x1):
            a = np.float32(luma_YX[y, x])
            d = a - np.float32(reference_YX[y, x])
            diff += d * d
            total += a
            square += a * a
    return min(diff / n, max(square / n - (total / n) ** 2, np.float32(0)))


def reduction(height: int, width: int) -> int:
    """Power of two by which `derived_energy` shrinks a picture: its short side stays at 160 pixels or more."""
    factor = 1
    while factor < CELL and min(height, width) // (2 * factor) >= 160:
        factor *= 2
    return factor


def shrink(luma_YX: np.ndarray, factor: int) -> np.ndarray:
    """Mean of every factor x factor pixels (1, 2, 4 or 8), float32; a remainder at the edges is left out."""
    if factor == 1:
        return luma_YX.astype(np.float32)
    if factor == 4:
        return _quarter(luma_YX)
    half_YX = _half(luma_YX)
    return half_YX if factor == 2 else _quarter(half_YX)


@numba.njit(cache=True, nogil=True)
def _half(luma_YX):
    Y, X = luma_YX.shape[0] // 2, luma_YX.shape[1] // 2
    out, sums = np.empty((Y, X), np.float32), np.empty(2 * X, np.float32)
    for y in range(Y):  # two plain loops over whole rows: both become vector code
        a, b = luma_YX[2 * y], luma_YX[2 * y + 1]
        for x in range(2 * X):
            sums[x] = np.float32(a[x]) + np.float32(b[x])
        for x in range(X):
            out[y, x] = (sums[2 * x] + sums[2 * x + 1]) * np.float32(1 / 4)
    return out


@numba.njit(cache=True, nogil=True)
def _quarter(luma_YX):
    Y, X = luma_YX.shape[0] // 4, luma_YX.shape[1] // 4
    out, sums = np.empty((Y, X), np.float32), np.empty(4 * X, np.float32)
    for y in range(Y):
        a, b, c, d = luma_YX[4 * y], luma_YX[4 * y + 1], luma_YX[4 * y + 2], luma_YX[4 * y + 3]
        for x in range(4 * X):
            sums[x] = (np.float32(a[x]) + np.float32(b[x])) + (np.float32(c[x]) + np.float32(d[x]))
        for x in range(X):
            row = (sums[4 * x] + sums[4 * x + 1]) + (sums[4 * x + 2] + sums[4 * x + 3])
            out[y, x] = row * np.float32(1 / 16)
    return out


@numba.njit(cache=True, nogil=True)
def derived_energy(small_YX, previous_YX, motion_HW2, lists_HW, factor, cell=CELL):
    """Mean squared error per cell of predicting the picture from the previous one by its motion, [H, W] float32.

    small_YX, previous_YX: float32 luma shrunk by `factor`. motion_HW2: pixels per frame at full size. Cells without
    a vector (lists_HW == 0) are treated as intra, as in `residual_energy`. Bilinear, border samples repeated.
    """
    Y, X = small_YX.shape
    H, W = lists_HW.shape
    side = cell // factor
    energy_HW = np.zeros((H, W), np.float32)
    errors = np.zeros(W * side, np.float32)  # squared errors of a row of cells, summed over its pixel rows
    for i in range(H):
        y0, y1 = i * side, min((i + 1) * side, Y)
        j = 0
        while j < W and y1 > y0:
            x0 = j * side
            if x0 >= X:  # the remainder that shrinking left out
                break
            if lists_HW[i, j] == 0:
                energy_HW[i, j] = _unpredicted(small_YX, previous_YX, y0, y1, x0, min(x0 + side, X))
                j += 1
                continue
            mx, my = motion_HW2[i, j, 0], motion_HW2[i, j, 1]
            end = j + 1  # neighbours with the same vector are predicted in one go
            while end < W and lists_HW[i, end] != 0 and motion_HW2[i, end, 0] == mx and motion_HW2[i, end, 1] == my:
                end += 1
            x1 = min(end * side, X)
            errors[x0:x1] = 0
            _add_errors(small_YX, previous_YX, y0, y1, x0, x1, mx / np.float32(factor), my / np.float32(factor), errors)
            for c in range(j, end):
                a, b = c * side, min((c + 1) * side, X)
                total = np.float32(0)
                for x in range(a, b):
                    total += errors[x]
                if b > a:
                    energy_HW[i, c] = total / np.float32((y1 - y0) * (b - a))
            j = end
    return energy_HW


@numba.njit(cache=True, nogil=True)
def _add_errors(now_YX, before_YX, y0, y1, x0, x1, mx, my, errors):
    """Add (now - before(x + m))^2 of rows y0:y1, columns x0:x1 to `errors`, by column."""
    Y, X = now_YX.shape
    ix, iy = int(np.floor(mx)), int(np.floor(my))
    fx, fy = mx - np.float32(ix), my - np.float32(iy)
    if mx == 0 and my == 0:
        for y in range(y0, y1):
            for x in range(x0, x1):
                e = now_YX[y, x] - before_YX[y, x]
                errors[x] += e * e
    elif x0 + ix >= 0 and y0 + iy >= 0 and x1 + ix < X and y1 + iy < Y:
        for y in range(y0, y1):
            now, up, low = now_YX[y], before_YX[y + iy], before_YX[y + iy + 1]
            for x in range(x0, x1):
                a = up[x + ix] + fx * (up[x + ix + 1] - up[x + ix])
                c = low[x + ix] + fx * (low[x + ix + 1] - low[x + ix])
                e = now[x] - (a + fy * (c - a))
                errors[x] += e * e
    else:
        for y in range(y0, y1):
            up, low = before_YX[min(max(y + iy, 0), Y - 1)], before_YX[min(max(y + iy + 1, 0), Y - 1)]
            for x in range(x0, x1):
                xa, xb = min(max(x + ix, 0), X - 1), min(max(x + ix + 1, 0), X - 1)
                a = up[xa] + fx * (up[xb] - up[xa])
                c = low[xa] + fx * (low[xb] - low[xa])
                e = now_YX[y, x] - (a + fy * (c - a))
                errors[x] += e * e
