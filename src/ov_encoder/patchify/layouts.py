"""The collage layout: whole frames stacked into one tall picture, as the reference trains it (its third mode).

The other layouts are what ClipPlan.to_batch gives: tokens at their true (t, h, w).
"""

from __future__ import annotations

import numpy as np

from ov_encoder.patchify.batch import PatchBatch
from ov_encoder.patchify.plan import ClipPlan


def collage_batch(made: ClipPlan) -> PatchBatch:
    """Kept whole frames under each other: t = 0, h = frame * H + row. grids_B is (1, frames * H, W)."""
    batch = made.to_batch()
    t, h, w = batch.positions_N3.T
    _, H, W = made.grid
    order = np.searchsorted(np.flatnonzero(made.anchors_T), t)
    batch.positions_N3 = np.stack([np.zeros_like(t), order * H + h, w], axis=1).astype(np.int32)
    batch.grids_B = [(1, int(made.anchors_T.sum()) * H, W)]
    batch.slot_times_B = [made.slot_times_T[:1]]
    return batch
