"""Generated clips with known motion: scenes as numpy frames with ground truth, and their encoding to bytes.

Every scene is a textured background seen through a camera step that repeats each frame, plus objects on smooth
paths. Textures are band-limited noise, so codecs behave as on natural pictures. Everything is deterministic and
cached for the session. Odd and broken media are in tests/odd_media.py.

Shapes: T = frames, H, W = pixels, 3 = RGB.
"""

from __future__ import annotations

import io
import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from fractions import Fraction
from functools import lru_cache
from typing import Any

import av
import numpy as np

os.environ.setdefault("SVT_LOG", "0")  # SVT-AV1 prints a banner on stderr otherwise

TEXTURE = 512  # period of every texture in pixels
FINE = 2  # texture samples per pixel: bilinear look-ups between them lose almost nothing


@dataclass(frozen=True)
class Scene:
    """Frames and what is true about them.

    frames_THW3: uint8. masks_THW: bool, pixels of moving objects. step_23: affine map from a pixel (x, y) of a
    frame to where its background content was one frame before; step(p) - p is what FFmpeg calls the motion
    vector. shots: first frame of every shot.
    """

    frames_THW3: np.ndarray
    masks_THW: np.ndarray
    step_23: np.ndarray = field(default_factory=lambda: np.eye(2, 3))
    shots: tuple[int, ...] = (0,)

    def background_motion(self, x: np.ndarray, y: np.ndarray) -> np.ndarray:
        """True motion vectors [..., 2] (x, y) of the background at pixel positions x, y."""
        points = np.stack([x, y, np.ones_like(x)], axis=-1)
        return points @ self.step_23.T - points[..., :2]


@dataclass(frozen=True)
class Mover:
    """A textured disc: its centre (x, y) in each frame, its radius in pixels, the seed of its texture."""

    path_T2: np.ndarray
    radius: float
    seed: int


