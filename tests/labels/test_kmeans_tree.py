"""Two levels cost little inertia on data that has clusters, and a killed run goes on."""

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ov_encoder.errors import OvEncoderError
from ov_encoder.labels.kmeans import fit_kmeans
from ov_encoder.labels.kmeans_tree import fit_tree, share
from tests.labels.shard_files import blobs, shards_of

X = blobs(3000, 10, 40)


def inertia(centres_KD: np.ndarray, x_ND: np.ndarray = X) -> float:
    return float(((x_ND[:, None] - centres_KD[None]) ** 2).sum(2).min(1).mean())


def test_inertia_is_near_that_of_flat() -> None:
    flat = fit_kmeans(X, k=100, metric="l2", iterations=15, device="cpu")
    tree = fit_tree(X, k=100, metric="l2", iterations=15, device="cpu")
    assert tree.centres_KD.shape == flat.centres_KD.shape and tree.sizes_K.sum() == len(X)
    assert inertia(tree.centres_KD) < 1.1 * inertia(flat.centres_KD)
    assert tree.parents_K is not None and (np.diff(tree.parents_K) >= 0).all()
    coarse = fit_kmeans(X, k=10, metric="l2", iterations=15, device="cpu").centres_KD
    nearest = ((tree.centres_KD[:, None] - coarse[None]) ** 2).sum(2).argmin(1)
    assert (nearest == tree.parents_K).mean() > 0.95  # a fine centre is the mean of rows of its coarse cell


@given(st.lists(st.integers(0, 50), min_size=1, max_size=20).filter(any), st.data())
def test_share_is_fair_and_adds_up(sizes: list[int], data: st.DataObject) -> None:
    sizes_C = np.array(sizes)
    k = data.draw(st.integers(np.count_nonzero(sizes_C), sizes_C.sum()))
    fine_C = share(k, sizes_C)
    assert fine_C.sum() == k and (fine_C <= sizes_C).all() and ((fine_C > 0) == (sizes_C > 0)).all()
    for a in range(len(sizes)):
        for b in range(len(sizes)):
            if sizes_C[a] > sizes_C[b]:
                assert fine_C[a] >= min(fine_C[b], sizes_C[a])


def test_a_killed_run_goes_on(tmp_path: Path) -> None:
    features = shards_of(tmp_path / "f", X, rows=700)

    class KilledError(Exception):
        pass

    def kill(done: int, _: int) -> None:
        if done == 4:
            raise KilledError

    def fit(folder: str, progress=None):
        return fit_tree(features, k=50, iterations=4, checkpoint=tmp_path / folder, progress=progress, device="cpu")

    with pytest.raises(KilledError):
        fit("killed", kill)
    kept = {path: path.stat().st_mtime_ns for path in (tmp_path / "killed" / "fine").iterdir()}
    assert len(kept) == 4
    resumed, straight = fit("killed"), fit("straight")
    assert resumed.fingerprint == straight.fingerprint
    assert all(path.stat().st_mtime_ns == then for path, then in kept.items())  # not done again


def test_rows_of_a_cluster_keep_their_names(tmp_path: Path) -> None:
    bad = X.copy()
    bad[1234] = 0
    features = shards_of(tmp_path, bad, rows=700)
    with pytest.raises(OvEncoderError, match=r"row 534 \(sample 's1234'\): all zeros"):
        fit_tree(features, k=50, iterations=1, device="cpu")


def test_wrong_arguments() -> None:
    with pytest.raises(ValueError, match=r"coarse must be 1..10 \(k\), got 11"):
        fit_tree(X, k=10, coarse=11)
    with pytest.raises(ValueError, match=r"k must be 1..3000"):
        fit_tree(X, k=3001)
    with pytest.raises(ValueError, match=r"k must be 2..10 for these clusters, got 11"):
        share(11, np.array([5, 0, 5]))
