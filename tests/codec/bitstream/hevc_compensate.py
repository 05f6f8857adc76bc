"""Luma prediction of inter blocks as H.265 8.5.3.3 says: the 8-tap filters, one and two lists, no weights.

Shapes: H, W = luma samples, a multiple of 4; blocks of 4x4.
"""

from __future__ import annotations

import numpy as np

TAPS = np.array(  # Table 8-11, by quarter sample
    [
        [0, 0, 0, 64, 0, 0, 0, 0],
        [-1, 4, -10, 58, 17, -5, 1, 0],
        [-1, 4, -11, 40, 40, -11, 4, -1],
        [0, 1, -5, 17, 58, -10, 4, -1],
    ]
)
PAD = 24  # beyond the filter, every sample is that of the edge


def _quarter(padded: np.ndarray, fx: int, fy: int, depth: int) -> np.ndarray:
    """The whole reference at a quarter sample offset, at 14 bits: predSampleLX."""
    if fx == 0 and fy == 0:
        return padded << (14 - depth)
    out = padded
    for axis, fraction, shift in ((1, fx, depth - 8), (0, fy, 6 if fx else depth - 8)):
        if fraction:
            out = np.sum([TAPS[fraction, k] * np.roll(out, 3 - k, axis) for k in range(8)], axis=0) >> shift
    return out


def _one_list(reference: np.ndarray, motion: np.ndarray, use: np.ndarray, depth: int) -> np.ndarray:
    """14-bit prediction [H, W] where `use` [H, W]; motion [H, W, 2] in quarter samples."""
    H, W = reference.shape
    padded = np.pad(reference, PAD, mode="edge")
    out = np.zeros((H, W), np.int64)
    row, column = np.mgrid[:H, :W]
    for fraction in range(16):
        fx, fy = fraction & 3, fraction >> 2
        here = use & (motion[..., 0] & 3 == fx) & (motion[..., 1] & 3 == fy)
        if not here.any():
            continue
        plane = _quarter(padded, fx, fy, depth)
        y = np.clip(row + (motion[..., 1] >> 2), 8 - PAD, H + PAD - 9) + PAD
        x = np.clip(column + (motion[..., 0] >> 2), 8 - PAD, W + PAD - 9) + PAD
        out[here] = plane[y[here], x[here]]
    return out


def predict(maps: dict[str, np.ndarray], poc: int, pictures: dict[int, np.ndarray], depth: int) -> np.ndarray:
    """The prediction int64 [H, W] of a picture from maps of 4x4 cells; 0 where a block is intra."""
    H, W = next(iter(pictures.values())).shape
    big = {name: maps[name].repeat(4, 1).repeat(4, 2) for name in ("motion", "poc")}
    valid = maps["valid"].repeat(4, 0).repeat(4, 1)
    total = np.zeros((H, W), np.int64)
    for which in range(2):
        used = (valid >> which & 1).astype(bool)
        for distance in np.unique(big["poc"][which][used]):
            here = used & (big["poc"][which] == distance)
            total += _one_list(pictures[poc - distance], big["motion"][which], here, depth)
    shift = np.where(valid == 3, 15 - depth, 14 - depth)
    predicted = np.clip((total + (1 << (shift - 1))) >> shift, 0, (1 << depth) - 1)
    return np.where(valid > 0, predicted, 0)
