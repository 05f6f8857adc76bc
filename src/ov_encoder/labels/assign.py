"""Assignment: the ten nearest centres of every sample, exact or through an index, and the way back from labels.

    FOLDER/parts/part-00000.parquet   rows of one block, whole or not there: a killed run goes on after them
    FOLDER/labels.parquet             all of them in order: id (string), labels (int32 list of T, nearest first),
                                      similarity (float16 list of T)

Both carry the fingerprint of the centres and what they were made of; parts of another run are refused.
Similarity: cosine for metric "cosine", minus the distance for "l2". Higher is nearer, in both.
Shapes: N = samples, n = samples of a block, K = centres, D = width, T = labels a sample.
"""

from __future__ import annotations

import io
import json
import os
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from ov_encoder.data.folder import PART, locked, write_atomically
from ov_encoder.errors import OvEncoderError, missing_extra
from ov_encoder.labels.kmeans import Centres
from ov_encoder.labels.kmeans_init import unit
from ov_encoder.labels.shards import READ_ROWS, FeatureShards

if TYPE_CHECKING:
    import pyarrow as pa

SEARCHES = ("exact", "hnsw", "ivf")
PARTS, LABELS = "parts", "labels.parquet"
KEY = b"ov_encoder"  # of the JSON in the parquet files


