"""The chain: index, dedup, features, k-means, assign, OCR, report. Each stage calls one function of this room.

OUT/manifest.parquet      every sample, bad ones with their reason
OUT/duplicates.parquet    who stands for whom
OUT/image/, OUT/video/    features/, centres.npz, labels.parquet, inverted.npz
OUT/ocr/                  text/, vocabulary.parquet, ocr.parquet
OUT/report/               report.json, image.png, video.png
OUT/stages/               what each stage saw and made (see `stage`)
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from ov_encoder.data.folder import locked
from ov_encoder.data.manifest import Sample, read_manifest
from ov_encoder.errors import OvEncoderError
from ov_encoder.labels.dedup import VIDEO_RADIUS, find_duplicates, load_duplicates
from ov_encoder.labels.engine import Tally
from ov_encoder.labels.features import extract_features
from ov_encoder.labels.index import COLUMNS, build_index, list_sources, listing_digest
from ov_encoder.labels.run_config import KINDS, RunConfig
from ov_encoder.labels.run_kmeans import write_centres
from ov_encoder.labels.stage import Progress, Stage, do, summary_of, why_not

MANIFEST, DUPLICATES = "manifest.parquet", "duplicates.parquet"


def run(
    config: RunConfig,
    *,
    say: Callable[[str, str, dict[str, Any]], None] = lambda name, state, summary: None,
    progress: Callable[[str, int, int], None] = lambda name, done, total: None,
) -> dict[str, str]:
    """Do every stage that is not up to date. Safe to kill at any moment: the same call goes on.

    Args:
        config: what `read_config` gave.
        say: called for each stage with its name, "unchanged" or "done", and its summary.
        progress: called with the stage's name, samples done, samples in all.

    Returns:
        stage -> "unchanged" or why it was done.

    Raises:
        ValueError: options that do not fit (k above the number of samples), or another run in the same folder.
        OvEncoderError: inputs that cannot be used, no sample of a kind that concepts are asked for.
    """
    out = Path(config.out)
    states: dict[str, str] = {}
    with locked(out):
        for stage in stages(config):
            reason = why_not(out, stage)
            record = do(out, stage, partial(progress, stage.name)) if reason else None
            summary = record["summary"] if record else summary_of(out, stage)
            states[stage.name] = reason or "unchanged"
            say(stage.name, states[stage.name], summary)
    return states


def stages(config: RunConfig) -> Iterator[Stage]:
    """The stages of a run, in order. Those before must be done when the next is asked for."""
    yield index_stage(config)
    yield dedup_stage(config)
    for kind in KINDS:
        if config.concepts(kind):
            yield features_stage(config, kind)
            yield kmeans_stage(config, kind)
            yield assign_stage(config, kind)
    if config.ocr.read:
        yield from ocr_stages(config)
    yield report_stage(config)


def cores() -> int:
    """Cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def kept_samples(out: Path, kind: str) -> list[Sample]:
    """Good samples of a kind that stand for themselves, in the order of the manifest.

    Raises:
        OvEncoderError: there is none.
    """
    kept = set(load_duplicates(out / DUPLICATES).kept)
    samples = [s for s in read_manifest(out / MANIFEST) if s.kind == kind and s.id in kept]
    if not samples:
        raise OvEncoderError(f"{out / MANIFEST}: no {kind} that can be read; leave kmeans.{kind}s out")
    return samples


def index_stage(config: RunConfig) -> Stage:
    """Every sample with its facts."""
    out = Path(config.out)
    listed = list_sources(config.index.sources, label=config.index.label)

    def body(progress: Progress) -> dict[str, Any]:
        return build_index(
            config.index.sources, out / MANIFEST, label=config.index.label,
            **_engine(config), progress=_counting(progress, len(listed)),
        )  # fmt: skip

    options = {"listing": listing_digest(listed), "columns": list(COLUMNS)}
    return Stage("index", (), (MANIFEST,), options, body, (f"{MANIFEST}.parts",))


def dedup_stage(config: RunConfig) -> Stage:
    """Equal bytes, and images or videos that look alike."""
    out = Path(config.out)

    def body(progress: Progress) -> dict[str, Any]:
        return write_duplicates(out / MANIFEST, out / DUPLICATES, **asdict(config.dedup))

    return Stage("dedup", (MANIFEST,), (DUPLICATES,), asdict(config.dedup), body)


def features_stage(config: RunConfig, kind: str) -> Stage:
    """A vector of each sample."""
    out, table = Path(config.out), config.features
    frames = table.frames if kind == "video" else 1
    options: dict[str, Any] = {
        "teacher": table.teacher,
        "frames": frames,
        "pooling": table.pooling,
        "rows": table.shard,
    }

    def body(progress: Progress) -> dict[str, Any]:
        samples = kept_samples(out, kind)
        return extract_features(
            samples, out / kind / "features", device=table.device, **options,
            **_engine(config), progress=_counting(progress, len(samples)),
        )  # fmt: skip

    return Stage(f"{kind}-features", (MANIFEST, DUPLICATES), (f"{kind}/features",), options, body)


def kmeans_stage(config: RunConfig, kind: str) -> Stage:
    """Centres of the vectors."""
    out, table = Path(config.out), asdict(config.kmeans)
    options = {name: table[name] for name in ("metric", "init", "iterations", "batch", "seed", "hierarchical")}
    options["k"] = config.concepts(kind)

    def body(progress: Progress) -> dict[str, Any]:
        write_centres(
            out / kind / "features", out / kind / "centres.npz", device=config.features.device,
            processes=config.kmeans.processes, progress=progress, **options,
        )  # fmt: skip
        return _centres_summary(out / kind / "centres.npz")

    outputs, scratch = (f"{kind}/centres.npz",), (f"{kind}/kmeans",)
    return Stage(f"{kind}-kmeans", (f"{kind}/features",), outputs, options, body, scratch)


