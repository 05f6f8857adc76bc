"""Layouts that people have on disk, read as manifests: a folder per class, and the official split files of UCF101,
HMDB51, Something-Something v2, Diving-48 and Kinetics. Names only: no video is opened.

`read_dataset` finds out which it is. A video that a split file names and the disk lacks is skipped by name. Facts about
the formats are those of the data sets' own pages; the smallest tree of each is in tests/data/test_layouts.py.
"""

from __future__ import annotations

import csv
import json
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

from ov_encoder.data.manifest import NAMES, Manifest, Sample, kind_of, read_manifest
from ov_encoder.data.sources import SUFFIXES
from ov_encoder.errors import OvEncoderError

SPLITS = ("train", "training", "val", "valid", "validation", "test", "testing")  # folders that are splits, not classes
_ROW = tuple[str, tuple[str, ...], str]  # name of the video, labels, split


def read_dataset(path: str | Path, *, label: str = "label", fold: int = 1) -> Manifest:
    """A manifest, a folder with one, or a folder in one of the layouts above (split files may lie one folder deeper).

    label: column of a manifest that holds the labels. fold: which of the official splits of UCF101 (1 to 3), HMDB51 (1
    to 3) or versions of Diving-48.

    Raises:
        OvEncoderError: it is none of these, a split file is damaged, or not one video is there.
        ValueError: a label column for a layout that has none, or a fold below 1.
    """
    path = Path(path)
    if fold < 1:
        raise ValueError(f"fold={fold}; must be at least 1")
    if not path.is_dir() or any((path / name).is_file() for name in NAMES):
        return read_manifest(path, label=label)
    if label != "label":
        raise ValueError(f"{path}: a column of labels ({label!r}) can only be chosen in a manifest")
    for files, read in ((name.format(fold=fold), reader) for name, reader in LAYOUTS):
        found = sorted([*path.glob(files), *path.glob(f"*/{files}")])
        if read is read_kinetics:  # other CSV files are common
            found = [file for file in found if "youtube_id" in next(_lines(file), (0, ""))[1]]
        if found:
            return read(path, found, fold)
    return read_folders(path)


def read_folders(root: Path) -> Manifest:
    """ROOT/CLASS/file, or ROOT/SPLIT/CLASS/file with splits called train, val, test, ...; deeper folders are read."""
    samples = []
    for path in _media(root):
        parts = path.relative_to(root).parts
        split = parts[0] if len(parts) > 2 and parts[0].lower() in SPLITS else ""
        inner = parts[1:] if split else parts
        if len(inner) < 2:
            raise OvEncoderError(f"{path}: lies in no folder that would name its class")
        name = path.relative_to(root).as_posix()
        samples.append(Sample(name, str(path), kind_of(name), (inner[0],), split))
    if not samples:
        raise OvEncoderError(f"{root}: holds no manifest ({', '.join(NAMES)}), no known split files and no media")
    return Manifest(root, samples, {"name": root.name, "layout": "folder per class"})


def read_ucf101(root: Path, lists: list[Path], fold: int) -> Manifest:
    """trainlistNN.txt and testlistNN.txt: a line CLASS/video.avi, in training lists with the number of the class."""

    def rows() -> Iterator[_ROW]:
        for split in ("train", "test"):
            path = _beside(lists[0], f"{split}list{fold:02d}.txt")
            for number, line in _lines(path):
                name = line.rsplit(" ", 1)[0] if line.rsplit(" ", 1)[-1].isdigit() else line
                if "/" not in name:
                    raise OvEncoderError(f"{path}: line {number} is {line!r}; must be CLASS/video.avi")
                yield name, (name.split("/")[0],), split

    return _manifest(root, "ucf101", rows(), fold=fold)


def read_hmdb51(root: Path, lists: list[Path], fold: int) -> Manifest:
    """CLASS_test_splitN.txt: a line `video.avi 1` for training, 2 for testing, 0 for neither."""

    def rows() -> Iterator[_ROW]:
        for path in lists:
            label = path.name.removesuffix(f"_test_split{fold}.txt")
            for number, line in _lines(path):
                name, _, use = line.rpartition(" ")
                if use not in ("0", "1", "2") or not name:
                    raise OvEncoderError(f"{path}: line {number} is {line!r}; must be a video and 0, 1 or 2")
                if use != "0":
                    yield f"{label}/{name.strip()}", (label,), {"1": "train", "2": "test"}[use]

    return _manifest(root, "hmdb51", rows(), fold=fold)


def read_ssv2(root: Path, lists: list[Path], fold: int) -> Manifest:
    """train.json and validation.json: [{"id", "label", "template", ...}]; the class is the template without brackets.

    Videos are called ID.webm.
    """

    def rows() -> Iterator[_ROW]:
        prefix = lists[0].name.removesuffix("validation.json")
        for split in ("train", "validation"):
            path = _beside(lists[0], f"{prefix}{split}.json")
            for entry in _entries(path, "id", "template"):
                label = str(entry["template"]).replace("[", "").replace("]", "")
                yield f"{entry['id']}", (label,), split

    return _manifest(root, "something-something-v2", rows())


