"""Small feature folders for tests."""

from pathlib import Path

import numpy as np

from ov_encoder.labels.shards import FeatureShards, open_features, write_shard


def blobs(n: int, dim: int, clusters: int, *, spread: float = 0.3, seed: int = 0) -> np.ndarray:
    """float32 [n, dim] about `clusters` random centres; row i belongs to cluster i % clusters."""
    rng = np.random.default_rng(seed)
    centres = rng.standard_normal((clusters, dim))
    return (centres[np.arange(n) % clusters] + spread * rng.standard_normal((n, dim))).astype(np.float32)


def shards_of(folder: Path, x_ND: np.ndarray, *, rows: int) -> FeatureShards:
    """The array as shards of `rows`, samples named s0, s1, ..."""
    for number, low in enumerate(range(0, len(x_ND), rows)):
        part = x_ND[low : low + rows]
        write_shard(folder, number, [f"s{low + i}" for i in range(len(part))], part)
    return open_features(folder)
