"""Differences on the same samples: exact where nothing varies, and of the right width where things do."""

import numpy as np
import pytest

from ov_encoder.evaluate.paired import paired_difference


def shares(values) -> dict[str, float]:
    return {str(i): float(v) for i, v in enumerate(values)}


def test_equal_ways_do_not_differ():
    right = shares(np.random.default_rng(0).integers(0, 2, 50))
    found = paired_difference(right, right)
    assert (found.value, found.interval, found.samples) == (0.0, (0.0, 0.0), 50)


def test_only_common_samples_count():
    found = paired_difference({"a": 1, "b": 1, "c": 0}, {"b": 0, "c": 0, "d": 1})
    assert found.value == 0.5 and found.samples == 2
    assert paired_difference({"a": 1}, {"b": 1}) is None


@pytest.mark.parametrize("seed", range(3))
def test_the_interval_is_that_of_the_mean(seed):
    """Against the normal approximation of the paired mean, within 10 %."""
    random = np.random.default_rng(seed)
    b = random.random(400) < 0.5
    a = np.where(random.random(400) < 0.2, ~b, b)  # a fifth of the answers change
    found = paired_difference(shares(a), shares(b))
    d = a.astype(float) - b
    half = 1.96 * d.std(ddof=1) / 20
    np.testing.assert_allclose(found.interval, (d.mean() - half, d.mean() + half), atol=0.1 * half + 0.0025)
