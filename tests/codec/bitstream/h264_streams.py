"""H.264 streams of many kinds from x264, and what FFmpeg's decoder says about them: the oracle of the parser's tests.

Shapes: H, W = rows and columns of cells; Y, X = pixels; 2 = list 0, list 1.
"""

from __future__ import annotations

from dataclasses import dataclass
from fractions import Fraction
from functools import lru_cache

import av
import numpy as np

from ov_encoder.codec.bitstream.parser import ParsedFrame, Parser
from ov_encoder.codec.decode import plane_rows
from ov_encoder.codec.vectors import frame_vectors, qp_grid, side_data_of
from tests.clips import Mover, path, render

T, H, W = 12, 80, 112


@lru_cache
def pictures(T: int = T, H: int = H, W: int = W) -> np.ndarray:
    """A pan with two discs, noise, a flash and two repeated frames: every kind of macroblock. [T, H, W, 3] uint8."""
    movers = [Mover(path(T, H, W, speed=5.0, phase=k), 14 + 4 * k, 4 + k) for k in range(2)]
    frames = render(T, H, W, seed=3, step_23=np.array([[1, 0, -1.6], [0, 1, 0.7]]), movers=movers).frames_THW3
    noise = np.random.default_rng(0).normal(0, 2.5, frames.shape)
    noisy = np.clip(frames + noise, 0, 255).astype(np.uint8)
    noisy[T // 2] = 255 - noisy[T // 2]
    noisy[-2:] = noisy[-3]
    return noisy


@lru_cache(maxsize=256)
def packets(params: str, pix_fmt: str = "yuv420p", *, size: tuple[int, int, int] = (T, H, W)) -> list[bytes]:
    """Annex B packets of x264 with these parameters (preset medium, crf 24 unless they say otherwise)."""
    context = av.CodecContext.create("libx264", "w")
    context.height, context.width, context.pix_fmt = size[1], size[2], pix_fmt
    context.time_base, context.framerate = Fraction(1, 25), Fraction(25, 1)
    context.thread_count, context.thread_type = 1, "NONE"
    context.options = {"preset": "medium", "x264-params": f"crf=24:{params}"}
    made = []
    for t, picture in enumerate(pictures(*size)):
        frame = av.VideoFrame.from_ndarray(picture, format="rgb24").reformat(format=pix_fmt)
        frame.pts, frame.time_base, frame.pict_type = t, context.time_base, 0
        made += [bytes(p) for p in context.encode(frame)]
    return made + [bytes(p) for p in context.encode(None)]


@dataclass
class Decoded:
    """What FFmpeg says of one picture. lists_HW: bits of the lists that some vector of the cell uses."""

    motion_2HW2: np.ndarray
    lists_HW: np.ndarray
    qp_HW: np.ndarray
    luma_YX: np.ndarray
    frame_type: str


def decoded(stream: list[bytes]) -> list[Decoded]:
    """FFmpeg's pictures with their side data, in decoding order."""
    context = av.CodecContext.create("h264", "r")
    context.thread_count, context.thread_type, context.copy_opaque = 1, "NONE", True
    context.options = {"flags2": "+export_mvs", "export_side_data": "venc_params"}
    found: dict[int, Decoded] = {}
    inputs = [av.Packet(p) for p in stream]
    for number, packet in enumerate(inputs):
        packet.opaque = (number,)
    for packet in [*inputs, None]:
        for frame in context.decode(packet):
            (number,) = frame.opaque  # type: ignore[misc]
            found[number] = _describe(frame)
    assert len(found) == len(stream)
    return [found[number] for number in range(len(stream))]


def _describe(frame: av.VideoFrame) -> Decoded:
    side_data = side_data_of(frame)
    grid = -(-frame.height // 16) * 2, -(-frame.width // 16) * 2
    motion_2HW2 = np.zeros((2, *grid, 2), np.int16)
    lists_HW = np.zeros(grid, np.uint8)
    for v in frame_vectors(side_data):
        side = int(v["source"] > 0)
        top, left = (int(v["dst_y"]) - int(v["h"]) // 2) // 8, (int(v["dst_x"]) - int(v["w"]) // 2) // 8
        cells = slice(top, top + int(v["h"]) // 8), slice(left, left + int(v["w"]) // 8)
        motion_2HW2[side][cells] = v["motion_x"], v["motion_y"]
        lists_HW[cells] |= 1 << side
    rows = plane_rows(frame)
    if frame.format.components[0].bits > 8:
        rows = rows.view(np.uint16)
    return Decoded(
        motion_2HW2,
        lists_HW,
        qp_grid(side_data, grid),
        rows[: frame.height, : frame.width].copy(),
        "?IPB"[int(frame.pict_type)],
    )


def parsed(stream: list[bytes], *, cell: int = 8, codec: str = "h264") -> list[ParsedFrame]:
    """The parser's pictures; every packet must hold exactly one."""
    with Parser(codec, cell=cell) as parser:
        frames = [list(parser.feed(packet)) for packet in stream]
    assert all(len(f) == 1 for f in frames)
    return [f[0] for f in frames]
