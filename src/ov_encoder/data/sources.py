"""Which files a job covers and how its outputs are called. Names only: nothing is opened here."""

from __future__ import annotations

import hashlib
import os
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

# What a folder is searched for. A file that is named on the command line is tried whatever its suffix.
IMAGE_SUFFIXES = frozenset({".apng", ".avif", ".bmp", ".gif", ".jpeg", ".jpg", ".png", ".tif", ".tiff", ".webp"})
SUFFIXES = IMAGE_SUFFIXES | {
    ".3g2", ".3gp", ".asf", ".avi", ".dv", ".flv", ".h264", ".hevc", ".ivf", ".m2ts", ".m2v", ".m4v", ".mj2",
    ".mjpeg", ".mkv", ".mov", ".mp4", ".mpeg", ".mpg", ".mts", ".mxf", ".nut", ".obu", ".ogg", ".ogv", ".rm",
    ".ts", ".vob", ".webm", ".wmv", ".y4m",
}  # fmt: skip
_LONGEST_NAME = 180  # bytes, of one part of a path: leaves room for suffixes below the usual 255


@dataclass(frozen=True, slots=True)
class Entry:
    """One input of a job. id: name of its output, a relative path without suffix. source: absolute, as text."""

    id: str
    path: str
    source: str


def find_media(paths: Sequence[str]) -> list[tuple[str, str]]:
    """(path, name) of every input, each file once. The name is relative to the folder that was given.

    Raises:
        ValueError: no paths, or a folder without a single media file.
    """
    found: dict[str, tuple[str, str]] = {}
    if not paths:
        raise ValueError("no input: name files or folders")
    for given in paths:
        if not Path(given).is_dir():
            found.setdefault(_absolute(given), (given, Path(given).name))
            continue
        inside = [p for p in sorted(Path(given).rglob("*")) if p.suffix.lower() in SUFFIXES and p.is_file()]
        inside = [p for p in inside if not any(part.startswith(".") for part in p.relative_to(given).parts)]
        if not inside:
            raise ValueError(f"{given}: no media files in this folder (suffixes: {' '.join(sorted(SUFFIXES))})")
        for path in inside:
            found.setdefault(_absolute(path), (str(path), path.relative_to(given).as_posix()))
    return list(found.values())


def entries(paths: Sequence[str], done: Mapping[str, str]) -> list[Entry]:
    """Every input with the id of its output.

    An id is the input's name, suffix included; two inputs with one name get a part of a hash of their path.
    An input that `done` (source -> id) already covers keeps its id, so that runs over more folders never
    rename what an earlier run wrote.
    """
    found = [(path, _short(as_text(name)), as_text(_absolute(path))) for path, name in find_media(paths)]
    shared = Counter(name for _, name, _ in found)
    taken = set(done.values())
    out = []
    for path, name, source in found:
        if source in done:
            name = done[source]
        elif shared[name] > 1 or name in taken:
            name = f"{name}~{_digest(source)}"
        out.append(Entry(name, path, source))
    return out


def as_text(path: str) -> str:
    """A path as valid Unicode; bytes that are none are written as escapes."""
    return os.fsencode(path).decode("utf-8", "backslashreplace")


def _absolute(path: str | Path) -> str:
    return os.path.abspath(path)  # noqa: PTH100 (resolve() follows links, and two links are two inputs)


def _short(name: str) -> str:
    parts = []
    for part in name.split("/"):
        data = part.encode()
        if len(data) > _LONGEST_NAME:
            part = data[:_LONGEST_NAME].decode("utf-8", "ignore") + "~" + _digest(part)
        parts.append(part)
    return "/".join(parts)


def _digest(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()[:8]