def read_diving48(root: Path, lists: list[Path], fold: int) -> Manifest:
    """Diving48_V2_train.json and _test.json: [{"vid_name", "label"}]; Diving48_vocab.json, if there, names classes."""

    def rows() -> Iterator[_ROW]:
        vocabulary = lists[0].with_name("Diving48_vocab.json")
        names = ["_".join(entry) for entry in _json(vocabulary)] if vocabulary.is_file() else None
        for split in ("train", "test"):
            path = _beside(lists[0], lists[0].name.replace("train", split))
            for entry in _entries(path, "vid_name", "label"):
                number = int(entry["label"])
                if names and not 0 <= number < len(names):
                    raise OvEncoderError(f"{path}: label {number} of {entry['vid_name']!r}; there are {len(names)}")
                yield str(entry["vid_name"]), (names[number] if names else f"{number:02d}",), split

    return _manifest(root, "diving-48", rows())


def read_kinetics(root: Path, lists: list[Path], fold: int) -> Manifest:
    """train.csv, val.csv, test.csv, ...: label,youtube_id,time_start,time_end,split. Videos are called
    ID_000010_000020.mp4 (start and end in seconds), or ID.mp4."""

    def rows() -> Iterator[_ROW]:
        for path in lists:
            with path.open(newline="", encoding="utf-8-sig") as f:
                for row in csv.DictReader(f):
                    try:
                        start, end = int(float(row["time_start"])), int(float(row["time_end"]))
                        labels = (row["label"],) if row.get("label") else ()
                        yield f"{row['youtube_id']}_{start:06d}_{end:06d}|{row['youtube_id']}", labels, row["split"]
                    except (KeyError, TypeError, ValueError) as e:
                        raise OvEncoderError(f"{path}: row {row} is none of Kinetics: {e!r}") from e

    return _manifest(root, "kinetics", rows())


# What a folder is recognised by, in this order, and who reads it.
LAYOUTS: tuple[tuple[str, Callable[[Path, list[Path], int], Manifest]], ...] = (
    ("trainlist{fold:02d}.txt", read_ucf101),
    ("*_test_split{fold}.txt", read_hmdb51),
    ("*validation.json", read_ssv2),
    ("Diving48*train.json", read_diving48),
    ("*.csv", read_kinetics),
)


def _manifest(root: Path, name: str, rows: Iterable[_ROW], *, fold: int | None = None) -> Manifest:
    """Find each video below `root`: by its path, else by its name, with any suffix. "a|b": a, or else b."""
    by_path: dict[str, Path] = {}
    for path in _media(root):
        relative = path.relative_to(root)
        for known in (relative, Path(*relative.parts[-2:]), Path(relative.name)):
            by_path.setdefault(known.with_suffix("").as_posix(), path)
    samples, skipped = [], {}
    seen: set[str] = set()
    for wanted, labels, split in rows:
        tried = [_bare(part) for part in wanted.split("|")]
        found = next((by_path[known] for t in tried for known in (t, Path(t).name) if known in by_path), None)
        if tried[0] in seen:
            raise OvEncoderError(f"{root}: the split files name {tried[0]!r} twice")
        seen.add(tried[0])
        if found is None:
            skipped[tried[0]] = "named by a split file, but there is no such video"
        else:
            samples.append(Sample(tried[0], str(found), kind_of(found.name), labels, split))
    if not samples:
        raise OvEncoderError(f"{root}: looks like {name}, but not one of its {len(skipped)} videos is there")
    card = {"name": name, "layout": name} | ({"fold": fold} if fold else {})
    return Manifest(root, samples, card, skipped)


def _media(root: Path) -> Iterator[Path]:
    for path in sorted(root.rglob("*")):
        hidden = any(part.startswith(".") for part in path.relative_to(root).parts)
        if path.suffix.lower() in SUFFIXES and not hidden and path.is_file():
            yield path


def _bare(name: str) -> str:
    """Without the suffix of a media file (names may have dots of their own)."""
    return name[: -len(Path(name).suffix)] if Path(name).suffix.lower() in SUFFIXES else name


def _beside(path: Path, name: str) -> Path:
    if not (path.parent / name).is_file():
        raise OvEncoderError(f"{path.parent}: has {path.name}, but no {name}")
    return path.parent / name


def _lines(path: Path) -> Iterator[tuple[int, str]]:
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as e:
        raise OvEncoderError(f"{path}: cannot be read as a list of videos: {e}") from e
    return ((number, line.strip()) for number, line in enumerate(text.splitlines(), start=1) if line.strip())


def _json(path: Path) -> list[Any]:
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as e:
        raise OvEncoderError(f"{path}: cannot be read as JSON: {e}") from e
    if not isinstance(found, list):
        raise OvEncoderError(f"{path}: must be a list, is a {type(found).__name__}")
    return found


def _entries(path: Path, *keys: str) -> Iterator[dict[str, Any]]:
    for number, entry in enumerate(_json(path)):
        if not isinstance(entry, dict) or any(key not in entry for key in keys):
            raise OvEncoderError(f"{path}: entry {number} has no {' and '.join(keys)}: {str(entry)[:80]}")
        yield entry
