"""Heads and modes come in exact, even shares."""

from collections import Counter

from hypothesis import given
from hypothesis import strategies as st

from ov_encoder.train.config import HeadConfig
from ov_encoder.train.mixture import Mixture, mode_at


@given(st.integers(0, 10**6))
def test_eight_neighbouring_videos_are_four_three_one(block):
    found = Counter(mode_at(8 * block + i, (0.5, 0.375, 0.125, 0.0)) for i in range(8))
    assert found == {"codec": 4, "sampling": 3, "collage": 1}


def test_other_shares_hold_over_the_long_run():
    found = Counter(mode_at(i, (0.4, 0.3, 0.1, 0.2)) for i in range(4000))
    wanted = {"codec": 1600, "sampling": 1200, "collage": 400, "chunk": 800}
    assert all(abs(found[mode] - count) <= 4 for mode, count in wanted.items())
    assert {mode_at(i, (0, 0, 0, 1.0)) for i in range(64)} == {"chunk"}


@given(st.lists(st.integers(1, 9), min_size=1, max_size=4))
def test_every_place_of_every_head_comes_once_and_in_order(shares):
    mixture = Mixture(tuple(HeadConfig(name=f"h{i}", kind="image", samples=n) for i, n in enumerate(shares)))
    places = [mixture.at(p) for p in range(3 * sum(shares))]
    for head, share in enumerate(shares):
        assert [own for h, own in places if h == head] == list(range(3 * share))


def test_heads_take_turns():
    mixture = Mixture(tuple(HeadConfig(name=n, kind="image", samples=c) for n, c in (("a", 2), ("b", 1), ("c", 1))))
    assert [mixture.at(p)[0] for p in range(8)] == [0, 1, 2, 0, 0, 1, 2, 0]


def test_a_head_beside_another_has_no_turn():
    heads = (
        HeadConfig(name="a", kind="video", samples=2),
        HeadConfig(name="b", kind="video", samples=9, beside="a"),
        HeadConfig(name="c", kind="image", samples=1),
    )
    assert [Mixture(heads).at(p) for p in range(6)] == [(0, 0), (2, 0), (0, 1), (0, 2), (2, 1), (0, 3)]
