"""The learning rate against formulas written down here."""

import math
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ov_encoder.train.config import OptimConfig
from ov_encoder.train.schedule import learning_rate


def test_cosine_by_hand():
    optim = OptimConfig(steps=14, lr=1.0, warmup=4, final=0.1)
    assert [learning_rate(s, optim) for s in range(5)] == pytest.approx([0.2, 0.4, 0.6, 0.8, 1.0])
    assert learning_rate(9, optim) == pytest.approx(0.1 + 0.9 * 0.5)  # half way
    assert learning_rate(13, optim) == pytest.approx(0.1 + 0.9 * (1 + math.cos(math.pi * 0.9)) / 2)
    assert learning_rate(14, optim) == pytest.approx(0.1)


def test_polynomial_by_hand():
    optim = OptimConfig(steps=10, lr=2.0, warmup=0, schedule="polynomial", power=2.0)
    assert [learning_rate(s, optim) for s in (0, 5, 9, 10)] == pytest.approx([2.0, 0.5, 0.02, 0.0])


@given(st.integers(2, 500), st.floats(0, 0.9), st.sampled_from(["cosine", "polynomial"]))
def test_it_rises_then_falls_and_stays_in_its_range(steps, share, schedule):
    optim = OptimConfig(steps=steps, lr=3.0, warmup=int(share * steps), schedule=schedule, final=0.01)
    curve = [learning_rate(s, optim) for s in range(steps)]
    top = optim.warmup
    assert curve[top] == pytest.approx(3.0) and all(0 < lr <= 3.0 + 1e-12 for lr in curve)
    assert all(a < b for a, b in pairwise(curve[: top + 1]))
    assert all(a > b for a, b in pairwise(curve[top:]))


def test_warm_up_must_end_before_the_run():
    with pytest.raises(ValueError, match=r"warmup=10; need 0 to steps - 1 \(9\)"):
        OptimConfig(steps=10, warmup=10)
