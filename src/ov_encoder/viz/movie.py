"""Frames to an MP4 that plays anywhere. What is on the frames is drawn in `overlay`."""

from __future__ import annotations

from fractions import Fraction
from pathlib import Path

import numpy as np


def write_mp4(frames_THWC: np.ndarray, path: str | Path, *, fps: float) -> None:
    """Write uint8 RGB frames as H.264 (yuv420p, so that browsers and slides play it).

    Raises:
        ValueError: no frames, odd sides (yuv420p needs even ones), or a rate that is not positive.
    """
    import av

    T, height, width, _ = frames_THWC.shape
    if T == 0 or height % 2 or width % 2:
        raise ValueError(f"a movie needs frames with even sides, got {T} frames of {width}x{height}")
    if not fps > 0:
        raise ValueError(f"fps must be positive, got {fps}")
    with av.open(str(path), "w") as out:
        stream = out.add_stream("libx264", rate=Fraction(fps).limit_denominator(1000))
        stream.width, stream.height, stream.pix_fmt = width, height, "yuv420p"
        stream.options = {"crf": "20", "preset": "fast", "movflags": "+faststart"}
        for frame in frames_THWC:
            out.mux(stream.encode(av.VideoFrame.from_ndarray(frame, format="rgb24")))
        out.mux(stream.encode())


def slot_rate(slot_times_T: np.ndarray) -> float:
    """Frames per second at which slots play in their own time, held between 2 and 25."""
    if len(slot_times_T) < 2:
        return 2.0
    span = float(slot_times_T[-1] - slot_times_T[0])
    return float(np.clip((len(slot_times_T) - 1) / span, 2, 25)) if span > 0 else 8.0
