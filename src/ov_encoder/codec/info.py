"""MediaInfo: what a container and its packets say, before anything is decoded."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np


@dataclass(slots=True)
class MediaInfo:
    """One video stream, animation or still image, described from headers and packets alone.

    name: how errors and reports call the source (a path, or "<bytes: 1234>"). kind: "video", "animation" (GIF,
    WebP, APNG) or "image". height, width: of the picture as it is to be shown (after `rotation`, in degrees
    clockwise: 0, 90, 180 or 270). frames: number of displayable packets. K = packets in decode order:
    packet_bits_K int64, packet_time_K float64 seconds (NaN where the stream gives none), packet_key_K bool.
    native: which of codec.signals.SIGNALS the stock decoder exports for this codec.
    bitstream: "" if the bitstream parser reads this stream, else why not.
    """

    name: str
    kind: str
    container: str
    codec: str
    profile: str
    pixel_format: str
    height: int
    width: int
    rotation: int
    frames: int
    fps: float  # average; 0 where unknown
    duration_s: float  # 0 where unknown
    native: tuple[str, ...] = ()
    bitstream: str = "no video stream"
    streams: int = 1  # video streams in the container; the default one is read
    packet_bits_K: np.ndarray = field(default_factory=lambda: np.zeros(0, np.int64))
    packet_time_K: np.ndarray = field(default_factory=lambda: np.zeros(0))
    packet_key_K: np.ndarray = field(default_factory=lambda: np.zeros(0, bool))
    notes: list[str] = field(default_factory=list)
