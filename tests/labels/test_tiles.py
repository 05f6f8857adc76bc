"""The nearest centres by tiles equal numpy's argsort, for every tile size and both kernels."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from ov_encoder.labels.tiles import biases, nearest, nearest_numpy, nearest_torch


@settings(max_examples=40)
@given(
    n=st.integers(1, 60),
    k=st.integers(1, 50),
    top=st.integers(1, 12),
    rows=st.integers(1, 70),
    columns=st.integers(1, 60),
    threads=st.integers(1, 3),
    metric=st.sampled_from(["cosine", "l2"]),
    seed=st.integers(0, 99),
)
def test_equals_argsort(
    n: int, k: int, top: int, rows: int, columns: int, threads: int, metric: str, seed: int
) -> None:
    rng = np.random.default_rng(seed)
    x_nD = torch.from_numpy(rng.standard_normal((n, 7)).astype(np.float32))
    centres_KD = torch.from_numpy(rng.standard_normal((k, 7)).astype(np.float32))
    top = min(top, k)
    scores_nK = x_nD.double() @ centres_KD.double().T
    if metric == "l2":
        scores_nK -= centres_KD.double().square().sum(1) / 2
    expected_nT = np.argsort(-scores_nK.numpy(), axis=1, kind="stable")[:, :top]
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        for search in (nearest_numpy, nearest_torch):
            best_nT = torch.full((n, top), -torch.inf)
            index_nT = torch.zeros((n, top), dtype=torch.int64)
            search(x_nD, centres_KD, biases(centres_KD, metric), best_nT, index_nT, (rows, columns))
            assert np.array_equal(index_nT.numpy(), expected_nT)
            wanted = np.take_along_axis(scores_nK.numpy(), expected_nT, 1)
            np.testing.assert_allclose(best_nT.numpy(), wanted, atol=1e-5)
    finally:
        torch.set_num_threads(before)


def test_of_equal_scores_the_lower_index_wins() -> None:
    centres_KD = torch.ones(40, 3)
    for search in (nearest_numpy, nearest_torch):
        best_n1, index_n1 = torch.full((5, 1), -torch.inf), torch.full((5, 1), 9)
        search(torch.ones(5, 3), centres_KD, None, best_n1, index_n1, (2, 7))
        assert index_n1.tolist() == [[0]] * 5


def test_wrong_arguments() -> None:
    with pytest.raises(ValueError, match="rows of 3 numbers, centres of 4"):
        nearest(torch.ones(2, 3), torch.ones(2, 4))
    with pytest.raises(ValueError, match=r"top must be 1..2 \(the number of centres\), got 3"):
        nearest(torch.ones(2, 3), torch.ones(2, 3), top=3)
