"""A folder that a long job owns: one job at a time, one set of options, files that appear whole or not at all."""

from __future__ import annotations

import contextlib
import json
import os
import platform
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

RUN, LOCK = "run.json", ".lock"
PART = ".part"  # suffix of files that are being written; a killed run leaves at most one


@contextmanager
def locked(folder: Path) -> Iterator[None]:
    """Hold `folder` for this process: two jobs that write to one place would double rows.

    Raises:
        ValueError: another process holds it, or it cannot be a folder.
    """
    import fcntl

    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as e:
        raise ValueError(f"{folder}: cannot be the output folder: {e.strerror}") from e
    with (folder / LOCK).open("w") as f:
        try:
            fcntl.flock(f, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise ValueError(f"{folder}: another job is writing there") from None
        yield


def agree_on_options(folder: Path, options: dict[str, Any], finished: int) -> None:
    """Compare `options` with those of the run that `folder` holds; write run.json for a new one.

    Raises:
        ValueError: they differ (the message shows each difference), or outputs lie there without a run.json.
    """
    path = folder / RUN
    if not path.exists():
        if finished:
            raise ValueError(f"{folder}: holds {finished} embeddings but no {RUN} that says how they were made")
        run = {
            "format": "ov-encoder.run/1",
            "options": options,
            "versions": _versions(),
            "machine": platform.platform(),
        }
        write_atomically(path, (json.dumps(run, indent=2) + "\n").encode())
        return
    before, now = _flat(json.loads(path.read_text())["options"]), _flat(json.loads(json.dumps(options)))
    changed = [k for k in {**before, **now} if before.get(k) != now.get(k)]
    if changed:
        lines = "; ".join(f"{k}: {before.get(k)!r} there, {now.get(k)!r} now" for k in changed)
        raise ValueError(f"{folder}: holds a run with other options ({lines}); use those, or another folder")


def write_atomically(path: Path, data: bytes) -> None:
    """Write, flush to the disk, then rename: a reader, or a run after a power cut, sees all of it or nothing."""
    part = path.with_name(f".{path.name}{PART}")
    with part.open("wb") as f:
        f.write(data)
        f.flush()
        os.fsync(f.fileno())
    part.replace(path)
    folder = os.open(path.parent, os.O_RDONLY)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)


def remove_parts(folder: Path) -> None:
    """Delete what a killed run was writing."""
    for part in folder.rglob(f".*{PART}"):
        with contextlib.suppress(FileNotFoundError):
            part.unlink()


def _flat(options: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for name, value in options.items():
        flat |= _flat(value, f"{prefix}{name}.") if isinstance(value, dict) else {prefix + name: value}
    return flat


def _versions() -> dict[str, str]:
    found = {"python": platform.python_version()}
    for package in ("ov-encoder", "av", "numpy", "numba", "torch"):
        try:
            found[package] = version(package)
        except PackageNotFoundError:  # run from a source tree that was not installed
            found[package] = "unknown"
    return found
