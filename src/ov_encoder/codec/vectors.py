"""FFmpeg's exported block vectors and QP, drawn on a grid of cells. No pixel is read here.

Facts that the code rests on (measured, see docs/codec-signals.md): `dst` is the centre of a block; source = dst +
motion / scale; `source` is -1 for a past and +1 for a future reference and says nothing about which one; in B
macroblocks with partitions FFmpeg also exports (0, 0) for the list that a partition does not use.

Shapes: H, W = rows and columns of cells, K = packets in decode order, M = vectors of a frame.
"""

from __future__ import annotations

from collections import deque
from typing import Any

import av
import numba
import numpy as np
from av.sidedata.sidedata import SideDataContainer

from ov_encoder.codec.signals import CELL, KIND_INTER, KIND_INTRA

VECTOR = np.dtype(
    [
        *[("source", "<i4"), ("w", "u1"), ("h", "u1"), ("src_x", "<i2"), ("src_y", "<i2"), ("dst_x", "<i2")],
        *[("dst_y", "<i2"), ("flags", "<u8"), ("motion_x", "<i4"), ("motion_y", "<i4"), ("motion_scale", "<u2")],
    ],
    align=True,
)
BLOCK = np.dtype([("src_x", "<i4"), ("src_y", "<i4"), ("w", "<i4"), ("h", "<i4"), ("delta_qp", "<i4")])
assert VECTOR.itemsize == 40

NONE, PAST, FUTURE, BOTH = 0, 1, 2, 3
KIND_OF_LISTS = np.array([KIND_INTRA, KIND_INTER, KIND_INTER, KIND_INTER], np.uint8)


def side_data_of(frame: av.VideoFrame) -> Any:
    """A frame's side data. `frame.side_data` would do, but keeps itself on the frame: a cycle that holds every picture
    until Python's collector runs (measured: 270 MB instead of 60 after 750 frames of 720p, and slower decoding).
    """
    container: Any = SideDataContainer  # its constructor is missing from the type stubs
    return container(frame)


def frame_vectors(side_data: Any) -> np.ndarray:
    """The vectors in a frame's side data, [M] of dtype VECTOR; a view, empty where there are none (I-frames)."""
    data = side_data.get("MOTION_VECTORS")
    return np.empty(0, VECTOR) if data is None else np.frombuffer(data, VECTOR)


def motion_grid(
    vectors_M: np.ndarray, grid_HW: tuple[int, int], past: int, future: int, *, cell: int = CELL
) -> tuple[np.ndarray, np.ndarray]:
    """Motion per frame of display distance, and which lists each cell uses.

    vectors_M: dtype VECTOR. past, future: display distance in frames of the references before and after.
    Returns motion_HW2 float32 (pixels per frame, x then y; 0 where no vector is) and lists_HW uint8 (NONE, PAST,
    FUTURE or BOTH). A cell predicted from both sides gets the mean of both velocities. cell: side in pixels, a power
    of two; of several blocks in one cell the last counts.
    """
    motion_HW2 = np.zeros((*grid_HW, 2), np.float32)
    lists_HW = np.zeros(grid_HW, np.uint8)
    if len(vectors_M):
        scale = int(vectors_M["motion_scale"][0])  # one per stream: 4 in H.264, 2 in MPEG-2 and MPEG-4
        per_past, per_future = np.float32(1 / (past * scale)), np.float32(-1 / (future * scale))
        _draw(vectors_M, motion_HW2, lists_HW, per_past, per_future, cell.bit_length() - 1)
    return motion_HW2, lists_HW


