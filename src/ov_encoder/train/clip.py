"""A clip as training keeps it: slots at a fixed short side with signals on fine cells, in memory and on disk.

Reading happens once (`read_clip`), augmentation and choice every time (augment.py, modes.py). No torch: workers are
light. Shapes: T = slots, H, W = pixels, Y, X = rows and columns of CELL-pixel cells.
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from ov_encoder.data.folder import write_atomically
from ov_encoder.data.manifest import Sample
from ov_encoder.errors import OvEncoderError

CELL = 7  # pixels of a stored frame: half a patch, so that crops need not follow patch borders
FORMAT = "ov-encoder.clip/1"


@dataclass(frozen=True, slots=True)
class Clip:
    """frames_THWC: uint8. maps_TYX: "motion" (pixels of the stored frame), "residual" (grey levels): float16, NaN in
    slots without signals; empty for an image. times_T: seconds. shots: first slot of every shot. facts: JSON-able."""

    frames_THWC: np.ndarray
    maps_TYX: dict[str, np.ndarray]
    times_T: np.ndarray
    shots: list[int]
    facts: dict[str, Any]


def read_clip(sample: Sample, *, options: dict[str, Any], cache: str | None) -> Clip:
    """From the cache, or from the source with `ov.plan(**options)`; then it is in the cache (if there is one).

    Raises:
        OvEncoderError: the source cannot be read.
    """
    if cache is None:
        return _decode(sample, options)
    path = Path(cache) / _key(sample, options)
    if path.exists():
        found = load_clip(path)
        if found is not None:
            return found
    clip = _decode(sample, options)
    path.parent.mkdir(parents=True, exist_ok=True)
    write_atomically(path, dump_clip(clip))
    return clip


def _decode(sample: Sample, options: dict[str, Any]) -> Clip:
    from ov_encoder.patchify.api import plan

    made = plan(sample.source(), patch=CELL, **options)
    known = ("codec", "provider", "signals", "notes")
    return Clip(
        made.frames_THWC,
        {name: map_TYX.astype(np.float16) for name, map_TYX in made.maps_THW.items()},
        made.slot_times_T,
        list(made.shots),
        {name: made.provenance[name] for name in known},
    )


def _key(sample: Sample, options: dict[str, Any]) -> str:
    """Changes when the file, the place in it, or an option changes."""
    try:
        stat = Path(sample.path).stat()
    except OSError as e:
        raise OvEncoderError(f"{sample.path}: cannot be read: {e.strerror}") from e
    told = [sample.path, stat.st_size, stat.st_mtime_ns, sample.offset, sample.length, options, CELL, FORMAT]
    digest = hashlib.blake2b(json.dumps(told, sort_keys=True).encode(), digest_size=16).hexdigest()
    return f"{digest[:2]}/{digest[2:]}.safetensors"


def dump_clip(clip: Clip) -> bytes:
    """One safetensors file."""
    from safetensors.numpy import save

    tensors = {"frames": np.ascontiguousarray(clip.frames_THWC), "times": np.asarray(clip.times_T, np.float64)}
    tensors |= {f"map.{name}": np.ascontiguousarray(map_TYX) for name, map_TYX in clip.maps_TYX.items()}
    header = {"format": FORMAT, "shots": clip.shots, "facts": clip.facts}
    return save(tensors, metadata={"clip": json.dumps(header)})


def load_clip(path: Path) -> Clip | None:
    """What `dump_clip` wrote; None for a file that is damaged (it is then made anew)."""
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(str(path), "numpy") as f:
            header = json.loads((f.metadata() or {})["clip"])
            tensors = {name: f.get_tensor(name) for name in f.keys()}  # noqa: SIM118
    except (OSError, SafetensorError, KeyError, ValueError):
        return None
    maps = {name.removeprefix("map."): x for name, x in tensors.items() if name.startswith("map.")}
    return Clip(tensors["frames"], maps, tensors["times"], header["shots"], header["facts"])
