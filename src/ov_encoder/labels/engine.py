"""Blocks of samples through many processes: of this machine, or of a Ray cluster. What the work is stays with the work.

A block is a number and some rows; its result is one file (or pair of files) named after the number, written whole or
not at all. So a block that was done is skipped, one that is done twice writes the same bytes to the same place, and
both engines leave byte-identical folders: they run the very same function.

Samples come from strangers and can kill a process or hang it. A process notes which row it is about to read; a row at
which two processes ended is recorded as failed and passed over by the third. On a Ray cluster the folders must be on
storage that all nodes share.
"""

from __future__ import annotations

import contextlib
import faulthandler
import logging
import os
import pickle
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Literal, Protocol

from ov_encoder.data.folder import remove_parts
from ov_encoder.data.workers import run_in_workers
from ov_encoder.errors import OvEncoderError, missing_extra

Engine = Literal["local", "ray"]
ENGINES = ("local", "ray")
TIMEOUT_S = 120.0
_DEATHS = 2  # processes that may end at one row before it is blamed
_ATTEMPTS = 16  # of one block: enough for seven bad rows in it
_TOGETHER = 64  # samples that wait in memory as `read` gave them
_BLOCK_S = 7 * 24 * 3600.0  # hangs are ended row by row, within the process


@dataclass(frozen=True, slots=True)
class Block:
    """Some rows of a job. The same inputs always give the same blocks."""

    number: int
    rows: tuple[Any, ...]


@dataclass(frozen=True, slots=True)
class Failed:
    """In place of what a row should have given: why it gave nothing."""

    reason: str


@dataclass(frozen=True, slots=True)
class Tally:
    """A block is through. samples: rows that gave something. failed: rows that gave a reason."""

    number: int
    samples: int
    failed: int


class Work(Protocol):
    """What is done with a block. Instances are pickled; a heavy model belongs in a cached function, not in a field."""

    def rows(self, block: Block) -> Sequence[Any]:
        """What to read, one after the other: mostly `block.rows`."""

    def read(self, row: Any) -> Any:
        """Read one sample. An OvEncoderError makes it `Failed`; the process may also die here."""

    def finish(self, found: Sequence[Any]) -> Sequence[Any]:
        """What `read` gave for some samples, made into what is kept of each (a batch through a network)."""

    def write(self, block: Block, rows: Sequence[Any], found: Sequence[Any]) -> None:
        """Write the block's file; `found` has what `finish` gave, or Failed, for each row."""

    def done(self, block: Block) -> bool:
        """Whether the block's file is there."""


def run_blocks(
    work: Work,
    blocks: Sequence[Block],
    folder: Path,
    *,
    engine: Engine = "local",
    workers: int = 1,
    gpus: float = 0.0,
    timeout_s: float = TIMEOUT_S,
    progress: Callable[[Tally], None] | None = None,
) -> tuple[int, int]:
    """Do every block that is not done yet. Returns how many rows gave something and how many failed, of those blocks.

    Args:
        work: what to do.
        blocks: all of them.
        folder: where the work writes; notes of running blocks lie there meanwhile.
        engine: "local" (worker processes here) or "ray" (the cluster RAY_ADDRESS names, else this machine).
        workers: processes at a time.
        gpus: share of a GPU that Ray reserves for each process.
        timeout_s: that one row may take to read.
        progress: called for each block, in order of completion.

    Raises:
        ValueError: an engine that is none of `ENGINES`, or no workers.
        OvEncoderError: a block cannot be finished (a full disk, a process that always dies); Ray is not installed.
    """
    if engine not in ENGINES:
        raise ValueError(f"engine is {engine!r}; allowed: {', '.join(ENGINES)}")
    if workers < 1:
        raise ValueError(f"workers must be at least 1, got {workers}")
    folder.mkdir(parents=True, exist_ok=True)
    remove_parts(folder)
    for note in folder.glob(".block-*.at"):  # an earlier run's: whoever ended it did not mean its rows
        note.unlink()
    todo = [block for block in blocks if not work.done(block)]
    call = partial(run_block, work, folder=folder, timeout_s=timeout_s)
    samples = failed = 0
    for tally in _local(call, todo, workers) if engine == "local" else _ray(call, todo, workers, gpus):
        samples, failed = samples + tally.samples, failed + tally.failed
        if progress:
            progress(tally)
    return samples, failed


