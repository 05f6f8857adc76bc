"""The order of merged tokens, against what one would write by hand, and the counts the prompt is written from."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ov_encoder.lmm.layout import merge_order, slot_counts


def grid(T, H, W):
    return np.stack(np.meshgrid(range(T), range(H), range(W), indexing="ij"), -1).reshape(-1, 3)


def test_two_by_two_on_a_grid_of_four_by_four():
    assert merge_order(grid(1, 4, 4), 2).tolist() == [[0, 1, 4, 5], [2, 3, 6, 7], [8, 9, 12, 13], [10, 11, 14, 15]]


@given(st.integers(1, 3), st.integers(1, 3), st.integers(1, 3), st.integers(1, 3), st.randoms(use_true_random=False))
def test_it_is_the_reshape_of_the_reference_and_ignores_the_order_of_tokens(T, rows, columns, merge, random):
    positions_N3 = grid(T, rows * merge, columns * merge)
    N = len(positions_N3)
    numbers = np.arange(N).reshape(T, rows, merge, columns, merge).transpose(0, 1, 3, 2, 4).reshape(-1, merge**2)
    assert (merge_order(positions_N3, merge) == numbers).all()
    shuffled_N = np.array(random.sample(range(N), N))
    assert (shuffled_N[merge_order(positions_N3[shuffled_N], merge)] == numbers).all()


def test_sparse_squares_keep_their_order_and_slots_are_counted():
    squares = [(0, 2, 0), (0, 0, 2), (3, 0, 0)]
    positions_N3 = np.array([(t, h + i, w + j) for t, h, w in squares for i in (0, 1) for j in (0, 1)])
    assert merge_order(positions_N3, 2)[:, 0].tolist() == [4, 0, 8]
    assert slot_counts(positions_N3, 2) == [(0, 2), (3, 1)]


def test_a_torn_square_is_refused_by_its_place():
    with pytest.raises(ValueError, match=r"2 x 2 square at slot 0, rows from 0, columns from 2 .* block=2"):
        merge_order(np.delete(grid(1, 2, 4), 2, axis=0), 2)
