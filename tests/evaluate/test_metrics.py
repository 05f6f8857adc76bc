"""Metrics against scikit-learn, SciPy and hand-made cases."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.metrics import average_precision_score, balanced_accuracy_score, confusion_matrix, top_k_accuracy_score

from ov_encoder.evaluate import metrics


def one_hot(y, C):
    return np.eye(C, dtype=bool)[y]


cases = st.integers(0, 10_000).map(np.random.default_rng)


@given(cases, st.integers(2, 8), st.integers(1, 30))
@settings(max_examples=30)
def test_single_label_metrics_are_those_of_scikit_learn(random, C, N):
    y, scores = random.integers(0, C, N), random.standard_normal((N, C))
    found = metrics.estimates([scores], one_hot(y, C), multi=False)
    best = scores.argmax(axis=1)
    assert found["top1"].value == pytest.approx((best == y).mean())
    if C > 5:
        assert found["top5"].value == pytest.approx(top_k_accuracy_score(y, scores, k=5, labels=range(C)))
    else:
        assert found["top5"].value == 1
    assert found["mean_class"].value == pytest.approx(np.mean([(best[y == c] == c).mean() for c in np.unique(y)]))
    if len(set(y)) > 1 and set(best) <= set(y):
        assert found["mean_class"].value == pytest.approx(balanced_accuracy_score(y, best))
    assert (metrics.confusion(scores, y) == confusion_matrix(y, best, labels=range(C))).all()


@given(cases, st.integers(1, 5), st.integers(1, 30), st.booleans())
@settings(max_examples=30)
def test_map_is_that_of_scikit_learn(random, C, N, ties):
    labels = random.random((N, C)) < 0.4
    labels[0, 0] = True
    scores = random.standard_normal((N, C))
    scores = scores.round() if ties else scores
    there = labels.any(axis=0)
    wanted = np.mean([average_precision_score(labels[:, c], scores[:, c]) for c in np.flatnonzero(there)])
    assert metrics.mean_average_precision(scores, labels) == pytest.approx(wanted)


def test_a_tie_is_no_decision():
    y = np.array([0, 1, 2])
    assert not metrics.in_top(np.zeros((3, 3)), y, 1).any()
    assert metrics.in_top(np.zeros((3, 3)), y, 3).all()
    assert metrics.in_top(np.array([[1.0, 1.0, 0.0]]), y[:1], 2).all()


def test_the_metric_of_several_seeds_is_their_mean_with_student_interval():
    y = np.array([0, 1, 0, 1])
    good, bad = one_hot(y, 2).astype(float), one_hot(1 - y, 2).astype(float)
    found = metrics.estimates([good, good, bad], one_hot(y, 2), multi=False)["top1"]
    assert found.value == pytest.approx(2 / 3) and found.per_seed == [1, 1, 0]
    half = 4.3027 * np.std([1, 1, 0], ddof=1) / 3**0.5
    assert half > 2 / 3 and found.seeds == (0, 1)  # shares
    assert metrics.t_interval([0.5, 0.6, 0.7]) == pytest.approx(
        (0.6 - 0.1 * 4.3027 / 3**0.5, 0.6 + 0.1 * 4.3027 / 3**0.5), abs=1e-4
    )
    assert metrics.estimates([good], one_hot(y, 2), multi=False)["top1"].seeds is None


def test_intervals_are_those_of_the_books():
    from scipy import stats

    for df in range(1, 40):
        assert metrics._t975(df) == pytest.approx(stats.t.ppf(0.975, df), abs=2e-3)
    for right, n in ((0, 5), (5, 5), (13, 40), (700, 1000)):
        wanted = stats.binomtest(right, n).proportion_ci(method="wilson")
        assert metrics.wilson(right / n, n) == pytest.approx((wanted.low, wanted.high), abs=1e-6)


def test_the_bootstrap_covers_the_truth_as_often_as_it_says():
    random, hits = np.random.default_rng(0), 0
    for _ in range(40):
        y = random.integers(0, 3, 90)
        right = random.random(90) < np.array([0.9, 0.6, 0.3])[y]
        scores = np.where(right[:, None], one_hot(y, 3), one_hot((y + 1) % 3, 3)).astype(float)
        low, high = metrics.estimates([scores], one_hot(y, 3), multi=False)["mean_class"].samples
        hits += low <= 0.6 <= high
    assert 33 <= hits <= 40  # 38 expected


def test_what_cannot_be_scored():
    labels = one_hot(np.array([0, 1]), 2)
    with pytest.raises(ValueError, match="no samples to score"):
        metrics.estimates([np.zeros((0, 2))], np.zeros((0, 2), bool), multi=False)
    with pytest.raises(ValueError, match="scores of 1 samples are not finite: the probe diverged"):
        metrics.estimates([np.array([[0.0, np.nan], [0, 1]])], labels, multi=False)
    with pytest.raises(ValueError, match="scores of 3 samples, labels of 2"):
        metrics.estimates([np.zeros((3, 2))], labels, multi=False)
    with pytest.raises(ValueError, match="no label or several"):
        metrics.estimates([np.zeros((2, 2))], np.ones((2, 2), bool), multi=False)
    with pytest.raises(ValueError, match="no sample has a label"):
        metrics.estimates([np.zeros((2, 2))], np.zeros((2, 2), bool), multi=True)
