"""ClipPlan: everything that was decided about one source before patches are cut. The viewer and reports read it.

Shapes: T = time slots, H, W = patch rows and columns, P = patch side in pixels.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np

from ov_encoder.codec.info import MediaInfo
from ov_encoder.patchify.batch import PatchBatch


@dataclass(slots=True)
class ClipPlan:
    """Frames, scores and choice of one sample; `to_batch` cuts the kept patches.

    frames_THWC: uint8 RGB of every slot at the encoder's size, [T, H*P, W*P, 3]. slot_frames_T: source frame
    number of each slot. slot_times_T: seconds. scores_THW: float32 saliency that patches were ranked by (NaN in
    slots that were not scored). maps_THW: the parts it was fused from ("motion", "residual", "bits", where
    present), each float32 and in its own unit. keep_THW: the choice. anchors_T: slots kept whole on purpose.
    shots: first slot of every shot. provenance: JSON-able, what each signal is and where it comes from.
    seconds: stage name -> wall seconds ("read", "signals", "select", ...). notes: fallbacks that were taken.
    """

    info: MediaInfo
    mode: str
    patch_size: int
    frames_THWC: np.ndarray
    slot_frames_T: np.ndarray
    slot_times_T: np.ndarray
    scores_THW: np.ndarray
    keep_THW: np.ndarray
    anchors_T: np.ndarray
    shots: list[int]
    provenance: dict[str, Any]
    maps_THW: dict[str, np.ndarray] = field(default_factory=dict)
    seconds: dict[str, float] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)

    @property
    def grid(self) -> tuple[int, int, int]:
        """(T, H, W) in patches."""
        t, h, w = self.keep_THW.shape
        return t, h, w

    @property
    def tokens(self) -> int:
        """Number of kept patches."""
        return int(self.keep_THW.sum())

    def to_batch(self) -> PatchBatch:
        """Cut the kept patches: a PatchBatch of one sample, tokens in ascending (t, h, w)."""
        from ov_encoder.patchify.cut import cut_patches

        positions_N3 = np.argwhere(self.keep_THW).astype(np.int32)
        return PatchBatch.from_arrays(
            patches_ND=cut_patches(self.frames_THWC, positions_N3, self.patch_size),
            positions_N3=positions_N3,
            lengths_B=[len(positions_N3)],
            modes_B=[self.mode],
            grids_B=[self.grid],
            slot_times_B=[self.slot_times_T],
            scores_N=self.scores_THW[tuple(positions_N3.T)],
            provenance_B=[self.provenance],
        )
