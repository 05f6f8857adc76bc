"""k-means equals a plain numpy Lloyd, on one process or several, killed or not.

Shapes: N = rows, K = centres, D = width.
"""

from pathlib import Path

import numpy as np
import pytest
import torch
import torch.multiprocessing as mp

from ov_encoder.errors import OvEncoderError
from ov_encoder.labels.kmeans import fit_kmeans, load_centres
from ov_encoder.labels.kmeans_init import initial_rows
from ov_encoder.labels.kmeans_lloyd import CHECKPOINT
from ov_encoder.labels.shards import open_features, write_shard
from tests.labels.shard_files import blobs, shards_of

X = blobs(2000, 12, 15)


@pytest.fixture(autouse=True)
def _one_thread():
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def plain_lloyd(x_ND: np.ndarray, start_KD: np.ndarray, metric: str, iterations: int) -> tuple[np.ndarray, list[float]]:
    """Lloyd as in a textbook, float64, with the whole N x K matrix."""
    x_ND, centres_KD = x_ND.astype(np.float64), start_KD.astype(np.float64)
    if metric == "cosine":
        x_ND = x_ND / np.linalg.norm(x_ND, axis=1, keepdims=True)
    inertia = []
    for _ in range(iterations):
        distance_NK = ((x_ND[:, None] - centres_KD[None]) ** 2).sum(2)
        label_N = distance_NK.argmin(1)
        inertia.append(distance_NK.min(1).mean())
        centres_KD = np.stack([x_ND[label_N == c].mean(0) for c in range(len(centres_KD))])
        if metric == "cosine":
            centres_KD /= np.linalg.norm(centres_KD, axis=1, keepdims=True)
    return centres_KD, inertia


@pytest.mark.parametrize("metric", ["cosine", "l2"])
@pytest.mark.parametrize("engine", ["torch", "faiss"])
def test_equals_plain_lloyd(tmp_path: Path, metric: str, engine: str) -> None:
    start_KD = X[initial_rows(len(X), 20, seed=3)]
    if metric == "cosine":
        start_KD = start_KD / np.linalg.norm(start_KD, axis=1, keepdims=True)
    expected_KD, inertia = plain_lloyd(X, start_KD, metric, 8)
    features = shards_of(tmp_path, X, rows=333)
    found = fit_kmeans(features, k=20, metric=metric, iterations=8, seed=3, engine=engine, device="cpu")
    np.testing.assert_allclose(found.centres_KD, expected_KD, atol=2e-5)
    np.testing.assert_allclose([h["inertia"] for h in found.history], inertia, rtol=1e-4)
    assert found.sizes_K.sum() == len(X) and found.centres_KD.dtype == np.float32


def test_threads_shards_and_arrays_agree(tmp_path: Path) -> None:
    alone = fit_kmeans(X, k=30, iterations=5, device="cpu")
    torch.set_num_threads(3)
    shared = fit_kmeans(shards_of(tmp_path, X, rows=100), k=30, iterations=5, device="cpu")
    np.testing.assert_allclose(alone.centres_KD, shared.centres_KD, atol=1e-6)
    assert np.array_equal(alone.sizes_K, shared.sizes_K)


@pytest.mark.parametrize("batch", [None, 300])
def test_resume_equals_uninterrupted(tmp_path: Path, batch: int | None) -> None:
    def fit(folder: str, iterations: int, progress=None):
        return fit_kmeans(
            X, k=40, iterations=iterations, batch=batch, checkpoint=tmp_path / folder, progress=progress, device="cpu"
        )

    class KilledError(Exception):
        pass

    def kill(record: dict) -> None:
        if record["iteration"] == 3:
            raise KilledError

    with pytest.raises(KilledError):
        fit("killed", 9, kill)
    seen: list[int] = []
    resumed = fit("killed", 9, lambda record: seen.append(record["iteration"]))
    straight = fit("straight", 9)
    assert seen == [4, 5, 6, 7, 8]
    assert resumed.fingerprint == straight.fingerprint and np.array_equal(resumed.sizes_K, straight.sizes_K)
    assert [h["inertia"] for h in resumed.history] == [h["inertia"] for h in straight.history]
    assert fit("killed", 9, kill).fingerprint == resumed.fingerprint  # finished: nothing is done again


def test_checkpoint_of_another_run(tmp_path: Path) -> None:
    fit_kmeans(X, k=5, iterations=1, checkpoint=tmp_path, device="cpu")
    with pytest.raises(ValueError, match=r"k: 5 there, 6 now; seed: 0 there, 1 now"):
        fit_kmeans(X, k=6, iterations=1, seed=1, checkpoint=tmp_path, device="cpu")
    path = tmp_path / CHECKPOINT
    path.write_bytes(path.read_bytes()[:200])
    with pytest.raises(OvEncoderError, match="cannot be read as a k-means checkpoint; delete it"):
        fit_kmeans(X, k=5, iterations=1, checkpoint=tmp_path, device="cpu")


def _rank(rank: int, folder: Path) -> None:
    """Three processes cluster together, then two of them, in full and in mini-batches."""
    torch.set_num_threads(1)
    features = open_features(folder / "features")
    for ranks, batch in ((3, None), (2, None), (2, 301)):
        name = f"{ranks}-{batch}"
        if rank >= ranks:
            continue
        torch.distributed.init_process_group(
            "gloo", init_method=f"file://{folder}/meet-{name}", rank=rank, world_size=ranks
        )
        found = fit_kmeans(
            features, k=40, metric="l2", iterations=6, batch=batch, device="cpu", checkpoint=folder / name
        )
        found.save(folder / f"{name}-{rank}.npz")
        torch.distributed.destroy_process_group()