@dataclass
class Searcher:
    """Finds the nearest centres of rows. `search` is called from one thread; the work inside uses all of them.

    method: "exact" by tiles, or an approximate faiss index on CPU: "hnsw" (graph of 32 links: fast to ask, slow to
    build, 4 D + 300 bytes a centre) or "ivf" (4 sqrt(K) cells of which `probes` are visited).
    """

    centres: Centres
    top: int = 10
    method: str = "exact"
    device: str | None = None
    probes: int = 32
    ef: int = 128

    def __post_init__(self) -> None:
        if self.method not in SEARCHES:
            raise ValueError(f"method must be one of {', '.join(SEARCHES)}, got {self.method!r}")
        if not 1 <= self.top <= len(self.centres):
            raise ValueError(f"top must be 1..{len(self.centres)} (the number of centres), got {self.top}")

    def search(self, x_nD: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Labels int32 [n, T], nearest first, and similarities float32 [n, T]. Rows are unit vectors for cosine.

        Raises:
            OvEncoderError: the index found fewer than T centres for a row (raise `probes` or `ef`).
        """
        if self.method == "exact":
            label_nT, score_nT = self._exact(x_nD)
        else:
            distance_nT, label_nT = self._index.search(np.ascontiguousarray(x_nD, np.float32), self.top)
            if (label_nT < 0).any():
                raise OvEncoderError(
                    f"the {self.method} index found fewer than {self.top} centres; raise probes ({self.probes}) or "
                    f"ef ({self.ef}), or use 'exact'"
                )
            return label_nT.astype(np.int32), (
                distance_nT if self.centres.metric == "cosine" else -np.sqrt(np.maximum(distance_nT, 0))
            )
        if self.centres.metric == "l2":
            squares_n1 = np.einsum("nd,nd->n", x_nD, x_nD)[:, None]
            score_nT = -np.sqrt(np.maximum(squares_n1 - 2 * score_nT, 0))
        return label_nT.astype(np.int32), score_nT

    def recall(self, x_nD: np.ndarray) -> float:
        """Share of the T exact nearest centres of these rows that `search` finds; 1.0 for the exact method."""
        if self.method == "exact":
            return 1.0
        found_nT, _ = self.search(x_nD)
        exact_nT, _ = self._exact(x_nD)
        hits = (found_nT[:, :, None] == exact_nT[:, None, :]).any(2)
        return float(hits.mean())

    def _exact(self, x_nD: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        import torch

        from ov_encoder.labels.tiles import nearest

        centres_KD, bias_K = self._tensors
        x = torch.from_numpy(np.ascontiguousarray(x_nD, np.float32)).to(centres_KD.device)
        score_nT, label_nT = nearest(x, centres_KD, bias_K, top=self.top)
        return label_nT.cpu().numpy(), score_nT.cpu().numpy()

    @cached_property
    def _tensors(self) -> Any:
        import torch

        from ov_encoder.labels.tiles import biases

        where = self.device or ("cuda" if torch.cuda.is_available() else "cpu")
        centres_KD = torch.from_numpy(self.centres.centres_KD).to(where)
        return centres_KD, biases(centres_KD, self.centres.metric)

    @cached_property
    def _index(self) -> Any:
        try:
            import faiss
        except ImportError as e:
            raise missing_extra("faiss-cpu", "labels", f"assignment by {self.method!r}") from e
        k, dim = self.centres.centres_KD.shape
        kind = faiss.METRIC_INNER_PRODUCT if self.centres.metric == "cosine" else faiss.METRIC_L2
        index: Any
        if self.method == "hnsw":
            index = faiss.IndexHNSWFlat(dim, 32, kind)
            index.hnsw.efSearch = max(self.ef, self.top)
        else:
            cells = max(1, min(k // 39, round(4 * k**0.5)))  # faiss wants 39 rows to train a cell
            flat = faiss.IndexFlatIP(dim) if self.centres.metric == "cosine" else faiss.IndexFlatL2(dim)
            index = faiss.IndexIVFFlat(flat, dim, cells, kind)
            index.nprobe = min(self.probes, cells)
            index.cp.max_points_per_centroid = 64  # a quarter of faiss's own: cells need not be good, only even
            index.train(self.centres.centres_KD)
        index.add(self.centres.centres_KD)
        return index


def assign(
    features: FeatureShards,
    centres: Centres,
    folder: str | Path,
    *,
    top: int = 10,
    method: str = "exact",
    device: str | None = None,
    rows: int = READ_ROWS,
    progress: Callable[[int, int], None] | None = None,
) -> Path:
    """Write `FOLDER/labels.parquet`: the `top` nearest centres of every sample. Killed runs go on after their parts.

    Memory: centres (4 bytes x K x D, twice for an index) and one block of `rows`. The schema's metadata holds JSON
    under "ov_encoder": centres (fingerprint), metric, k, top, method, recall (on 1024 rows, for an index), rows.

    Args:
        features: what `open_features` gave.
        centres: of the same width.
        folder: made if missing; one run at a time.
        method: "exact", "hnsw" or "ivf" (see `Searcher`).
        progress: called with (samples done, samples) after each part.

    Raises:
        ValueError: a wrong argument, or the folder holds parts of another run (other centres, features or options).
        OvEncoderError: widths differ, a row cannot be used, a part is damaged. Names the file.
    """
    folder = Path(folder)
    if features.dim != centres.centres_KD.shape[1]:
        raise OvEncoderError(f"{features.folder}: vectors of {features.dim}, centres of {centres.centres_KD.shape[1]}")
    searcher = Searcher(centres, top=top, method=method, device=device)
    facts = {
        "format": "ov-encoder.labels/1",
        "centres": centres.fingerprint,
        "metric": centres.metric,
        "k": len(centres),
        "top": top,
        "method": method,
        "samples": len(features),
        "rows": rows,
    }
    with locked(folder):
        (folder / PARTS).mkdir(exist_ok=True)
        paths = []
        for number, low in enumerate(range(0, len(features), rows)):
            path = folder / PARTS / f"part-{number:05d}.parquet"
            high = min(low + rows, len(features))
            if not path.exists():
                write_part(path, features, low, high, searcher, facts)
            elif (there := labels_facts(path)) != facts:
                raise ValueError(f"{path}: of another run ({_difference(there, facts)}); use another folder")
            elif _read(path)["id"].combine_chunks() != features.ids(low, high):
                raise ValueError(f"{path}: holds other samples than rows {low}..{high - 1} of {features.folder}")
            paths.append(path)
            if progress:
                progress(high, len(features))
        if method != "exact":
            chosen_n = np.linspace(0, len(features) - 1, min(1024, len(features)), dtype=np.int64)
            facts = facts | {"recall": round(searcher.recall(_rows(features, chosen_n, centres.metric)), 4)}
        return join_parts(paths, folder / LABELS, facts)


def write_part(
    path: Path, features: FeatureShards, low: int, high: int, searcher: Searcher, facts: dict[str, Any]
) -> None:
    """Search rows low..high-1 and write them as one parquet file: whole, or not there; the same call writes the same
    bytes, in whatever process it runs."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    label_nT, similarity_nT = searcher.search(_rows(features, np.arange(low, high), searcher.centres.metric))
    columns = {
        "id": features.ids(low, high),
        "labels": _lists(label_nT, pa.int32()),
        "similarity": _lists(similarity_nT.astype(np.float16), pa.float16()),
    }
    out = io.BytesIO()
    pq.write_table(pa.table(columns).replace_schema_metadata({KEY: json.dumps(facts)}), out)
    write_atomically(path, out.getvalue())


def join_parts(paths: list[Path], path: Path, facts: dict[str, Any]) -> Path:
    """One parquet file of many, in order, a part in memory at a time; whole or not there."""
    import pyarrow.parquet as pq

    part = path.with_name(f".{path.name}{PART}")
    schema = pq.read_schema(paths[0]).with_metadata({KEY: json.dumps(facts)})
    with part.open("wb") as f:
        with pq.ParquetWriter(f, schema) as writer:
            for one in paths:
                writer.write_table(_read(one).replace_schema_metadata(schema.metadata))
        f.flush()
        os.fsync(f.fileno())
    part.replace(path)
    return path


def read_labels(path: str | Path, *, centres: Centres | None = None) -> tuple[list[str], np.ndarray, np.ndarray]:
    """ids, labels int32 [N, T] and similarities float16 [N, T] of a labels.parquet.

    Raises:
        OvEncoderError: cannot be read, or belongs to other centres than those given.
    """
    facts = labels_facts(path)
    if centres is not None and facts["centres"] != centres.fingerprint:
        raise OvEncoderError(f"{path}: labels of centres {facts['centres']}, not of {centres.fingerprint}")
    table = _read(Path(path))
    label_NT, similarity_NT = (
        table[name].combine_chunks().values.to_numpy(zero_copy_only=False).reshape(len(table), -1)
        for name in ("labels", "similarity")
    )
    return table["id"].to_pylist(), label_NT, similarity_NT


def labels_facts(path: str | Path) -> dict[str, Any]:
    """What a labels file says of itself (centres, metric, k, top, method, ...).

    Raises:
        OvEncoderError: cannot be read, or has no such facts.
    """
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        return json.loads((pq.read_schema(path).metadata or {})[KEY])
    except (pa.ArrowException, OSError, KeyError, ValueError) as e:
        raise OvEncoderError(f"{path}: cannot be read as labels; delete it to redo it: {e!r}") from e


def invert(label_NT: np.ndarray, k: int) -> tuple[np.ndarray, np.ndarray]:
    """The inverted list: samples of every label, ascending, as one array and where each label's begin.

    Returns:
        (rows int64 [N * T], starts int64 [k + 1]): samples of label c are rows[starts[c]:starts[c + 1]].

    Raises:
        ValueError: a label outside 0..k-1.
    """
    flat = label_NT.ravel()
    if len(flat) and not (flat.min() >= 0 and flat.max() < k):
        raise ValueError(f"labels must lie in 0..{k - 1}, found {flat.min()}..{flat.max()}")
    order = np.argsort(flat, kind="stable")  # stable: samples of a label stay ascending
    starts = np.concatenate([[0], np.cumsum(np.bincount(flat, minlength=k))])
    return order // max(1, label_NT.shape[1]), starts


def _rows(features: FeatureShards, rows_n: np.ndarray, metric: str) -> np.ndarray:
    x_nD = features.take(rows_n)
    return unit(x_nD, lambda i: features.name(int(rows_n[i]))) if metric == "cosine" else x_nD


def _lists(values_nT: np.ndarray, kind: pa.DataType) -> pa.Array:
    import pyarrow as pa

    return pa.FixedSizeListArray.from_arrays(pa.array(values_nT.ravel(), kind), values_nT.shape[1])


def _read(path: Path) -> pa.Table:
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        return pq.ParquetFile(path).read()
    except (pa.ArrowException, OSError) as e:
        raise OvEncoderError(f"{path}: cannot be read as labels; delete it to redo it: {e}") from e


def _difference(there: dict[str, Any], now: dict[str, Any]) -> str:
    changed = [name for name in {**there, **now} if there.get(name) != now.get(name)]
    return "; ".join(f"{name}: {there.get(name)!r} there, {now.get(name)!r} now" for name in changed)
