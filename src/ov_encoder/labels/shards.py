"""Feature shards: vectors on disk with the names of their samples. What the vectors mean is not known here.

    FOLDER/features-00000.npy       float16 or float32 [n, D]
    FOLDER/features-00000.parquet   one row per vector: id (string), shard (the .npy's name), row (int32)
    FOLDER/features-00001.npy ...

All the .parquet files together are the index (`pyarrow.parquet.read_table(list_of_them)` gives one table). The
.parquet of a shard is written after its .npy, both whole or not at all: a .npy without one is a killed run's and is
not read. Rows are numbered through the shards in the order of their names.

Shapes: N = vectors of all shards, n = vectors of one shard or one read, D = width of a vector.
"""

from __future__ import annotations

import io
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Protocol

import numpy as np

from ov_encoder.data.folder import write_atomically
from ov_encoder.errors import OvEncoderError, missing_extra

if TYPE_CHECKING:
    import pyarrow as pa

PREFIX = "features-"
SHARD_ROWS = 32_768
READ_ROWS = 32_768


class Vectors(Protocol):
    """What k-means and assignment read: N vectors of D numbers, somewhere. Every read is checked for NaN."""

    @property
    def dim(self) -> int:
        """D."""

    def __len__(self) -> int: ...

    def read(self, start: int, stop: int) -> np.ndarray:
        """Rows start..stop as a new float32 array [stop - start, D]."""

    def take(self, rows_n: np.ndarray) -> np.ndarray:
        """The given rows, in the given order, as a new float32 array [n, D]."""

    def name(self, row: int) -> str:
        """Where a row lies, for messages: file and row."""


@dataclass(frozen=True, slots=True)
class Shard:
    """One .npy file: `rows` vectors, of which the first has number `start` among all shards."""

    path: Path
    rows: int
    start: int


@dataclass(frozen=True)
class FeatureShards:
    """A checked folder of shards. Files are mapped for the length of a read only, so memory stays that of the read."""

    folder: Path
    dim: int
    shards: tuple[Shard, ...]

    def __len__(self) -> int:
        return self.shards[-1].start + self.shards[-1].rows

    def read(self, start: int, stop: int) -> np.ndarray:
        """Rows start..stop as float32 [n, D].

        Raises:
            OvEncoderError: a value is not finite, or a file has shrunk since it was opened.
        """
        if not 0 <= start <= stop <= len(self):
            raise ValueError(f"rows {start}..{stop} of {self.folder}: there are rows 0..{len(self)}")
        x_nD = np.empty((stop - start, self.dim), np.float32)
        for shard in self.shards:
            low, high = max(start, shard.start), min(stop, shard.start + shard.rows)
            if low < high:
                x_nD[low - start : high - start] = _map(shard.path)[low - shard.start : high - shard.start]
        check_finite(x_nD, lambda i: self.name(start + i))
        return x_nD

    def take(self, rows_n: np.ndarray) -> np.ndarray:
        """The given rows as float32 [n, D], in the order given; files are visited once each, in order.

        Raises:
            OvEncoderError: as `read`.
        """
        rows_n = np.asarray(rows_n, np.int64)
        if len(rows_n) and not (rows_n.min() >= 0 and rows_n.max() < len(self)):
            raise ValueError(f"rows of {self.folder} must lie in 0..{len(self) - 1}")
        x_nD = np.empty((len(rows_n), self.dim), np.float32)
        order = np.argsort(rows_n, kind="stable")
        bounds = np.searchsorted(rows_n[order], [s.start for s in self.shards] + [len(self)])
        for shard, low, high in zip(self.shards, bounds[:-1], bounds[1:], strict=True):
            if low < high:
                at = order[low:high]
                x_nD[at] = _map(shard.path)[rows_n[at] - shard.start]
        check_finite(x_nD, lambda i: self.name(int(rows_n[i])))
        return x_nD

    def name(self, row: int) -> str:
        """`.../features-00003.npy, row 17 (sample 'cat/1.jpg')`."""
        shard = next(s for s in self.shards if row < s.start + s.rows)
        sample = _read_index(shard.path.with_suffix(".parquet"))["id"][row - shard.start].as_py()
        return f"{shard.path}, row {row - shard.start} (sample {sample!r})"

    def ids(self, start: int = 0, stop: int | None = None) -> pa.Array:
        """Sample ids of rows start..stop, one arrow string array."""
        import pyarrow as pa

        stop = len(self) if stop is None else stop
        found = []
        for shard in self.shards:
            low, high = max(start, shard.start), min(stop, shard.start + shard.rows)
            if low < high:
                ids = _read_index(shard.path.with_suffix(".parquet"))["id"].combine_chunks()
                found.append(ids.slice(low - shard.start, high - low))
        return pa.concat_arrays(found) if found else pa.array([], pa.string())


