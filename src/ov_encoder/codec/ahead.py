"""Working ahead: an iterator run by a thread of its own, a few items before they are asked for.

Decoders and encoders release Python's lock, so decoding and what follows it share two cores. Knows no media.
"""

from __future__ import annotations

import queue
import threading
from collections.abc import Generator
from typing import Any, TypeVar

_Item = TypeVar("_Item")
_END = object()


def ahead(items: Generator[_Item, None, None], *, depth: int = 4) -> Generator[_Item, None, None]:
    """The items in order, at most `depth` of them made early. What the items raise is raised here.

    Closing it early stops the thread and closes `items`.
    """
    made: queue.Queue[Any] = queue.Queue(depth)
    stopped = threading.Event()

    def put(thing: Any) -> None:
        while not stopped.is_set():
            try:
                return made.put(thing, timeout=0.1)
            except queue.Full:
                continue

    def work() -> None:
        try:
            for item in items:
                put((item, None))
                if stopped.is_set():
                    return
            put((_END, None))
        except BaseException as e:  # handed over, and raised in the caller's thread
            put((_END, e))

    thread = threading.Thread(target=work, name="ov-encoder-ahead", daemon=True)
    thread.start()
    try:
        while True:
            item, error = made.get()
            if error is not None:
                raise error
            if item is _END:
                return
            yield item
    finally:
        stopped.set()
        thread.join()
        items.close()
