"""Samples with integer labels, sorted into the streams of a training run: manifests, folders and tars in, arrays out.

Not here: what a sample looks like (train/clip.py), when it comes (sampler.py). L = label columns of a stream.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from ov_encoder.data.manifest import NAMES, Manifest, Sample, kind_of, read_manifest
from ov_encoder.data.shards import read_tars
from ov_encoder.data.sources import find_media
from ov_encoder.errors import OvEncoderError, missing_extra

HELD_OUT = ("test", "val", "validation")


@dataclass(slots=True)
class Stream:
    """The samples one head learns from. labels_SL: int32 classes, -1 for none. names: of classes that have names."""

    samples: list[Sample] = field(default_factory=list)
    labels_SL: np.ndarray = field(default_factory=lambda: np.zeros((0, 1), np.int32))
    names: list[str] = field(default_factory=list)
    skipped: dict[str, str] = field(default_factory=dict)

    @property
    def classes(self) -> int:
        """Named classes, or one more than the largest label."""
        return len(self.names) or int(self.labels_SL.max(initial=-1)) + 1


def open_samples(path: str | Path, *, label: str = "label") -> Manifest:
    """A manifest, a folder with one, a tar, a folder of tars, or class folders (DIR/CLASS/.../file).

    label: column of class names; several joined by "+" give a sample several labels, those after the first as
    "column=value".

    Raises:
        OvEncoderError: nothing of these is there.
    """
    path = Path(path)
    if path.is_file() and path.suffix == ".tar":
        return read_tars([path])
    if path.is_dir() and not any((path / name).is_file() for name in NAMES):
        tars = sorted(path.glob("*.tar"))
        return read_tars(tars) if tars else _class_folders(path)
    first, *others = label.split("+")
    manifest = read_manifest(path, label=first)
    for column in others:
        more = read_manifest(path, label=column).samples
        manifest = Manifest(
            manifest.path,
            [
                Sample(
                    a.id, a.path, a.kind, (*a.labels, *(f"{column}={v}" for v in b.labels)), a.split, a.offset, a.length
                )
                for a, b in zip(manifest.samples, more, strict=True)
            ],
            manifest.card,
            manifest.skipped,
        )
    return manifest


def gather(
    sources: Sequence[Mapping[str, Any]],
    heads: Mapping[str, str],
    classes: Mapping[str, int | None],
    *,
    beside: Mapping[str, str] | None = None,
) -> dict[str, Stream]:
    """The stream of every head.

    sources: of path, label, labels, splits, head (see train.config.DataConfig). heads: name -> kind ("image", "video",
    "ocr"). classes: name -> number, or None for as many as there are. Same class names of two sources are one class.
    beside: head -> the head whose samples it shares: its stream has those samples, in their order, with its own labels
    and -1 throughout where it has none. Samples are the same where file and offset are.

    Raises:
        OvEncoderError: a source cannot be read, a label is out of range, or a head has no sample.
        ValueError: images or videos that no head wants, or a split that is not there.
    """
    parts: dict[str, list[tuple[Sample, tuple[Any, ...], bool]]] = {name: [] for name in heads}
    skipped: dict[str, dict[str, str]] = {name: {} for name in heads}
    for source in sources:
        manifest = open_samples(source["path"], label=source["label"])
        chosen = _split(manifest, source["splits"])
        if chosen and manifest.skipped:  # rows that say they are bad, ends of tars that are cut off
            skipped[source["head"] or head_for(chosen[0].kind, heads, source["path"])] |= manifest.skipped
        for name, sample, labels, numbered in _labelled(source, chosen, heads):
            if labels:
                parts[name].append((sample, labels, numbered))
            else:
                skipped[name][sample.id] = f"is not in {source['labels']}" if numbered else "has no label"
    streams = {name: _stream(name, parts[name], skipped[name], classes[name]) for name in heads}
    return {n: _beside(n, s, streams[beside[n]]) if beside and n in beside else s for n, s in streams.items()}


def gather_held_out(
    sources: Sequence[Mapping[str, Any]], heads: Mapping[str, str], trained: Mapping[str, Stream]
) -> dict[str, Stream]:
    """What `gather` leaves out of the same sources because of its split, with the classes of the `trained` streams.

    Labels that training does not know are dropped, and samples that keep none; heads without a sample are not there.
    """
    numbers = {name: {label: i for i, label in enumerate(stream.names)} for name, stream in trained.items()}
    parts: dict[str, list[tuple[Sample, list[int]]]] = {name: [] for name in heads}
    for source in sources:
        manifest = open_samples(source["path"], label=source["label"])
        left_out = [s for s in manifest.samples if s.split in HELD_OUT and s.split not in source["splits"]]
        for name, sample, labels, numbered in _labelled(source, left_out, heads):
            if numbered:
                known = [label for label in labels if label < trained[name].classes]
            else:
                known = [numbers[name][label] for label in labels if label in numbers[name]]
            if known:
                parts[name].append((sample, known))
    return {
        name: Stream([s for s, _ in rows], _columns([labels for _, labels in rows]), trained[name].names)
        for name, rows in parts.items()
        if rows
    }


def _labelled(
    source: Mapping[str, Any], samples: Sequence[Sample], heads: Mapping[str, str]
) -> Iterator[tuple[str, Sample, tuple[Any, ...], bool]]:
    """(head, sample, its labels or (), whether they are numbers from a labels file) of some samples of a source."""
    ids = _read_labels(source["labels"]) if samples and source["labels"] else None
    for sample in samples:
        name = source["head"] or head_for(sample.kind, heads, source["path"])
        if (sample.kind == "video") != (heads[name] == "video"):
            raise ValueError(
                f"{source['path']}: {sample.id} is of kind {sample.kind}, head {name!r} takes {heads[name]}"
            )
        yield name, sample, tuple(sample.labels if ids is None else ids.get(sample.id, ())), ids is not None


def _columns(labels: Sequence[Sequence[int]]) -> np.ndarray:
    """Rows of different lengths as one int32 array, -1 where there is no label."""
    labels_SL = np.full((len(labels), max(map(len, labels))), -1, np.int32)
    for i, row in enumerate(labels):
        labels_SL[i, : len(row)] = row
    return labels_SL


def _beside(name: str, own: Stream, other: Stream) -> Stream:
    """The samples of `other` with the labels of `own`."""
    row_of = {same_file(sample): row for row, sample in enumerate(own.samples)}
    labels_SL = np.full((len(other.samples), own.labels_SL.shape[1]), -1, np.int32)
    for i, sample in enumerate(other.samples):
        if (row := row_of.get(same_file(sample))) is not None:
            labels_SL[i] = own.labels_SL[row]
    if not (labels_SL >= 0).any():
        raise OvEncoderError(f"head {name!r} shares no sample with the head that it stands beside")
    return Stream(other.samples, labels_SL, own.names, own.skipped)


def same_file(sample: Sample) -> tuple[str, int | None]:
    """What two samples of one file (and place in a tar) have in common."""
    return os.path.abspath(sample.path), sample.offset  # noqa: PTH100 (resolve() asks the disk for every sample)


def _stream(
    name: str, rows: list[tuple[Sample, tuple[Any, ...], bool]], skipped: dict[str, str], classes: int | None
) -> Stream:
    if not rows:
        left_out = [f"; {len(skipped):,} left out, such as {i!r}, which {why}" for i, why in skipped.items()][:1]
        raise OvEncoderError(
            f"head {name!r} has no labelled sample{''.join(left_out)}; give it data, or leave the head out"
        )
    if len({numbered for *_, numbered in rows}) > 1:
        raise OvEncoderError(f"head {name!r}: some of its data have class names, some numbers from a labels file")
    names: list[str] = []
    if not rows[0][2]:
        names = sorted({label for _, labels, _ in rows for label in labels})
        number = {label: i for i, label in enumerate(names)}
        rows = [(sample, tuple(number[v] for v in labels), False) for sample, labels, _ in rows]
    for sample, labels, _ in rows:
        if min(labels) < -1 or (classes is not None and max(labels) >= classes):
            raise OvEncoderError(
                f"head {name!r}: {sample.id} has label {max(labels, key=abs)}, "
                + (
                    f"which is none of its {classes} classes (0 is the first)"
                    if classes
                    else "need 0 or more, -1 for none"
                )
            )
    return Stream([sample for sample, *_ in rows], _columns([labels for _, labels, _ in rows]), names, skipped)


def _split(manifest: Manifest, wanted: Sequence[str]) -> list[Sample]:
    if wanted:
        return manifest.split(*wanted)
    kept = [s for s in manifest.samples if s.split not in HELD_OUT]
    if not kept:
        raise OvEncoderError(f"{manifest.path}: every sample is in a held-out split ({', '.join(manifest.splits)})")
    return kept


def head_for(kind: str, heads: Mapping[str, str], path: str) -> str:
    """The first head that takes samples of this kind. ValueError if none does."""
    for name, takes in heads.items():
        if takes == kind:
            return name
    raise ValueError(f"{path}: holds {kind}s, and no head takes them; heads: {dict(heads)}")


def _class_folders(root: Path) -> Manifest:
    found = find_media([str(root)])
    return Manifest(
        root,
        [Sample(id=n, path=p, kind=kind_of(n), labels=(n.partition("/")[0],) if "/" in n else ()) for p, n in found],
    )


def _read_labels(path: str) -> dict[str, tuple[int, ...]]:
    """Sample id -> classes, from a labels.parquet with the columns id and labels."""
    try:
        import pyarrow as pa
        import pyarrow.parquet as pq
    except ImportError as e:
        raise missing_extra("pyarrow", "train", f"reading {path}") from e
    try:
        table = pq.read_table(path, columns=["id", "labels"])
    except (OSError, pa.ArrowException, KeyError) as e:
        raise OvEncoderError(f"{path}: cannot be read as labels (columns id, labels): {e}") from e
    found: dict[str, tuple[int, ...]] = {}
    for row in table.to_pylist():
        if row["id"] in found:
            raise OvEncoderError(f"{path}: id {row['id']!r} stands twice")
        found[row["id"]] = tuple(v for v in row["labels"] or () if v != -1)
    return found