def run_block(work: Work, block: Block, *, folder: Path, timeout_s: float) -> Tally:
    """One block in this process; what both engines call."""
    note = folder / f".block-{block.number:06d}.at"
    rows = work.rows(block)
    if work.done(block):  # by a process that died between its last write and its answer
        return Tally(block.number, len(rows), 0)
    deaths = _deaths(note)
    found: list[Any] = []
    waiting: list[Any] = []
    with note.open("a") as at, Path(os.devnull).open("w") as nowhere:
        at.write("start\n")
        for number, row in enumerate(rows):
            if deaths[number] >= _DEATHS:
                waiting.append(Failed(f"its process died, or took over {timeout_s:g} s, {_DEATHS} times"))
            else:
                at.write(f"{number}\n")
                at.flush()
                faulthandler.dump_traceback_later(timeout_s, exit=True, file=nowhere)  # ends even C code that loops
                try:
                    waiting.append(work.read(row))
                except OvEncoderError as e:
                    waiting.append(Failed(str(e)))
                finally:
                    faulthandler.cancel_dump_traceback_later()
            if len(waiting) == _TOGETHER or number == len(rows) - 1:
                at.write("finish\n")  # from here no row is in hand
                at.flush()
                finished = iter(work.finish([w for w in waiting if not isinstance(w, Failed)]))
                found += [w if isinstance(w, Failed) else next(finished) for w in waiting]
                waiting = []
        work.write(block, rows, found)
    note.unlink(missing_ok=True)
    failed = sum(isinstance(f, Failed) for f in found)
    return Tally(block.number, len(found) - failed, failed)


def cut_blocks(rows: Sequence[Any], size: int) -> list[Block]:
    """Rows in blocks of `size`, numbered from 0."""
    if size < 1:
        raise ValueError(f"rows of a block must be at least 1, got {size}")
    return [Block(n, tuple(rows[at : at + size])) for n, at in enumerate(range(0, len(rows), size))]


def _deaths(note: Path) -> Counter[int]:
    """Row -> processes that ended while they read it, by the notes they left."""
    deaths: Counter[int] = Counter()
    if note.exists():
        for attempt in note.read_text().split("start\n")[1:]:
            lines = attempt.split("\n")[:-1]  # a torn last line has no end
            if lines and lines[-1].isdigit():
                deaths[int(lines[-1])] += 1
    return deaths


def _local(call: Callable[[Block], Tally], todo: list[Block], workers: int) -> Iterator[Tally]:
    for _ in range(_ATTEMPTS):
        again: list[Block] = []
        reason = ""
        for outcome in run_in_workers(call, todo, workers=max(1, min(workers, len(todo))), timeout_s=_BLOCK_S):
            if outcome.result is not None:
                yield outcome.result
            elif outcome.failure == "error":
                raise OvEncoderError(f"block {outcome.item.number}: {_plain(outcome.reason)}\n{outcome.trace}".strip())
            else:
                again.append(outcome.item)
                reason = outcome.reason
        if not again:
            return
        todo = sorted(again, key=lambda block: block.number)
    raise OvEncoderError(f"block {todo[0].number}: failed {_ATTEMPTS} times, the last time: {reason}")


def _ray(call: Callable[[Block], Tally], todo: list[Block], workers: int, gpus: float) -> Iterator[Tally]:
    try:
        import ray
        import ray.data
    except ImportError as e:
        raise missing_extra("ray", "distributed", "engine='ray'") from e
    if not todo:
        return
    if not ray.is_initialized():
        here: dict[str, Any] = {} if os.environ.get("RAY_ADDRESS") else {"num_cpus": workers}
        ray.init(logging_level=logging.WARNING, log_to_driver=False, include_dashboard=False, **here)
    context = ray.data.DataContext.get_current()
    context.enable_progress_bars = False
    items = [{"block": pickle.dumps(block)} for block in todo]
    jobs = ray.data.from_items(items, override_num_blocks=len(items)).map(
        partial(_ray_row, call),
        compute=ray.data.TaskPoolStrategy(size=workers),
        num_cpus=1,
        num_gpus=gpus,
        max_retries=_ATTEMPTS,
    )
    try:
        for row in jobs.iter_rows():
            yield Tally(row["number"], row["samples"], row["failed"])
    except ray.exceptions.RayError as e:
        raise OvEncoderError(f"a block on Ray: {_plain(str(getattr(e, 'cause', None) or e))}") from e


def _ray_row(call: Callable[[Block], Tally], row: dict[str, Any]) -> dict[str, int]:
    tally = call(pickle.loads(row["block"]))
    return {"number": tally.number, "samples": tally.samples, "failed": tally.failed}


def _plain(reason: str) -> str:
    with contextlib.suppress(ValueError):
        name, rest = reason.split(": ", 1)
        return rest if name.endswith("OvEncoderError") else reason
    return reason