@dataclass(frozen=True)
class ArrayVectors:
    """An array in memory behind the same calls as shards."""

    x_ND: np.ndarray

    @property
    def dim(self) -> int:
        """D."""
        return self.x_ND.shape[1]

    def __len__(self) -> int:
        return len(self.x_ND)

    def read(self, start: int, stop: int) -> np.ndarray:
        """See `Vectors.read`."""
        x_nD = np.array(self.x_ND[start:stop], np.float32)
        check_finite(x_nD, lambda i: self.name(start + i))
        return x_nD

    def take(self, rows_n: np.ndarray) -> np.ndarray:
        """See `Vectors.take`."""
        x_nD = np.array(self.x_ND[rows_n], np.float32)
        check_finite(x_nD, lambda i: self.name(int(rows_n[i])))
        return x_nD

    def name(self, row: int) -> str:
        """`row 17 of the array`."""
        return f"row {row} of the array"


def as_vectors(source: Vectors | np.ndarray) -> Vectors:
    """Shards as they are; an array [N, D] of floats wrapped.

    Raises:
        ValueError: not two-dimensional, empty, or not floating point.
    """
    if not isinstance(source, np.ndarray):
        return source
    if source.ndim != 2 or 0 in source.shape or source.dtype.kind != "f":
        raise ValueError(f"features must be a float array [N, D] with N, D >= 1, got {source.dtype} {source.shape}")
    return ArrayVectors(source)


def open_features(folder: str | Path, *, dim: int | None = None) -> FeatureShards:
    """Open a folder of feature shards: headers, sizes, widths and ids are checked here, values as they are read.

    Memory: the ids of all samples while they are checked for duplicates (about 60 bytes each); nothing is kept.

    Args:
        folder: what a `ShardWriter` wrote.
        dim: the width that is needed, where the caller knows it.

    Raises:
        OvEncoderError: no shards, a shard cut off or of another width or dtype, an index that does not fit its
            shard, or an id that stands twice. The message names file and row.
    """
    _need_pyarrow()
    folder = Path(folder)
    shards: list[Shard] = []
    start = 0
    for index in _indices(folder):
        path = index.with_suffix(".npy")
        rows, width = _map(path).shape
        if dim is not None and width != dim:
            raise OvEncoderError(f"{path}: vectors of {width} numbers, expected {dim}")
        dim = width
        table = _read_index(index)
        if len(table) != rows:
            raise OvEncoderError(f"{index}: {len(table)} rows for the {rows} vectors of {path.name}; write both again")
        if table["shard"].unique().to_pylist() not in ([path.name], []):
            raise OvEncoderError(f"{index}: names another shard than {path.name}")
        if table["row"].to_pylist() != list(range(rows)):
            raise OvEncoderError(f"{index}: column row must count 0..{rows - 1}")
        if rows:
            shards.append(Shard(path, rows, start))
            start += rows
    if not shards or dim is None:
        raise OvEncoderError(f"{folder}: holds no feature shards ({PREFIX}00000.npy with its .parquet)")
    features = FeatureShards(folder, dim, tuple(shards))
    _check_ids(features)
    return features


