"""Extraction: samples through a featurizer into a feature cache. Workers read, this process encodes.

Killed at any moment, the same call goes on, and what it leaves equals an uninterrupted run byte for byte (timings
aside): blocks are cut by position, encoded in their own order and appear whole. Several processes share the work by
taking every n-th block; whoever ends last writes the index.
"""

from __future__ import annotations

import contextlib
import errno
import json
import logging
import os
import shutil
import sys
import time
from collections.abc import Callable, Generator, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from ov_encoder.codec.ahead import ahead
from ov_encoder.data.folder import LOCK, agree_on_options, locked, write_atomically
from ov_encoder.data.manifest import Sample
from ov_encoder.data.workers import Outcome, run_in_workers
from ov_encoder.errors import OvEncoderError
from ov_encoder.evaluate.features import (
    BLOCK,
    BLOCKS,
    INDEX,
    TIMINGS,
    Block,
    FeatureCache,
    Timing,
    block_name,
    describe,
    digest,
    identity,
    index_bytes,
    parquet,
    read_header,
)
from ov_encoder.evaluate.featurizer import Features, Featurizer

_WORKING = "working"  # below it one folder a process, locked by it, for files that are being written
_log = logging.getLogger("ov_encoder")


@dataclass(slots=True)
class Progress:
    """How far an extraction is. waited: share of the time that the encoder waited for readers. before: samples that an
    earlier run had finished."""

    total: int
    before: int = 0
    done: int = 0
    failed: int = 0
    waited: float = 0.0


def extract(
    featurizer: Featurizer,
    samples: Sequence[Sample],
    folder: str | Path,
    *,
    workers: int = 1,
    shard: tuple[int, int] = (0, 1),
    timeout_s: float = 600.0,
    watch: Callable[[Progress], None] | None = None,
) -> FeatureCache | None:
    """Encode every sample once; return the cache, or None while other shards are not finished.

    shard: (i, n), take every n-th block from block i. timeout_s: for reading one sample. watch: called after every
    sample. A sample that cannot be read is listed with the reason in the cache and never replaced. It is tried again
    when its file changes, and, if the reason was a crash or the time limit, in the next run.

    Raises:
        ValueError: `folder` belongs to other options or another process, no samples, or a shard that does not exist.
        OvEncoderError: the disk is full (what is finished is kept), or a finished block is damaged.
    """
    i, n = shard
    if not 0 <= i < n:
        raise ValueError(f"shard={i}/{n}; must be 0/{n} to {n - 1}/{n}" if n > 0 else f"shard={i}/{n}; n is at least 1")
    if not samples:
        raise ValueError("no samples to extract features from")
    if len({sample.id for sample in samples}) < len(samples):
        raise ValueError("two samples have one id")
    parquet()  # before the work, not after it
    folder = Path(folder)
    (folder / BLOCKS).mkdir(parents=True, exist_ok=True)
    (folder / TIMINGS).mkdir(exist_ok=True)
    working = folder / _WORKING / f"{i}-of-{n}"
    with locked(working):
        _clear(working)
        with _start(folder):
            agree_on_options(folder, describe(featurizer), len(list((folder / BLOCKS).iterdir())))
        keys = [digest([identity(s) for s in cut]) for cut in _cuts(samples)]
        mine = range(i, len(keys), n)
        todo = [b for b in mine if not _is_final(folder / BLOCKS / block_name(b), keys[b])]
        progress = Progress(sum(len(_cut(samples, b)) for b in mine))
        progress.before = progress.done = progress.total - sum(len(_cut(samples, b)) for b in todo)
        if watch:
            watch(progress)
        _Job(featurizer, samples, folder, working, keys, todo, progress, watch).run(workers, timeout_s)
        return _finish(folder, working, keys)


