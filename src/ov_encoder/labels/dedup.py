"""Duplicates: pairs of equal or near samples, joined into groups, of which one sample is kept.

Pairs come from content hashes, from embeddings (cosine at least t) or from perceptual hashes (Hamming distance at most
r), one word of 64 bits for an image and several for a video. They are joined as they are found, so memory is bounded by
the number of samples and not of pairs: 16 bytes a sample for the groups, at most 16 bytes x (N + 2^21) for pairs that
wait, and what each search states.

Shapes: N = samples, M = samples that have a video's hash, W = words of it, U = different hashes, P = pairs, n, m = rows
of blocks, D = width.
"""

from __future__ import annotations

import io
import itertools
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from ov_encoder.data.folder import write_atomically
from ov_encoder.errors import OvEncoderError, missing_extra
from ov_encoder.labels.kmeans_init import unit
from ov_encoder.labels.shards import FeatureShards, Vectors, blocks

Pairs = Iterable[tuple[np.ndarray, np.ndarray]]
TILE = (512, 4096)
WAITING = 1 << 21
VIDEO_RADIUS = 35  # bits of 576: recompressed copies lie at 4-22, smaller ones up to 46, other clips mostly above 58
_BITS = np.array([bin(i).count("1") for i in range(1 << 16)], np.uint8)


@dataclass(frozen=True)
class Duplicates:
    """ids: N samples. keep_N: int64, the row that stands for each sample (its own row where it is kept)."""

    ids: list[str]
    keep_N: np.ndarray

    @property
    def kept(self) -> list[str]:
        """The ids that stay, in order."""
        return [self.ids[row] for row in np.flatnonzero(self.keep_N == np.arange(len(self.ids)))]

    def save(self, path: str | Path) -> None:
        """Write parquet, one row a sample: id, representative (the id that stands for it), kept (bool)."""
        import pyarrow as pa
        import pyarrow.parquet as pq

        ids = pa.array(self.ids, pa.string())
        kept_N = self.keep_N == np.arange(len(self.ids))
        out = io.BytesIO()
        table = {"id": ids, "representative": ids.take(pa.array(self.keep_N)), "kept": pa.array(kept_N)}
        pq.write_table(pa.table(table), out)
        Path(path).parent.mkdir(parents=True, exist_ok=True)
        write_atomically(Path(path), out.getvalue())


def load_duplicates(path: str | Path) -> Duplicates:
    """Read what `Duplicates.save` wrote.

    Raises:
        OvEncoderError: cannot be read, or a representative is not among the ids.
    """
    import pyarrow as pa
    import pyarrow.compute as pc
    import pyarrow.parquet as pq

    try:
        table = pq.ParquetFile(path).read(columns=["id", "representative"]).combine_chunks()
    except (pa.ArrowException, OSError) as e:
        raise OvEncoderError(f"{path}: cannot be read as a map of duplicates: {e}") from e
    keep = pc.index_in(table["representative"], table["id"])
    if keep.null_count:
        row = pc.index(pc.is_null(keep), True).as_py()
        raise OvEncoderError(f"{path}, row {row}: representative {table['representative'][row]} is not among the ids")
    return Duplicates(table["id"].to_pylist(), keep.to_numpy().astype(np.int64))


