"""From what was rendered (and other sets that may be used) to the manifests that labelling and training read.

    OUT/sets/concepts.csv   clips and pictures that get concepts
    OUT/sets/videos.csv     clips, labels: what the renders were told to show
    OUT/sets/images.csv     pictures: stamps, stills of the clips, other sets
    OUT/sets/pages.csv      pages, labels: their words
    OUT/sets/probe.csv      a part of the clips whose label is the motion alone
    OUT/sets/NAME.json      the licence of every source, which the model card shows

Nothing is rendered or trained here.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from PIL import Image

from ov_encoder.data.folder import write_atomically
from ov_encoder.data.manifest import Manifest, Sample, read_manifest, write_manifest
from ov_encoder.data.workers import run_in_workers
from ov_encoder.errors import OvEncoderError
from ov_encoder.labels.features import read_frames

KINDS = ("image", "video", "ocr")
STILL = 144  # pixels a side
STILLS = 2  # of a clip
TAUGHT = 4000  # the first stamps get concepts of the teacher; the others have names, which say more
MOTION = "motion "  # how the labels that name a motion begin


@dataclass(frozen=True)
class Also:
    """Another set: a folder with a manifest, what its samples are for, and the licence that allows it."""

    path: Path
    kind: str
    licence: str


def parse_also(text: str) -> Also:
    """DIR:KIND:LICENCE, such as "signs:video:CC BY 4.0".

    Raises:
        ValueError: a part is missing, or the kind is none.
    """
    path, _, rest = text.partition(":")
    kind, _, licence = rest.partition(":")
    if kind not in KINDS or not licence.strip():
        raise ValueError(f"also={text!r}; need DIR:KIND:LICENCE, with KIND one of {', '.join(KINDS)}")
    return Also(Path(path), kind, licence.strip())


def write_sets(
    data: Path,
    also: Sequence[Also],
    out: Path,
    *,
    workers: int = 1,
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> dict[str, int]:
    """Write the manifests. Stills that are there stay.

    Args:
        data: folder of make.py.
        also: other sets; samples of their splits test, val and validation are not used for anything.
        out: OUT/sets.

    Returns:
        How many samples each set has, and "unreadable": clips without stills (training says why).

    Raises:
        OvEncoderError: a manifest cannot be read, or no clip was rendered.
    """
    rendered = read_manifest(data / "labels.csv")
    licences: dict[str, str] = rendered.card.get("licence", {})
    videos = [s for s in rendered if s.kind == "video"]
    pages = [s for s in rendered if _source(s) == "pages"]
    images = [s for s in rendered if s.kind == "image" and _source(s) != "pages"]
    if not videos:
        raise OvEncoderError(f"{rendered.path}: has no video; render some first")
    for extra in also:
        mine = {"video": videos, "image": images, "ocr": pages}[extra.kind]
        mine += _taken(read_manifest(extra.path), extra)
        licences = licences | {extra.path.name: extra.licence}
    out.mkdir(parents=True, exist_ok=True)
    stills = _stills([s for s in videos if s.split != "test"], out / "stills", workers=workers, progress=progress)
    images += stills
    named = replace_labels(videos, lambda labels: tuple(v for v in labels if v.startswith(MOTION)))
    sets = {
        "concepts": [*videos, *_taught(images)],
        "videos": videos,
        "images": images,
        "pages": pages,
        "probe": [s for s in named if s.labels],
    }
    for name, samples in sets.items():
        used = Counter(_source(s) for s in samples if s.split != "test")
        card = {"name": name, "sources": {s: {"samples": n, "licence": licences.get(s, "")} for s, n in used.items()}}
        write_atomically(out / f"{name}.json", (json.dumps(card, indent=1) + "\n").encode())
        write_manifest(out / f"{name}.csv", samples)
    clips = len([s for s in videos if s.split != "test"])
    return {name: len(samples) for name, samples in sets.items()} | {"unreadable": clips - len(stills) // STILLS}


def _taught(images: Sequence[Sample]) -> list[Sample]:
    """Pictures that a teacher looks at."""
    stamps = [s.id for s in images if _source(s) == "stamps"]
    left_out = frozenset(stamps[TAUGHT:])
    return [s for s in images if s.id not in left_out]


def replace_labels(samples: Sequence[Sample], change: Callable[[tuple[str, ...]], tuple[str, ...]]) -> list[Sample]:
    """The same samples with other labels."""
    return [replace(s, labels=change(s.labels)) for s in samples]


def _source(sample: Sample) -> str:
    """Where it comes from: the first folder of its id. Stills come from where their clip does."""
    parts = sample.id.split("/")
    return parts[1] if parts[0] == "stills" else parts[0]


def _taken(manifest: Manifest, extra: Also) -> list[Sample]:
    wanted = "video" if extra.kind == "video" else "image"
    kept = [s for s in manifest if s.kind == wanted and s.split not in ("test", "val", "validation")]
    if not kept:
        raise OvEncoderError(f"{manifest.path}: has no {wanted} to train on")
    return [replace(s, id=f"{extra.path.name}/{s.id}", split="train") for s in kept]


def _still(sample: Sample, *, folder: Path) -> list[str]:
    """Save stills of a clip; what a worker does."""
    names = [f"{sample.id}_{i}.jpg" for i in range(STILLS)]
    if all((folder / name).exists() for name in names):
        return names
    frames = read_frames(sample.source(), STILLS, short=STILL, size=STILL)
    for name, frame_HW3 in zip(names, frames, strict=True):
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        part = path.with_name(f".{path.name}.part")
        Image.fromarray(frame_HW3).save(part, "JPEG", quality=90)
        part.replace(path)
    return names


def _stills(videos: Sequence[Sample], folder: Path, *, workers: int, progress: Any) -> list[Sample]:
    """Pictures of the clips, so that every scene is also learned as a picture."""
    from functools import partial

    found: dict[str, list[str]] = {}
    outcomes = run_in_workers(partial(_still, folder=folder), iter(videos), workers=workers, timeout_s=60)
    for done, outcome in enumerate(outcomes, 1):
        if outcome.result is not None:
            found[outcome.item.id] = outcome.result
        progress(done, len(videos))
    return [
        Sample(f"stills/{name}", str(folder / name), "image", split="train")
        for video in videos
        for name in found.get(video.id, [])
    ]
