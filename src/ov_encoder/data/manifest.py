"""Manifests: which samples a data set has, where their bytes are, and what they are called. Nothing is decoded here.

A manifest is a CSV or parquet file with the columns `path` and, where known, `label` (several separated by `|`),
`split`, `id`, `kind`, `offset`, `length`, `status`; paths are relative to the file. Beside it may lie a card,
NAME.json (name, licence, metric). Layouts that people have on disk are turned into manifests in `data.layouts`.
"""

from __future__ import annotations

import csv
import json
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ov_encoder.data.sources import IMAGE_SUFFIXES, SUFFIXES
from ov_encoder.errors import OvEncoderError, missing_extra

# Looked for in a folder. Not labels.parquet: so `ov-encoder label` calls classes by id, which say no path.
NAMES = ("labels.csv", "manifest.csv", "manifest.parquet")
SEPARATOR = "|"


@dataclass(frozen=True, slots=True)
class Sample:
    """One image or video. Its bytes are the file `path`, or `length` bytes of it from `offset` (a tar's member).

    id: unique in its manifest. kind: "image" or "video". labels: none, one or several names. split: "" if unknown.
    """

    id: str
    path: str
    kind: str
    labels: tuple[str, ...] = ()
    split: str = ""
    offset: int | None = None
    length: int | None = None

    def source(self) -> str | bytes:
        """What `read_signals` and `patchify` take: the path, or the bytes of a packed sample.

        Raises:
            OvEncoderError: the packed bytes cannot be read, or the file is shorter than the manifest says.
        """
        if self.offset is None or self.length is None:
            return self.path
        try:
            with Path(self.path).open("rb") as f:
                f.seek(self.offset)
                data = f.read(self.length)
        except OSError as e:
            raise OvEncoderError(f"{self.path}: cannot be read: {e.strerror}") from e
        if len(data) < self.length:
            raise OvEncoderError(
                f"{self.path}: ends within sample {self.id!r} ({len(data)} of {self.length} bytes from {self.offset})"
            )
        return data


@dataclass(frozen=True, slots=True)
class Manifest:
    """Samples in the order of the file, the card that came with them, and what was left out and why."""

    path: Path
    samples: list[Sample]
    card: dict[str, Any] = field(default_factory=dict)
    skipped: dict[str, str] = field(default_factory=dict)  # id -> reason, of rows whose status is not "ok"

    def __len__(self) -> int:
        return len(self.samples)

    def __iter__(self) -> Iterator[Sample]:
        return iter(self.samples)

    @property
    def classes(self) -> list[str]:
        """All label names, sorted."""
        return sorted({label for sample in self.samples for label in sample.labels})

    @property
    def splits(self) -> Counter[str]:
        """Samples in each split."""
        return Counter(sample.split for sample in self.samples)

    def split(self, *names: str) -> list[Sample]:
        """The samples of the given splits.

        Raises:
            ValueError: a split is empty; the message lists those there are.
        """
        there = self.splits
        if missing := [name for name in names if not there[name]]:
            found = ", ".join(f"{name or '(none)'}: {n}" for name, n in sorted(there.items()))
            raise ValueError(f"{self.path}: no samples in split {missing[0]!r}; there are {found or 'none'}")
        return [sample for sample in self.samples if sample.split in names]


def read_manifest(path: str | Path, *, label: str = "label") -> Manifest:
    """Read a CSV or parquet manifest, or the one inside a folder. `label` names the column that holds the labels.

    Raises:
        OvEncoderError: no manifest there, a column is missing, an id stands twice, or a row has no path.
    """
    path = Path(path)
    if path.is_dir():
        found = [path / name for name in NAMES if (path / name).is_file()]
        if not found:
            raise OvEncoderError(f"{path}: holds none of {', '.join(NAMES)}")
        path = found[0]
    if not path.is_file():
        raise OvEncoderError(f"{path}: no such manifest (a .csv or .parquet file, or a folder with one)")
    rows = _parquet_rows(path) if path.suffix == ".parquet" else _csv_rows(path)
    samples, skipped, seen = [], {}, set()
    for number, row in enumerate(rows, start=2):  # line 1 of a CSV is its header
        if "path" not in row:
            raise OvEncoderError(f"{path}: has no column 'path'; columns are {', '.join(map(str, row))}")
        if label != "label" and label not in row:
            raise OvEncoderError(f"{path}: has no column {label!r}; columns are {', '.join(map(str, row))}")
        if not row["path"]:
            raise OvEncoderError(f"{path}: row {number} has no path")
        name = str(row.get("id") or row["path"])
        if name in seen:
            raise OvEncoderError(f"{path}: id {name!r} stands twice, the second time in row {number}")
        seen.add(name)
        if (status := row.get("status") or "ok") != "ok":
            skipped[name] = str(row.get("reason") or status)
            continue
        samples.append(_sample(name, row, label, path.parent))
    card = path.with_suffix(".json")
    return Manifest(path, samples, _card(card) if card.is_file() else {}, skipped)