def find_duplicates(
    ids: Sequence[str],
    *,
    content: Sequence[str] | None = None,
    hashes_N: np.ndarray | None = None,
    radius: int = 3,
    video_hashes: Sequence[bytes | None] | None = None,
    video_radius: int = VIDEO_RADIUS,
    features: FeatureShards | None = None,
    cosine: float = 0.95,
    method: str = "exact",
    quality_N: np.ndarray | None = None,
) -> Duplicates:
    """Groups of duplicates by any of four signs; a chain of near samples is one group (connected components).

    Of each group the sample of highest `quality_N` is kept, of equal ones the first.

    Args:
        ids: N ids, each once.
        content: hash of the bytes of each sample; equal ones are duplicates. "" stands for unknown.
        hashes_N: uint64 perceptual hashes; pairs at most `radius` bits apart are duplicates.
        video_hashes: perceptual hashes of several words (see `phash.video_hash`), None for samples without; pairs at
            most `video_radius` bits apart in all are duplicates.
        features: embeddings of some or all samples (found by id); pairs with cosine of at least `cosine` are
            duplicates. Searched by tiles ("exact": N^2 D multiplications) or in cells ("ivf": see `near_pairs`).
        quality_N: for example pixels or bytes; None: the first is kept.

    Raises:
        ValueError: lengths differ, an id stands twice, a threshold outside its range.
        OvEncoderError: `features` has a sample that is not among the ids, or a row that cannot be used.
    """
    n = len(ids)
    if len(set(ids)) != n:
        raise ValueError("ids must be different from each other")
    signs = (("content", content), ("hashes_N", hashes_N), ("video_hashes", video_hashes), ("quality_N", quality_N))
    for name, given in signs:
        if given is not None and len(given) != n:
            raise ValueError(f"{len(given)} {name} for {n} ids")
    found: list[Pairs] = []
    if content is not None:
        found.append(equal_pairs(content))
    if hashes_N is not None:
        found.append(hash_pairs(hashes_N, radius))
    if video_hashes is not None and any(given is not None for given in video_hashes):
        row_M = np.array([row for row, given in enumerate(video_hashes) if given is not None])
        words_MW = np.array([np.frombuffer(given, ">u8") for given in video_hashes if given is not None], np.uint64)
        found.append((row_M[left_P], row_M[right_P]) for left_P, right_P in word_pairs(words_MW, video_radius))
    if features is not None:
        found.append(_renumbered(near_pairs(features, cosine, method=method), features, ids))
    return Duplicates(list(ids), representatives(join(n, (pair for pairs in found for pair in pairs)), quality_N))


def join(n: int, pairs: Pairs) -> np.ndarray:
    """Union of all pairs among 0..n-1: for each the lowest member of its group, int64 [n].

    Pairs are merged whenever as many as n + 2^21 wait. One step is scipy's connected components.
    """
    root_N = np.arange(n)
    waiting: list[tuple[np.ndarray, np.ndarray]] = []
    count = 0
    for left_P, right_P in pairs:
        waiting.append((left_P, right_P))
        count += len(left_P)
        if count >= n + WAITING:
            root_N, waiting, count = _merge(root_N, waiting), [], 0
    return _merge(root_N, waiting)


def representatives(root_N: np.ndarray, quality_N: np.ndarray | None = None) -> np.ndarray:
    """For each sample the row that stands for its group: highest quality, then lowest row. int64 [N]."""
    if quality_N is None:
        return root_N
    order = np.lexsort((np.arange(len(root_N)), -np.asarray(quality_N, np.float64), root_N))
    first = np.flatnonzero(np.diff(root_N[order], prepend=-1))
    best_N = np.empty(len(root_N), np.int64)
    best_N[root_N[order[first]]] = order[first]
    return best_N[root_N]


