"""Augmentation: one crop, mirror and colour change per sample, the same for every frame and every signal of a clip.

Drawn before anything is chosen. Not here: the choice (modes.py). Shapes: T = slots, H, W = pixels, Y, X = rows and
columns of stored cells, h, w = patch rows and columns of the encoder's frame.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from PIL import Image

from ov_encoder.patchify.sampling import grid_size
from ov_encoder.train.config import PictureConfig


@dataclass(frozen=True, slots=True)
class View:
    """What one sample shows: a box in pixels of the stored frame, its patch grid, mirrored or not, colour factors."""

    top: float
    left: float
    height: float
    width: float
    grid_hw: tuple[int, int]
    mirror: bool = False
    colour_3: tuple[float, float, float] = (1.0, 1.0, 1.0)  # brightness, contrast, saturation


def draw_view(
    rng: np.random.Generator, height: int, width: int, picture: PictureConfig, *, patch: int, max_tokens: int
) -> View:
    """A view of a stored frame of height x width pixels."""
    size = picture.sizes[int(rng.integers(len(picture.sizes)))]
    area, stretch = rng.uniform(*picture.area), np.exp(rng.uniform(*np.log(picture.stretch)))
    whole = width / height if picture.aspect == "native" or picture.area == (1.0, 1.0) else 1.0
    aspect = whole * stretch
    h = min(np.sqrt(area * height * width / aspect), height)
    w = min(h * aspect, width)
    h = min(w / aspect, height)
    top, left = rng.uniform(0, 1, 2) * (height - h, width - w)
    mirror = bool(rng.uniform() < picture.flip)
    b, c, s = 1 + picture.colour * rng.uniform(-1, 1, 3)
    wanted = (size, size) if picture.aspect == "square" else size
    grid_hw = grid_size(round(h), round(w), wanted, patch=patch)
    while grid_hw[0] * grid_hw[1] > max_tokens and max(grid_hw) > 1:
        shrink = min(np.sqrt(max_tokens / (grid_hw[0] * grid_hw[1])), 0.999)
        grid_hw = (max(int(grid_hw[0] * shrink), 1), max(int(grid_hw[1] * shrink), 1))
    return View(float(top), float(left), float(h), float(w), grid_hw, mirror, (float(b), float(c), float(s)))


def view_frames(frames_THWC: np.ndarray, view: View, *, patch: int) -> np.ndarray:
    """The view of some frames: uint8 [T, h * patch, w * patch, 3]."""
    size = view.grid_hw[1] * patch, view.grid_hw[0] * patch
    box = view.left, view.top, view.left + view.width, view.top + view.height
    shown = [np.asarray(Image.fromarray(f).resize(size, Image.Resampling.BICUBIC, box=box)) for f in frames_THWC]
    out_THWC = np.stack(shown)
    if view.mirror:
        out_THWC = out_THWC[:, :, ::-1]
    return _coloured(out_THWC, view.colour_3) if view.colour_3 != (1.0, 1.0, 1.0) else out_THWC


def view_maps(maps_TYX: dict[str, np.ndarray], view: View, *, cell: int, patch: int) -> dict[str, np.ndarray]:
    """The same view of the signals, on the encoder's patch grid: float32 [T, h, w], motion in its pixels."""
    out = {}
    for name, map_TYX in maps_TYX.items():
        rows_hY = _overlap(map_TYX.shape[1], cell, view.top, view.height, view.grid_hw[0])
        columns_wX = _overlap(map_TYX.shape[2], cell, view.left, view.width, view.grid_hw[1])
        values_TYX = map_TYX.astype(np.float32)
        if name == "residual":  # a root of mean squares: squares are averaged
            map_Thw = np.sqrt(rows_hY @ np.square(values_TYX) @ columns_wX.T)
        else:
            map_Thw = rows_hY @ values_TYX @ columns_wX.T
        if name == "motion":
            map_Thw *= np.float32(view.grid_hw[0] * patch / view.height)
        out[name] = map_Thw[:, :, ::-1] if view.mirror else map_Thw
    return out


def _overlap(cells: int, cell: int, start: float, length: float, patches: int) -> np.ndarray:
    """Share of each patch [patches, cells] of a span of pixels that lies in each cell."""
    lower = start + np.arange(patches)[:, None] * (length / patches)
    upper = lower + length / patches
    first = np.arange(cells) * cell
    shared = np.clip(np.minimum(first + cell, upper) - np.maximum(first, lower), 0, None)
    return (shared / shared.sum(axis=1, keepdims=True)).astype(np.float32)


def _coloured(frames_THWC: np.ndarray, colour_3: tuple[float, float, float]) -> np.ndarray:
    """Brightness, contrast around the clip's mean, saturation: together one linear map of a pixel's three values."""
    brightness, contrast, saturation = colour_3
    grey_33 = np.outer([0.299, 0.587, 0.114], np.ones(3))
    map_33 = brightness * contrast * (saturation * np.eye(3) + (1 - saturation) * grey_33)
    offset = brightness * (1 - contrast) * float(frames_THWC.mean(dtype=np.float32))
    x_N3 = frames_THWC.reshape(-1, 3).astype(np.float32) @ map_33.astype(np.float32)
    x_N3 += np.float32(offset + 0.5)  # the half rounds
    return np.clip(x_N3, 0, 255.5, out=x_N3).astype(np.uint8).reshape(frames_THWC.shape)
