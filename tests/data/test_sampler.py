"""Shuffled passes as a function of the place: complete, different every epoch, the same wherever one begins."""

from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ov_encoder.data.sampler import permuted, sample_at


@given(st.integers(1, 700), st.integers(0, 2**40))
def test_a_permutation_hits_everything_once(n, key):
    assert sorted(permuted(i, n, key=key) for i in range(n)) == list(range(n))


@given(st.integers(1, 200), st.integers(0, 5), st.integers(0, 100))
def test_every_epoch_holds_every_sample_once(n, epoch, seed):
    found = [sample_at(epoch * n + i, n, seed=seed) for i in range(n)]
    assert {e for e, _ in found} == {epoch} and sorted(i for _, i in found) == list(range(n))


def test_epochs_seeds_and_streams_are_shuffled_differently():
    def order(epoch=0, **about):
        return [sample_at(epoch * 100 + i, 100, **{"seed": 0, "stream": "a", **about})[1] for i in range(100)]

    assert order() == order() and order() != list(range(100))
    assert len({tuple(o) for o in (order(), order(epoch=1), order(seed=1), order(stream="b"))}) == 4


def test_neighbours_land_anywhere():
    """Mean distance of neighbours in a random order of n is about n / 3."""
    n = 5000
    places = [sample_at(i, n, seed=3)[1] for i in range(n)]
    mean = sum(abs(a - b) for a, b in pairwise(places)) / n
    assert 0.30 * n < mean < 0.37 * n


def test_sets_of_any_size_need_no_memory():
    assert 0 <= sample_at(10**12, 694_000_000, seed=0)[1] < 694_000_000


def test_wrong_arguments():
    for place, n in ((0, 0), (-1, 5)):
        with pytest.raises(ValueError, match="need a place from 0"):
            sample_at(place, n, seed=0)
