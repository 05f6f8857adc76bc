"""What a stream says about each block: the types FrameSignals and ClipSignals. No reading happens here.

Maps lie on cells of `ClipSignals.cell` luma pixels of a picture of `height` x `width` pixels (after the
display rotation). The last row or column of cells may reach past the picture's edge.

Shapes: H, W = number of cell rows and columns, ceil(height / cell) and ceil(width / cell).
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Literal, overload

import numpy as np

SIGNALS = ("motion", "residual", "bits", "qp", "kind")
CELL = 8  # luma pixels a side: FFmpeg collapses partitions below 8x8 to one vector
KIND_SKIP, KIND_INTER, KIND_INTRA = 0, 1, 2

Provenance = Literal["native", "derived", "absent"]


@dataclass(slots=True)
class FrameSignals:
    """One decoded frame. A map is None where the stream or the provider cannot tell.

    motion_HW2: float32, pixels per frame of display distance, x then y; points from the block to where its
    content came from (positive x: the content came from the right), as in FFmpeg's side data.
    residual_HW: float32, mean squared error per pixel (8-bit scale) of what prediction missed.
    bits_HW: float32, coded bits per cell. qp_HW: float32. kind_HW: uint8, KIND_SKIP / _INTER / _INTRA.
    """

    index: int
    time_s: float
    frame_type: str  # "I", "P", "B" or "?" where the codec does not say
    packet_bits: int
    motion_HW2: np.ndarray | None = None
    residual_HW: np.ndarray | None = None
    bits_HW: np.ndarray | None = None
    qp_HW: np.ndarray | None = None
    kind_HW: np.ndarray | None = None


@dataclass(slots=True)
class ClipSignals(Sequence[FrameSignals]):
    """FrameSignals of a span in display order, and who said so.

    codec: FFmpeg's name of the source codec ("h264", "hevc", ...). provider: "bitstream" (our own parser of the
    stream), "native" (side data of the stock decoder), "transcode" (a re-encode in memory), or "none". provenance:
    one of SIGNALS -> "native" (read from the stream), "derived" (computed by us from pixels or from a transcode) or
    "absent".
    """

    frames: list[FrameSignals]
    codec: str
    provider: str
    cell: int
    height: int
    width: int
    provenance: dict[str, Provenance]
    notes: list[str] = field(default_factory=list)

    def __len__(self) -> int:
        return len(self.frames)

    def __iter__(self) -> Iterator[FrameSignals]:
        return iter(self.frames)

    @overload
    def __getitem__(self, i: int) -> FrameSignals: ...
    @overload
    def __getitem__(self, i: slice) -> list[FrameSignals]: ...
    def __getitem__(self, i):
        return self.frames[i]

    @property
    def grid_HW(self) -> tuple[int, int]:
        """Rows and columns of cells."""
        return -(-self.height // self.cell), -(-self.width // self.cell)