def write_shard(folder: str | Path, number: int, ids: Sequence[str], x_nD: np.ndarray) -> None:
    """Write one shard, vectors first and then its index: whole, or not there. Same arguments give the same bytes,
    so that a retried worker replaces its own shard.

    Args:
        folder: made if missing.
        number: of the shard, 0..99999; an existing shard of this number is replaced.
        ids: n sample ids, each once in the whole folder.
        x_nD: float16 or float32, [n, D], finite.

    Raises:
        ValueError: wrong shape or dtype, an id twice, or ids and vectors of different number.
        OvEncoderError: a value is not finite (names shard, row and sample).
    """
    _need_pyarrow()
    import pyarrow as pa
    import pyarrow.parquet as pq

    path = Path(folder) / f"{PREFIX}{number:05d}.npy"
    if x_nD.ndim != 2 or x_nD.dtype not in (np.float16, np.float32):
        raise ValueError(f"vectors must be float16 or float32 [n, D], got {x_nD.dtype} {x_nD.shape}")
    if len(ids) != len(x_nD):
        raise ValueError(f"{len(ids)} ids for {len(x_nD)} vectors")
    if len(set(ids)) != len(ids):
        twice = next(name for i, name in enumerate(ids) if name in ids[:i])
        raise ValueError(f"id {twice!r} stands twice")
    check_finite(x_nD, lambda i: f"{path}, row {i} (sample {ids[i]!r})")
    path.parent.mkdir(parents=True, exist_ok=True)
    path.with_suffix(".parquet").unlink(missing_ok=True)  # an index never stands beside vectors that are not its own
    out = io.BytesIO()
    np.save(out, np.ascontiguousarray(x_nD), allow_pickle=False)
    write_atomically(path, out.getvalue())
    rows = {
        "id": pa.array(ids, pa.string()),
        "shard": pa.array([path.name] * len(ids), pa.string()),
        "row": pa.array(np.arange(len(ids), dtype=np.int32)),
    }
    out = io.BytesIO()
    pq.write_table(pa.table(rows), out)
    write_atomically(path.with_suffix(".parquet"), out.getvalue())


class ShardWriter:
    """Gathers vectors into shards of `rows`; goes on after the whole shards that a killed run left.

        with ShardWriter(folder, dtype=np.float16) as writer:
            for name, vector_D in features(todo - writer.done):
                writer.add(name, vector_D)

    done: ids that are on disk already; adding one of them again is a ValueError. At most `rows` vectors are lost
    with a kill. If the body raises, what was gathered is still written (the samples are finished).
    """

    def __init__(self, folder: str | Path, *, rows: int = SHARD_ROWS, dtype: type[np.floating] = np.float16) -> None:
        _need_pyarrow()
        self.folder, self.rows, self.dtype = Path(folder), rows, dtype
        indices = list(_indices(self.folder)) if self.folder.exists() else []
        self.done: set[str] = {name for index in indices for name in _read_index(index)["id"].to_pylist()}
        self.number = max((int(index.stem.removeprefix(PREFIX)) for index in indices), default=-1) + 1
        self._ids: list[str] = []
        self._vectors: list[np.ndarray] = []

    def add(self, name: str, vector_D: np.ndarray) -> None:
        """Keep one vector [D]; writes a shard when enough have come together.

        Raises:
            ValueError: this id was added before, or the vector has another width than the one before it.
            OvEncoderError: a value is not finite in the shard's dtype (float16 ends at 65504).
        """
        if name in self.done:
            raise ValueError(f"id {name!r} was added before")
        if self._vectors and vector_D.shape != self._vectors[-1].shape:
            raise ValueError(f"{name!r}: vector {vector_D.shape}, those before it {self._vectors[-1].shape}")
        with np.errstate(over="ignore"):  # becomes inf, which is refused below
            vector_D = vector_D.astype(self.dtype)
        check_finite(vector_D[None], lambda _: f"{self.folder}, sample {name!r} as {self.dtype.__name__}")
        self.done.add(name)
        self._ids.append(name)
        self._vectors.append(vector_D)
        if len(self._ids) >= self.rows:
            self.close()

    def close(self) -> None:
        """Write what is in memory as the next shard."""
        if self._ids:
            write_shard(self.folder, self.number, self._ids, np.stack(self._vectors))
            self.number += 1
            self._ids, self._vectors = [], []

    def __enter__(self) -> ShardWriter:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: object, trace: TracebackType | None) -> None:
        self.close()