def equal_pairs(content: Sequence[str]) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Each sample with the first of the same content ("" equals nothing)."""
    first: dict[str, int] = {}
    pairs = [(first.setdefault(text, row), row) for row, text in enumerate(content) if text]
    left_P, right_P = np.array(pairs, np.int64).reshape(-1, 2).T
    yield left_P[left_P != right_P], right_P[left_P != right_P]


def hash_pairs(hashes_N: np.ndarray, radius: int) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """All pairs of uint64 hashes at most `radius` bits apart (equal hashes as a star about their first).

    Exact by the pigeonhole: of radius + 1 bands of bits, one is equal in both. Hashes are sorted by each band in turn
    and compared with their neighbours of the same band. Memory: about 60 bytes a sample.

    Raises:
        ValueError: not uint64, or radius outside 0..15.
    """
    if hashes_N.dtype != np.uint64 or hashes_N.ndim != 1:
        raise ValueError(f"hashes must be uint64 [N], got {hashes_N.dtype} {hashes_N.shape}")
    if not 0 <= radius <= 15:
        raise ValueError(f"radius must be 0..15 bits, got {radius}")
    values_U, first_U, which_N = np.unique(hashes_N, return_index=True, return_inverse=True)
    star_N = first_U[which_N]
    same = star_N != np.arange(len(hashes_N))
    yield star_N[same], np.flatnonzero(same)
    if radius == 0:
        return
    for left_P, right_P in _same_band(values_U, radius + 1):
        near = _hamming(values_U[left_P], values_U[right_P]) <= radius
        if near.any():
            yield _ordered(first_U[left_P[near]], first_U[right_P[near]])


def word_pairs(hashes_MW: np.ndarray, radius: int) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """All pairs of uint64 hashes of W words [M, W] at most `radius` bits apart in all (equal ones as a star).

    Exact by the pigeonhole twice: of W words one differs in at most radius // W bits, so one of its radius // W + 1
    bands is equal in both. Memory: about 60 + 16 W bytes a sample; time grows with the pairs that share a band.

    Raises:
        ValueError: not uint64 [M, W], or radius outside 0..16 W - 1.
    """
    if hashes_MW.dtype != np.uint64 or hashes_MW.ndim != 2:
        raise ValueError(f"hashes must be uint64 [M, W], got {hashes_MW.dtype} {hashes_MW.shape}")
    W = hashes_MW.shape[1]
    if not 0 <= radius < 16 * W:
        raise ValueError(f"radius must be 0..{16 * W - 1} bits for {W} words, got {radius}")
    values_UW, first_U, which_M = np.unique(hashes_MW, axis=0, return_index=True, return_inverse=True)
    star_M = first_U[which_M]
    same = star_M != np.arange(len(hashes_MW))
    yield star_M[same], np.flatnonzero(same)
    for w in range(W):
        for left_P, right_P in _same_band(values_UW[:, w], radius // W + 1):
            bits_P = _hamming(values_UW[left_P].ravel(), values_UW[right_P].ravel()).reshape(-1, W).sum(1)
            near = bits_P <= radius
            if near.any():
                yield _ordered(first_U[left_P[near]], first_U[right_P[near]])


def _same_band(values_U: np.ndarray, bands: int) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Pairs of rows whose words are equal in one of `bands` runs of bits: sorted by each, compared with neighbours."""
    cuts = [64 * i // bands for i in range(bands + 1)]
    for low, high in itertools.pairwise(cuts):
        band_U = (values_U >> np.uint64(low)) & np.uint64((1 << (high - low)) - 1)
        order = np.argsort(band_U, kind="stable")
        band_U = band_U[order]
        at = np.arange(len(order))
        for step in range(1, len(order)):
            at = at[: np.searchsorted(at, len(order) - step)]
            at = at[band_U[at] == band_U[at + step]]
            if not len(at):
                break
            yield order[at], order[at + step]


def _ordered(left_P: np.ndarray, right_P: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    return np.minimum(left_P, right_P), np.maximum(left_P, right_P)


def near_pairs(source: Vectors, threshold: float, *, method: str = "exact") -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Pairs of rows (lower, higher) whose cosine is at least `threshold`, in float32.

    "exact": every row against every later one, by tiles; memory is two blocks of rows (4 bytes x 4 x 32,768 x D) and
    a tile. "ivf": faiss, all rows in memory (4 bytes x N x D), each compared with the 16 nearest of sqrt(N) cells: may
    miss pairs that lie across the border of cells.

    Raises:
        ValueError: threshold outside (0, 1], or an unknown method.
        OvEncoderError: a row is not finite or all zeros (names file and row).
    """
    if not 0 < threshold <= 1:
        raise ValueError(f"cosine threshold must be in (0, 1], got {threshold}")
    if method not in ("exact", "ivf"):
        raise ValueError(f"method must be exact or ivf, got {method!r}")
    return _near_in_cells(source, threshold) if method == "ivf" else _near_by_tiles(source, threshold)


def _near_by_tiles(source: Vectors, threshold: float) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    for low, x_nD in _unit_blocks(source, 0):
        for other, y_mD in _unit_blocks(source, low):
            for i in range(0, len(x_nD), TILE[0]):
                for j in range(0, len(y_mD), TILE[1]):
                    if other + j + TILE[1] <= low + i:
                        continue  # all of these rows come before ours: seen the other way round
                    left_P, right_P = np.nonzero(x_nD[i : i + TILE[0]] @ y_mD[j : j + TILE[1]].T >= threshold)
                    left_P, right_P = left_P + (low + i), right_P + (other + j)
                    later = left_P < right_P
                    if later.any():
                        yield left_P[later], right_P[later]


def _near_in_cells(source: Vectors, threshold: float) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    try:
        import faiss
    except ImportError as e:
        raise missing_extra("faiss-cpu", "labels", "method='ivf'") from e
    n = len(source)
    cells = max(1, min(n // 39, round(n**0.5)))  # faiss wants 39 rows to train a cell
    flat = faiss.IndexFlatIP(source.dim)
    index: Any = faiss.IndexIVFFlat(flat, source.dim, cells, faiss.METRIC_INNER_PRODUCT)
    index.nprobe = min(16, cells)
    rows_n = np.linspace(0, n - 1, min(n, 39 * cells), dtype=np.int64)
    index.train(unit(source.take(rows_n), lambda i: source.name(int(rows_n[i]))))
    for _, x_nD in _unit_blocks(source, 0):
        index.add(x_nD)
    below = float(np.nextafter(np.float32(threshold), np.float32(0)))  # faiss keeps what is above, not equal
    for low, x_nD in _unit_blocks(source, 0):
        for i in range(0, len(x_nD), 256):
            limits, _, right_P = index.range_search(x_nD[i : i + 256], below)
            left_P = np.repeat(np.arange(len(limits) - 1), np.diff(limits.astype(np.int64))) + (low + i)
            later = left_P < right_P
            yield left_P[later], right_P[later]


def _unit_blocks(source: Vectors, start: int) -> Iterator[tuple[int, np.ndarray]]:
    for low, x_nD in blocks(source, start=start):
        yield low, unit(x_nD, lambda i, low=low: source.name(low + i))  # type: ignore[misc]


def _renumbered(pairs: Pairs, features: FeatureShards, ids: Sequence[str]) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Pairs of rows of `features` as pairs of rows of `ids`."""
    import pyarrow as pa
    import pyarrow.compute as pc

    at = pc.index_in(features.ids(), pa.array(ids, pa.string()))
    if at.null_count:
        row = pc.index(pc.is_null(at), True).as_py()
        raise OvEncoderError(f"{features.name(row)}: not among the {len(ids)} ids")
    row_of = at.to_numpy().astype(np.int64)
    for left_P, right_P in pairs:
        yield row_of[left_P], row_of[right_P]


def _merge(root_N: np.ndarray, waiting: list[tuple[np.ndarray, np.ndarray]]) -> np.ndarray:
    try:
        from scipy.sparse import coo_array
        from scipy.sparse.csgraph import connected_components
    except ImportError as e:
        raise missing_extra("scipy", "labels", "joining duplicates") from e
    if not waiting:
        return root_N
    n = len(root_N)
    left_P, right_P = (root_N[np.concatenate([pair[side] for pair in waiting])] for side in (0, 1))
    graph = coo_array((np.ones(len(left_P), np.bool_), (left_P, right_P)), shape=(n, n))
    count, group_N = connected_components(graph, directed=False)
    lowest = np.full(count, n, np.int64)
    np.minimum.at(lowest, group_N, np.arange(n))
    return lowest[group_N][root_N]


def _hamming(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    return _BITS[(a ^ b).view(np.uint16)].reshape(-1, 4).sum(1, dtype=np.int64)
