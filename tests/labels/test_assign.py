"""labels.parquet holds numpy's ten nearest centres, part by part; runs are never mixed."""

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ov_encoder.errors import OvEncoderError
from ov_encoder.labels.assign import Searcher, assign, invert, labels_facts, read_labels
from ov_encoder.labels.kmeans import fit_kmeans
from ov_encoder.labels.shards import open_features, write_shard
from tests.labels.shard_files import blobs, shards_of

X = blobs(900, 12, 60)


@pytest.fixture(scope="module")
def features(tmp_path_factory: pytest.TempPathFactory):
    return shards_of(tmp_path_factory.mktemp("features"), X, rows=250)


@pytest.fixture(scope="module", params=["cosine", "l2"])
def centres(request: pytest.FixtureRequest, features):
    return fit_kmeans(features, k=300, metric=request.param, iterations=3, device="cpu")


def test_exact_equals_argsort(tmp_path: Path, features, centres) -> None:
    path = assign(features, centres, tmp_path, rows=200, device="cpu")
    ids, label_NT, similarity_NT = read_labels(path, centres=centres)
    x_ND = X.astype(np.float64)
    if centres.metric == "cosine":
        x_ND /= np.linalg.norm(x_ND, axis=1, keepdims=True)
        value_NK = x_ND @ centres.centres_KD.astype(np.float64).T
    else:
        value_NK = -np.sqrt(((x_ND[:, None] - centres.centres_KD[None]) ** 2).sum(2))
    expected_NT = np.argsort(-value_NK, axis=1)[:, :10]
    assert ids == [f"s{i}" for i in range(900)]
    assert label_NT.dtype == np.int32 and similarity_NT.dtype == np.float16
    assert np.array_equal(label_NT, expected_NT)
    np.testing.assert_allclose(similarity_NT, np.take_along_axis(value_NK, expected_NT, 1), rtol=2e-3, atol=2e-3)


@pytest.mark.parametrize("method", ["hnsw", "ivf"])
def test_index_reports_its_recall(tmp_path: Path, features, centres, method: str) -> None:
    path = assign(features, centres, tmp_path / method, method=method)
    _, label_NT, _ = read_labels(path)
    _, exact_NT, _ = read_labels(assign(features, centres, tmp_path / "exact", device="cpu"))
    true_recall = np.mean([len(set(a) & set(b)) / 10 for a, b in zip(label_NT, exact_NT, strict=True)])
    assert labels_facts(path)["recall"] == pytest.approx(true_recall, abs=1e-3) and true_recall > 0.9


def test_killed_run_goes_on_with_the_same_bytes(tmp_path: Path, features, centres) -> None:
    class KilledError(Exception):
        pass

    def kill(done: int, _: int) -> None:
        if done >= 400:
            raise KilledError

    with pytest.raises(KilledError):
        assign(features, centres, tmp_path / "killed", rows=200, progress=kill)
    parts = sorted((tmp_path / "killed" / "parts").iterdir())
    assert len(parts) == 2 and not (tmp_path / "killed" / "labels.parquet").exists()
    then = [p.stat().st_mtime_ns for p in parts]
    resumed = assign(features, centres, tmp_path / "killed", rows=200)
    assert [p.stat().st_mtime_ns for p in parts] == then
    assert resumed.read_bytes() == assign(features, centres, tmp_path / "straight", rows=200).read_bytes()


def test_runs_are_not_mixed(tmp_path: Path, features, centres) -> None:
    path = assign(features, centres, tmp_path, rows=300)
    other = fit_kmeans(features, k=300, metric=centres.metric, iterations=1, device="cpu")
    with pytest.raises(ValueError, match=rf"of another run \(centres: '{centres.fingerprint}' there"):
        assign(features, other, tmp_path, rows=300)
    with pytest.raises(OvEncoderError, match=f"labels of centres {centres.fingerprint}, not of {other.fingerprint}"):
        read_labels(path, centres=other)
    moved = shards_of(tmp_path / "moved", X, rows=450)
    assert np.array_equal(assign(moved, centres, tmp_path, rows=300).read_bytes(), path.read_bytes())
    path.write_bytes(path.read_bytes()[:-20])
    with pytest.raises(OvEncoderError, match="cannot be read as labels"):
        read_labels(path)


def test_other_samples_are_refused(tmp_path: Path, features, centres) -> None:
    assign(features, centres, tmp_path / "labels", rows=300)
    write_shard(tmp_path / "others", 0, [f"other{i}" for i in range(900)], X)
    with pytest.raises(ValueError, match=r"holds other samples than rows 0..299"):
        assign(open_features(tmp_path / "others"), centres, tmp_path / "labels", rows=300)


def test_wrong_arguments(tmp_path: Path, features, centres) -> None:
    with pytest.raises(ValueError, match="method must be one of exact, hnsw, ivf"):
        assign(features, centres, tmp_path, method="lsh")
    with pytest.raises(ValueError, match=r"top must be 1..300"):
        Searcher(centres, top=301)
    with pytest.raises(OvEncoderError, match="vectors of 12, centres of 5"):
        assign(features, fit_kmeans(X[:, :5], k=3, iterations=1), tmp_path)


@given(st.integers(1, 30), st.integers(1, 5), st.integers(1, 40), st.integers(0, 99))
def test_inverted_lists(n: int, top: int, k: int, seed: int) -> None:
    label_NT = np.random.default_rng(seed).integers(0, k, (n, top)).astype(np.int32)
    rows, starts = invert(label_NT, k)
    for c in range(k):
        assert rows[starts[c] : starts[c + 1]].tolist() == sorted(np.nonzero(label_NT == c)[0].tolist())
    with pytest.raises(ValueError, match="labels must lie in"):
        invert(label_NT, int(label_NT.max()))
