"""Results of worker processes in the order of their tasks, some of them ready ahead. Knows nothing about the work."""

from __future__ import annotations

import queue
import threading
from collections.abc import Callable, Iterator
from typing import Any, Generic, TypeVar

from ov_encoder.data.workers import Outcome, run_in_workers

Task = TypeVar("Task")
Result = TypeVar("Result")


class Ordered(Generic[Task, Result]):
    """Iterate over (task, result or the reason why there is none), in the order of `tasks`, which may be endless.

    work: called in worker processes (or here with workers=0) on each task. prefetch: results kept ready. `close` ends
    the workers.
    """

    def __init__(
        self,
        work: Callable[[Task], Result],
        tasks: Iterator[Task],
        *,
        workers: int,
        prefetch: int = 64,
        timeout_s: float = 60.0,
    ) -> None:
        self._work, self._tasks, self._workers, self._timeout_s = work, tasks, workers, timeout_s
        self._ready: queue.Queue[Any] = queue.Queue(max(prefetch, 1))
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._collect, daemon=True, name="ordered")
        if workers:
            self._thread.start()

    def __iter__(self) -> Iterator[tuple[Task, Result | str]]:
        return self

    def __next__(self) -> tuple[Task, Result | str]:
        if not self._workers:
            task = next(self._tasks)
            try:
                return task, self._work(task)
            except Exception as e:
                return task, _plain(f"{type(e).__name__}: {e}")
        item = self._ready.get()
        if isinstance(item, BaseException):
            raise item
        return item

    def close(self) -> None:
        """End the workers."""
        self._stop.set()
        if self._workers:
            self._thread.join(timeout=10)

    def _numbered(self) -> Iterator[tuple[int, Task]]:
        for number, task in enumerate(self._tasks):
            if self._stop.is_set():
                return
            yield number, task

    def _collect(self) -> None:
        waiting: dict[int, Outcome] = {}
        wanted = 0
        try:
            outcomes = run_in_workers(
                _OnSecond(self._work), self._numbered(), workers=self._workers, timeout_s=self._timeout_s
            )
            for outcome in outcomes:
                waiting[outcome.item[0]] = outcome
                while wanted in waiting:
                    found = waiting.pop(wanted)
                    result = found.result if found.result is not None else _plain(found.reason)
                    self._put((found.item[1], result))
                    wanted += 1
                if self._stop.is_set():
                    outcomes.close()  # type: ignore[attr-defined]
                    return
            self._put(StopIteration())
        except BaseException as e:
            self._put(e)

    def _put(self, item: Any) -> None:
        while not self._stop.is_set():
            try:
                return self._ready.put(item, timeout=0.2)
            except queue.Full:
                continue


class _OnSecond:
    """The work on the second of a pair; a class, so that it can be sent to a process."""

    def __init__(self, work: Callable) -> None:
        self.work = work

    def __call__(self, pair: tuple[int, Any]) -> Any:
        return self.work(pair[1])


def _plain(reason: str) -> str:
    return reason.removeprefix("OvEncoderError: ")
