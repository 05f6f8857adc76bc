"""Opening a source safely: what it is, how large, and its packets. Frames are decoded in `decode`.

A source is a path, bytes, or a seekable binary file object. Content decides, never the file's suffix. No source
may make us open another file or an address: playlists and the like are not among the accepted formats.
"""

from __future__ import annotations

import io
import os
from array import array
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO

import av
import numpy as np
from av.error import FFmpegError

from ov_encoder.codec.info import MediaInfo
from ov_encoder.codec.limits import Limits, check_pixels
from ov_encoder.codec.signals import CELL
from ov_encoder.errors import OvEncoderError

if TYPE_CHECKING:
    from collections.abc import Iterator

    from av.container import InputContainer
    from av.video.stream import VideoStream

Source = str | os.PathLike[str] | bytes | bytearray | memoryview | BinaryIO

# FFmpeg demuxers for real media. Left out on purpose: hls, dash, concat, image2 (open other files), tty (reads
# any text as a "video").
FORMATS = (
    "mov,mp4,m4a,3gp,3g2,mj2,matroska,webm,avi,mpegts,mpeg,mpegvideo,h264,hevc,vvc,obu,av1,ivf,m4v,flv,ogg,asf,gif,"
    "apng,mjpeg,mxf,nut,yuv4mpegpipe,rm,vc1,dv,h263,h261"
)
# Codecs whose stock decoder exports motion vectors and QP per block (spec of FFmpeg 8.1; HEVC, VP9, AV1: none).
NATIVE = {codec: ("motion", "qp", "kind") for codec in ("h264", "mpeg4", "mpeg2video", "mpeg1video")}


def source_name(source: Source) -> str:
    """How errors and reports call a source."""
    if isinstance(source, str | os.PathLike):
        return os.fspath(source)
    if isinstance(source, bytes | bytearray | memoryview):
        return f"<bytes: {len(source)}>"
    return str(getattr(source, "name", f"<{type(source).__name__}>"))


@contextmanager
def binary(source: Source, limits: Limits) -> Iterator[BinaryIO]:
    """A seekable binary file over the source, at its start. Closes only what it opened.

    Raises:
        OvEncoderError: missing, a directory, empty, unreadable, or larger than `limits.bytes` says.
        ValueError: an object that is no path, no bytes and not seekable.
    """
    name = source_name(source)
    if isinstance(source, str | os.PathLike):
        if not name:
            raise ValueError("source is an empty path; give a media file")
        path = Path(source)
        try:
            if path.is_dir():
                raise OvEncoderError(f"{name}: is a directory; give a media file (ov-encoder encode takes folders)")
            if path.exists() and not path.is_file():
                raise OvEncoderError(f"{name}: is not a regular file; give a media file, bytes or a file object")
            file: BinaryIO = path.open("rb")
        except FileNotFoundError:
            raise OvEncoderError(f"{name}: no such file") from None
        except OSError as e:
            raise OvEncoderError(f"{name}: cannot be opened: {e.strerror or e}") from e
        with file:
            yield _not_empty(file, name)
    elif isinstance(source, bytes | bytearray | memoryview):
        yield _not_empty(io.BytesIO(source), name)
    elif hasattr(source, "read") and hasattr(source, "seek"):
        try:
            source.seek(0)
        except (OSError, ValueError) as e:
            raise ValueError(f"{name}: the file object is not seekable; read it into bytes first") from e
        capped = _Capped(source, limits.bytes, name)
        try:
            yield _not_empty(capped, name)
        except Exception as e:  # FFmpeg hides what a callback raised behind an error of its own
            if capped.failure is not None and capped.failure is not e:
                raise capped.failure from e
            raise
        if capped.failure is not None:
            raise capped.failure
    else:
        raise ValueError(f"source must be a path, bytes or a seekable binary file, got {type(source).__name__}")


class _Capped(io.RawIOBase):
    """A caller's file object, with an end: reading more than `cap` bytes in all is refused."""

    def __init__(self, file: BinaryIO, cap: int, name: str) -> None:
        self._file, self._left, self._cap, self._name = file, 4 * cap, cap, name  # probing may read parts again
        self.failure: Exception | None = None

    def read(self, size: int = -1) -> bytes:
        if self.failure is not None:
            return b""  # FFmpeg sees the end of the file; `binary` raises the failure
        try:
            wanted = size if 0 <= size <= self._left else self._left + 1
            data = self._file.read(wanted)
            if not isinstance(data, bytes | bytearray | memoryview):
                raise ValueError(f"{self._name}: read() gave {type(data).__name__}, not bytes; open it in binary mode")
            if len(data) > wanted:  # more than the caller's buffer holds
                raise OvEncoderError(f"{self._name}: read({wanted}) gave {len(data)} bytes; the file object is broken")
            self._left -= len(data)
            if self._left < 0 or self._file.tell() > self._cap:
                raise OvEncoderError(f"{self._name}: more than {self._cap} bytes; raise Limits.bytes if that is right")
        except (OvEncoderError, ValueError) as e:
            self.failure = e
        except OSError as e:
            self.failure = OvEncoderError(f"{self._name}: cannot be read: {e.strerror or e}")
        return b"" if self.failure is not None else bytes(data)

    def seek(self, offset: int, whence: int = 0) -> int:
        return self._file.seek(offset, whence)

    def tell(self) -> int:
        return self._file.tell()

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True


def _not_empty(file, name: str):
    if not file.read(1) and getattr(file, "failure", None) is None:
        raise OvEncoderError(f"{name}: is empty (0 bytes)")
    file.seek(0)
    return file