def test_ranks_equal_one_process(tmp_path: Path) -> None:
    features = shards_of(tmp_path / "features", X, rows=170)
    mp.spawn(_rank, (tmp_path,), nprocs=3)
    for ranks, batch in ((3, None), (2, None), (2, 301)):
        alone = fit_kmeans(features, k=40, metric="l2", iterations=6, batch=batch, device="cpu")
        found = [load_centres(tmp_path / f"{ranks}-{batch}-{rank}.npz") for rank in range(ranks)]
        assert len({f.fingerprint for f in found}) == 1
        np.testing.assert_allclose(found[0].centres_KD, alone.centres_KD, atol=1e-6)
        assert np.array_equal(labels(found[0].centres_KD), labels(alone.centres_KD))


def labels(centres_KD: np.ndarray) -> np.ndarray:
    return ((X[:, None] - centres_KD[None]) ** 2).sum(2).argmin(1)


@pytest.mark.parametrize("metric", ["cosine", "l2"])
def test_empty_clusters_are_given_half_of_the_largest(metric: str) -> None:
    start_KD = np.concatenate([X[:15], -100 * np.ones((5, 12), np.float32)])  # five where nothing lies
    found = fit_kmeans(X, k=20, metric=metric, init=start_KD, iterations=8, device="cpu")
    assert found.history[0]["empty"] >= 4
    assert (np.bincount(labels(found.centres_KD), minlength=20) > 0).all() or metric == "cosine"
    assert found.history[-1]["empty"] == 0 and (found.sizes_K > 0).all()
    again = fit_kmeans(X, k=20, metric=metric, init=start_KD, iterations=8, device="cpu")
    assert again.fingerprint == found.fingerprint


def test_identical_rows_and_k_equal_n() -> None:
    same = np.ones((10, 4), np.float32)
    assert np.isfinite(fit_kmeans(same, k=5, metric="l2", iterations=3, device="cpu").centres_KD).all()
    every = fit_kmeans(X[:30], k=30, metric="l2", iterations=2, device="cpu")
    assert every.history[-1]["inertia"] < 1e-5


def inertia(centres_KD: np.ndarray) -> float:
    return float(((X[:, None] - centres_KD[None]) ** 2).sum(2).min(1).mean())


def test_mini_batches_come_close() -> None:
    start_KD = X[:15]  # one row of each blob
    full, mini = (
        inertia(fit_kmeans(X, k=15, metric="l2", init=start_KD, iterations=20, batch=b, device="cpu").centres_KD)
        for b in (None, 400)
    )
    assert full <= mini < 1.01 * full < inertia(start_KD)


def test_spread_starts_are_better() -> None:
    first = {
        init: np.mean([fit_kmeans(X, k=15, init=init, iterations=1, seed=s).history[0]["inertia"] for s in range(5)])
        for init in ("sample", "k-means++")
    }
    assert first["k-means++"] < 0.8 * first["sample"]


def test_tolerance_stops_early() -> None:
    found = fit_kmeans(X, k=15, iterations=100, tolerance=1e-3, device="cpu")
    assert 2 <= len(found.history) < 100
    before, last = (h["inertia"] for h in found.history[-2:])
    assert before - last < 1e-3 * before


def test_bad_rows_are_named(tmp_path: Path) -> None:
    features = shards_of(tmp_path, X, rows=1000)
    bad = X[1000:].copy()
    bad[7] = 0
    write_shard(tmp_path, 1, [f"s{1000 + i}" for i in range(1000)], bad)
    with pytest.raises(OvEncoderError, match=r"00001.npy, row 7 \(sample 's1007'\): all zeros"):
        fit_kmeans(features, k=5, iterations=1, device="cpu")
    bad[7, 3] = np.inf
    np.save(tmp_path / "features-00001.npy", bad)
    with pytest.raises(OvEncoderError, match=r"00001.npy, row 7 \(sample 's1007'\): holds inf"):
        fit_kmeans(features, k=5, iterations=1, device="cpu")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"k": 2001}, r"k must be 1..2000 \(the number of rows\), got 2001"),
        ({"k": 0}, "k must be 1"),
        ({"k": 5, "metric": "dot"}, "metric must be one of cosine, l2"),
        ({"k": 5, "engine": "cuml"}, "engine must be one of auto, torch, faiss"),
        ({"k": 5, "init": "zeros"}, r"init must be sample, k-means\+\+ or an array"),
        ({"k": 5, "init": X[:4]}, r"init must be a float array \(5, 12\)"),
        ({"k": 5, "batch": 0}, "batch must be"),
        ({"k": 5, "iterations": 0}, "iterations must be"),
        ({"k": 5, "tolerance": -1.0}, "tolerance must be"),
        ({"k": 5, "engine": "faiss", "batch": 10}, "engine 'faiss' cannot do mini-batches"),
        ({"k": 5, "engine": "faiss", "checkpoint": "x"}, "engine 'faiss' cannot do checkpoints"),
    ],
)
def test_wrong_arguments(options: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        fit_kmeans(X, **options)


def test_centres_file(tmp_path: Path) -> None:
    found = fit_kmeans(X, k=7, iterations=2, device="cpu")
    path = tmp_path / "centres.npz"
    found.save(path)
    read = load_centres(path)
    assert np.array_equal(read.centres_KD, found.centres_KD) and read.history == found.history
    path.write_bytes(path.read_bytes()[:-100])
    with pytest.raises(OvEncoderError, match="cannot be read as k-means centres"):
        load_centres(path)
