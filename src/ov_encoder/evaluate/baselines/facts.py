"""Facts about a clip as features, without a look at its frames: size and length, motion and residual.

Read in worker processes, so nothing here brings torch.

Shapes: N = tokens, D = values of a token, T = slots, H, W = cells.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass, replace

import numpy as np

from ov_encoder.codec.media import Source, inspect
from ov_encoder.patchify.api import plan
from ov_encoder.patchify.options import Options

CELLS, PATCH = 8, 14  # the grid of `codec_maps`, and pixels of a cell


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
    side = CELLS * PATCH
    wanted = replace(options, mode="codec", signal="fused", size=(side, side), patch=PATCH, block=1)
    made = plan(source, **asdict(wanted))
    T = made.grid[0]
    nothing = np.zeros(made.scores_THW.shape, np.float32)
    maps = [np.nan_to_num(made.maps_THW.get(name, nothing)) for name in ("motion", "residual", "bits")]
    tokens_TD = np.log1p(np.stack(maps, axis=1).reshape(T, -1)).astype(np.float32)
    positions_T3 = np.stack([np.arange(T), np.zeros(T, int), np.zeros(T, int)], axis=1).astype(np.int32)
    return Facts(tokens_TD, positions_T3, np.concatenate([tokens_TD.mean(axis=0), tokens_TD.std(axis=0)]))
