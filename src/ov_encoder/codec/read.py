"""One decode pass that gives pictures and signals together, whatever the codec.

Providers: `bitstream` parses the stream itself (H.264, HEVC), `native` takes what the stock decoder exports (H.264,
MPEG-4, MPEG-2), `transcode` re-encodes the pictures in memory (any codec), `none` leaves packet bits and frame types
only. A provider is a generator (file, info, options) -> (Picture, FrameSignals): another one plugs in by adding it to
PROVIDERS.
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, BinaryIO

import numpy as np

from ov_encoder.codec.compensate import derived_energy, reduction, shrink
from ov_encoder.codec.decode import Picture, Resizer, decode
from ov_encoder.codec.info import MediaInfo
from ov_encoder.codec.limits import Limits
from ov_encoder.codec.media import Source, binary, inspect
from ov_encoder.codec.signals import CELL, KIND_INTRA, ClipSignals, FrameSignals, Provenance
from ov_encoder.codec.transcode import transcode
from ov_encoder.codec.vectors import KIND_OF_LISTS, Distances, frame_vectors, motion_grid, qp_grid, side_data_of
from ov_encoder.errors import OvEncoderError

if TYPE_CHECKING:
    from ov_encoder.codec.bitstream.provider import Stopped

MAX_SIDE = 16384  # pixels: the largest side that x264 takes
SIGNAL_SOURCES = ("auto", "bitstream", "native", "transcode", "none")
Pairs = Generator[tuple[Picture, FrameSignals], None, None]
BITSTREAM_CODECS = ("h264", "hevc")
FROM_STREAM = ("bitstream", "native")  # providers whose maps lie on the source's own cells
_BYTES_PER_CELL = 21  # motion 8, residual 4, bits 4, qp 4, kind 1


@dataclass(slots=True)
class Reading:
    """An open source: its description, which provider serves it, and the one pass over its pictures."""

    info: MediaInfo
    provider: str
    height: int  # of the picture that the maps lie on, upright
    width: int
    cell: int  # side of a cell in pixels of that picture
    provenance: dict[str, Provenance]
    pairs: Pairs
    notes: list[str] = field(default_factory=list)
    alone: Generator[FrameSignals, None, None] | None = None  # signals without pictures, where asked for

    def signals(self) -> Iterator[FrameSignals]:
        """The one pass, signals only."""
        return (found for _, found in self.pairs) if self.alone is None else self.alone


@contextmanager
def read(
    source: Source,
    *,
    signals: str = "auto",
    size: tuple[int, int] | None = None,
    cell: int = CELL,
    qp: bool = True,
    residual: bool = True,
    threads: int = 1,
    limits: Limits | None = None,
    info: MediaInfo | None = None,
    frames: bool = True,
) -> Iterator[Reading]:
    """Open a source for one pass over (Picture, FrameSignals) in display order, with flat memory.

    signals: "auto" (bitstream where the parser reads the stream, else native where the codec exports vectors, else
    transcode), "bitstream", "native", "transcode" or "none".
    size: (height, width) at which `transcode` works; default: the source's, at most 448 pixels on its short side.
    cell: side of the cells of bitstream and native maps, 8 pixels or 16 (less work where 16 are small enough).
    qp: whether to fill `qp_HW`. residual: whether to fill `residual_HW` of bitstream and native streams (the latter
    by motion compensation).
    threads: as in `decode.decode`.
    info: what `inspect` said of this source, if that is known already.
    frames: False where no pictures are wanted: then use `Reading.signals`, which `bitstream` gives without decoding,
    on `threads` closed GOPs at a time.

    Raises:
        OvEncoderError: the source cannot be read, or asks for more than `limits` allow.
        ValueError: unknown `signals`, or "bitstream" or "native" for a stream that has none.
    """
    limits = limits or Limits()
    if size is not None:
        check_size(size)
    info = info or inspect(source, limits=limits)
    provider = choose_provider(info, signals)
    notes = list(info.notes)
    unsaid = info.codec in BITSTREAM_CODECS and not info.bitstream.startswith("interlaced")  # `inspect` notes that
    if signals == "auto" and provider not in ("bitstream", "none") and info.bitstream and unsaid:
        notes.append(f"bitstream reader not used: {info.bitstream}")
    with binary(source, limits) as file:
        if provider == "transcode":
            height, width = _fit(info.height, info.width, 448) if size is None else size
        else:
            height, width = info.height, info.width
        provide, provenance = PROVIDERS[provider]
        provenance = dict(provenance)
        if provider in FROM_STREAM and not residual:
            provenance["residual"] = "absent"
        if provider in FROM_STREAM and not qp:
            provenance["qp"] = "absent"
        cell = cell if provider in FROM_STREAM else CELL
        options = _Options(height, width, cell, qp, residual, threads, limits, notes, provenance)
        pairs = provide(file, info, options)
        alone = _alone(file, info, options) if provider == "bitstream" and not frames else None
        try:
            yield Reading(info, provider, height, width, cell, provenance, pairs, notes, alone)
        finally:
            pairs.close()
            if alone is not None:
                alone.close()


def check_size(size: object) -> None:
    """Refuse anything but (height, width) in pixels that the transcode can work at.

    Raises:
        ValueError: naming the size.
    """
    good = isinstance(size, tuple | list) and len(size) == 2 and all(isinstance(n, int | np.integer) for n in size)
    if not good or not all(0 < n <= MAX_SIDE for n in size):  # type: ignore[attr-defined]
        raise ValueError(f"size={size!r}; must be (height, width) in pixels, 1 to {MAX_SIDE} each")


def choose_provider(info: MediaInfo, signals: str) -> str:
    """Which provider serves a source.

    Raises:
        ValueError: unknown `signals`, or "bitstream" or "native" for a stream that has none.
    """
    if signals not in SIGNAL_SOURCES:
        raise ValueError(f"signals={signals!r}; allowed: {', '.join(SIGNAL_SOURCES)}")
    if signals == "native" and not info.native:
        why = "; ".join(info.notes) or "the stock decoder exports nothing per block for it"
        raise ValueError(f"{info.name}: signals='native' is not possible for {info.codec} ({why}); use 'auto'")
    if signals == "bitstream" and info.bitstream:
        raise ValueError(f"{info.name}: signals='bitstream' is not possible ({info.bitstream}); use 'auto'")
    if info.frames < 2:
        return "none"  # one picture: nothing to be new against
    if signals == "auto":
        # Intra pictures alone say how hard they are to code, not what is new in them: those are compared by pixels.
        if not info.bitstream and not info.packet_key_K.all():
            return "bitstream"
        return "native" if info.native else "transcode"
    return signals


def iter_signals(
    source: Source,
    *,
    signals: str = "auto",
    frames: bool = True,
    residual: bool = True,
    size: tuple[int, int] | None = None,
    threads: int = 1,
    limits: Limits | None = None,
) -> Iterator[FrameSignals]:
    """FrameSignals one by one in display order, with flat memory. Options as `read_signals`."""
    with _signals(source, signals, frames, residual, size, threads, limits or Limits()) as reading:
        yield from reading.signals()


def read_signals(
    source: Source,
    *,
    signals: str = "auto",
    frames: bool = True,
    residual: bool = True,
    size: tuple[int, int] | None = None,
    threads: int = 1,
    limits: Limits | None = None,
) -> ClipSignals:
    """What the stream says about each block of every frame.

    frames: False skips everything that needs pixels where the provider can: with `bitstream` nothing is decoded at
    all; with `native` no residual is derived (the stock decoder still decodes). The other options as `read`.

    Raises:
        OvEncoderError: the source cannot be read, or its maps would take more than `limits.bytes`.
        ValueError: unknown `signals`, or "bitstream" or "native" for a stream that has none.
    """
    limits = limits or Limits()
    with _signals(source, signals, frames, residual, size, threads, limits) as reading:
        cells = -(-reading.height // reading.cell) * -(-reading.width // reading.cell)
        need = reading.info.frames * cells * _BYTES_PER_CELL
        if need > limits.bytes:
            raise OvEncoderError(
                f"{reading.info.name}: maps of {reading.info.frames} frames take {need} bytes; the limit is "
                f"{limits.bytes} (use ov.iter_signals, or raise Limits.bytes)"
            )
        found = list(reading.signals())
        return ClipSignals(
            found,
            reading.info.codec,
            reading.provider,
            reading.cell,
            reading.height,
            reading.width,
            reading.provenance,
            reading.notes,
        )


def _signals(
    source: Source,
    signals: str,
    frames: bool,
    residual: bool,
    size: tuple[int, int] | None,
    threads: int,
    limits: Limits,
) -> AbstractContextManager[Reading]:
    """A reading for its signals only; without frames, a residual is not derived from pixels either."""
    info = inspect(source, limits=limits)
    from_bits = choose_provider(info, signals) == "bitstream"
    return read(
        source,
        signals=signals,
        size=size,
        residual=residual and (frames or from_bits),
        threads=threads,
        limits=limits,
        info=info,
        frames=frames,
    )


@dataclass(slots=True)
class _Options:
    height: int
    width: int
    cell: int
    qp: bool
    residual: bool
    threads: int
    limits: Limits
    notes: list[str]
    provenance: dict[str, Provenance]


def _bitstream(file: BinaryIO, info: MediaInfo, options: _Options) -> Pairs:
    from ov_encoder.codec.bitstream import provider

    wanted = provider.Wanted(options.cell, options.qp, options.residual, options.limits)
    try:
        yield from _turned(
            provider.beside(file, info, wanted, threads=options.threads, notes=options.notes), info.rotation
        )
    except provider.Stopped as e:
        yield from _rest(file, info, options, e)


def _alone(file: BinaryIO, info: MediaInfo, options: _Options) -> Generator[FrameSignals, None, None]:
    from ov_encoder.codec.bitstream import provider

    wanted = provider.Wanted(options.cell, options.qp, options.residual, options.limits)
    try:
        for signals in provider.alone(file, info, wanted, threads=options.threads, notes=options.notes):
            yield upright(signals, info.rotation)
    except provider.Stopped as e:
        for _, signals in _rest(file, info, options, e):
            yield signals


def _turned(pairs: Pairs, rotation: int) -> Pairs:
    try:
        for picture, signals in pairs:
            yield picture, upright(signals, rotation)
    finally:
        pairs.close()


def _rest(file: BinaryIO, info: MediaInfo, options: _Options, stopped: Stopped) -> Pairs:
    """The pictures after those that the bitstream parser could read, by the next provider on the same cells."""
    provide, name = (_native, "native") if info.native else (_none, "none")
    options.notes.append(f"bitstream reader stopped after {stopped.shown} pictures ({stopped}); then {name}")
    options.provenance.update(
        (signal, where) for signal, where in PROVIDERS[name][1].items() if options.provenance.get(signal) != "absent"
    )
    for picture, signals in provide(file, info, options):
        if picture.index >= stopped.shown:
            yield picture, signals


def _native(file: BinaryIO, info: MediaInfo, options: _Options) -> Pairs:
    distances, cell = Distances(info.packet_time_K), options.cell
    small_YX: np.ndarray | None = None
    motion_HW2: np.ndarray | None = None
    lists_HW: np.ndarray | None = None
    for picture in decode(file, info, limits=options.limits, export=True, threads=options.threads, notes=options.notes):
        coded_HW = (-(-picture.frame.height // cell), -(-picture.frame.width // cell))
        signals = FrameSignals(picture.index, picture.time_s, picture.frame_type, picture.packet_bits)
        side_data = side_data_of(picture.frame)
        if options.qp:
            signals.qp_HW = qp_grid(side_data, coded_HW, cell=cell)
        past, future = distances(picture.packet, picture.frame_type)
        if motion_HW2 is not None and motion_HW2.shape[:2] != coded_HW:
            motion_HW2 = lists_HW = None  # the stream changed its size
        if picture.frame_type == "I":
            signals.kind_HW = np.full(coded_HW, KIND_INTRA, np.uint8)
        elif not _says_nothing(info.codec, picture.frame_type, side_data):
            motion_HW2, lists_HW = motion_grid(frame_vectors(side_data), coded_HW, past, future, cell=cell)
            signals.motion_HW2, signals.kind_HW = motion_HW2, KIND_OF_LISTS[lists_HW]
        if options.residual:
            luma_YX = picture.luma()
            factor = reduction(*luma_YX.shape)
            previous_YX, small_YX = small_YX, shrink(luma_YX, factor)
            if previous_YX is not None and previous_YX.shape == small_YX.shape:
                # A frame without vectors is predicted with the motion of the frame before it.
                moved_HW2 = np.zeros((*coded_HW, 2), np.float32) if motion_HW2 is None else motion_HW2
                used_HW = np.zeros(coded_HW, np.uint8) if lists_HW is None else lists_HW
                signals.residual_HW = derived_energy(small_YX, previous_YX, moved_HW2, used_HW, factor, cell)
        yield picture, upright(signals, info.rotation)


def _says_nothing(codec: str, frame_type: str, side_data: Any) -> bool:
    """Predicted frames whose side data FFmpeg leaves out or fills with zeros (seen in FFmpeg 8.1).

    The last frame of MPEG-1, MPEG-2 and MPEG-4 streams has none; all vectors of MPEG-4 B-frames are (0, 0).
    """
    return side_data.get("VIDEO_ENC_PARAMS") is None or (codec == "mpeg4" and frame_type == "B")


def _transcode(file: BinaryIO, info: MediaInfo, options: _Options) -> Pairs:
    resize = Resizer(options.height, options.width)
    waiting: list[Picture] = []

    def frames() -> Iterator[np.ndarray]:
        for picture in decode(file, info, limits=options.limits, threads=options.threads, notes=options.notes):
            waiting.append(picture)
            yield resize(picture)

    for found in transcode(frames()):  # gives a picture's signals before it asks for many more
        picture = waiting.pop(0)
        signals = found.signals
        signals.index, signals.time_s = picture.index, picture.time_s
        yield picture, signals


def _none(file: BinaryIO, info: MediaInfo, options: _Options) -> Pairs:
    for picture in decode(file, info, limits=options.limits, threads=options.threads, notes=options.notes):
        yield picture, FrameSignals(picture.index, picture.time_s, picture.frame_type, picture.packet_bits)


Provider = Callable[[BinaryIO, MediaInfo, _Options], Pairs]

# What each provider gives, and how sure it is: "native" is read from the source's own stream.
PROVIDERS: dict[str, tuple[Provider, dict[str, Provenance]]] = {
    "bitstream": (_bitstream, dict.fromkeys(("motion", "residual", "bits", "qp", "kind"), "native")),
    "native": (
        _native,
        {"motion": "native", "residual": "derived", "bits": "absent", "qp": "native", "kind": "native"},
    ),
    "transcode": (
        _transcode,
        {"motion": "derived", "residual": "derived", "bits": "absent", "qp": "derived", "kind": "derived"},
    ),
    "none": (_none, dict.fromkeys(("motion", "residual", "bits", "qp", "kind"), "absent")),
}


def upright(signals: FrameSignals, rotation: int) -> FrameSignals:
    """Turn the maps, and the vectors in them, by `rotation` degrees clockwise (0, 90, 180, 270)."""
    turns = rotation // 90
    if turns:
        for name in ("motion_HW2", "residual_HW", "bits_HW", "qp_HW", "kind_HW"):
            value = getattr(signals, name)
            if value is not None:
                setattr(signals, name, np.ascontiguousarray(np.rot90(value, -turns)))
        if signals.motion_HW2 is not None:
            for _ in range(turns):  # a quarter turn clockwise: (x, y) -> (-y, x)
                x, y = signals.motion_HW2[..., 0].copy(), signals.motion_HW2[..., 1].copy()
                signals.motion_HW2[..., 0], signals.motion_HW2[..., 1] = -y, x
    return signals


def _fit(height: int, width: int, short: int) -> tuple[int, int]:
    scale = min(1.0, short / min(height, width), MAX_SIDE / max(height, width))
    return max(round(height * scale / 2) * 2, 2), max(round(width * scale / 2) * 2, 2)
