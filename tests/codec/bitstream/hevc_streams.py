"""HEVC streams for tests: a small moving scene through x265, and what FFmpeg decodes from it.

Shapes: T = frames, H, W = luma samples.
"""

from __future__ import annotations

from fractions import Fraction
from functools import lru_cache

import av
import numpy as np

from tests.clips import texture

H, W = 144, 208


@lru_cache(maxsize=4)
def scene(T: int, H: int = H, W: int = W) -> np.ndarray:
    """uint8 [T, H, W, 3]: a texture that drifts, a square over it, noise, and a flash two thirds in."""
    frames, rng = [], np.random.default_rng(7)
    for t in range(T):
        y, x = int(2.6 * t), int(5.2 * t)
        frame = texture(1)[y : y + 2 * H : 2, x : x + 2 * W : 2].astype(np.float32)
        top, left = 3 * t % (H // 2), 5 * t % (W // 2)
        frame[top : top + H // 3, left : left + W // 3] = texture(2)[: H // 3, : W // 3]
        frame += rng.normal(0, 1 + t % 3, frame.shape)
        frames.append(255 - frame if t == T * 2 // 3 else frame)
    return np.clip(np.stack(frames), 0, 255).astype(np.uint8)


@lru_cache(maxsize=64)
def x265(
    params: str, *, T: int = 8, H: int = H, W: int = W, preset: str = "medium", pixels: str = "yuv420p"
) -> tuple[bytes, ...]:
    """Annex B packets of the scene."""
    encoder = av.CodecContext.create("libx265", "w")
    assert isinstance(encoder, av.VideoCodecContext)
    encoder.width, encoder.height, encoder.pix_fmt, encoder.time_base = W, H, pixels, Fraction(1, 25)
    encoder.options = {
        "preset": preset,
        "x265-params": f"log-level=none:pools=1:frame-threads=1:keyint=50:scenecut=0:{params}",
    }
    packets = []
    for t, picture in enumerate(scene(T, H, W)):
        frame = av.VideoFrame.from_ndarray(picture, "rgb24").reformat(format=pixels)
        frame.pts = t
        packets += [bytes(p) for p in encoder.encode(frame)]
    return (*packets, *(bytes(p) for p in encoder.encode(None)))


def decoded_luma(packets: tuple[bytes, ...] | list[bytes]) -> list[np.ndarray]:
    """int32 [H, W] of every picture in display order, by FFmpeg; the shown part."""
    decoder = av.CodecContext.create("hevc", "r")
    assert isinstance(decoder, av.VideoCodecContext)
    decoder.thread_type = "NONE"
    decoder.thread_count = 1
    frames = [f for packet in packets for f in decoder.decode(av.Packet(packet))]
    frames += decoder.decode(None)
    return [luma_of(f) for f in frames]


def luma_of(frame: av.VideoFrame) -> np.ndarray:
    """int32 [H, W]"""
    plane, dtype = frame.planes[0], np.dtype("<u2" if "le" in frame.format.name else "u1")
    rows = np.frombuffer(bytes(plane), dtype).reshape(plane.height, -1)
    return rows[:, : frame.width].astype(np.int32)
