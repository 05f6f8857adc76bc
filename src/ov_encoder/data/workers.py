"""A pool of worker processes that outlives crashes, hangs and out-of-memory kills of its workers.

Decoding strangers' files means running C code on bytes nobody checked. Here every worker is a process of its
own with a pipe of its own, holds one item at a time, and is replaced when it dies; the item it held is reported
as a failure. What the work is does not matter here: nothing in this file knows about media.
"""

from __future__ import annotations

import contextlib
import multiprocessing
import os
import signal
import threading
import time
import traceback
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from multiprocessing.connection import Connection, wait
from typing import Any, Generic, TypeVar

Item = TypeVar("Item")
Result = TypeVar("Result")
_READY = "ready"
_START_S = 120.0  # for a process to start and import its work, on a busy machine; not part of an item's time


@dataclass(frozen=True, slots=True)
class Outcome(Generic[Item, Result]):
    """What became of one item: a result, or why there is none.

    failure: "" for a result, else "error" (the work raised), "crash" (the process died) or "timeout".
    reason: one line for people. trace: the worker's traceback where the work raised.
    """

    item: Item
    result: Result | None = None
    failure: str = ""
    reason: str = ""
    trace: str = ""


def run_in_workers(
    work: Callable[[Item], Result],
    items: Iterable[Item],
    *,
    workers: int,
    timeout_s: float = 600.0,
) -> Iterator[Outcome[Item, Result]]:
    """Call `work` on every item in `workers` processes; yield one Outcome per item, in order of completion.

    `work` and the items are pickled, so `work` must be importable by name. `items` is drawn lazily, one item
    for each free worker, and each worker holds at most one unread result: memory does not grow with the
    number of items, however slowly the caller reads. An item is blamed for a crash only when it crashed a
    fresh process. Workers run single-threaded numerics (the pool is the parallelism) and end with the caller,
    even when it is killed.

    Raises:
        ValueError: `workers` below 1 or `timeout_s` not positive.
    """
    if workers < 1:
        raise ValueError(f"workers must be at least 1, got {workers}")
    if not timeout_s > 0:
        raise ValueError(f"timeout_s must be positive, got {timeout_s}")
    return _run(work, iter(items), workers, timeout_s)


def _run(
    work: Callable[[Item], Result], queue: Iterator[Item], workers: int, timeout_s: float
) -> Iterator[Outcome[Item, Result]]:
    busy: dict[Connection, tuple[_Worker, Item]] = {}

    def give(item: Item, worker: _Worker | None) -> None:
        worker = worker or _Worker(work)
        worker.give(item, timeout_s)
        busy[worker.pipe] = worker, item

    def give_next(worker: _Worker | None) -> None:
        for item in queue:
            return give(item, worker)
        if worker:
            worker.kill()

    try:
        for _ in range(workers):
            give_next(None)
        while busy:
            next_deadline = min(worker.deadline for worker, _ in busy.values())
            ready = wait(list(busy), timeout=max(0.0, next_deadline - time.monotonic()))
            for pipe in ready or [p for p, (w, _) in busy.items() if w.deadline <= time.monotonic()]:
                assert isinstance(pipe, Connection)
                worker, item = busy.pop(pipe)
                if not worker.ready and worker.greets(timeout_s):
                    busy[pipe] = worker, item  # only now does its item's time run
                    continue
                outcome: Outcome[Item, Result]
                # A result that waits in the pipe counts, however late we look: the caller was slow, not it.
                if not pipe.poll():
                    worker.kill()
                    late = f"no result after {timeout_s:g} s, worker killed"
                    outcome = Outcome(item, failure="timeout", reason=late)
                else:
                    outcome = _receive(worker, item)
                if outcome.failure == "crash" and worker.served:
                    give(item, None)  # an earlier item may have broken the process: a fresh one decides
                    continue
                worker.served += 1
                give_next(worker if worker.process.is_alive() else None)  # first, so that nobody idles
                yield outcome
    finally:
        for worker, _ in busy.values():
            worker.kill()


def _receive(worker: _Worker, item: Any) -> Outcome:
    try:
        failure, result, reason, trace = worker.pipe.recv()
    except (EOFError, ConnectionResetError):  # the process is gone: only its exit code can tell why
        worker.kill()  # it may linger after closing its pipe
        return Outcome(item, failure="crash", reason=_cause_of_death(worker.process.exitcode or 0))
    return Outcome(item, result, failure, reason, trace)


def _cause_of_death(exitcode: int) -> str:
    if exitcode >= 0:
        return f"worker process ended by itself with exit code {exitcode}"
    try:
        name = signal.Signals(-exitcode).name
    except ValueError:
        name = f"signal {-exitcode}"
    hint = " (out of memory?)" if name == "SIGKILL" else ""
    return f"worker process died of {name}{hint}"


class _Worker:
    """One process and our end of its pipe."""

    def __init__(self, work: Callable) -> None:
        # spawn, not fork: the caller has threads (torch, decoders), and a forked child could hang on their locks
        context = multiprocessing.get_context("spawn")
        self.pipe, theirs = context.Pipe()
        self.process = context.Process(target=_serve, args=(theirs, work), daemon=True)
        self.process.start()
        theirs.close()  # so that the worker's death reads as end of file here
        self.deadline = float("inf")
        self.ready = False  # has it told us that it is up?
        self.served = 0

    def give(self, item: Any, timeout_s: float) -> None:
        self.deadline = time.monotonic() + timeout_s + (0 if self.ready else _START_S)
        with contextlib.suppress(BrokenPipeError):  # died while idle: reading its pipe will say so
            self.pipe.send(item)

    def greets(self, timeout_s: float) -> bool:
        """Take the first message of a fresh process. False if it has died, or says nothing."""
        try:
            self.ready = self.pipe.poll() and self.pipe.recv() == _READY
        except (EOFError, ConnectionResetError):
            return False
        self.deadline = time.monotonic() + timeout_s
        return self.ready

    def kill(self) -> None:
        self.process.kill()
        self.process.join()
        self.pipe.close()


def _serve(pipe: Connection, work: Callable) -> None:
    """Body of a worker process: take an item, work, send what became of it, until the pipe ends."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is the caller's to handle; it ends us
    for name in ("OMP_NUM_THREADS", "NUMBA_NUM_THREADS"):
        os.environ.setdefault(name, "1")
    threading.Thread(target=_die_with_parent, daemon=True).start()
    pipe.send(_READY)
    while True:
        try:
            item = pipe.recv()
        except (EOFError, ConnectionResetError):
            return
        try:
            message = ("", work(item), "", "")
        except Exception as e:
            message = ("error", None, f"{type(e).__name__}: {e}", traceback.format_exc())
        try:
            pipe.send(message)
        except (BrokenPipeError, ConnectionResetError):
            return


def _die_with_parent() -> None:
    parent = multiprocessing.parent_process()
    assert parent is not None
    parent.join()
    os._exit(1)
