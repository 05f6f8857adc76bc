"""Parsed pictures to FrameSignals: vectors become pixels per frame of display distance, sums become means.

Shapes: H, W = rows and columns of cells; D = pictures in decoding order; K = packets; R = references of a picture.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from ov_encoder.codec.bitstream.parser import ParsedFrame, Parser, RefusedError
from ov_encoder.codec.info import MediaInfo
from ov_encoder.codec.limits import Limits
from ov_encoder.codec.signals import FrameSignals

PARSER_BYTES = 1 << 30  # memory of one parser, as a decoder's not counted in the caller's limits


@dataclass(slots=True)
class Wanted:
    """What a reading asks for: the side of cells, and which maps."""

    cell: int
    qp: bool
    residual: bool
    limits: Limits


def display_ranks(info: MediaInfo) -> np.ndarray | None:
    """Place of every packet in the order of display [K]; None where the stream has no times (raw H.264 and HEVC)."""
    K = len(info.packet_time_K)
    if not K or np.isnan(info.packet_time_K).any():
        return None
    rank_K = np.empty(K, np.int64)
    rank_K[np.argsort(info.packet_time_K, kind="stable")] = np.arange(K)
    return rank_K


class SignalParser:
    """A parser whose pictures come as FrameSignals. Not to be shared between threads."""

    def __init__(self, info: MediaInfo, wanted: Wanted, rank_K: np.ndarray | None) -> None:
        self._info, self._rank_K, self._cell = info, rank_K, wanted.cell
        self._rank_D: list[int] = []
        self._packet = 0
        self._parser = Parser(
            info.codec,
            cell=wanted.cell,
            wanted=("velocity", "kind", "bits", *(["qp"] * wanted.qp), *(["energy"] * wanted.residual)),
            distance=self._distances,
            pixels=wanted.limits.pixels,
            memory=PARSER_BYTES,
        )

    def close(self) -> None:
        """Give the memory back."""
        self._parser.close()

    def feed(self, data: bytes, packet: int) -> Iterator[tuple[ParsedFrame, FrameSignals]]:
        """The pictures in a packet, with their signals on the shown picture's cells; no maps where damaged.

        `index` and `time_s` are for the caller to set.

        Raises:
            RefusedError: the stream cannot be read. MemoryError: it needs more memory than there is.
        """
        self._packet = packet
        for parsed in self._parser.feed(data):
            yield parsed, self._signals(parsed)

    def _signals(self, parsed: ParsedFrame) -> FrameSignals:
        signals = FrameSignals(0, 0.0, parsed.frame_type, int(self._info.packet_bits_K[self._packet]))
        if parsed.damaged:
            return signals
        cell, maps = self._cell, parsed.maps
        if parsed.left % cell or parsed.top % cell:
            raise RefusedError(f"the picture is cropped by {parsed.left} and {parsed.top} pixels at its left and top")
        top, left = parsed.top // cell, parsed.left // cell
        shown = (slice(top, top - (-parsed.height // cell)), slice(left, left - (-parsed.width // cell)))
        signals.kind_HW = np.ascontiguousarray(maps["kind"][shown])
        signals.bits_HW = np.ascontiguousarray(maps["bits"][shown])
        if "qp" in maps:
            signals.qp_HW = maps["qp"][shown].astype(np.float32)
        if "energy" in maps:
            signals.residual_HW = maps["energy"][shown] * np.float32(1 / cell**2)
        if parsed.frame_type != "I":
            signals.motion_HW2 = np.ascontiguousarray(maps["velocity"][shown])
        return signals

    def _distances(self, decode_index: int, age_R: np.ndarray, poc_R: np.ndarray) -> np.ndarray:
        """Display distance of each reference in frames, past ones above 0; 0 where the reference was never read."""
        if self._rank_K is None:
            return poc_R / (2 if self._info.codec == "h264" else 1)  # H.264 counts fields
        assert decode_index == len(self._rank_D)
        rank = int(self._rank_K[self._packet])
        self._rank_D.append(rank)
        return np.array([rank - self._rank_D[decode_index - age] for age in age_R], np.float32)