@dataclass
class _Job:
    featurizer: Featurizer
    samples: Sequence[Sample]
    folder: Path
    working: Path
    keys: list[str]
    todo: list[int]
    progress: Progress
    watch: Callable[[Progress], None] | None
    began: float = 0.0
    waited_s: float = 0.0
    written: list[int] = field(default_factory=list)  # bytes of each block

    def run(self, workers: int, timeout_s: float) -> None:
        """Read ahead in processes; encode each block in its own order as soon as its next samples are there."""
        if not self.todo:
            return
        work = partial(_read, self.featurizer.read)
        items = ((b, row, sample) for b in self.todo for row, sample in enumerate(_cut(self.samples, b)))
        outcomes = run_in_workers(work, items, workers=workers, timeout_s=timeout_s)
        assert isinstance(outcomes, Generator)
        reads: Generator[Outcome, None, None] = ahead(outcomes, depth=2 * max(workers, self.featurizer.batch))
        open_blocks: dict[int, _OpenBlock] = {}
        self.began = time.perf_counter()
        with contextlib.closing(reads):
            while True:
                asked = time.perf_counter()
                outcome = next(reads, None)
                self.waited_s += time.perf_counter() - asked
                if outcome is None:
                    break
                number = outcome.item[0]
                if number not in open_blocks:
                    ids = [s.id for s in _cut(self.samples, number)]
                    open_blocks[number] = _OpenBlock(Block(ids, self.keys[number]), self.featurizer)
                if open_blocks[number].take(outcome):
                    self._write(number, open_blocks.pop(number).block)
                self._tell(outcome)
        assert not open_blocks

    def _tell(self, outcome: Outcome) -> None:
        p = self.progress
        p.done += 1
        p.failed += bool(outcome.failure)
        p.waited = self.waited_s / (time.perf_counter() - self.began)
        if self.watch:
            self.watch(p)

    def _write(self, number: int, block: Block) -> None:
        data = block.to_bytes()
        timings = [asdict(block.timings[row]) for row in sorted(block.timings)]
        with _disk(self.folder, self.working):
            _publish(self.working, self.folder / TIMINGS / f"{number:05d}.json", json.dumps(timings).encode())
            _publish(self.working, self.folder / BLOCKS / block_name(number), data)
        self.written.append(len(data))
        if len(self.written) == 1:
            need, free = len(data) * len(self.todo), shutil.disk_usage(self.folder).free
            if need > free:
                _log.warning(
                    "%s: the cache will take about %d MB, the disk has %d free", self.folder, need >> 20, free >> 20
                )


class _OpenBlock:
    """A block that is being made: reads come in any order, encoding goes in the order of the block."""

    def __init__(self, block: Block, featurizer: Featurizer) -> None:
        self.block = block
        self.featurizer = featurizer
        self.waiting: dict[int, Outcome] = {}
        self.next_row = 0
        self.group: list[tuple[int, Any]] = []  # rows and what was read, to be encoded together

    def take(self, outcome: Outcome) -> bool:
        """Use one outcome; whether the block is complete."""
        self.waiting[outcome.item[1]] = outcome
        while (now := self.waiting.pop(self.next_row, None)) is not None:
            if now.result is None:
                self.block.failures[self.next_row] = now.failure, now.reason.removeprefix("OvEncoderError: ")
            else:
                prepared, seconds, peak = now.result
                self.block.timings[self.next_row] = Timing(seconds, 0.0, peak)
                self.group.append((self.next_row, prepared))
            self.next_row += 1
            if len(self.group) == self.featurizer.batch:
                self._encode()
        if self.next_row < len(self.block.ids):
            return False
        self._encode()
        return True

    def _encode(self) -> None:
        if not self.group:
            return
        began = time.perf_counter()
        made = self.featurizer.encode([prepared for _, prepared in self.group])
        each = (time.perf_counter() - began) / len(self.group)
        for (row, _), features in zip(self.group, made, strict=True):
            read = self.block.timings[row]
            self.block.timings[row] = Timing(read.read_s, each, read.read_peak)
            if _finite(features):
                self.block.features[row] = features
            else:
                self.block.failures[row] = "error", "the network gave features that are not finite"
        self.group.clear()


def _finite(features: Features) -> bool:
    tokens_ND = features.tokens_ND
    return bool(np.isfinite(features.pooled_D).all() and (tokens_ND is None or np.isfinite(tokens_ND).all()))