def write_manifest(path: str | Path, samples: Iterable[Sample]) -> None:
    """Write samples as a CSV that `read_manifest` reads, paths relative to the file where they lie below it.

    Raises:
        ValueError: a label contains the separator.
    """
    path = Path(path)
    root = path.parent.resolve()
    part = path.with_name(path.name + ".part")
    with part.open("w", newline="", encoding="utf-8") as f:
        writer = csv.writer(f)
        writer.writerow(("id", "path", "label", "split", "kind", "offset", "length"))
        for s in samples:
            if bad := [label for label in s.labels if SEPARATOR in label]:
                raise ValueError(f"label {bad[0]!r} of {s.id!r} contains {SEPARATOR!r}, which separates labels")
            here = Path(s.path).resolve()
            shown = here.relative_to(root).as_posix() if here.is_relative_to(root) else str(here)
            row = (s.id, shown, SEPARATOR.join(s.labels), s.split, s.kind, s.offset, s.length)
            writer.writerow(["" if value is None else value for value in row])
    part.replace(path)


def kind_of(path: str) -> str:
    """ "image" or "video", by the suffix; animations count as images until they are opened.

    Raises:
        ValueError: a suffix that is neither.
    """
    suffix = Path(path).suffix.lower()
    if suffix not in SUFFIXES:
        raise ValueError(f"{path}: suffix {suffix!r} is no known image or video; name the kind in a column 'kind'")
    return "image" if suffix in IMAGE_SUFFIXES else "video"


def _sample(name: str, row: Mapping[str, Any], label: str, root: Path) -> Sample:
    place = Path(str(row["path"]))
    text = row.get(label)
    offset, length = (None if row.get(k) in (None, "") else int(row[k]) for k in ("offset", "length"))
    return Sample(
        id=name,
        path=str(place if place.is_absolute() else root / place),
        kind=str(row.get("kind") or kind_of(name if offset is not None else str(place))),
        labels=tuple(part.strip() for part in str(text).split(SEPARATOR) if part.strip()) if text else (),
        split=str(row.get("split") or ""),
        offset=offset,
        length=length,
    )


def _csv_rows(path: Path) -> Iterator[dict[str, Any]]:
    try:
        with path.open(newline="", encoding="utf-8-sig") as f:
            reader = csv.DictReader(f)
            for row in reader:
                if None in row or None in row.values():
                    raise OvEncoderError(f"{path}: line {reader.line_num} has another number of columns than line 1")
                yield row
    except (OSError, UnicodeDecodeError, csv.Error) as e:
        raise OvEncoderError(f"{path}: cannot be read as CSV: {e}") from e


def _parquet_rows(path: Path) -> Iterator[dict[str, Any]]:
    try:
        import pyarrow as pa
        import pyarrow.parquet as pq
    except ImportError as e:
        raise missing_extra("pyarrow", "parquet", f"reading {path.name}") from e
    try:
        with pq.ParquetFile(path) as file:
            for batch in file.iter_batches():
                yield from batch.to_pylist()
    except (OSError, pa.ArrowInvalid) as e:
        raise OvEncoderError(f"{path}: cannot be read as parquet: {e}") from e


def _card(path: Path) -> dict[str, Any]:
    try:
        card = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as e:
        raise OvEncoderError(f"{path}: cannot be read as the card of a manifest: {e}") from e
    if not isinstance(card, dict):
        raise OvEncoderError(f"{path}: the card of a manifest is a JSON object, this is a {type(card).__name__}")
    return card
