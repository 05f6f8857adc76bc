"""Frames for networks that take whole frames: the very slots that `patchify` would show, as many as a budget pays for.

Shapes: T = frames, Y, X = pixel rows and columns, C = 3 colours.
"""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass, replace
from typing import TYPE_CHECKING

import numpy as np

from ov_encoder.codec.media import Source
from ov_encoder.patchify.api import plan
from ov_encoder.patchify.options import Options
from ov_encoder.patchify.sampling import chunk_slots

if TYPE_CHECKING:
    import torch


@dataclass(frozen=True, slots=True)
class FrameShape:
    """How a network takes frames. Light, so that processes that read know it without the network.

    patch: pixels a side of what one token stands for. rows: of tokens, and columns. most: instead of rows, as many
    tokens as fit while a frame keeps its shape. step: frames of a slice of tokens, 2 for networks that read pairs.
    slices: most slices of one clip, None without limit.
    """

    patch: int
    rows: int | None = None
    most: int | None = None
    step: int = 1
    slices: int | None = None

    def grid(self, height: int, width: int) -> tuple[int, int]:
        """Rows and columns of tokens that a frame of height x width pixels becomes."""
        if self.rows is not None:
            return self.rows, self.rows
        assert self.most is not None
        # Either side steps up at whole numbers of patches: of all scales that matter, the largest that still fits.
        scales = sorted({n / length for length in (height, width) for n in range(1, self.most + 1)}, reverse=True)
        for scale in scales:
            rows, columns = (max(math.ceil(length * scale - 1e-9), 1) for length in (height, width))
            if rows * columns <= self.most:
                return rows, columns
        return 1, 1


@dataclass(frozen=True, slots=True)
class Frames:
    """Frames of one clip. frames_TYXC: uint8 RGB. slots_T: their places among the clip's `slots` sampled frames."""

    frames_TYXC: np.ndarray
    slots_T: np.ndarray
    slots: int


def read_frames(
    source: Source, size: tuple[int, int], *, patch: int, most: int, step: int = 1, options: Options
) -> Frames:
    """The middle slots of `most` equal chunks of a clip (the rule of mode "chunk"), stretched to `size` pixels.

    step: frames come in groups of so many: a clip that is too short for `most` gives as many whole groups as it has,
    or, if it has none, its frames with the last one repeated. options: `frames` and `threads` count; patch: that of
    the network, which divides both sides.

    Raises:
        OvEncoderError: the source cannot be read.
    """
    everything = replace(options, mode="chunk", budget=1.0, patch=patch, size=size, block=1)
    made = plan(source, **asdict(everything))
    slots = made.grid[0]
    count = min(most, slots) // step * step
    slots_T = chunk_slots(slots, count) if count else np.minimum(np.arange(step), slots - 1)
    return Frames(made.frames_THWC[slots_T], slots_T, slots)


def normalised(
    frames_TYXC: np.ndarray, mean: tuple[float, ...], std: tuple[float, ...], *, like: torch.Tensor
) -> torch.Tensor:
    """Pixels as a network takes them, [T, C, Y, X] in the dtype and on the device of `like`: (x / 255 - mean) / std."""
    import torch

    pixels_TYXC = torch.from_numpy(np.ascontiguousarray(frames_TYXC)).to(like.device).float() / 255
    mean_C, std_C = (torch.tensor(values, device=like.device) for values in (mean, std))
    return ((pixels_TYXC - mean_C) / std_C).permute(0, 3, 1, 2).to(like.dtype)
