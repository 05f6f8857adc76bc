"""Floors: what can be had without any network. A result that does not beat them says nothing about vision.

These are towers: they take frames. What does not even look at frames is in `facts`.

Shapes: T = frames, C = 3 colours, Y, X = pixels, L = tokens of a frame.
"""

from __future__ import annotations

import torch
from torch import nn

from ov_encoder.evaluate.baselines.frames import FrameShape
from ov_encoder.evaluate.baselines.towers import HALF

_SEGMENTS, _BINS, _CELLS = 4, 8, 8


class Pixels:
    """Frames of 64 x 64 pixels in blocks of 4 x 4: 256 tokens a frame, as our encoder has at 224 pixels.

    Pooled: thumbnails of 8 x 8 at the middles of four equal parts of the clip, side by side: it sees time.
    """

    shape, video = FrameShape(patch=4, rows=16), False
    mean, std = HALF, HALF

    def __init__(self) -> None:
        self.model = nn.Identity()

    def __call__(self, pixels_TCYX: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor | None]:
        """Tokens [T, L, 48] and the thumbnails."""
        T, C, Y, X = pixels_TCYX.shape
        P = self.shape.patch
        blocks = pixels_TCYX.reshape(T, C, Y // P, P, X // P, P).permute(0, 2, 4, 1, 3, 5)
        shown = (torch.arange(_SEGMENTS) * 2 + 1) * T // (2 * _SEGMENTS)  # frames repeat in clips of fewer than four
        thumbs = nn.functional.adaptive_avg_pool2d(pixels_TCYX[shown], _CELLS)
        return blocks.reshape(T, -1, C * P * P), thumbs.flatten()

    def flops(self, slices: int, tokens: int) -> int:
        """None that count."""
        return 0


class Histogram:
    """One token a frame: the square root of its joint colour histogram, 8 bins a channel. Pooled: their mean."""

    shape, video = FrameShape(patch=64, rows=1), False
    mean, std = (0.0, 0.0, 0.0), (1.0, 1.0, 1.0)

    def __init__(self) -> None:
        self.model = nn.Identity()

    def __call__(self, pixels_TCYX: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor | None]:
        """Tokens [T, 1, 512] and their mean."""
        bins = (pixels_TCYX * _BINS).long().clamp_(0, _BINS - 1)
        cell_TS = ((bins[:, 0] * _BINS + bins[:, 1]) * _BINS + bins[:, 2]).flatten(1)
        counts = torch.zeros(len(cell_TS), _BINS**3).scatter_add_(1, cell_TS.cpu(), torch.ones(cell_TS.shape))
        tokens_T1D = (counts / cell_TS.shape[1]).sqrt()[:, None].to(pixels_TCYX)
        return tokens_T1D, tokens_T1D.mean(dim=(0, 1))

    def flops(self, slices: int, tokens: int) -> int:
        """None that count."""
        return 0
