"""Metrics: numbers from scores and labels, with two kinds of 95 % intervals. Nothing is trained here.

Every sample counts exactly once, ties count against the classifier, and scores that are not finite are an error.

Shapes: N = samples, C = classes, S = seeds.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

_T975 = (12.7062, 4.3027, 3.1824, 2.7764, 2.5706)  # Student's t, 97.5 %, for 1 to 5 degrees of freedom
_Z975 = 1.959964
_RESAMPLES, _RESAMPLES_MAP = 1000, 200  # a draw of mAP sorts every class


@dataclass(frozen=True, slots=True)
class Estimate:
    """A metric over seeds. value: the mean. seeds: 95 % Student t-interval of the mean over seeds (training, draws of
    shots), None for one seed. samples: 95 % interval for another set of samples from the same source: Wilson's for
    top-1 and top-5, percentiles of bootstrap draws of samples (1000; 200 for mAP) for the others."""

    value: float
    per_seed: list[float]
    seeds: tuple[float, float] | None
    samples: tuple[float, float]


def estimates(scores: Sequence[np.ndarray], labels_NC: np.ndarray, *, multi: bool) -> dict[str, Estimate]:
    """Every metric of the scores [N, C] of each seed. labels_NC: bool; exactly one a row unless `multi`.

    Raises:
        ValueError: no samples, shapes that differ, or a row without a label or with several.
    """
    if not len(labels_NC):
        raise ValueError("no samples to score")
    found: dict[str, Estimate] = {}
    if multi:
        per_seed = [mean_average_precision(s, labels_NC) for s in scores]
        found["map"] = _estimate(
            per_seed, _bootstrap(lambda n: _mean_map(scores, labels_NC, n), len(labels_NC), _RESAMPLES_MAP)
        )
        return found
    if (labels_NC.sum(axis=1) != 1).any():
        raise ValueError("a sample with no label or several; multi=True is for those")
    y_N = labels_NC.argmax(axis=1)
    for name, k in (("top1", 1), ("top5", 5)):
        right_SN = np.stack([in_top(s, y_N, k) for s in scores])
        found[name] = _estimate(right_SN.mean(axis=1), wilson(float(right_SN.mean()), len(y_N)))
    right_N = np.stack([in_top(s, y_N, 1) for s in scores]).mean(axis=0)
    per_seed = [mean_class(in_top(s, y_N, 1), y_N) for s in scores]
    found["mean_class"] = _estimate(per_seed, _bootstrap(lambda n: mean_class(right_N[n], y_N[n]), len(y_N)))
    return found


def in_top(scores_NC: np.ndarray, y_N: np.ndarray, k: int) -> np.ndarray:
    """bool [N]: fewer than k other classes score as high as the true one (a tie is no decision).

    Raises:
        ValueError: scores that are not finite, or of another number of samples.
    """
    _check(scores_NC, len(y_N))
    own_N1 = np.take_along_axis(scores_NC, y_N[:, None], axis=1)
    return (scores_NC >= own_N1).sum(axis=1) - 1 < k


def mean_class(right_N: np.ndarray, y_N: np.ndarray) -> float:
    """Mean over the classes that occur in y_N of the share that is right."""
    counts_C = np.bincount(y_N)
    sums_C = np.bincount(y_N, weights=right_N)
    return float((sums_C[counts_C > 0] / counts_C[counts_C > 0]).mean())


def mean_average_precision(scores_NC: np.ndarray, labels_NC: np.ndarray) -> float:
    """Mean over the classes with a positive of the average precision; equal scores are one threshold.

    Raises:
        ValueError: no class has a positive, or scores that are not finite.
    """
    _check(scores_NC, len(labels_NC))
    there = labels_NC.any(axis=0)
    if not there.any():
        raise ValueError("no sample has a label")
    return float(np.mean([_average_precision(scores_NC[:, c], labels_NC[:, c]) for c in np.flatnonzero(there)]))


def confusion(scores_NC: np.ndarray, y_N: np.ndarray) -> np.ndarray:
    """int [C, C]: rows are true classes, columns the best scored ones."""
    C = scores_NC.shape[1]
    return np.bincount(y_N * C + scores_NC.argmax(axis=1), minlength=C * C).reshape(C, C)


def wilson(share: float, n: int) -> tuple[float, float]:
    """Wilson's 95 % interval of a share of n independent samples."""
    z2 = _Z975**2
    middle = (share + z2 / (2 * n)) / (1 + z2 / n)
    half = _Z975 / (1 + z2 / n) * math.sqrt(share * (1 - share) / n + z2 / (4 * n * n))
    return max(0.0, middle - half), min(1.0, middle + half)


def t_interval(values: Sequence[float]) -> tuple[float, float] | None:
    """Student's 95 % interval of the mean of shares, cut at 0 and 1; None for a single value."""
    if len(values) < 2:
        return None
    mean, half = float(np.mean(values)), _t975(len(values) - 1) * float(np.std(values, ddof=1)) / math.sqrt(len(values))
    return max(0.0, mean - half), min(1.0, mean + half)


def _t975(df: int) -> float:
    if df <= len(_T975):
        return _T975[df - 1]
    z = _Z975  # expansion of Fisher and Cornish: 1e-3 at 6, better beyond
    terms = ((z**3 + z) / 4, (5 * z**5 + 16 * z**3 + 3 * z) / 96, (3 * z**7 + 19 * z**5 + 17 * z**3 - 15 * z) / 384)
    return z + sum(term / df**power for power, term in enumerate(terms, start=1))


def _estimate(per_seed: Sequence[float] | np.ndarray, samples: tuple[float, float]) -> Estimate:
    values = [float(v) for v in per_seed]
    return Estimate(float(np.mean(values)), values, t_interval(values), samples)


def _bootstrap(statistic: Callable[[np.ndarray], float], n: int, draws: int = _RESAMPLES) -> tuple[float, float]:
    random = np.random.default_rng(0)
    values = [statistic(random.integers(0, n, n)) for _ in range(draws)]
    low, high = np.nanpercentile(values, [2.5, 97.5])  # a draw without a single label has no mAP
    return float(low), float(high)


def _mean_map(scores: Sequence[np.ndarray], labels_NC: np.ndarray, drawn_N: np.ndarray) -> float:
    labels = labels_NC[drawn_N]
    if not labels.any():
        return math.nan
    return float(np.mean([mean_average_precision(s[drawn_N], labels) for s in scores]))


def _average_precision(scores_N: np.ndarray, labels_N: np.ndarray) -> float:
    order = np.argsort(-scores_N, kind="stable")
    ends = np.append(np.flatnonzero(np.diff(scores_N[order])), len(order) - 1)  # last sample of each distinct score
    hits = labels_N[order].cumsum()[ends]
    gained = np.diff(hits, prepend=0)
    return float((gained * hits / (ends + 1)).sum() / labels_N.sum())


def _check(scores_NC: np.ndarray, n: int) -> None:
    if len(scores_NC) != n:
        raise ValueError(f"scores of {len(scores_NC)} samples, labels of {n}")
    if not np.isfinite(scores_NC).all():
        bad = int((~np.isfinite(scores_NC).all(axis=1)).sum())
        raise ValueError(f"scores of {bad} samples are not finite: the probe diverged")