@contextmanager
def open_video(
    file: BinaryIO, name: str, limits: Limits, *, pixels: bool = True
) -> Iterator[tuple[InputContainer, VideoStream]]:
    """The container and its default video stream, with the picture size checked against `limits`.

    pixels=False: packets only. FFmpeg then decodes nothing while it looks at the stream, which takes 1 ms and not 10.

    Raises:
        OvEncoderError: no accepted format, no video stream, no decoder, or a picture beyond the limits.
    """
    file.seek(0)
    options = {"max_pixels": str(limits.pixels)} | ({} if pixels else {"skip_frame": "all"})
    try:
        container = av.open(
            file,
            "r",
            options=options,
            container_options={"format_whitelist": FORMATS},
            metadata_errors="replace",  # titles in Latin-1 are common, and no reason to refuse a video
        )
    except FFmpegError as e:
        raise OvEncoderError(f"{name}: not a video or image that can be read ({e.strerror or e})") from e
    with container:
        streams = [s for s in container.streams.video if not s.disposition & av.stream.Disposition.attached_pic]
        if not streams:
            kinds = sorted({str(s.type) for s in container.streams}) or ["none"]
            raise OvEncoderError(f"{name}: has no video stream (streams: {', '.join(kinds)})")
        stream = container.streams.best("video")
        stream = stream if stream in streams else streams[0]
        if stream.codec_context is None:
            raise OvEncoderError(f"{name}: no decoder for its video stream")
        check_pixels(name, stream.codec_context.width, stream.codec_context.height, limits)
        yield container, stream


def inspect(source: Source, *, limits: Limits | None = None) -> MediaInfo:
    """Describe a source from its headers and packets; one frame is decoded, to learn rotation and interlacing.

    Raises:
        OvEncoderError: it cannot be read, or asks for more than `limits` allow.
    """
    limits = limits or Limits()
    name = source_name(source)
    with binary(source, limits) as file:
        from ov_encoder.codec import stills  # Pillow: not needed for videos

        if stills.is_still(file):
            return stills.describe(file, name, limits)
        with open_video(file, name, limits) as (container, stream):
            info = _describe(container, stream, name, limits)
        from ov_encoder.codec.bitstream.provider import why_not

        turned = info.rotation and (info.height % CELL or info.width % CELL)
        why = "turned, and its sides are no multiples of 8" if turned else why_not(file, info, limits)
        info.bitstream = why
        return info


def _describe(container: InputContainer, stream: VideoStream, name: str, limits: Limits) -> MediaInfo:
    ctx = stream.codec_context
    notes: list[str] = []
    bits, times, keys = array("q"), array("d"), array("b")  # of every packet of a film: lists take five times as much
    start, base = stream.start_time or 0, float(stream.time_base or 0)
    first = None
    try:
        for packet in container.demux(stream):
            if packet.size == 0:
                continue
            if len(bits) >= limits.frames:
                raise OvEncoderError(f"{name}: more than {limits.frames} frames; raise Limits.frames if that is right")
            seconds = np.nan if packet.pts is None else (packet.pts - start) * base
            if seconds > limits.seconds:
                raise OvEncoderError(f"{name}: longer than {limits.seconds} s; raise Limits.seconds if that is right")
            bits.append(8 * packet.size)
            times.append(seconds)
            keys.append(packet.is_keyframe)
            if first is None and len(bits) <= 64:
                first = _first_frame(packet)
    except FFmpegError as e:
        notes.append(f"reading stopped after {len(bits)} packets: {e.strerror or e}")
    if not bits:
        raise OvEncoderError(f"{name}: its video stream has no packets")
    rotation = 0 if first is None else -first.rotation % 360
    if rotation % 90:
        notes.append(f"rotation of {rotation} degrees is not a multiple of 90 and is ignored")
        rotation = 0
    native = NATIVE.get(ctx.name, ())
    if first is not None and first.interlaced_frame and native:
        native = ()
        notes.append("interlaced: vectors of fields are not used")
    if rotation and native and (ctx.height % CELL or ctx.width % CELL):
        native = ()  # turned, the partial cells would come first, and maps promise them last
        notes.append(f"turned, and {ctx.width}x{ctx.height} are no multiples of {CELL}: vectors are not used")
    height, width = (ctx.height, ctx.width) if rotation % 180 == 0 else (ctx.width, ctx.height)
    fps = float(stream.average_rate or stream.guessed_rate or 0)
    known = np.array(times)[~np.isnan(times)]
    duration = float(known.max() - known.min()) + (1 / fps if fps else 0.0) if len(known) else len(bits) / (fps or 25)
    return MediaInfo(
        name=name,
        kind="animation" if container.format.name in ("gif", "apng") else "video",
        container=container.format.name,
        codec=ctx.codec.canonical_name,
        profile=str(ctx.profile or ""),
        pixel_format=str(ctx.pix_fmt or ""),
        height=height,
        width=width,
        rotation=rotation,
        frames=len(bits),
        fps=fps,
        duration_s=duration,
        native=native,
        streams=len(container.streams.video),
        packet_bits_K=np.array(bits, np.int64),
        packet_time_K=np.array(times),
        packet_key_K=np.array(keys, bool),
        notes=notes,
    )


def _first_frame(packet):
    try:
        frames = packet.decode()
        if not frames and packet.is_keyframe:  # it waits for B-frames: ask for it, instead of decoding more
            frames = packet.stream.codec_context.decode(None)
            packet.stream.codec_context.flush_buffers()
    except FFmpegError:  # damaged packets are counted and reported by the decode pass, not here
        return None
    return frames[0] if frames else None
