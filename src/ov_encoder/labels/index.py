"""From folders, manifests and tars to one manifest: every sample looked at once, bad ones kept with their reason.

Nothing is judged here but whether a file can be read; which samples are alike is `dedup`'s.
"""

from __future__ import annotations

import hashlib
import io
import json
import os
import shutil
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ov_encoder.codec.limits import Limits
from ov_encoder.codec.media import binary, inspect, source_name
from ov_encoder.data.folder import agree_on_options, locked, write_atomically
from ov_encoder.data.manifest import NAMES, SEPARATOR, Sample, read_manifest
from ov_encoder.data.shards import read_tar
from ov_encoder.data.sources import as_text, find_media
from ov_encoder.errors import OvEncoderError, missing_extra
from ov_encoder.labels.engine import TIMEOUT_S, Block, Engine, Failed, Tally, cut_blocks, run_blocks
from ov_encoder.labels.phash import phash, video_hash

if TYPE_CHECKING:
    import pyarrow as pa

BLOCK_ROWS = 512
COLUMNS = {
    "id": "string", "path": "string", "offset": "int64", "length": "int64", "kind": "string", "bytes": "int64",
    "duration_s": "float64", "frames": "int32", "height": "int32", "width": "int32", "sha256": "string",
    "phash": "uint64", "video_hash": "binary", "label": "string", "split": "string", "status": "string",
    "reason": "string",
}  # fmt: skip


@dataclass(frozen=True, slots=True)
class Tar:
    """A WebDataset shard: its members are listed by the worker that reads them. id: what their ids begin with."""

    id: str
    path: str


@dataclass(frozen=True, slots=True)
class Damaged:
    """The end of a tar that is cut off: a row of its own, so that it is not forgotten."""

    id: str
    path: str
    reason: str


@dataclass(frozen=True, slots=True)
class Indexing:
    """The work of a block: hash and describe each file or member. See `engine.Work`."""

    parts: Path

    def rows(self, block: Block) -> Sequence[Sample | Damaged]:
        """Files as they are, tars as their members."""
        rows: list[Sample | Damaged] = []
        for row in block.rows:
            rows += members(row) if isinstance(row, Tar) else [row]
        return rows

    def read(self, row: Sample | Damaged) -> dict[str, Any]:
        """The facts of one file, perceptual hash included: images and videos (not long ones) are decoded for it."""
        if isinstance(row, Damaged):
            raise OvEncoderError(row.reason)
        source = row.source()
        limits = Limits()
        digest, size = hashlib.sha256(), 0
        with binary(source, limits) as file:
            while piece := file.read(1 << 20):
                digest.update(piece)
                size += len(piece)
        info = inspect(source, limits=limits)
        still = info.frames == 1 and info.kind != "video"
        return {
            "kind": "image" if still else "video",
            "bytes": size,
            "duration_s": info.duration_s,
            "frames": info.frames,
            "height": info.height,
            "width": info.width,
            "sha256": digest.hexdigest(),
            "phash": _phash(source, limits) if still else None,
            "video_hash": None if still else video_hash(source, info, limits=limits),
        }

    def finish(self, found: Sequence[Any]) -> Sequence[Any]:
        """As read."""
        return found

    def write(self, block: Block, rows: Sequence[Sample | Damaged], found: Sequence[Any]) -> None:
        """The block's rows as a parquet file."""
        table = []
        for row, facts in zip(rows, found, strict=True):
            line: dict[str, Any] = {"id": row.id, "path": row.path}
            if isinstance(row, Sample):
                line |= {"offset": row.offset, "length": row.length}
                line |= {"label": SEPARATOR.join(row.labels), "split": row.split}
            bad = isinstance(facts, Failed)
            line |= {"status": "bad", "reason": facts.reason} if bad else facts | {"status": "ok", "reason": ""}
            table.append(line)
        write_atomically(self._part(block), _parquet(table))

    def done(self, block: Block) -> bool:
        """Whether the part is there."""
        return self._part(block).exists()

    def _part(self, block: Block) -> Path:
        return self.parts / f"part-{block.number:06d}.parquet"


def build_index(
    sources: Sequence[str | Path],
    out: str | Path,
    *,
    label: str = "label",
    engine: Engine = "local",
    workers: int = 1,
    rows: int = BLOCK_ROWS,
    timeout_s: float = TIMEOUT_S,
    progress: Callable[[Tally], None] | None = None,
) -> dict[str, int]:
    """Write the manifest of everything under `sources`; a run that was killed goes on from its last whole block.

    A folder with a manifest in it (labels.csv and the like) gives the samples of that, with their labels and splits;
    a folder of .tar files gives their members (WebDataset: `KEY.cls` is the label of `KEY.jpg`); any other folder its
    media files. A manifest or a tar can also be named itself. Ids are paths relative to their source, with the
    source's name before them where there are several sources.

    Args:
        sources: folders, manifests (.csv, .parquet), tars, media files.
        out: the parquet file; `OUT.parts/` lies beside it while it grows.
        label: column of the manifests that holds the labels.
        engine: see `engine.run_blocks`; so workers, timeout_s, progress.
        rows: files of a block (a tar is a block of its own): what a kill can cost.

    Returns:
        counts: "samples", "ok", "bad", "images", "videos".

    Raises:
        ValueError: no media there, two sources of one name, or OUT.parts of a run over other files.
        OvEncoderError: a manifest that cannot be read, an id that stands twice.
    """
    out = Path(out)
    listed = list_sources(sources, label=label)
    files = [row for row in listed if not isinstance(row, Tar)]
    blocks = cut_blocks(files, rows)
    tars = [row for row in listed if isinstance(row, Tar)]
    blocks += [Block(len(blocks) + n, (tar,)) for n, tar in enumerate(tars)]
    parts = out.with_name(out.name + ".parts")
    work = Indexing(parts)
    with locked(parts):
        agree_on_options(parts, {"inputs": listing_digest(listed), "rows": rows}, sum(work.done(b) for b in blocks))
        run_blocks(work, blocks, parts, engine=engine, workers=workers, timeout_s=timeout_s, progress=progress)
        counts = _merge([work._part(block) for block in blocks], out)
    shutil.rmtree(parts)
    return counts


