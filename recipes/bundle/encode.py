"""Rendered frames to files as they are found in the wild: several codecs, GOPs, sizes and bit rates."""

from __future__ import annotations

import random
from fractions import Fraction
from pathlib import Path

import av
import numpy as np

# name, suffix, options; quality and GOP are drawn
CODECS = (
    ("libx264", ".mp4", {"preset": "veryfast"}),
    ("libx264", ".mp4", {"preset": "veryfast", "bf": "0"}),
    ("libx265", ".mp4", {"preset": "ultrafast", "x265-params": "log-level=none"}),
    ("libvpx-vp9", ".webm", {"deadline": "realtime", "cpu-used": "8"}),
    ("mpeg4", ".avi", {}),
)
WEIGHTS = (5, 3, 2, 1, 1)


def write_clip(frames_THW3: np.ndarray, fps: float, stem: Path, chance: random.Random) -> Path:
    """Encode with drawn settings and return the file. It appears whole or not at all."""
    name, suffix, options = chance.choices(CODECS, WEIGHTS)[0]
    gop = chance.choice((12, 16, 32, 64, 250))
    path = stem.with_name(stem.name + suffix)
    part = stem.with_name(f".{stem.name}.part{suffix}")
    part.parent.mkdir(parents=True, exist_ok=True)
    with av.open(str(part), "w") as container:
        stream = container.add_stream(name, rate=Fraction(fps).limit_denominator(1001))
        stream.height, stream.width, stream.pix_fmt = frames_THW3.shape[1], frames_THW3.shape[2], "yuv420p"
        stream.gop_size = gop
        stream.codec_context.thread_count = 1  # the same bytes on every machine with the same libraries
        options = dict(options)
        if name == "mpeg4":
            stream.bit_rate = chance.choice((300_000, 800_000, 2_000_000))
        elif name == "libvpx-vp9":
            stream.bit_rate = 0
            options["crf"] = str(chance.choice((30, 38, 46)))
        else:
            options["crf"] = str(chance.choice((20, 24, 28, 32)))
        stream.options = options
        for frame_HW3 in frames_THW3:
            container.mux(stream.encode(av.VideoFrame.from_ndarray(np.ascontiguousarray(frame_HW3), format="rgb24")))
        container.mux(stream.encode(None))
    part.replace(path)
    return path