@numba.njit(cache=True, nogil=True)
def _draw(vectors_M, motion_HW2, lists_HW, per_past, per_future, shift):
    H, W = lists_HW.shape
    for m in range(len(vectors_M)):
        v = vectors_M[m]
        side = np.uint8(1) if v.source < 0 else np.uint8(2)
        per = per_past if v.source < 0 else per_future
        x, y = np.float32(v.motion_x) * per, np.float32(v.motion_y) * per
        left, top = v.dst_x - (v.w >> 1), v.dst_y - (v.h >> 1)
        for i in range(max(top >> shift, 0), min(((top + v.h - 1) >> shift) + 1, H)):
            for j in range(max(left >> shift, 0), min(((left + v.w - 1) >> shift) + 1, W)):
                had = lists_HW[i, j]
                if had == 0 or had == side:
                    motion_HW2[i, j, 0], motion_HW2[i, j, 1], lists_HW[i, j] = x, y, side
                    continue
                a, b = motion_HW2[i, j, 0], motion_HW2[i, j, 1]
                if x == 0 and y == 0 and (a != 0 or b != 0):
                    continue  # the zero of a list that this partition does not use
                if a == 0 and b == 0 and (x != 0 or y != 0):
                    motion_HW2[i, j, 0], motion_HW2[i, j, 1], lists_HW[i, j] = x, y, side
                    continue
                motion_HW2[i, j, 0], motion_HW2[i, j, 1] = (a + x) / 2, (b + y) / 2
                lists_HW[i, j] = 3


def qp_grid(side_data: Any, grid_HW: tuple[int, int], *, cell: int = CELL) -> np.ndarray | None:
    """Quantiser of every cell from a frame's side data, [H, W] float32; None where the decoder exports none."""
    params = side_data.get("VIDEO_ENC_PARAMS")
    if params is None:
        return None
    qp_HW = np.full(grid_HW, params.qp, np.float32)
    if params.nb_blocks:
        blocks = np.ndarray((params.nb_blocks,), BLOCK, memoryview(params), params.blocks_offset, (params.block_size,))
        _draw_qp(blocks, qp_HW, params.qp, cell.bit_length() - 1)
    return qp_HW


@numba.njit(cache=True, nogil=True)
def _draw_qp(blocks_M, qp_HW, base, shift):
    H, W = qp_HW.shape
    for m in range(len(blocks_M)):
        b = blocks_M[m]
        qp = np.float32(base + b.delta_qp)
        for i in range(max(b.src_y >> shift, 0), min(((b.src_y + b.h - 1) >> shift) + 1, H)):
            for j in range(max(b.src_x >> shift, 0), min(((b.src_x + b.w - 1) >> shift) + 1, W)):
                qp_HW[i, j] = qp


class Distances:
    """Display distance of a frame to the references before and after it, from packet order and frame types.

    The stream's reference indices are not exported, so the nearest candidate is taken: exact for one reference
    per list, an upper bound on speed otherwise. A frame counts as a reference if it is I or P, or if it was
    decoded ahead of a frame that is shown earlier.
    """

    def __init__(self, packet_time_K: np.ndarray) -> None:
        K = len(packet_time_K)
        if np.isnan(packet_time_K).any():  # raw streams: no order to read
            rank_K = np.arange(K)
        else:
            rank_K = np.empty(K, np.int64)
            rank_K[np.argsort(packet_time_K, kind="stable")] = np.arange(K)
        self._ahead_K = np.zeros(K, bool)
        self._future_K = np.full(K, K, np.int64)
        for lag in range(1, min(K, 18)):  # at most 16 reordered frames (H.264 Annex A)
            later = rank_K[:-lag] - rank_K[lag:]  # > 0: packet k - lag is shown after packet k
            self._ahead_K[:-lag] |= later > 0
            self._future_K[lag:] = np.where(later > 0, np.minimum(self._future_K[lag:], later), self._future_K[lag:])
        self._rank_K = rank_K
        self._shown: deque[tuple[int, int]] = deque(maxlen=17)  # (packet, rank) of references, as they are shown

    def __call__(self, packet: int, frame_type: str) -> tuple[int, int]:
        """(past, future) in frames, both at least 1. Call once per frame, in display order."""
        rank = int(self._rank_K[packet])
        # A pyramid's B-frame may be shown before a P-frame that was decoded before it, and so cannot have used it.
        before = [r for p, r in self._shown if p < packet and r < rank]
        past = rank - before[-1] if before else 1
        future = int(self._future_K[packet])
        if frame_type != "B" or self._ahead_K[packet]:
            self._shown.append((packet, rank))
        return past, future if future < len(self._rank_K) else 1
