"""First centres of k-means: rows of the data, drawn or spread by k-means++. Both depend on the seed only.

Shapes: N = rows, K = centres, D = width.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from ov_encoder.errors import OvEncoderError, missing_extra
from ov_encoder.labels.shards import Vectors

INITS = ("sample", "k-means++")
SAMPLE_PER_CENTRE = 16  # rows that k-means++ looks at, for each centre it makes


def initial_rows(n: int, k: int, seed: int) -> np.ndarray:
    """k different rows of 0..n-1, int64, ascending: the centres that `init="sample"` starts from."""
    return np.sort(np.random.default_rng([seed, 0]).choice(n, k, replace=False, shuffle=False))


def first_centres(source: Vectors, k: int, *, init: str, metric: str, seed: int) -> np.ndarray:
    """Centres float32 [K, D] to start from; unit vectors for cosine.

    "k-means++" (Arthur and Vassilvitskii 2007) draws each centre with odds by its squared distance from those before
    it, among a sample of 16 rows a centre. It takes K steps over the sample: for a few thousand centres, not a million.
    """
    if init == "sample":
        return unit_rows(source, initial_rows(len(source), k, seed), metric)
    try:
        from sklearn.cluster import kmeans_plusplus
    except ImportError as e:
        raise missing_extra("scikit-learn", "labels", "init='k-means++'") from e
    rows_n = initial_rows(len(source), min(len(source), SAMPLE_PER_CENTRE * k), seed)
    x_nD = unit_rows(source, rows_n, metric)
    centres_KD, _ = kmeans_plusplus(x_nD, k, random_state=seed, n_local_trials=1)
    return np.ascontiguousarray(centres_KD, np.float32)


def unit_rows(source: Vectors, rows_n: np.ndarray, metric: str) -> np.ndarray:
    """The given rows, divided by their length for cosine."""
    x_nD = source.take(rows_n)
    return unit(x_nD, lambda i: source.name(int(rows_n[i]))) if metric == "cosine" else x_nD


def unit(x_nD: np.ndarray, name_of: Callable[[int], str]) -> np.ndarray:
    """Rows divided by their length, in place.

    Raises:
        OvEncoderError: a row is all zeros and has no direction (names it).
    """
    length_n = np.sqrt(np.einsum("nd,nd->n", x_nD, x_nD))
    if not length_n.all():
        row = int(np.flatnonzero(length_n == 0)[0])
        raise OvEncoderError(f"{name_of(row)}: all zeros, which has no direction; use metric 'l2' or leave it out")
    x_nD /= length_n[:, None]
    return x_nD
