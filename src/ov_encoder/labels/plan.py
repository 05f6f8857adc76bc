"""A dry run: what each stage would do, how long it takes and how many bytes it writes, from a few samples done now.

Times hold for this machine at this moment, with every worker as fast as this one process. k-means and assignment are
their multiplications at the rate of a matrix product measured here.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from ov_encoder.data.manifest import Sample, kind_of, read_manifest
from ov_encoder.errors import OvEncoderError
from ov_encoder.labels.features import read_frames
from ov_encoder.labels.index import Damaged, Indexing, Tar, list_sources, members
from ov_encoder.labels.run import MANIFEST, cores, kept_samples, stages
from ov_encoder.labels.run_config import KINDS, RunConfig
from ov_encoder.labels.stage import why_not
from ov_encoder.labels.teacher import load_teacher

MEASURED = 6  # samples of each kind
_ROW = 250  # bytes of a row of the manifest and of the map of duplicates


def plan(config: RunConfig) -> tuple[list[tuple[str, str, str, str, str, str]], list[str]]:
    """Rows (stage, what would be done, samples, time, bytes, how it was estimated) and notes. Nothing is written but
    hashes of what is there (OUT/stages/digests.json), and nothing at all where OUT is not there.

    Raises: as `run`, for what can be seen without running.
    """
    out, workers = Path(config.out), config.workers or cores()
    counts, total, chosen, notes = _samples(config)
    costs = _costs(config, counts, total, chosen, workers)
    states = _states(config, out)
    rows = []
    for name in _names(config):
        seconds, size, samples, how = costs[name]
        state = states.get(name, "follows")
        if state:
            rows.append((name, f"run: {state}", f"{samples:,}", _duration(seconds), _bytes(size), how))
        else:
            rows.append((name, "skip: unchanged", f"{samples:,}", "-", "-", ""))
    todo = [costs[row[0]] for row in rows if row[1].startswith("run")]
    notes.append(
        f"in all about {_duration(sum(c[0] for c in todo))} with {workers} worker(s), "
        f"{_bytes(sum(c[1] for c in todo))} in {out}"
    )
    return rows, notes


def _names(config: RunConfig) -> list[str]:
    names = ["index", "dedup"]
    for kind in KINDS:
        if config.concepts(kind):
            names += [f"{kind}-{step}" for step in ("features", "kmeans", "assign")]
    return [*names, *(["ocr-text", "ocr"] if config.ocr.read else []), "report"]


def _states(config: RunConfig, out: Path) -> dict[str, str]:
    """Stage -> why it would run, "" if it would not. After the first that runs, what follows depends on it."""
    if not out.exists():
        return {"index": "not done yet"}
    states: dict[str, str] = {}
    for stage in stages(config):
        states[stage.name] = why_not(out, stage)
        if states[stage.name] and stage.name in ("index", "dedup"):
            break
    return states


def _samples(config: RunConfig) -> tuple[dict[str, int], int, dict[str, list[Sample]], list[str]]:
    """How many of each kind, how many in all, some of each, and notes: from the manifest if it is there, else by names.

    Tars are not opened but for the first, whose share of the bytes stands for all.
    """
    out = Path(config.out)
    if (out / MANIFEST).exists():
        manifest = read_manifest(out / MANIFEST)
        by_kind = {kind: [s for s in manifest if s.kind == kind] for kind in KINDS}
        there = {kind: len(found) for kind, found in by_kind.items()}
        if (out / "duplicates.parquet").exists():
            there = {kind: len(kept_samples(out, kind)) if there[kind] else 0 for kind in KINDS}
        total = len(manifest) + len(manifest.skipped)
        return there, total, {kind: _spread(found) for kind, found in by_kind.items()}, []
    listed = list_sources(config.index.sources, label=config.index.label)
    files = [row for row in listed if isinstance(row, Sample)]
    tars = [row for row in listed if isinstance(row, Tar)]
    scale, notes = 1.0, []
    inside = [row for row in members(tars[0]) if not isinstance(row, Damaged)] if tars else []
    if inside:
        scale = sum(Path(tar.path).stat().st_size for tar in tars) / Path(tars[0].path).stat().st_size
        notes.append(f"{len(tars)} tars: {len(inside)} media files in the first, {scale:.1f} times that by bytes")
    by_kind = {kind: [s for s in files + inside if (s.kind or kind_of(s.id)) == kind] for kind in KINDS}
    there = {
        kind: sum((s.kind or kind_of(s.id)) == kind for s in files)
        + round(scale * sum((s.kind or kind_of(s.id)) == kind for s in inside))
        for kind in KINDS
    }
    return there, sum(there.values()), {kind: _spread(found) for kind, found in by_kind.items()}, notes


def _costs(
    config: RunConfig, counts: dict[str, int], total: int, chosen: dict[str, list[Sample]], workers: int
) -> dict[str, tuple[float, float, int, str]]:
    """Stage -> (seconds, bytes, samples, how)."""
    costs: dict[str, tuple[float, float, int, str]] = {}
    index = Indexing(Path(config.out))
    each = {kind: _time(index.read, chosen[kind]) for kind in KINDS}
    seconds = sum(each[kind] * counts[kind] for kind in KINDS) / workers
    costs["index"] = seconds, total * _ROW, total, _said(each, "to hash and open")
    costs["dedup"] = total * 2e-6, total * _ROW, total, "hashes only"
    for kind in KINDS:
        if config.concepts(kind):
            costs |= _kind_costs(config, kind, counts[kind], chosen[kind], workers)
    if config.ocr.read:
        from ov_encoder.labels.ocr import read_text

        reading = _time(lambda s: read_text(s.source()), chosen["image"][:3])
        count = counts["image"]
        costs["ocr-text"] = reading * count / workers, count * 400.0, count, f"{reading * 1000:.0f} ms to read one"
        costs["ocr"] = count * 2e-5, count * 100.0, count, ""
    compared = sum(counts[kind] for kind in KINDS if config.concepts(kind)) if config.report.pixels else 0
    costs["report"] = 30.0 + compared * max(each.values()) / workers, 2e6, compared, "raw pixels, if classes are known"
    return costs


def _kind_costs(
    config: RunConfig, kind: str, count: int, chosen: Sequence[Sample], workers: int
) -> dict[str, tuple[float, float, int, str]]:
    teacher = load_teacher(config.features.teacher, device=config.features.device)
    frames = config.features.frames if kind == "video" else 1
    dim = teacher.dim * (frames if config.features.pooling == "concat" else 1)

    def see(sample: Sample) -> None:
        teacher.encode(read_frames(sample.source(), frames, short=teacher.short, size=teacher.size))

    each = _time(see, chosen)
    k = config.concepts(kind)
    rate = _matmul_rate(config.features.device)
    rows = min(config.kmeans.batch or count, count)
    ways = 2 * k**0.5 if config.kmeans.hierarchical else float(k)
    product = 2.0 * dim * ways
    at = f"{rate / 1e9:.0f} GFLOP/s of products"
    return {
        f"{kind}-features": (each * count / workers, 2.0 * count * dim, count, f"{each * 1000:.0f} ms each, {dim}-d"),
        f"{kind}-kmeans": (
            config.kmeans.iterations * rows * product / rate / config.kmeans.processes, 8.0 * k * dim, count,
            f"k = {k:,}, {at}",
        ),
        f"{kind}-assign": (2.0 * dim * k * count / rate, count * (40 + 14.0 * config.assign.top), count, at),
    }  # fmt: skip


def _time(do: Callable[[Sample], Any], samples: Sequence[Sample]) -> float:
    """Median seconds of one, after one to warm up; bad samples are passed over. 0 where there is none."""
    seconds = []
    for sample in [*samples[:1], *samples]:
        began = time.perf_counter()
        try:
            do(sample)
        except OvEncoderError:
            continue
        seconds.append(time.perf_counter() - began)
    return sorted(seconds[1:])[len(seconds[1:]) // 2] if len(seconds) > 1 else 0.0


def _matmul_rate(device: str) -> float:
    """Operations per second of a float32 product of 1024 x 1024 matrices, the best of three."""
    import torch

    a = torch.rand(1024, 1024, device=device)
    best = float("inf")
    for _ in range(4):
        began = time.perf_counter()
        (a @ a).sum().item()
        best = min(best, time.perf_counter() - began)
    return 2 * 1024**3 / best


def _spread(samples: Sequence[Sample]) -> list[Sample]:
    """A few samples from all over, each with its kind."""
    n = min(MEASURED, len(samples))
    some = [samples[i * len(samples) // n] for i in range(n)]
    return [s if s.kind else replace(s, kind=kind_of(s.id)) for s in some]


def _said(each: dict[str, float], what: str) -> str:
    return ", ".join(f"{seconds * 1000:.0f} ms {what} {kind}" for kind, seconds in each.items() if seconds)


def _duration(seconds: float) -> str:
    for unit, size in (("d", 86400), ("h", 3600), ("min", 60)):
        if seconds >= 2 * size:
            return f"{seconds / size:.1f} {unit}"
    return f"{seconds:.1f} s"


def _bytes(size: float) -> str:
    for unit, scale in (("TB", 1e12), ("GB", 1e9), ("MB", 1e6), ("kB", 1e3)):
        if size >= scale:
            return f"{size / scale:.1f} {unit}"
    return f"{size:.0f} B"
