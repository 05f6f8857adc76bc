"""Hierarchical k-means: coarse clusters first, then fine ones inside each. For k in the millions on modest hardware.

A flat iteration compares each of N rows with k centres; here with sqrt(k) coarse ones and then the sqrt(k) or so fine
ones of its own cluster: sqrt(k) / 2 times less work (700 times for 2 M). What it costs in inertia is measured in
benchmarks/kmeans.py and told in docs/labels.md.

Shapes: N = rows, K = all fine centres, C = coarse centres, D = width.
"""

from __future__ import annotations

import io
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from ov_encoder.data.folder import write_atomically
from ov_encoder.labels.kmeans import Centres, fit_kmeans, load_centres
from ov_encoder.labels.kmeans_init import unit
from ov_encoder.labels.shards import Vectors, as_vectors, blocks


@dataclass(frozen=True)
class Subset:
    """Some rows of other vectors, behind the same calls."""

    source: Vectors
    rows_N: np.ndarray

    @property
    def dim(self) -> int:
        """D."""
        return self.source.dim

    def __len__(self) -> int:
        return len(self.rows_N)

    def read(self, start: int, stop: int) -> np.ndarray:
        """See `Vectors.read`."""
        return self.source.take(self.rows_N[start:stop])

    def take(self, rows_n: np.ndarray) -> np.ndarray:
        """See `Vectors.take`."""
        return self.source.take(self.rows_N[rows_n])

    def name(self, row: int) -> str:
        """Where the row lies in the whole."""
        return self.source.name(int(self.rows_N[row]))


def fit_tree(
    features: Vectors | np.ndarray,
    *,
    k: int,
    coarse: int | None = None,
    metric: str = "cosine",
    init: str = "sample",
    iterations: int = 20,
    seed: int = 0,
    engine: str = "auto",
    device: str | None = None,
    checkpoint: str | Path | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> Centres:
    """k centres in two levels: `coarse` clusters (default: about sqrt(k)), each cut into fine ones in proportion to
    its size. Runs in one process; the fine clusterings are independent of each other.

    Arguments as `fit_kmeans`; with `checkpoint` each finished fine clustering is kept, and the same call goes on.
    `progress` is called with (coarse clusters done, coarse clusters). Memory: 8 bytes x N for the coarse labels, and
    what `fit_kmeans` needs for `coarse` centres. `Centres.parents_K` tells the coarse cluster of each fine one;
    `Centres.history` is that of the coarse level.

    Raises:
        ValueError: as `fit_kmeans`; coarse outside 1..k.
        OvEncoderError: as `fit_kmeans`.
    """
    source = as_vectors(features)
    coarse = max(1, round(k**0.5)) if coarse is None else coarse
    if not 1 <= coarse <= k:
        raise ValueError(f"coarse must be 1..{k} (k), got {coarse}")
    if k > len(source):
        raise ValueError(f"k must be 1..{len(source)} (the number of rows), got {k}")
    folder = Path(checkpoint) if checkpoint else None

    def fit(rows: Vectors, count: int, salt: int, place: Path | None) -> Centres:
        return fit_kmeans(
            rows, k=count, metric=metric, init=init, iterations=iterations, seed=seed + salt, engine=engine,
            device=device, checkpoint=place,
        )  # fmt: skip

    top = fit(source, coarse, 0, folder / "coarse" if folder else None)
    label_N = _labels(source, top, device, folder / "coarse" / f"labels-{top.fingerprint}.npy" if folder else None)
    sizes_C = np.bincount(label_N, minlength=coarse)
    fine_C = share(k, sizes_C)
    order = np.argsort(label_N, kind="stable")
    ends_C = np.cumsum(sizes_C)
    found: list[Centres] = []
    for c in np.flatnonzero(fine_C):
        rows = Subset(source, order[ends_C[c] - sizes_C[c] : ends_C[c]])
        path = folder / "fine" / f"{top.fingerprint}-{c:06d}-{fine_C[c]}.npz" if folder else None
        if path and path.exists():
            found.append(load_centres(path))
        else:
            found.append(fit(rows, int(fine_C[c]), 1 + int(c), None))
            if path:
                found[-1].save(path)
        if progress:
            progress(len(found), int(np.count_nonzero(fine_C)))
    return Centres(
        np.concatenate([f.centres_KD for f in found]),
        metric,
        np.concatenate([f.sizes_K for f in found]),
        top.history,
        np.repeat(np.arange(coarse, dtype=np.int32), fine_C),
    )


def share(k: int, sizes_C: np.ndarray) -> np.ndarray:
    """k centres over clusters in proportion to their sizes, int64 [C]: at most one a member, at least one where there
    are members, largest remainders first; the sum is k.

    Raises:
        ValueError: k above the number of members, or below the number of clusters that have any.
    """
    if not np.count_nonzero(sizes_C) <= k <= sizes_C.sum():
        raise ValueError(f"k must be {np.count_nonzero(sizes_C)}..{sizes_C.sum()} for these clusters, got {k}")
    exact_C = k * sizes_C / sizes_C.sum()
    fine_C = np.minimum(np.maximum(np.floor(exact_C).astype(np.int64), sizes_C > 0), sizes_C)
    while missing := k - int(fine_C.sum()):
        step = 1 if missing > 0 else -1
        can = (fine_C < sizes_C) if step > 0 else (fine_C > 1)
        want_C = np.where(can, step * (exact_C - fine_C), -np.inf)
        chosen = np.argsort(-want_C, kind="stable")[: min(abs(missing), int(can.sum()))]
        fine_C[chosen] += step
    return fine_C


def _labels(source: Vectors, centres: Centres, device: str | None, path: Path | None) -> np.ndarray:
    """Nearest centre of every row, int64 [N]; kept at `path`."""
    import torch

    from ov_encoder.labels.tiles import biases, nearest

    if path and path.exists():
        return np.load(path)
    where = device or ("cuda" if torch.cuda.is_available() else "cpu")
    centres_KD = torch.from_numpy(centres.centres_KD).to(where)
    bias_K = biases(centres_KD, centres.metric)
    label_N = np.empty(len(source), np.int64)
    for low, x_nD in blocks(source):
        if centres.metric == "cosine":
            unit(x_nD, lambda i, low=low: source.name(low + i))  # type: ignore[misc]
        _, label_n1 = nearest(torch.from_numpy(x_nD).to(where), centres_KD, bias_K)
        label_N[low : low + len(x_nD)] = label_n1[:, 0].cpu().numpy()
    if path:
        out = io.BytesIO()
        np.save(out, label_N)
        write_atomically(path, out.getvalue())
    return label_N
