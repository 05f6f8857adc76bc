"""Odd and broken media, made on the page: what a reader meets in the wild, with what it should show.

`ODD` holds media that must be read, `BROKEN` bytes that must be refused (or read) without harm. Plain scenes and
their encoding are in tests/clips.py.

Shapes: T = frames, H, W = pixels as shown, 3 = RGB.
"""

from __future__ import annotations

import io
import struct
import zlib
from collections.abc import Callable
from dataclasses import dataclass
from fractions import Fraction
from functools import lru_cache

import av
import numpy as np
from PIL import Image

from tests.clips import add_stream, encode, moving_object, pan

T, H, W = 12, 96, 128
VFR_TICKS = (0, 1, 2, 6, 7, 15, 16, 17, 18, 40, 41, 50)  # in 1/25 s
DURATIONS_MS = (40, 100, 40, 200, 40, 40, 300, 40, 40, 100, 40, 60)


@dataclass(frozen=True)
class Odd:
    """A file and what is right: pictures as shown (after rotation), FFmpeg's codec name, times if they matter.

    tolerance: mean absolute difference allowed per pixel value. opaque: compare
    only this many columns from the left.
    """

    data: bytes
    frames_THW3: np.ndarray
    codec: str
    tolerance: float = 6.0
    times_T: tuple[float, ...] | None = None
    opaque: int | None = None


def _frames(t: int = T, h: int = H, w: int = W) -> np.ndarray:
    return moving_object(t, h, w, speed=3.0, radius=18).frames_THW3


def _plain(codec: str, *, name: str | None = None, tolerance: float = 6.0, **how) -> Odd:
    return Odd(encode(_frames(), codec=codec, **how), _frames(), name or codec, tolerance)


# --- streams --------------------------------------------------------------------------------------------------


def variable_frame_rate() -> Odd:
    times = tuple(t / 25 for t in VFR_TICKS)
    return Odd(encode(_frames(), pts_T=VFR_TICKS), _frames(), "h264", times_T=times)


def no_timestamps() -> Odd:
    return _plain("h264", container="h264", bframes=True)


def odd_size(codec: str, pix_fmt: str) -> Odd:
    frames = moving_object(T, 51, 35, speed=1.5, radius=8).frames_THW3
    return Odd(encode(frames, codec=codec, pix_fmt=pix_fmt), frames, codec, 9.0)


def one_frame(codec: str) -> Odd:
    return Odd(encode(_frames(1), codec=codec), _frames(1), codec)


def grey(codec: str) -> Odd:
    frames = np.asarray([Image.fromarray(f).convert("L") for f in _frames()])
    data = encode(_frames(), codec=codec, pix_fmt="gray")
    return Odd(data, np.repeat(frames[..., None], 3, axis=3), codec, 8.0)


