"""Short clips with a question each, drawn as often as one likes: which way something moves, what shows for a moment.

Everything follows from the seed. Only drawing and encoding are here; questions become files in make_data.py.

Shapes: T = frames, H, W = pixels, 3 = RGB.
"""

from __future__ import annotations

import io
import random
from fractions import Fraction

import av
import numpy as np
from PIL import Image, ImageColor, ImageDraw

COLOURS = {"red": "#d1362b", "green": "#1f9a43", "blue": "#2b5fd0", "yellow": "#e8d21e", "purple": "#8b3cb0"}
WAYS = {"left": (-1, 0), "right": (1, 0), "up": (0, -1), "down": (0, 1)}
SIDE, FRAMES = 112, 24


def moving(source: random.Random) -> tuple[bytes, str, str]:
    """A disc crosses a still scene: encoded clip, question, answer. Any one frame shows nothing of the way."""
    way = source.choice(sorted(WAYS))
    x_step, y_step = WAYS[way]
    reach = source.uniform(40, 64)
    start = [source.uniform(20, SIDE - 20) for _ in "xy"]
    for axis, step in enumerate((x_step, y_step)):
        if step:  # somewhere along the way, so that the place alone tells little
            lowest, highest = 12.0, SIDE - 12.0 - reach
            start[axis] = source.uniform(lowest, highest) + (reach if step < 0 else 0)
    colour, radius = COLOURS[source.choice(sorted(COLOURS))], source.randint(9, 13)
    frames = _still(source)
    for t in range(FRAMES):
        done = reach * t / (FRAMES - 1)
        x, y = start[0] + x_step * done, start[1] + y_step * done
        _draw(frames, t, "ellipse", (x, y), radius, colour)
    return encode(frames), "Which way does the disc move: left, right, up or down?", way


def flash(source: random.Random) -> tuple[bytes, str, str]:
    """A square shows in 3 of the frames of a still scene: encoded clip, question, its colour."""
    name, radius = source.choice(sorted(COLOURS)), source.randint(9, 13)
    at = (source.uniform(16, SIDE - 16), source.uniform(16, SIDE - 16))
    first = source.randint(1, FRAMES - 4)
    frames = _still(source)
    for t in range(first, first + 3):
        _draw(frames, t, "rectangle", at, radius, COLOURS[name])
    return encode(frames), "Which colour shows for a moment?", name


def encode(frames_THW3: np.ndarray) -> bytes:
    """H.264 in MP4 at 12 frames a second, as a camera would have sent it."""
    out = io.BytesIO()
    with av.open(out, "w", format="mp4") as container:
        stream = container.add_stream("libx264", rate=Fraction(12), options={"crf": "23", "g": str(FRAMES)})
        assert isinstance(stream, av.VideoStream)
        stream.width = stream.height = SIDE
        stream.pix_fmt, stream.thread_count = "yuv420p", 1
        for frame_HW3 in frames_THW3:
            container.mux(stream.encode(av.VideoFrame.from_ndarray(frame_HW3, format="rgb24")))
        container.mux(stream.encode(None))
    return out.getvalue()


def _still(source: random.Random) -> np.ndarray:
    """A grey-brown scene of soft blots with a little grain that differs from frame to frame: uint8 [T, H, W, 3]."""
    random_numbers = np.random.default_rng(source.getrandbits(64))
    blots = Image.fromarray(random_numbers.integers(90, 190, (6, 6, 3), np.uint8))
    scene = np.asarray(blots.resize((SIDE, SIDE), Image.Resampling.BICUBIC), np.float32)
    scene = scene.mean(axis=2, keepdims=True) * 0.7 + scene * 0.3
    grain = random_numbers.normal(0, 1.5, (FRAMES, SIDE, SIDE, 1))
    return np.clip(scene + grain, 0, 255).astype(np.uint8)


def _draw(frames: np.ndarray, t: int, shape: str, at: tuple[float, float], radius: int, colour: str) -> None:
    mask = Image.new("L", (4 * SIDE, 4 * SIDE))  # drawn large and made small, for soft edges
    (x, y), draw = at, ImageDraw.Draw(mask)
    box = [4 * v for v in (x - radius, y - radius, x + radius, y + radius)]
    (draw.ellipse if shape == "ellipse" else draw.rectangle)(box, fill=255)
    share = np.asarray(mask.resize((SIDE, SIDE), Image.Resampling.BOX), np.float32)[..., None] / 255
    frames[t] = np.rint(frames[t] * (1 - share) + np.array(ImageColor.getrgb(colour)) * share)
