"""Parsed pictures to FrameSignals: vectors become pixels per frame of display distance, sums become means.

Shapes: H, W = rows and columns of cells; D = pictures in decoding order; K = packets; 2 = list 0, list 1.
"""

from __future__ import annotations

import numba
import numpy as np

from ov_encoder.codec.bitstream.parser import KIND_MISSING, ParsedFrame, RefusedError
from ov_encoder.codec.info import MediaInfo
from ov_encoder.codec.signals import FrameSignals

_FAR = 1024  # frames: a reference that is further away says nothing about speed


class Ranks:
    """Display rank of every packet; None where the stream has no times (raw H.264 and HEVC)."""

    def __init__(self, info: MediaInfo) -> None:
        K = len(info.packet_time_K)
        self.rank_K: np.ndarray | None = None
        if K and not np.isnan(info.packet_time_K).any():
            self.rank_K = np.empty(K, np.int64)
            self.rank_K[np.argsort(info.packet_time_K, kind="stable")] = np.arange(K)


class Converter:
    """Maps of one parser's pictures, in the order of decoding. One per parser."""

    def __init__(self, info: MediaInfo, ranks: Ranks, *, cell: int) -> None:
        self._info, self._rank_K, self._cell = info, ranks.rank_K, cell
        self._rank_D: list[int] = []

    @staticmethod
    def wanted(ranks: Ranks, *, qp: bool, residual: bool) -> tuple[str, ...]:
        """Names of the parser's maps that are needed."""
        distance = "poc" if ranks.rank_K is None else "age"
        return ("motion", distance, "valid", "kind", "bits", *(["qp"] * qp), *(["energy"] * residual))

    def __call__(self, parsed: ParsedFrame, packet: int) -> FrameSignals:
        """Signals on the shown picture's cells; without maps where the picture is damaged.

        `index` and `time_s` are for the caller to set.

        Raises:
            RefusedError: the picture's shown part does not start on a cell.
        """
        self._rank_D.append(0 if self._rank_K is None else int(self._rank_K[packet]))
        signals = FrameSignals(0, 0.0, parsed.frame_type, int(self._info.packet_bits_K[packet]))
        if parsed.damaged:
            return signals
        cell = self._cell
        if parsed.left % cell or parsed.top % cell:
            raise RefusedError(f"the picture is cropped by {parsed.left} and {parsed.top} pixels at its left and top")
        top, left = parsed.top // cell, parsed.left // cell
        shown = (slice(top, top - (-parsed.height // cell)), slice(left, left - (-parsed.width // cell)))
        maps = parsed.maps
        kind_HW = np.ascontiguousarray(maps["kind"][shown])
        assert not (kind_HW == KIND_MISSING).any()  # a picture with missing cells is damaged
        signals.kind_HW = kind_HW
        signals.bits_HW = np.ascontiguousarray(maps["bits"][shown])
        if "qp" in maps:
            signals.qp_HW = maps["qp"][shown].astype(np.float32)
        if "energy" in maps:
            signals.residual_HW = maps["energy"][shown] * np.float32(1 / cell**2)
        if parsed.frame_type != "I":
            motion_HW2 = np.empty((*maps["kind"].shape, 2), np.float32)
            steps_2HW, table, low = self._distances(parsed)
            _velocity(maps["motion"], maps["valid"], steps_2HW, table, low, motion_HW2)
            signals.motion_HW2 = np.ascontiguousarray(motion_HW2[shown])
        return signals

    def _distances(self, parsed: ParsedFrame) -> tuple[np.ndarray, np.ndarray, int]:
        """Per cell a number, and a table from it (minus `low`) to the reference's distance in frames; 0: unknown."""
        if self._rank_K is None:
            per_frame = 2 if self._info.codec == "h264" else 1  # H.264 counts fields
            poc_2HW = np.clip(parsed.maps["poc"], -_FAR, _FAR)
            return poc_2HW, np.arange(-_FAR, _FAR + 1, dtype=np.float32) / per_frame, -_FAR
        age_2HW = np.minimum(parsed.maps["age"], min(_FAR, parsed.decode_index + 1))
        ranks = np.array(self._rank_D[-_FAR:][::-1], np.float32)  # by age
        return age_2HW, np.append(ranks[0] - ranks, np.zeros(1, np.float32)), 0


@numba.njit(cache=True, nogil=True)
def _velocity(motion_2HW2, valid_HW, steps_2HW, table, low, motion_HW2):
    """Mean over the lists that a cell uses of vector / distance, in pixels per frame (the vectors are in quarters)."""
    H, W = valid_HW.shape
    for i in range(H):
        for j in range(W):
            x, y, n = np.float32(0), np.float32(0), 0
            for side in range(2):
                if not valid_HW[i, j] >> side & 1:
                    continue
                distance = table[steps_2HW[side, i, j] - low]
                if distance != 0:
                    x += motion_2HW2[side, i, j, 0] / (4 * distance)
                    y += motion_2HW2[side, i, j, 1] / (4 * distance)
                    n += 1
            motion_HW2[i, j, 0] = x / n if n else np.float32(0)
            motion_HW2[i, j, 1] = y / n if n else np.float32(0)
