"""Whole frames for towers of other families: how large, and how many a budget pays for. No tensors here.

The rule. Budgets are those of our encoder: patches before merging. A tower spends one on whole frames of rows x rows
patches, so that merge for merge the language model gets as many tokens:

    slices = budget // (rows x rows), each of `step` frames, spread over the clip as mode "chunk" does.

A tower that takes any size gets as many rows as our encoder would have at `size` (224 pixels are 16 rows: 256 pixels
for patches of 16), or a number at most a quarter away whose square divides the budget, because that spends it exactly.
A tower of one size cannot choose: what its whole frames leave unspent is said once. Frames are squares, as in training.
"""

from __future__ import annotations

import functools
import logging
import math
from dataclasses import dataclass
from typing import Literal

import numpy as np

from ov_encoder.patchify.batch import PatchBatch
from ov_encoder.patchify.options import Options, is_count

MODES = ("image", "chunk")
_log = logging.getLogger("ov_encoder")


@dataclass(frozen=True, kw_only=True)
class TowerShape:
    """How a tower takes pictures; a part of `LMMConfig`.

    name: its family. patch: pixels a side of a patch. rows: patches a side of its one size, None if it takes any.
    step: frames that become one slice of tokens. unit: rows and columns come in multiples of it.
    """

    name: str
    patch: int
    rows: int | None = None
    step: int = 1
    unit: int = 1

    def image(self, asked: Options, *, merge: int) -> Options:
        """An image: at its one size, or with as many rows and columns as our encoder would have."""
        if self.rows is not None:
            size: int | Literal["native"] | tuple[int, int] = (self.rows * self.patch, self.rows * self.patch)
        elif isinstance(asked.size, int):
            size = round(asked.size * self.patch / asked.patch)
        elif isinstance(asked.size, str):
            size = asked.size
        else:
            height, width = (round(side * self.patch / asked.patch) for side in asked.size)
            size = (height, width)
        return Options(
            mode="image", size=size, patch=self.patch, block=math.lcm(merge, self.unit), threads=asked.threads
        )

    def video(self, asked: Options, *, merge: int) -> Options:
        """A video: whole square frames for the budget, by the rule above; `frames` grows where they need it.

        Raises:
            ValueError: a mode without whole frames, a budget that is no number of tokens or pays for no frame, or a
                native size.
        """
        if asked.mode not in ("auto", "chunk"):
            raise ValueError(
                f"mode={asked.mode!r}: {self.name} takes whole frames only; its modes: 'chunk' for videos, 'image' for "
                f"images"
            )
        if not is_count(asked.budget, 1):
            raise ValueError(f"budget={asked.budget!r}; {self.name} needs a number of tokens")
        budget, block = int(asked.budget), math.lcm(merge, self.unit)
        rows = self.rows if self.rows is not None else self._rows(asked, budget, block)
        slices = budget // (rows * rows)
        if slices == 0:
            raise ValueError(f"budget={budget} does not pay for one frame of {self.name}: {rows} x {rows} patches")
        if left := budget - slices * rows * rows:
            _say_unspent(self.name, budget, slices, rows, left)
        frames = slices * self.step
        return Options(
            mode="chunk", size=(rows * self.patch, rows * self.patch), patch=self.patch, block=block,
            budget=frames * rows * rows, frames=max(asked.frames, frames), threads=asked.threads,
        )  # fmt: skip

    def _rows(self, asked: Options, budget: int, block: int) -> int:
        if isinstance(asked.size, str):
            raise ValueError(f"size={asked.size!r}; videos for {self.name} need a size in pixels")
        wanted = (asked.size if isinstance(asked.size, int) else math.sqrt(math.prod(asked.size))) / asked.patch
        most = max(math.isqrt(budget) // block, 1) * block
        fitting = range(block, most + 1, block)
        exact = [n for n in fitting if budget % (n * n) == 0 and abs(n - wanted) <= wanted / 4]
        return min(exact or fitting, key=lambda n: abs(n - wanted))

    def check(self, batch: PatchBatch) -> None:
        """Whether one sample (numpy) is what this tower takes.

        Raises:
            ValueError: patches of another size, normalised already, or not of whole frames in raster order.
        """
        if batch.patch_size != self.patch or batch.patches_ND.dtype != np.uint8:
            raise ValueError(
                f"a sample has {batch.patches_ND.dtype} patches of {batch.patch_size} pixels; {self.name} takes uint8 "
                f"patches of {self.patch}"
            )
        _, H, W = batch.grids_B[0]
        places_N = np.asarray(batch.positions_N3)[:, 1] * W + np.asarray(batch.positions_N3)[:, 2]
        whole = batch.tokens % (H * W) == 0 and (places_N.reshape(-1, H * W) == np.arange(H * W)).all()
        if batch.modes_B[0] not in MODES or not whole:
            raise ValueError(
                f"a sample of mode {batch.modes_B[0]!r}, {batch.tokens} patches of {H} x {W} frames, is not made of "
                f"whole frames, and {self.name} takes nothing else; its modes: {', '.join(MODES)}"
            )


@functools.cache
def _say_unspent(name: str, budget: int, slices: int, rows: int, left: int) -> None:
    _log.warning(
        "%s: a budget of %d pays for %d x %d x %d tokens; %d are not spent", name, budget, slices, rows, rows, left
    )