@lru_cache(maxsize=64)
def texture(seed: int) -> np.ndarray:
    """Periodic colour noise float32 [TEXTURE * FINE, TEXTURE * FINE, 3]: 1/f^1.5 spectrum, wavelengths >= 5 px."""
    rng = np.random.default_rng(seed)
    n = TEXTURE * FINE
    f = np.fft.fftfreq(n, d=1 / FINE)  # cycles per pixel
    radius = np.hypot(f[:, None], f[None, : n // 2 + 1])
    amplitude = np.exp(-((radius / 0.2) ** 4)) / np.maximum(radius, 0.01) ** 1.5
    planes = []
    for _ in range(4):
        noise = np.fft.rfft2(rng.standard_normal((n, n))) * amplitude
        plane = np.fft.irfft2(noise, s=(n, n))
        planes.append(plane / plane.std())
    luma, *tints = planes
    mean = rng.uniform(85, 145, size=3)
    colour = np.stack([38 * luma + 14 * tint for tint in tints], axis=-1) + mean
    return np.clip(colour, 0, 255).astype(np.float32)


def look_up(texture_YX3: np.ndarray, x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """Texture colour at real-valued pixel positions, bilinear and periodic: float32 [..., 3]."""
    n = texture_YX3.shape[0]
    u, v = x * FINE, y * FINE
    u0, v0 = np.floor(u).astype(np.int64), np.floor(v).astype(np.int64)
    fu, fv = (u - u0)[..., None].astype(np.float32), (v - v0)[..., None].astype(np.float32)
    u0, v0, u1, v1 = u0 % n, v0 % n, (u0 + 1) % n, (v0 + 1) % n
    top = texture_YX3[v0, u0] * (1 - fu) + texture_YX3[v0, u1] * fu
    bottom = texture_YX3[v1, u0] * (1 - fu) + texture_YX3[v1, u1] * fu
    return top * (1 - fv) + bottom * fv


def render(
    T: int, H: int, W: int, *, seed: int, step_23: np.ndarray | None = None, movers: Sequence[Mover] = ()
) -> Scene:
    """A scene of one shot: the background moves by step_23 each frame, movers follow their own screen paths."""
    step_33 = np.vstack([np.eye(2, 3) if step_23 is None else step_23, [0, 0, 1]])
    y, x = np.mgrid[0:H, 0:W].astype(np.float64)
    points = np.stack([x, y, np.ones_like(x)], axis=-1)
    frames = np.empty((T, H, W, 3), np.uint8)
    masks = np.zeros((T, H, W), bool)
    to_first = np.eye(3)
    still = look_up(texture(seed), x, y)
    for t in range(T):
        picture = still.copy()
        if step_23 is not None:
            origin = points @ to_first.T
            picture = look_up(texture(seed), origin[..., 0], origin[..., 1])
        for mover in movers:
            cx, cy = mover.path_T2[t]
            alpha = np.clip(mover.radius + 0.5 - np.hypot(x - cx, y - cy), 0, 1)
            inside = alpha > 0
            colour = look_up(texture(mover.seed), x[inside] - cx, y[inside] - cy)
            share = alpha[inside][:, None].astype(np.float32)
            picture[inside] = picture[inside] * (1 - share) + colour * share
            masks[t] |= inside
        frames[t] = np.rint(picture)
        to_first = to_first @ step_33
    return _frozen(Scene(frames, masks, step_33[:2]))


def path(T: int, H: int, W: int, *, speed: float, phase: float = 0.0, reach: float = 0.28) -> np.ndarray:
    """A smooth closed path around the picture's centre, about `speed` pixels per frame: [T, 2] (x, y)."""
    a, b = reach * W, reach * H
    angle = phase + np.arange(T) * speed / np.hypot(a, b) * 2**0.5
    return np.stack([W / 2 + a * np.cos(angle), H / 2 + b * np.sin(angle)], axis=-1)


# --- scenes ---------------------------------------------------------------------------------------------------


@lru_cache
def moving_object(T: int = 64, H: int = 224, W: int = 224, *, speed: float = 3.0, radius: float = 26) -> Scene:
    """A disc on a circular path over a still background."""
    return render(T, H, W, seed=1, movers=[Mover(path(T, H, W, speed=speed), radius, 2)])


@lru_cache
def pan(
    T: int = 64, H: int = 224, W: int = 224, *, dx: float = 2.0, dy: float = 0.75, with_object: bool = True
) -> Scene:
    """The whole picture shifts by (dx, dy) pixels a frame; a disc moves on a path of its own."""
    movers = [Mover(path(T, H, W, speed=4.0, phase=1.0), 26, 4)] if with_object else []
    return render(T, H, W, seed=3, step_23=np.array([[1, 0, -dx], [0, 1, -dy]], float), movers=movers)


@lru_cache
def zoom(T: int = 64, H: int = 224, W: int = 224, *, rate: float = 1.008) -> Scene:
    """The camera moves in: content grows by `rate` each frame around the centre; a disc moves on its own."""
    step = _about_centre(np.eye(2) / rate, H, W)
    return render(T, H, W, seed=5, step_23=step, movers=[Mover(path(T, H, W, speed=4.0), 26, 6)])


@lru_cache
def rotation(T: int = 64, H: int = 224, W: int = 224, *, degrees: float = 0.8) -> Scene:
    """Content turns around the centre by `degrees` each frame; a disc moves on its own."""
    a = np.deg2rad(degrees)
    turn = np.array([[np.cos(a), -np.sin(a)], [np.sin(a), np.cos(a)]])
    movers = [Mover(path(T, H, W, speed=4.0), 26, 8)]
    return render(T, H, W, seed=7, step_23=_about_centre(turn, H, W), movers=movers)


@lru_cache
def flash(T: int = 64, H: int = 224, W: int = 224, *, rise: int = 60) -> Scene:
    """`moving_object`, with the two frames before the middle brighter by `rise` grey levels everywhere."""
    scene = moving_object(T, H, W)
    frames = scene.frames_THW3.astype(np.int16)
    frames[T // 2 - 2 : T // 2] += rise
    return _frozen(Scene(np.clip(frames, 0, 255).astype(np.uint8), scene.masks_THW))


@lru_cache
def cut(T: int = 64, H: int = 224, W: int = 224) -> Scene:
    """Two shots of T/2 frames, a disc moving in each."""
    first = render(T // 2, H, W, seed=1, movers=[Mover(path(T // 2, H, W, speed=3.0), 26, 2)])
    second = render(T - T // 2, H, W, seed=9, movers=[Mover(path(T - T // 2, H, W, speed=3.0, phase=3), 26, 10)])
    return _joined([first, second])


@lru_cache
def static(T: int = 64, H: int = 224, W: int = 224) -> Scene:
    """The same frame T times; nothing moves."""
    return render(T, H, W, seed=11)


@lru_cache
def four_shots(T: int = 64, H: int = 224, W: int = 224) -> Scene:
    """Four shots of T/4 frames: ordinary, violent (fast pan, twelve fast discs), nearly still, nearly still."""
    n = T // 4
    ordinary = render(n, H, W, seed=12, movers=[Mover(path(n, H, W, speed=3.0), 26, 13)])
    crowd = [
        Mover(path(n, H, W, speed=11 + k, phase=k * 2.4, reach=0.12 + 0.02 * k), 22, 14 + k % 3) for k in range(12)
    ]
    violent = render(n, H, W, seed=17, step_23=np.array([[1, 0, -9.5], [0, 1, 6.25]]), movers=crowd)
    quiet = [
        render(T - 3 * n if k else n, H, W, seed=18 + k, movers=[Mover(slow, 20, 20 + k)])
        for k, slow in enumerate((path(n, H, W, speed=0.3), path(T - 3 * n, H, W, speed=0.4, phase=2.0)))
    ]
    return _joined([ordinary, violent, *quiet])


SCENES: dict[str, Callable[..., Scene]] = {
    f.__name__: f for f in (moving_object, pan, zoom, rotation, flash, cut, static, four_shots)
}


def _about_centre(linear_22: np.ndarray, H: int, W: int) -> np.ndarray:
    centre = np.array([(W - 1) / 2, (H - 1) / 2])
    return np.column_stack([linear_22, centre - linear_22 @ centre])


def _joined(parts: Sequence[Scene]) -> Scene:
    starts = np.cumsum([0, *(len(p.frames_THW3) for p in parts[:-1])])
    frames = np.concatenate([p.frames_THW3 for p in parts])
    masks = np.concatenate([p.masks_THW for p in parts])
    return _frozen(Scene(frames, masks, shots=tuple(int(s) for s in starts)))


def _frozen(scene: Scene) -> Scene:
    scene.frames_THW3.setflags(write=False)  # cached and shared between tests
    scene.masks_THW.setflags(write=False)
    return scene


# --- encoding -------------------------------------------------------------------------------------------------

# codec -> FFmpeg encoder, container, fast options, options that give B-frames
CODECS: dict[str, tuple[str, str, dict[str, str], dict[str, str]]] = {
    "h264": ("libx264", "mp4", {"preset": "veryfast", "crf": "23"}, {"bf": "3", "b_strategy": "0"}),
    "hevc": ("libx265", "mp4", {"preset": "ultrafast", "crf": "25"}, {}),
    "vp9": ("libvpx-vp9", "webm", {"deadline": "realtime", "cpu-used": "8", "crf": "32", "b": "0"}, {}),
    "av1": ("libsvtav1", "mp4", {"preset": "12", "crf": "35", "svtav1-params": "lp=1"}, {}),
    "mpeg4": ("mpeg4", "mp4", {"qscale": "4", "flags": "+qscale"}, {"bf": "2"}),
    "mpeg2": ("mpeg2video", "mpegts", {"qscale": "4", "flags": "+qscale"}, {"bf": "2"}),
    "mjpeg": ("mjpeg", "avi", {"qscale": "4", "flags": "+qscale"}, {}),
    "ffv1": ("ffv1", "matroska", {}, {}),
}


def encode(
    frames_THW3: np.ndarray,
    *,
    codec: str = "h264",
    container: str | None = None,
    fps: int = 25,
    gop: int = 32,
    bframes: bool = False,
    pix_fmt: str | None = None,
    pts_T: Sequence[int] | None = None,
    options: dict[str, str] | None = None,
) -> bytes:
    """A complete file. Defaults: P-frames only, a key frame every `gop` frames, 4:2:0, one slice per frame.

    pts_T: presentation times in units of 1 / fps (for variable frame rate). options: more encoder options.
    """
    pix_fmt = pix_fmt or ("yuvj420p" if codec == "mjpeg" else "yuv420p")

    def write() -> bytes:
        buffer = io.BytesIO()
        with av.open(buffer, "w", format=container or CODECS[codec][1]) as out:
            H, W = frames_THW3.shape[1:3]
            stream = add_stream(
                out, codec=codec, H=H, W=W, fps=fps, gop=gop, bframes=bframes, pix_fmt=pix_fmt, options=options
            )
            for t, frame in enumerate(frames_THW3):
                picture = av.VideoFrame.from_ndarray(frame, format="rgba" if frame.shape[-1] == 4 else "rgb24")
                picture = picture.reformat(format=pix_fmt)
                picture.pts, picture.time_base = (t if pts_T is None else pts_T[t]), Fraction(1, fps)
                out.mux(stream.encode(picture))
            out.mux(stream.encode(None))
        return buffer.getvalue()

    try:
        return write()
    except av.error.ArgumentError:
        if codec != "av1":
            raise
        return write()  # SVT-AV1's threads: once in thousands of files the muxer refused a packet's time stamps


def add_stream(
    out: Any,
    *,
    codec: str,
    H: int,
    W: int,
    fps: int = 25,
    gop: int = 32,
    bframes: bool = False,
    pix_fmt: str = "yuv420p",
    options: dict[str, str] | None = None,
) -> Any:
    """A video stream of an output container, with the presets of CODECS."""
    name, _, fast, with_b = CODECS[codec]
    if bframes and codec not in ("h264", "hevc", "mpeg4", "mpeg2"):
        raise ValueError(f"{codec} has no B-frames here")
    extra = dict(fast)
    if name == "libx264":
        extra["x264-params"] = f"keyint={gop}:min-keyint=1:scenecut=0"
    if name == "libx265":
        b = 3 if bframes else 0
        extra["x265-params"] = f"log-level=none:keyint={gop}:min-keyint=1:scenecut=0:bframes={b}:pools=1"
    elif bframes:
        extra |= with_b
    elif name not in ("libvpx-vp9", "libsvtav1", "mjpeg", "ffv1"):
        extra["bf"] = "0"
    stream = out.add_stream(name, rate=fps)
    stream.width, stream.height, stream.pix_fmt = W, H, pix_fmt
    context = stream.codec_context
    context.gop_size = 1 if codec == "mjpeg" else gop
    context.thread_count, context.thread_type = 1, "NONE"  # SLICE, PyAV's default, makes x264 cut slices
    context.options = extra | (options or {})
    return stream


@lru_cache(maxsize=128)
def video(scene: str = "moving_object", codec: str = "h264", *, bframes: bool = False, T: int = 64) -> bytes:
    """The encoded file of a scene of SCENES, cached: `video("pan", "vp9")`."""
    return encode(SCENES[scene](T).frames_THW3, codec=codec, bframes=bframes)