def assign_stage(config: RunConfig, kind: str) -> Stage:
    """The nearest centres of each sample, and back."""
    from ov_encoder.labels.assigning import write_labels

    out = Path(config.out)

    def body(progress: Progress) -> dict[str, Any]:
        return write_labels(
            out / kind, device=config.features.device, engine=_engine(config)["engine"],
            workers=config.workers or cores(), progress=progress, **asdict(config.assign),
        )  # fmt: skip

    inputs = (f"{kind}/features", f"{kind}/centres.npz")
    outputs = (f"{kind}/labels.parquet", f"{kind}/inverted.npz")
    return Stage(f"{kind}-assign", inputs, outputs, asdict(config.assign), body, (f"{kind}/parts",))


def ocr_stages(config: RunConfig) -> Iterator[Stage]:
    """Text of images (much work), then tags (little: another cut-off reads nothing again)."""
    from ov_encoder.labels.ocr import read_texts, tag_images

    out = Path(config.out)
    options = {name: value for name, value in asdict(config.ocr).items() if name != "read"}

    def read(progress: Progress) -> dict[str, Any]:
        samples = kept_samples(out, "image")
        return read_texts(samples, out / "ocr/text", **_engine(config), progress=_counting(progress, len(samples)))

    def tag(progress: Progress) -> dict[str, Any]:
        return tag_images(out / "ocr/text", out / "ocr", **options)

    yield Stage("ocr-text", (MANIFEST, DUPLICATES), ("ocr/text",), {}, read)
    yield Stage("ocr", ("ocr/text",), ("ocr/vocabulary.parquet", "ocr/ocr.parquet"), options, tag)


def report_stage(config: RunConfig) -> Stage:
    """What came of it, for people."""
    from ov_encoder.labels.run_report import write_report

    out = Path(config.out)
    kinds = tuple(kind for kind in KINDS if config.concepts(kind))
    kmeans = {name: asdict(config.kmeans)[name] for name in ("metric", "init", "iterations", "seed")}
    inputs = [MANIFEST, DUPLICATES]
    for kind in kinds:
        inputs += [f"{kind}/centres.npz", f"{kind}/labels.parquet"]
    if config.ocr.read:
        inputs.append("ocr/ocr.parquet")

    def body(progress: Progress) -> dict[str, Any]:
        return write_report(
            out, kinds=kinds, kmeans=kmeans, **asdict(config.report), **_engine(config),
        )  # fmt: skip

    options = asdict(config.report) | {"kinds": list(kinds), "ocr": config.ocr.read, "kmeans": kmeans}
    return Stage("report", tuple(inputs), ("report",), options, body, tuple(f"{kind}/pixels" for kind in kinds))


def write_duplicates(
    manifest: Path, out: Path, *, near: bool = True, radius: int = 3, video_radius: int = VIDEO_RADIUS
) -> dict[str, Any]:
    """Write the map of duplicates of a manifest; of each group the sample of most pixels stays, else the first.

    near: also images and videos that look alike (see `dedup.find_duplicates`: radius, video_radius).

    Returns:
        "samples", "kept", "groups" of more than one.

    Raises:
        OvEncoderError: no sample can be read, or the manifest was written before videos had hashes.
    """
    import pyarrow.parquet as pq

    names = ["id", "sha256", "phash", "video_hash", "height", "width", "status"]
    file = pq.ParquetFile(manifest)
    if missing := [name for name in names if name not in file.schema_arrow.names]:
        raise OvEncoderError(f"{manifest}: has no column {missing[0]!r}; make it (again) by ov-encoder label index")
    rows = [row for row in file.read(columns=names).to_pylist() if row["status"] == "ok"]
    if not rows:
        raise OvEncoderError(f"{manifest}: no sample that can be read")
    # A sample without a perceptual hash gets bits of its content's: far from all but its copies.
    bits = [int(r["sha256"][:16], 16) if r["phash"] is None else r["phash"] for r in rows]
    found = find_duplicates(
        [row["id"] for row in rows],
        content=[row["sha256"] for row in rows],
        hashes_N=np.array(bits, np.uint64) if near else None,
        radius=radius,
        video_hashes=[row["video_hash"] for row in rows] if near else None,
        video_radius=video_radius,
        quality_N=np.array([row["height"] * row["width"] for row in rows], np.float64),
    )
    found.save(out)
    stand_N = np.bincount(found.keep_N, minlength=len(rows))
    return {"samples": len(rows), "kept": len(found.kept), "groups": int((stand_N > 1).sum())}


def _centres_summary(path: Path) -> dict[str, Any]:
    from ov_encoder.labels.kmeans import load_centres

    centres = load_centres(path)
    last = centres.history[-1] if centres.history else {}
    return {"k": len(centres), "iterations": len(centres.history), "inertia": last.get("inertia")}


def _engine(config: RunConfig) -> dict[str, Any]:
    return {"engine": config.engine, "workers": config.workers or cores(), "timeout_s": config.timeout}


def _counting(progress: Progress, total: int) -> Callable[[Tally], None]:
    done = 0

    def count(tally: Tally) -> None:
        nonlocal done
        done += tally.samples + tally.failed
        progress(done, max(total, done))

    return count