def list_sources(sources: Sequence[str | Path], *, label: str = "label") -> list[Sample | Tar]:
    """What there is to look at, by names alone. Paths are absolute. Raises as `build_index`."""
    if not sources:
        raise ValueError("no sources: name folders, manifests or tars")
    if missing := [str(source) for source in sources if not Path(source).exists()]:
        raise ValueError(f"{missing[0]}: no such file or folder")
    names = [Path(s).resolve().name for s in sources]
    if twice := [name for name in names if names.count(name) > 1]:
        raise ValueError(f"two sources are called {twice[0]!r}; name the folder above them, or rename one")
    found: list[Sample | Tar] = []
    for source, name in zip(sources, names, strict=True):
        before = f"{name}/" if len(sources) > 1 else ""
        found += _list_source(Path(source), before, label)
    seen: set[str] = set()
    for row in found:
        if row.id in seen:
            raise OvEncoderError(f"{row.path}: id {row.id!r} stands twice")
        seen.add(row.id)
    return found


def listing_digest(listed: Sequence[Sample | Tar]) -> str:
    """A hash of names, labels, sizes and times of change: what tells whether the index must be made again."""
    digest = hashlib.sha256()
    for row in listed:
        try:
            stat = Path(row.path).stat()
            state = (stat.st_size, stat.st_mtime_ns)
        except OSError:  # becomes a bad row
            state = (-1, -1)
        more = () if isinstance(row, Tar) else (row.labels, row.split, row.offset, row.length)
        digest.update(json.dumps([row.id, row.path, *state, *more]).encode())
    return digest.hexdigest()


def _list_source(source: Path, before: str, label: str) -> list[Sample | Tar]:
    tars = sorted(source.glob("*.tar")) if source.is_dir() else [source] if source.suffix == ".tar" else []
    if tars:
        return [Tar(f"{before}{as_text(tar.name)}", str(tar.resolve())) for tar in tars]
    if source.suffix in (".csv", ".parquet") or any((source / name).is_file() for name in NAMES):
        manifest = read_manifest(source, label=label)
        samples = [
            Sample(before + s.id, str(Path(s.path).resolve()), s.kind, s.labels, s.split, s.offset, s.length)
            for s in manifest
        ]
        return list(samples)
    media = find_media([str(source)])
    return [Sample(before + as_text(name), str(Path(path).resolve()), "") for path, name in media]


def members(tar: Tar) -> list[Sample | Damaged]:
    """The media of a tar, each with offset and length; `KEY.cls` beside `KEY.*` is the label.

    A tar that ends too early gives the members before the cut, and a row that says where it ends; one that cannot be
    read gives that row only.
    """
    path = Path(tar.path)
    try:
        samples, damage = read_tar(path, labels=(".cls",))  # .txt and .json are captions more often than classes
    except OvEncoderError as e:
        return [Damaged(tar.id, tar.path, str(e))]
    rows: list[Sample | Damaged] = [
        replace(
            sample,
            id=tar.id + as_text(sample.id.removeprefix(path.name)),
            kind="",
            labels=tuple(label.replace(SEPARATOR, " ") for label in sample.labels),
        )
        for sample in samples
    ]
    return [*rows, Damaged(tar.id, tar.path, damage)] if damage else rows


def _phash(source: str | bytes, limits: Limits) -> int | None:
    from ov_encoder.codec import stills  # Pillow: not needed for videos

    with binary(source, limits) as file:
        rgb_HW3, _ = next(stills.read_frames(file, source_name(source), limits))
    return phash(rgb_HW3) or None  # one flat colour looks like every other


def _schema() -> pa.Schema:
    try:
        import pyarrow as pa
    except ImportError as e:
        raise missing_extra("pyarrow", "labels", "writing a manifest") from e
    return pa.schema([(name, getattr(pa, kind)()) for name, kind in COLUMNS.items()])


def _parquet(rows: list[dict[str, Any]]) -> bytes:
    import pyarrow as pa
    import pyarrow.parquet as pq

    out = io.BytesIO()
    pq.write_table(pa.Table.from_pylist(rows, schema=_schema()), out)
    return out.getvalue()


def _merge(parts: Sequence[Path], out: Path) -> dict[str, int]:
    """All parts as one file, one at a time in memory."""
    import pyarrow.parquet as pq

    counts = {"samples": 0, "ok": 0, "bad": 0, "images": 0, "videos": 0}
    half = out.with_name(f".{out.name}.part")
    with pq.ParquetWriter(half, _schema()) as writer:
        for table in _tables(parts):
            writer.write_table(table)
            kinds, states = table["kind"].to_pylist(), table["status"].to_pylist()
            counts["samples"] += len(table)
            counts["ok"] += states.count("ok")
            counts["bad"] += states.count("bad")
            counts["images"] += kinds.count("image")
            counts["videos"] += kinds.count("video")
    with half.open("rb+") as f:
        os.fsync(f.fileno())
    half.replace(out)
    return counts


def _tables(parts: Sequence[Path]) -> Iterator[pa.Table]:
    import pyarrow.parquet as pq

    for part in parts:
        yield pq.ParquetFile(part).read()