def alpha(codec: str) -> Odd:
    """Opaque on the left half, half transparent on the right."""
    rgba = np.concatenate([_frames(), np.full((T, H, W, 1), 255, np.uint8)], axis=-1)
    rgba[:, :, W // 2 :, 3] = 100
    opaque = W // 2
    if codec == "qtrle":
        return Odd(_bare(rgba, "qtrle", "mov", "argb"), _frames(), "qtrle", 0.0, opaque=opaque)
    pix_fmt = {"vp9": "yuva420p", "ffv1": "bgra"}[codec]
    lossless = codec == "ffv1"
    data = encode(rgba, codec=codec, pix_fmt=pix_fmt)
    return Odd(data, _frames(), codec, 0.0 if lossless else 6.0, opaque=opaque)


def _bare(frames: np.ndarray, encoder: str, container: str, pix_fmt: str) -> bytes:
    buffer = io.BytesIO()
    with av.open(buffer, "w", format=container) as out:
        stream = out.add_stream(encoder, rate=25)
        stream.width, stream.height, stream.pix_fmt = frames.shape[2], frames.shape[1], pix_fmt
        for t, frame in enumerate(frames):
            picture = av.VideoFrame.from_ndarray(frame, format="rgba").reformat(format=pix_fmt)
            picture.pts, picture.time_base = t, Fraction(1, 25)
            out.mux(stream.encode(picture))
        out.mux(stream.encode(None))
    return buffer.getvalue()


def interlaced(codec: str) -> Odd:
    how = {"h264": {"x264-params": "keyint=32:tff=1"}, "mpeg2": {"flags": "+ilme+ildct+qscale"}}[codec]
    return _plain(codec, name={"mpeg2": "mpeg2video"}.get(codec), options=how, tolerance=8.0)


def foreign_title() -> Odd:
    """An AVI whose title is Latin-1, as old cameras and tools write it."""
    data = encode(_frames(), codec="mpeg4", container="avi")
    title = "Vidéo d'été".encode("latin-1") + b"\0"
    item = b"INAM" + struct.pack("<I", len(title)) + title + b"\0" * (len(title) % 2)
    info = b"LIST" + struct.pack("<I", 4 + len(item)) + b"INFO" + item
    at = data.index(b"LIST", data.index(b"movi") - 12)  # before the pictures
    grown = data[:at] + info + data[at:]
    return Odd(grown[:4] + struct.pack("<I", len(grown) - 8) + grown[8:], _frames(), "mpeg4")


def open_gop() -> Odd:
    options = {"x264-params": "keyint=5:min-keyint=5:scenecut=0:open-gop=1"}
    return _plain("h264", bframes=True, options=options)


def two_streams() -> Odd:
    """A thumbnail-sized stream first, the real one second and marked as default."""
    small = pan(T, H // 2, W // 2).frames_THW3
    buffer = io.BytesIO()
    with av.open(buffer, "w", format="matroska") as out:
        streams = [
            add_stream(out, codec="h264", H=H // 2, W=W // 2),
            add_stream(out, codec="h264", H=H, W=W),
        ]
        streams[0].disposition = 0
        streams[1].disposition = av.stream.Disposition.default
        for t in range(T):
            for stream, frames in zip(streams, (small, _frames()), strict=True):
                picture = av.VideoFrame.from_ndarray(frames[t], format="rgb24").reformat(format="yuv420p")
                picture.pts, picture.time_base = t, Fraction(1, 25)
                out.mux(stream.encode(picture))
        for stream in streams:
            out.mux(stream.encode(None))
    return Odd(buffer.getvalue(), _frames(), "h264")


def turned(mp4: bytes, degrees: int) -> bytes:
    """The MP4 with a track header that asks players to turn the picture clockwise."""
    data = bytearray(mp4)
    c, s = {90: (0, 1), 180: (-1, 0), 270: (0, -1)}[degrees]
    at = data.index(b"tkhd") + 4 + 40  # version, times, track, layer, volume come before the matrix
    data[at : at + 36] = struct.pack(">9i", c << 16, s << 16, 0, -s << 16, c << 16, 0, 0, 0, 1 << 30)
    return bytes(data)


def rotated(degrees: int) -> Odd:
    return Odd(turned(encode(_frames()), degrees), np.rot90(_frames(), -degrees // 90, axes=(1, 2)), "h264")


def resolution_change() -> Odd:
    """Raw H.264: six frames of 128 x 96, then six of 64 x 48. Expected: all shown at the first size."""
    first, second = _frames(6), _frames(6, H // 2, W // 2)
    data = encode(first, container="h264") + encode(second, container="h264")
    enlarged = [np.asarray(Image.fromarray(f).resize((W, H), Image.Resampling.BILINEAR)) for f in second]
    return Odd(data, np.concatenate([first, enlarged]), "h264", 10.0)


# --- stills and animations ------------------------------------------------------------------------------------


def animation(kind: str) -> Odd:
    buffer = io.BytesIO()
    pictures = [Image.fromarray(f) for f in _frames()]
    extra = {"lossless": True} if kind == "webp" else {}
    pictures[0].save(
        buffer, kind, save_all=True, append_images=pictures[1:], duration=list(DURATIONS_MS), loop=0, **extra
    )
    times = tuple(np.cumsum([0, *DURATIONS_MS[:-1]]) / 1000)
    return Odd(buffer.getvalue(), _frames(), kind, 8.0 if kind == "gif" else 0.0, times)


def transparent_gif() -> Odd:
    """Frames that paint only their difference over the one before, as every optimised GIF does."""
    base = Image.new("RGB", (W, H), (200, 30, 30))
    pictures = []
    for t in range(T):
        base = base.copy()
        base.paste((30, 30, 200), (8 * t, 40, 8 * t + 8, 48))
        pictures.append(base)
    buffer = io.BytesIO()
    quantised = [p.quantize(4) for p in pictures]
    quantised[0].save(buffer, "gif", save_all=True, append_images=quantised[1:], duration=50, optimize=True)
    return Odd(buffer.getvalue(), np.asarray([np.asarray(p) for p in pictures]), "gif", 2.0)


def still(kind: str) -> Odd:
    """One picture: png, jpeg, webp; exif (rotated JPEG), grey16, palette, rgba, cmyk."""
    picture = Image.fromarray(_frames()[0])
    buffer = io.BytesIO()
    opaque: int | None
    shown, codec, tolerance, opaque = np.asarray(picture), "png", 0.0, None
    if kind in ("png", "webp"):
        picture.save(buffer, kind, **({"lossless": True} if kind == "webp" else {}))
        codec = kind
    elif kind == "jpeg":
        picture.save(buffer, "jpeg", quality=95)
        codec, tolerance = "jpeg", 6.0
    elif kind == "exif":
        exif = Image.Exif()
        exif[0x0112] = 6  # turn 90 degrees clockwise to show
        picture.save(buffer, "jpeg", quality=95, exif=exif)
        shown, codec, tolerance = np.rot90(shown, -1), "jpeg", 6.0
    elif kind == "grey16":
        grey = np.asarray(picture.convert("L"))
        Image.fromarray(grey.astype(np.uint16) * 257).save(buffer, "png")
        shown = np.repeat(grey[..., None], 3, axis=2)
        tolerance = 1.0
    elif kind == "palette":
        paletted = picture.quantize(64)
        paletted.save(buffer, "png")
        shown = np.asarray(paletted.convert("RGB"))
    elif kind == "rgba":
        rgba = np.dstack([shown, np.full((H, W), 255, np.uint8)])
        rgba[:, W // 2 :, 3] = 100
        Image.fromarray(rgba).save(buffer, "png")
        opaque = W // 2
    elif kind == "cmyk":
        picture.convert("CMYK").save(buffer, "jpeg", quality=95)
        codec, tolerance = "jpeg", 8.0
    return Odd(buffer.getvalue(), shown[None], codec, tolerance, opaque=opaque)


ODD: dict[str, Callable[[], Odd]] = {
    "variable frame rate": variable_frame_rate,
    "no timestamps": no_timestamps,
    "odd size h264": lambda: odd_size("h264", "yuv444p"),
    "odd size vp9": lambda: odd_size("vp9", "yuv420p"),
    "odd size mpeg4": lambda: odd_size("mpeg4", "yuv420p"),
    "odd size ffv1": lambda: odd_size("ffv1", "yuv420p"),
    "10 bit h264": lambda: _plain("h264", pix_fmt="yuv420p10le"),
    "10 bit hevc": lambda: _plain("hevc", pix_fmt="yuv420p10le"),
    "10 bit av1": lambda: _plain("av1", pix_fmt="yuv420p10le"),
    "4:4:4 h264": lambda: _plain("h264", pix_fmt="yuv444p"),
    "4:2:2 mpeg2": lambda: _plain("mpeg2", name="mpeg2video", pix_fmt="yuv422p"),
    "full range h264": lambda: _plain("h264", pix_fmt="yuvj420p"),
    "grey h264": lambda: grey("h264"),
    "grey ffv1": lambda: grey("ffv1"),
    "alpha vp9": lambda: alpha("vp9"),
    "alpha ffv1": lambda: alpha("ffv1"),
    "alpha qtrle": lambda: alpha("qtrle"),
    "interlaced h264": lambda: interlaced("h264"),
    "interlaced mpeg2": lambda: interlaced("mpeg2"),
    "open gop": open_gop,
    "latin-1 title": foreign_title,
    "b-frames hevc": lambda: _plain("hevc", bframes=True),
    "b-frames mpeg4": lambda: _plain("mpeg4", bframes=True),
    "one frame h264": lambda: one_frame("h264"),
    "one frame av1": lambda: one_frame("av1"),
    "one frame mjpeg": lambda: one_frame("mjpeg"),
    "two streams": two_streams,
    "rotated 90": lambda: rotated(90),
    "rotated 180": lambda: rotated(180),
    "rotated 270": lambda: rotated(270),
    "resolution change": resolution_change,
    "gif": lambda: animation("gif"),
    "webp": lambda: animation("webp"),
    "apng": lambda: animation("png"),
    "transparent gif": transparent_gif,
    **{
        f"still {k}": (lambda k=k: still(k))
        for k in ("png", "webp", "jpeg", "exif", "grey16", "palette", "rgba", "cmyk")
    },
}


@lru_cache(maxsize=64)
def odd(name: str) -> Odd:
    """The medium of ODD by its name, made once."""
    return ODD[name]()


# --- broken ---------------------------------------------------------------------------------------------------


def audio_only(container: str) -> bytes:
    """One second of a tone."""
    buffer = io.BytesIO()
    with av.open(buffer, "w", format=container) as out:
        stream = out.add_stream("aac" if container == "mp4" else "pcm_s16le", rate=16000, layout="mono")
        tone = (8000 * np.sin(np.arange(16000) / 16000 * 2 * np.pi * 440)).astype(np.int16)
        for a in range(0, 16000, 1000):
            sound = av.AudioFrame.from_ndarray(tone[None, a : a + 1000], format="s16", layout="mono")
            sound.sample_rate, sound.pts = 16000, a
            for piece in av.AudioResampler(stream.format or "s16", "mono", 16000).resample(sound):
                out.mux(stream.encode(piece))
        out.mux(stream.encode(None))
    return buffer.getvalue()


def png_header(height: int, width: int) -> bytes:
    """A PNG that claims height x width pixels and carries a few bytes of them."""

    def chunk(kind: bytes, body: bytes) -> bytes:
        return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))

    size = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    pixels = chunk(b"IDAT", zlib.compress(bytes(1000)))
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", size) + pixels + chunk(b"IEND", b"")


def jpeg_header(height: int, width: int) -> bytes:
    """A real JPEG whose start-of-frame claims another size."""
    data = bytearray(still("jpeg").data)
    at = data.index(b"\xff\xc0") + 5
    data[at : at + 4] = struct.pack(">HH", height, width)
    return bytes(data)


def gif_header(height: int, width: int) -> bytes:
    """A real GIF whose logical screen claims another size."""
    data = bytearray(animation("gif").data)
    data[6:10] = struct.pack("<HH", width, height)
    return bytes(data)


def h264_header(height: int, width: int) -> bytes:
    """Raw H.264: a sequence parameter set of that size, then the picture parameters and slices of a real clip."""
    bits = "".join(
        [
            f"{66:08b}{0:08b}{51:08b}",  # baseline, level 5.1
            _ue(0) + _ue(0) + _ue(2) + _ue(1) + "0",  # id, frame number bits, order type 2, one reference
            _ue(max(width // 16, 1) - 1) + _ue(max(height // 16, 1) - 1),
            "1" + "1" + "0" + "0" + "1",  # frames only, direct 8x8, no crop, no VUI, stop bit
        ]
    )
    body = int(bits.ljust(-(-len(bits) // 8) * 8, "0"), 2).to_bytes(-(-len(bits) // 8), "big")
    escaped = body.replace(b"\x00\x00", b"\x00\x00\x03")
    clip = encode(_frames(2), container="h264", options={"preset": "ultrafast", "profile": "baseline"})
    rest = clip[clip.index(b"\x00\x00\x01\x68") :]  # from the picture parameter set on
    return b"\x00\x00\x00\x01\x67" + escaped + rest


def _ue(value: int) -> str:
    coded = f"{value + 1:b}"
    return "0" * (len(coded) - 1) + coded


def mov_header(height: int, width: int) -> bytes:
    """A real MOV whose headers claim another size. QuickTime RLE takes its size from there."""
    rgba = np.concatenate([_frames(), np.full((T, H, W, 1), 255, np.uint8)], axis=-1)
    return _claim(_bare(rgba, "qtrle", "mov", "argb"), b"rle ", height, width)


def mp4_header(height: int, width: int) -> bytes:
    """A real MP4 whose headers claim another size. MPEG-4 video carries its own size and knows better."""
    return _claim(encode(_frames(), codec="mpeg4"), b"mp4v", height, width)


def _claim(mp4: bytes, sample_entry: bytes, height: int, width: int) -> bytes:
    data = bytearray(mp4)
    at = data.index(b"tkhd") + 4 + 76
    data[at : at + 8] = struct.pack(">II", width << 16, height << 16)
    at = data.index(sample_entry, data.index(b"stsd")) + 4 + 24
    data[at : at + 4] = struct.pack(">HH", width, height)
    return bytes(data)


def avi_header(height: int, width: int) -> bytes:
    """A real AVI (FFV1 takes its size from the container) whose headers claim another size."""
    data = bytearray(encode(_frames(2), codec="ffv1", container="avi"))
    at = data.index(b"avih") + 8 + 32
    data[at : at + 8] = struct.pack("<II", width, height)
    at = data.index(b"strf") + 8 + 4
    data[at : at + 8] = struct.pack("<II", width, height)
    return bytes(data)


HEADERS: dict[str, Callable[[int, int], bytes]] = {
    "png": png_header,
    "jpeg": jpeg_header,
    "gif": gif_header,
    "h264": h264_header,
    "mov": mov_header,
    "mp4": mp4_header,
    "avi": avi_header,
}
