"""Signals for any codec: re-encode pictures in memory with x264 and read that stream's vectors and residual.

The stream is made to be easy to read: one reference (always the previous picture), no B-frames, no deblocking,
constant quantiser, one thread. Its motion-compensated residual is then exact (see `compensate`), and the same
input gives the same bits. One I-frame starts it; every later picture says what is new since the picture before.

Shapes: H, W = rows and columns of cells, Y, X = pixel rows and columns of the coded picture (multiples of 16).
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from fractions import Fraction
from itertools import chain
from typing import Any

import av
import numpy as np

from ov_encoder.codec.compensate import exact_residual, residual_energy
from ov_encoder.codec.decode import plane_rows
from ov_encoder.codec.signals import CELL, KIND_INTER, KIND_INTRA, KIND_SKIP, FrameSignals
from ov_encoder.codec.vectors import frame_vectors, motion_grid, qp_grid, side_data_of

QP = 24
_X264 = (
    "ref=1:bframes=0:weightp=0:keyint=infinite:scenecut=0:rc-lookahead=0:sync-lookahead=0:mbtree=0:aq-mode=0:"
    "no-psy=1:sliced-threads=0:no-deblock=1:partitions=p8x8,i8x8,i4x4"
)


@dataclass(slots=True)
class Transcoded:
    """Signals of one picture and, for tests and pictures, the pixels behind them (coded size)."""

    signals: FrameSignals
    luma_YX: np.ndarray
    residual_YX: np.ndarray | None  # int16; None for the first picture


def transcode(frames: Iterable[np.ndarray], *, preset: str = "veryfast") -> Iterator[Transcoded]:
    """Signals of pictures, in order, relative to the picture before each.

    frames: uint8 RGB [height, width, 3], all of one size. Maps cover ceil(height / 8) x ceil(width / 8) cells.
    `index` counts pictures, `time_s` is 0: callers know the source's.
    """
    source = iter(frames)
    first = next(source, None)
    if first is None:
        return
    height, width = first.shape[:2]
    Y, X = -(-height // 16) * 16, -(-width // 16) * 16  # whole macroblocks, so that no pixel is hidden by cropping
    encoder = av.CodecContext.create("libx264", "w")
    encoder.width, encoder.height, encoder.pix_fmt = X, Y, "yuv420p"
    encoder.time_base, encoder.framerate = Fraction(1, 25), Fraction(25)
    encoder.thread_count, encoder.thread_type = 1, "NONE"
    encoder.options = {"preset": preset, "tune": "zerolatency", "qp": str(QP), "x264-params": _X264}
    decoder = av.CodecContext.create("h264", "r")
    decoder.thread_count, decoder.thread_type = 1, "NONE"
    decoder.options = {"flags": "+low_delay", "flags2": "+export_mvs", "export_side_data": "venc_params"}
    decoder.copy_opaque = True
    grid_HW = (-(-height // CELL), -(-width // CELL))
    reference_YX: np.ndarray | None = None

    def pictures() -> Iterator[av.VideoFrame]:
        def drained(packets: list) -> Iterator[av.VideoFrame]:
            for packet in packets:
                packet.opaque = packet.size
                yield from decoder.decode(packet)

        for i, rgb in enumerate(chain([first], source)):
            assert rgb.shape == first.shape, (rgb.shape, first.shape)
            padded = np.pad(rgb, ((0, Y - height), (0, X - width), (0, 0)), mode="edge")
            frame = av.VideoFrame.from_ndarray(padded, format="rgb24").reformat(format="yuv420p")
            frame.pts, frame.pict_type = i, 0
            yield from drained(encoder.encode(frame))
        yield from drained(encoder.encode(None))
        yield from decoder.decode(None)

    for count, frame in enumerate(pictures()):
        luma_YX = plane_rows(frame)[:Y, :X].copy()
        packet_bytes: Any = frame.opaque or 0
        signals = FrameSignals(count, 0.0, "I" if count == 0 else "P", 8 * packet_bytes)
        side_data = side_data_of(frame)
        signals.qp_HW = qp_grid(side_data, grid_HW)
        residual_YX = None
        if reference_YX is None:
            signals.kind_HW = np.full(grid_HW, KIND_INTRA, np.uint8)
        else:
            vectors_M = frame_vectors(side_data)
            signals.motion_HW2, lists_HW = motion_grid(vectors_M, grid_HW, 1, 1)
            residual_YX, inter_YX = exact_residual(luma_YX, reference_YX, vectors_M)
            energy = residual_energy(residual_YX, inter_YX, luma_YX, reference_YX)
            signals.residual_HW = energy[: grid_HW[0], : grid_HW[1]]
            kind_HW = np.where(signals.residual_HW > 0, KIND_INTER, KIND_SKIP)
            signals.kind_HW = np.where(lists_HW == 0, KIND_INTRA, kind_HW).astype(np.uint8)
        yield Transcoded(signals, luma_YX, residual_YX)
        reference_YX = luma_YX
