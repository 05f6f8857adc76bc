"""k-means by faiss, for rows that fit in memory. Called through `kmeans.fit_kmeans(engine="faiss")`.

Shapes: N = rows, K = centres, D = width.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from ov_encoder.errors import missing_extra
from ov_encoder.labels.kmeans import Centres, Progress
from ov_encoder.labels.kmeans_init import first_centres, unit
from ov_encoder.labels.shards import Vectors

SUPER_K, SUPER_DIM = 1024, 128  # faiss's own lower bounds for SuperKMeans


def fit_faiss(
    source: Vectors,
    *,
    k: int,
    metric: str,
    init: str | np.ndarray,
    iterations: int,
    seed: int,
    progress: Progress | None,
) -> Centres:
    """All rows in memory (4 bytes x N x D), full Lloyd; arguments and result as `fit_kmeans`.

    L2 with init="sample", k >= 1024 and D >= 128 goes through SuperKMeans (pruned by partial distances; it draws its
    own first centres from the seed); everything else through `faiss.Kmeans` from the same first centres as torch.
    """
    try:
        import faiss
    except ImportError as e:
        raise missing_extra("faiss-cpu", "labels", "engine='faiss'") from e
    lib: Any = faiss  # SuperKMeans is younger than the stubs
    x_ND = source.read(0, len(source))
    if metric == "cosine":
        unit(x_ND, source.name)
    is_super = hasattr(lib, "SuperKMeans") and metric == "l2" and k >= SUPER_K and source.dim >= SUPER_DIM
    if is_super and isinstance(init, str) and init == "sample":
        parameters = lib.SuperKMeansParameters()
        parameters.niter, parameters.seed, parameters.max_points_per_centroid = iterations, seed, len(x_ND)
        clustering = lib.SuperKMeans(source.dim, k, parameters)
        clustering.train(x_ND)
        centres_KD = lib.vector_to_array(clustering.centroids).reshape(k, source.dim)
        stats = clustering.iteration_stats
        records = [(stats.at(i).obj, stats.at(i).time, stats.at(i).nsplit) for i in range(stats.size())]
    else:
        start_KD = (
            init if isinstance(init, np.ndarray) else first_centres(source, k, init=init, metric=metric, seed=seed)
        )
        clustering = lib.Kmeans(
            source.dim, k, niter=iterations, seed=seed, spherical=metric == "cosine",
            max_points_per_centroid=len(x_ND), min_points_per_centroid=1,
        )  # fmt: skip
        clustering.train(x_ND, init_centroids=np.ascontiguousarray(start_KD, np.float32))
        centres_KD = clustering.centroids
        stats = clustering.iteration_stats
        times = [0.0, *(s["time"] for s in stats)]  # since the start, unlike those of SuperKMeans
        records = [(s["obj"], t - before, s["nsplit"]) for s, t, before in zip(stats, times[1:], times, strict=False)]
    history = []
    for number, (total, seconds, empty) in enumerate(records):
        inertia = total / len(x_ND) if metric == "l2" else 2 - 2 * total / len(x_ND)
        history.append({"iteration": number, "inertia": inertia, "empty": empty, "seconds": seconds})
        if progress:
            progress(history[-1])
    index = faiss.IndexFlatIP(source.dim) if metric == "cosine" else faiss.IndexFlatL2(source.dim)
    index.add(np.ascontiguousarray(centres_KD))
    sizes_K = np.bincount(index.search(x_ND, 1)[1][:, 0], minlength=k)
    return Centres(np.array(centres_KD, np.float32), metric, sizes_K, history)