def _read(read: Callable[[Sample], Any], item: tuple[int, int, Sample]) -> tuple[Any, float, int]:
    """What a worker does: read, and say how long it took and what memory the process has had at most."""
    import resource

    began = time.perf_counter()
    prepared = read(item[2])
    unit = 1 if sys.platform == "darwin" else 1024
    return prepared, time.perf_counter() - began, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit


def _cut(samples: Sequence[Sample], number: int) -> Sequence[Sample]:
    return samples[number * BLOCK : (number + 1) * BLOCK]


def _cuts(samples: Sequence[Sample]) -> list[Sequence[Sample]]:
    return [_cut(samples, b) for b in range(-(-len(samples) // BLOCK))]


def _is_final(path: Path, key: str) -> bool:
    """Whether a block need not be made again: of these very files, and no failure that may have been the machine's."""
    if not path.exists():
        return False
    header = read_header(path)
    doubtful = any(failure != "error" for failure, _ in header["failures"].values()) or not header["rows"]
    return header["key"] == key and not doubtful


def _finish(folder: Path, working: Path, keys: list[str]) -> FeatureCache | None:
    """Write the index if every block is there."""
    paths = [folder / BLOCKS / block_name(b) for b in range(len(keys))]
    if not all(path.exists() for path in paths):
        return None
    headers = [read_header(path) for path in paths]
    if [header["key"] for header in headers] != keys:
        return None  # another shard has not come to a changed file yet
    for extra in sorted((folder / BLOCKS).glob("*.safetensors"))[len(keys) :]:  # of a longer list of samples
        extra.unlink()
        (folder / TIMINGS / f"{extra.stem}.json").unlink(missing_ok=True)
    with _disk(folder, working):
        _publish(working, folder / INDEX, index_bytes(headers))
    return FeatureCache.open(folder)


def _publish(working: Path, path: Path, data: bytes) -> None:
    """Write in this process's own folder, then move: two processes never share a half-written file."""
    part = working / path.name
    write_atomically(part, data)
    part.replace(path)


def _clear(working: Path) -> None:
    """Delete what a killed run, or a full disk, left half-written."""
    for left in working.iterdir():
        if left.name != LOCK:
            left.unlink()


@contextmanager
def _start(folder: Path) -> Iterator[None]:
    """One process at a time looks for run.json and writes it."""
    import fcntl

    with (folder / _WORKING / ".start").open("w") as f:
        fcntl.flock(f, fcntl.LOCK_EX)
        yield


@contextmanager
def _disk(folder: Path, working: Path) -> Iterator[None]:
    """Say what a full disk means."""
    try:
        yield
    except OSError as e:
        if e.errno not in (errno.ENOSPC, errno.EDQUOT):
            raise
        _clear(working)
        raise OvEncoderError(
            f"{folder}: the disk is full; free some space and run the same command again (finished blocks are kept)"
        ) from e


@contextmanager
def progress_bar(what: str) -> Iterator[Callable[[Progress], None]]:
    """A bar on stderr for `extract(watch=...)`: rate, time left, failures and the share of time the encoder waited."""
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeRemainingColumn
    from rich.progress import Progress as Bar

    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn("{task.fields[facts]}"),
        TimeRemainingColumn(),
    )
    began = time.monotonic()
    with Bar(*columns, console=Console(stderr=True)) as bar:
        task = bar.add_task(what, total=None, facts="")

        def watch(p: Progress) -> None:
            rate = (p.done - p.before) / max(time.monotonic() - began, 1e-9)
            failed = f", {p.failed} failed" if p.failed else ""
            facts = f"{rate:.1f}/s, encoder waited {100 * p.waited:.0f} %{failed}"
            bar.update(task, total=p.total, completed=p.done, facts=facts)

        yield watch


def shard_of_environment() -> tuple[int, int]:
    """(rank, processes) as `torchrun` tells them; (0, 1) without it."""
    return int(os.environ.get("RANK", 0)), int(os.environ.get("WORLD_SIZE", 1))
