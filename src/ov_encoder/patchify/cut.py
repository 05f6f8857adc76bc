"""Cut chosen patches out of frames, and put them back. Pixels only: nothing is chosen here.

Shapes: N = patches, D = 3*P*P in (channel, row, column) order, P = patch side.
"""

from __future__ import annotations

import numpy as np


def cut_patches(frames_THWC: np.ndarray, positions_N3: np.ndarray, patch: int) -> np.ndarray:
    """Patches at integer (t, h, w) of frames whose sides are multiples of `patch`: [N, D], dtype of the frames."""
    T, height, width, C = frames_THWC.shape
    assert height % patch == 0 and width % patch == 0, (frames_THWC.shape, patch)
    grid = frames_THWC.reshape(T, height // patch, patch, width // patch, patch, C)
    t, h, w = np.asarray(positions_N3, np.intp).T
    patches_NPPC = grid[t, h, :, w]  # one fancy gather: only these pixels are touched
    return np.ascontiguousarray(patches_NPPC.transpose(0, 3, 1, 2)).reshape(len(t), C * patch * patch)


def paste_patches(patches_ND: np.ndarray, positions_N3: np.ndarray, frames_THWC: np.ndarray) -> None:
    """Inverse of `cut_patches`: write patches into frames, in place."""
    T, height, width, C = frames_THWC.shape
    patch = round((patches_ND.shape[1] / C) ** 0.5)
    grid = frames_THWC.reshape(T, height // patch, patch, width // patch, patch, C)
    t, h, w = np.asarray(positions_N3, np.intp).T
    grid[t, h, :, w] = patches_ND.reshape(-1, C, patch, patch).transpose(0, 2, 3, 1)
