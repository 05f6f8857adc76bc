"""The shared library of csrc/, loaded through ctypes: its C types, its functions, and whether it is there at all.

The package's build compiles it next to this file (see setup.py). Without a compiler the installation succeeds, this
module says why the library is missing, and the other providers of signals serve.
"""

from __future__ import annotations

import ctypes
from ctypes import POINTER, Structure, c_char_p, c_int, c_int32, c_int64, c_size_t, c_uint64, c_void_p
from functools import lru_cache
from pathlib import Path

VERSION = 3  # OVB_VERSION in ovb.h
FILE = Path(__file__).with_name("libovb.so")

MAX_REFERENCES = 64  # OVB_MAX_REFERENCES
NONE, FRAME, REFUSED, MEMORY = range(4)  # enum ovb_status
IDR, RANDOM_ACCESS, REFERENCE, DAMAGED, EXACT_END, LOSSLESS = (1 << bit for bit in range(6))  # enum ovb_flags


class CLimits(Structure):
    """struct ovb_limits."""

    _fields_ = (("pixels", c_uint64), ("bytes", c_uint64), ("cell", c_uint64))


class CFrameInfo(Structure):
    """struct ovb_frame_info."""

    _fields_ = (
        *((name, c_int32) for name in ("coded_width", "coded_height", "left", "top", "width", "height")),
        *((name, c_int32) for name in ("poc", "sequence")),
        *((name, c_int64) for name in ("decode_index", "slice_bits")),
        *((name, c_int32) for name in ("slices", "flags", "type", "bit_depth", "chroma", "references")),
    )


class CMaps(Structure):
    """struct ovb_maps: pointers to buffers that the caller owns, or NULL."""

    _fields_ = (
        *((name, c_void_p) for name in ("motion", "poc", "age", "valid", "kind", "qp", "energy", "bits")),
        *((name, c_void_p) for name in ("velocity", "distance")),
    )


@lru_cache(maxsize=1)
def _load() -> tuple[ctypes.CDLL | None, str]:
    if not FILE.is_file():
        return None, (
            "the bitstream reader was not built: no C compiler was found when ov-encoder was installed "
            "(install gcc, clang or the package ziglang, then install ov-encoder again)"
        )
    try:
        library = ctypes.CDLL(str(FILE))
        library.ovb_version.restype = c_int
        version = library.ovb_version()
    except (OSError, AttributeError) as e:
        return None, f"the bitstream reader cannot be loaded: {e} (install ov-encoder again)"
    if version != VERSION:
        return None, f"the bitstream reader has version {version}, not {VERSION} (install ov-encoder again)"
    library.ovb_open.argtypes, library.ovb_open.restype = [c_int, POINTER(CLimits)], c_void_p
    library.ovb_feed.argtypes = [c_void_p, c_char_p, c_size_t, POINTER(c_size_t)]
    library.ovb_feed.restype = c_int
    library.ovb_reason.argtypes, library.ovb_reason.restype = [c_void_p], c_char_p
    library.ovb_frame_info_get.argtypes = [c_void_p, POINTER(CFrameInfo)]
    library.ovb_frame_info_get.restype = c_int
    library.ovb_frame_copy.argtypes, library.ovb_frame_copy.restype = [c_void_p, c_int, POINTER(CMaps)], c_int
    library.ovb_frame_references.argtypes = [c_void_p, c_void_p, c_void_p]
    library.ovb_frame_references.restype = c_int
    library.ovb_close.argtypes, library.ovb_close.restype = [c_void_p], None
    return library, ""


def available() -> bool:
    """Whether the library can be used here."""
    return _load()[0] is not None


def reason() -> str:
    """Why it cannot; "" where it can."""
    return _load()[1]


def load() -> ctypes.CDLL:
    """The library, with the types of its functions set.

    Raises:
        RuntimeError: it is not available; the message says why. Ask `available` first.
    """
    library, why = _load()
    if library is None:
        raise RuntimeError(why)
    return library
