"""Decoding: one pass over a source, pictures in display order. No signal is computed here.

A Picture is a light handle on a decoder's frame: pixels are converted only when asked for.
Shapes: H, W = pixel rows and columns.
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterator
from dataclasses import dataclass
from typing import Any, BinaryIO

import av
import numpy as np
from av.error import FFmpegError
from av.packet import Packet
from av.video.reformatter import VideoReformatter
from av.video.stream import VideoStream

from ov_encoder.codec import stills
from ov_encoder.codec.ahead import ahead
from ov_encoder.codec.info import MediaInfo
from ov_encoder.codec.limits import Limits, check_pixels
from ov_encoder.codec.media import open_video
from ov_encoder.errors import OvEncoderError

_TYPES = "?IPBPIPB"  # by AVPictureType: none, I, P, B, S(GMC), SI, SP, BI
Tap = Callable[[VideoStream, int, Packet], None]  # sees every packet (and its number) before the decoder does
_PLAIN_LUMA = {
    "yuv420p",
    "yuvj420p",
    "yuv422p",
    "yuvj422p",
    "yuv444p",
    "yuvj444p",
    "nv12",
    "nv21",
    "gray",
    "yuva420p",
}


@dataclass(slots=True)
class Picture:
    """One decoded frame. `frame` holds coded pixels; `rotation` (degrees clockwise) is not applied to it yet."""

    index: int
    time_s: float
    frame_type: str
    packet: int  # number of its packet in decode order
    packet_bits: int
    key: bool
    frame: av.VideoFrame
    rotation: int

    def luma(self) -> np.ndarray:
        """8-bit luma as coded, [H, W] uint8; a view on the decoder's plane where the format allows."""
        frame = self.frame
        if frame.format.name not in _PLAIN_LUMA:
            frame = frame.reformat(format="gray")
        return plane_rows(frame)[: frame.height, : frame.width]


def plane_rows(frame: av.VideoFrame) -> np.ndarray:
    """The first plane of a frame, padding included: [rows, bytes per row] uint8, a view."""
    plane: Any = frame.planes[0]
    return np.frombuffer(plane, np.uint8).reshape(-1, plane.line_size)


class Resizer:
    """Pictures to uint8 RGB of one size, upright. Keeps the scaler between calls: half the cost of a new one."""

    def __init__(self, height: int, width: int) -> None:
        self.height, self.width = height, width
        self._scaler = VideoReformatter()

    def __call__(self, picture: Picture) -> np.ndarray:
        """[height, width, 3] uint8, a view; area averaging to shrink, bicubic to enlarge."""
        turned = picture.rotation % 180 != 0
        height, width = (self.width, self.height) if turned else (self.height, self.width)
        shrink = picture.frame.height >= height and picture.frame.width >= width
        how = "AREA" if shrink else "BICUBIC"
        small = self._scaler.reformat(picture.frame, width, height, "rgb24", interpolation=how)
        rows = plane_rows(small)
        pixels = np.lib.stride_tricks.as_strided(rows, (height, width, 3), (rows.strides[0], 3, 1))
        return np.rot90(pixels, -(picture.rotation // 90))


def decode(
    file: BinaryIO,
    info: MediaInfo,
    *,
    limits: Limits,
    export: bool = False,
    threads: int = 1,
    notes: list[str] | None = None,
    tap: Tap | None = None,
) -> Generator[Picture, None, None]:
    """Pictures of the source in display order.

    export: ask the decoder for motion vectors and QP. threads: with more than 1 (0: as many as there are cores),
    pictures are decoded ahead in a thread of their own, and the decoder may use that many; slice threads when
    exporting, because frame threads corrupt exported vectors of streams with B-frames (measured; pixels stay right).
    notes: what was skipped and why is appended here. Damaged packets and frames are skipped, never made up.
    tap: sees every packet that goes to the decoder.

    Raises:
        OvEncoderError: nothing could be decoded, or a limit was passed.
    """
    pictures = _decode(file, info, limits, export, threads, [] if notes is None else notes, tap)
    return pictures if threads == 1 else ahead(pictures)


def _decode(
    file: BinaryIO, info: MediaInfo, limits: Limits, export: bool, threads: int, notes: list[str], tap: Tap | None
) -> Generator[Picture, None, None]:
    file.seek(0)
    if stills.is_still(file):
        for index, (rgb, seconds) in enumerate(stills.read_frames(file, info.name, limits)):
            frame = av.VideoFrame.from_ndarray(rgb, format="rgb24")
            yield Picture(index, seconds, "I" if index == 0 else "?", index, 0, index == 0, frame, 0)
        return
    with open_video(file, info.name, limits) as (container, stream):
        ctx = stream.codec_context
        ctx.thread_type = "SLICE" if export else "FRAME"
        ctx.thread_count = threads
        ctx.options = {"max_pixels": str(limits.pixels)} | (
            {"flags2": "+export_mvs", "export_side_data": "venc_params"} if export else {}
        )
        ctx.copy_opaque = True  # packet size and key flag reach the frame even in streams without pts
        start, base = stream.start_time or 0, float(stream.time_base or 0)
        count = damaged = 0
        for frame in _frames(container, stream, info.name, notes, limits, tap):
            if frame.is_corrupt:
                damaged += 1
                continue
            check_pixels(info.name, frame.width, frame.height, limits)
            opaque: Any = frame.opaque or (count, 0, frame.key_frame)
            packet, size, key = opaque
            seconds = (frame.pts - start) * base if frame.pts is not None else count / (info.fps or 25)
            kind = _TYPES[int(frame.pict_type)]
            yield Picture(count, seconds, kind, packet, 8 * size, key, frame, info.rotation)
            count += 1
        if damaged:
            notes.append(f"{damaged} damaged frames were skipped")
        if not count:
            raise OvEncoderError(f"{info.name}: no frame of its {info.codec} stream could be decoded" + _because(notes))


def _frames(container, stream, name: str, notes: list[str], limits: Limits, tap: Tap | None) -> Iterator[av.VideoFrame]:
    broken, packets, reason = 0, 0, ""
    demuxed = container.demux(stream)
    while True:
        try:
            packet = next(demuxed, None)
        except FFmpegError as e:
            notes.append(f"reading stopped after {packets} packets: {e.strerror or e}")
            packet = None
        if packet is not None and packet.size:
            packet.opaque = (packets, packet.size, packet.is_keyframe)
            packets += 1
            if packets > limits.frames:
                raise OvEncoderError(f"{name}: more than {limits.frames} frames; raise Limits.frames if that is right")
            if packet.is_corrupt:  # cut short in the container: a decoder would make up the rest of the picture
                broken, reason = broken + 1, "cut short"
                continue
            if tap is not None:
                tap(stream, packets - 1, packet)
        try:
            yield from stream.codec_context.decode(packet if packet is not None and packet.size else None)
        except EOFError:  # the decoder was flushed already
            break
        except FFmpegError as e:
            broken, reason = broken + 1, e.strerror or str(e)
        if packet is None:
            break
    if broken:
        notes.append(f"{broken} of {packets} packets could not be decoded ({reason}) and were skipped")


def _because(notes: list[str]) -> str:
    return f" ({'; '.join(notes)})" if notes else ""
