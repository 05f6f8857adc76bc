"""Floors: what can be had without any network. A result that does not beat them says nothing about vision.

`Pixels` and `Histogram` are towers (they take frames); `clip_facts` and `codec_maps` read a clip straight to tokens.

Shapes: T = frames, C = 3 colours, Y, X = pixels, L = tokens of a frame, D = values of a token, S = slots, G = 8 cells
a side.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass, replace

import numpy as np
import torch
from torch import nn

from ov_encoder.codec.media import Source, inspect
from ov_encoder.evaluate.baselines.frames import FrameShape
from ov_encoder.evaluate.baselines.towers import HALF
from ov_encoder.patchify.api import plan
from ov_encoder.patchify.options import Options

_SEGMENTS, _BINS, _CELLS, _PATCH = 4, 8, 8, 14


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


@dataclass(frozen=True, slots=True)
class Facts:
    """Tokens that no network made. tokens_ND: float32. positions_N3: (t, h, w). pooled_D: float32."""

    tokens_ND: np.ndarray
    positions_N3: np.ndarray
    pooled_D: np.ndarray


def clip_facts(source: Source, options: Options) -> Facts:
    """Height, width, shape, frames, seconds and frame rate, as logarithms: what leaks a class without a look at it.

    Raises:
        OvEncoderError: the source cannot be read.
    """
    info = inspect(source)
    values = (info.height, info.width, info.height / info.width, info.frames, info.duration_s, info.fps)
    facts_D = np.log1p(np.array(values, np.float32))
    return Facts(facts_D[None], np.zeros((1, 3), np.int32), facts_D)


def codec_maps(source: Source, options: Options) -> Facts:
    """Motion and residual of every slot on a grid of 8 x 8, as logarithms; pooled: mean and deviation over slots.

    No pixel is looked at, except by what derives the residual. Bits join where a provider gives them.

    Raises:
        OvEncoderError: the source cannot be read.
    """
    side = _CELLS * _PATCH
    wanted = replace(options, mode="codec", signal="fused", size=(side, side), patch=_PATCH, block=1)
    made = plan(source, **asdict(wanted))
    T = made.grid[0]
    nothing = np.zeros(made.scores_THW.shape, np.float32)
    maps = [np.nan_to_num(made.maps_THW.get(name, nothing)) for name in ("motion", "residual", "bits")]
    tokens_TD = np.log1p(np.stack(maps, axis=1).reshape(T, -1)).astype(np.float32)
    positions_T3 = np.stack([np.arange(T), np.zeros(T, int), np.zeros(T, int)], axis=1).astype(np.int32)
    return Facts(tokens_TD, positions_T3, np.concatenate([tokens_TD.mean(axis=0), tokens_TD.std(axis=0)]))