def blocks(
    source: Vectors, *, start: int = 0, stop: int | None = None, rows: int = READ_ROWS
) -> Iterator[tuple[int, np.ndarray]]:
    """(number of first row, float32 [n, D]) through rows start..stop, n <= `rows`; the next block is read ahead."""
    stop = len(source) if stop is None else stop
    cuts = [(low, min(low + rows, stop)) for low in range(start, stop, rows)]
    with ThreadPoolExecutor(1) as reader:
        waiting = [reader.submit(source.read, *cut) for cut in cuts[:1]]
        for number, (low, _) in enumerate(cuts):
            x_nD = waiting.pop().result()
            waiting += [reader.submit(source.read, *cut) for cut in cuts[number + 1 : number + 2]]
            yield low, x_nD


def check_finite(x_nD: np.ndarray, name_of: Callable[[int], str]) -> None:
    """Raises OvEncoderError naming the first row that has a NaN or an infinity. A sum is enough to know that none has
    (one pass, no mask): the rows are looked at only when it is not finite."""
    with np.errstate(over="ignore", invalid="ignore"):
        if np.isfinite(x_nD.sum(dtype=np.float64)):
            return
    bad = np.flatnonzero(~np.isfinite(x_nD).all(1))
    if len(bad):
        value = x_nD[bad[0]][~np.isfinite(x_nD[bad[0]])][0]
        raise OvEncoderError(f"{name_of(int(bad[0]))}: holds {value}, features must be finite")


def _map(path: Path) -> np.ndarray:
    """The vectors of a shard, mapped, after a look at header and size."""
    try:
        x_nD = np.load(path, mmap_mode="r", allow_pickle=False)
    except FileNotFoundError:
        raise OvEncoderError(f"{path}: is missing, though its index is there") from None
    except (OSError, ValueError, EOFError) as e:
        raise OvEncoderError(f"{path}: cut off or not a .npy file; delete it and its .parquet to redo it: {e}") from e
    if x_nD.ndim != 2 or x_nD.dtype not in (np.float16, np.float32) or not x_nD.flags.c_contiguous:
        raise OvEncoderError(f"{path}: holds {x_nD.dtype} {x_nD.shape}, expected float16 or float32 [n, D]")
    return x_nD


def _indices(folder: Path) -> list[Path]:
    return sorted(folder.glob(f"{PREFIX}[0-9]*.parquet"))


def _read_index(path: Path) -> pa.Table:
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        return pq.ParquetFile(path).read(columns=["id", "shard", "row"])
    except (pa.ArrowException, OSError) as e:
        raise OvEncoderError(f"{path}: cannot be read as the index of a shard: {e}") from e


def _check_ids(features: FeatureShards) -> None:
    import pyarrow.compute as pc

    ids = features.ids()
    if pc.count_distinct(ids).as_py() == len(ids):
        return
    seen: dict[str, int] = {}
    for row, name in enumerate(ids.to_pylist()):
        if name in seen:
            raise OvEncoderError(f"{features.name(row)}: the same id as {features.name(seen[name])}")
        seen[name] = row


def _need_pyarrow() -> None:
    try:
        import pyarrow  # noqa: F401
    except ImportError as e:
        raise missing_extra("pyarrow", "labels", "reading and writing feature shards") from e
