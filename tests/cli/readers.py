"""What workers run in tests. Brings no torch, and imports early: only an item's own time counts against it."""

import ctypes
import os
import time
from pathlib import Path

import ov_encoder.patchify.api  # noqa: F401
from ov_encoder.cli.job import read_patches
from ov_encoder.data.sources import Entry
from ov_encoder.patchify.batch import PatchBatch


def read_or_die(entry: Entry) -> PatchBatch:
    """Reading as it is when decoders meet files made to hurt them."""
    match Path(entry.path).stem:
        case "01":
            ctypes.string_at(0)
        case "02":
            os.abort()
        case "03":
            time.sleep(3600)
        case "04":
            raise MemoryError("too much")
    return read_patches(entry, options={}, rate=None)
