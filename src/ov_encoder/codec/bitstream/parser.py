"""Parser: packets in, numpy arrays out, one picture at a time. A thin cover of ovb.h; it decides nothing.

Shapes: H, W = rows and columns of cells that cover the coded picture (ceil of its size / cell); 2 = list 0, list 1.
"""

from __future__ import annotations

import ctypes
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from types import TracebackType

import numpy as np

from ov_encoder.codec.bitstream import library

CODECS = {"h264": 264, "hevc": 265}
KIND_MISSING = 255  # a cell that no slice covered

# map -> dtype, and its shape around [H, W]
MAPS: dict[str, tuple[type, tuple[int, ...], tuple[int, ...]]] = {
    "motion": (np.int16, (2,), (2,)),
    "poc": (np.int32, (2,), ()),
    "age": (np.int32, (2,), ()),
    "valid": (np.uint8, (), ()),
    "kind": (np.uint8, (), ()),
    "qp": (np.int16, (), ()),
    "energy": (np.float32, (), ()),
    "bits": (np.float32, (), ()),
    "velocity": (np.float32, (), (2,)),
}

# (decode_index, ages, POC distances) of a picture and of its references -> display distances in frames, 0: not known
Distance = Callable[[int, np.ndarray, np.ndarray], np.ndarray]


class RefusedError(Exception):
    """The stream uses what the parser does not read; the message says what. The next provider takes over."""


@dataclass(frozen=True, slots=True)
class ParsedFrame:
    """What one picture says, in the order of decoding.

    width, height, left, top: the shown part of the coded picture, in luma samples. (sequence, poc) orders the
    pictures for display. slice_bits: bits of slice data. damaged: why parts are missing or wrong; "" if nothing is.
    exact_end: entropy decoding ended exactly on the last bit of every slice.
    maps: those of MAPS that were asked for; meanings and units in ovb.h.
    """

    decode_index: int
    sequence: int
    poc: int
    frame_type: str
    idr: bool
    random_access: bool
    reference: bool
    damaged: str
    exact_end: bool
    lossless: bool
    coded_width: int
    coded_height: int
    left: int
    top: int
    width: int
    height: int
    bit_depth: int
    chroma: int
    slices: int
    slice_bits: int
    maps: dict[str, np.ndarray]


class Parser:
    """Reads one stream of Annex B packets; not to be shared between threads. The GIL is dropped while it works.

    codec: "h264" or "hevc". cell: 4, 8 or 16 luma samples. wanted: names of MAPS to fill. distance: what the map
    `velocity` (pixels per frame) needs to know of the references; without it that map is not filled.
    pixels, memory: caps per picture and in bytes; 0 leaves the library's own.

    Raises:
        ValueError: another codec, cell or map. RuntimeError: the library is not available.
    """

    def __init__(
        self,
        codec: str,
        *,
        cell: int = 8,
        wanted: tuple[str, ...] = tuple(MAPS),
        distance: Distance | None = None,
        pixels: int = 0,
        memory: int = 0,
    ) -> None:
        if codec not in CODECS:
            raise ValueError(f"codec={codec!r}; allowed: {', '.join(CODECS)}")
        if cell not in (4, 8, 16):
            raise ValueError(f"cell={cell}; allowed: 4, 8, 16")
        unknown = set(wanted) - set(MAPS)
        if unknown:
            raise ValueError(f"wanted={sorted(unknown)}; allowed: {', '.join(MAPS)}")
        self._library = library.load()
        self._cell, self._distance = cell, distance
        self._wanted = [name for name in wanted if name != "velocity" or distance is not None]
        self._parser = self._library.ovb_open(CODECS[codec], ctypes.byref(library.CLimits(pixels, memory, cell)))
        if not self._parser:
            raise MemoryError("no memory for a bitstream parser")
        # Written by the library at every picture; made once, which shows at a millisecond a picture.
        self._pointers = library.CMaps()
        self._age_R, self._poc_R = np.zeros((2, library.MAX_REFERENCES), np.int32)
        self._distance_R = np.zeros(library.MAX_REFERENCES, np.float32)
        self._references = self._parser, self._age_R.ctypes.data, self._poc_R.ctypes.data
        self._pointers.distance = self._distance_R.ctypes.data

    def __enter__(self) -> Parser:
        return self

    def __exit__(self, kind: type | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.close()

    def close(self) -> None:
        """Give the parser's memory back. May be called twice."""
        if self._parser:
            self._library.ovb_close(self._parser)
            self._parser = None

    def feed(self, packet: bytes) -> Iterator[ParsedFrame]:
        """The pictures in a packet: one, none (parameter sets alone), or several where packets were joined.

        Raises:
            RefusedError: the stream cannot be read. MemoryError: it needs more memory than there is.
        """
        offset, used, frame = 0, ctypes.c_size_t(), library.CFrameInfo()
        while offset < len(packet):
            rest = packet if offset == 0 else packet[offset:]
            status = self._library.ovb_feed(self._parser, rest, len(rest), ctypes.byref(used))
            if status == library.REFUSED:
                raise RefusedError(self._reason())
            if status == library.MEMORY:
                raise MemoryError("no memory for a bitstream parser")
            offset += used.value
            if status == library.FRAME:
                self._library.ovb_frame_info_get(self._parser, ctypes.byref(frame))
                yield self._parsed(frame)
            elif not used.value:
                break

    def _reason(self) -> str:
        return self._library.ovb_reason(self._parser).decode("utf-8", "replace")

    def _parsed(self, info: library.CFrameInfo) -> ParsedFrame:
        grid_HW = -(-info.coded_height // self._cell), -(-info.coded_width // self._cell)
        maps = {}
        pointers = self._pointers
        for name in self._wanted:
            dtype, before, after = MAPS[name]
            maps[name] = np.empty((*before, *grid_HW, *after), dtype)
            setattr(pointers, name, maps[name].ctypes.data)
        if "velocity" in maps and self._distance is not None:
            count = self._library.ovb_frame_references(*self._references)
            known_R = self._distance(info.decode_index, self._age_R[:count], self._poc_R[:count])
            self._distance_R[:count] = known_R
        self._library.ovb_frame_copy(self._parser, self._cell, ctypes.byref(pointers))
        flags = info.flags
        return ParsedFrame(
            decode_index=info.decode_index,
            sequence=info.sequence,
            poc=info.poc,
            frame_type=chr(info.type),
            idr=bool(flags & library.IDR),
            random_access=bool(flags & library.RANDOM_ACCESS),
            reference=bool(flags & library.REFERENCE),
            damaged=(self._reason() or "damaged") if flags & library.DAMAGED else "",
            exact_end=bool(flags & library.EXACT_END),
            lossless=bool(flags & library.LOSSLESS),
            coded_width=info.coded_width,
            coded_height=info.coded_height,
            left=info.left,
            top=info.top,
            width=info.width,
            height=info.height,
            bit_depth=info.bit_depth,
            chroma=info.chroma,
            slices=info.slices,
            slice_bits=info.slice_bits,
            maps=maps,
        )
