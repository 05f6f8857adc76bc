"""Comparing two ways on the same samples: what differs between samples cancels, so small differences show.

Shapes: N = samples.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

_RESAMPLES = 2000


@dataclass(frozen=True, slots=True)
class Difference:
    """Mean difference of accuracy over `samples` common samples. interval: 95 %, percentiles of bootstrap draws of
    samples (both ways keep theirs together).
    """

    value: float
    interval: tuple[float, float]
    samples: int

    def to_dict(self) -> dict[str, float | list[float]]:
        """Ready for JSON."""
        return {"value": self.value, "interval": list(self.interval), "samples": self.samples}


def paired_difference(right: Mapping[str, float], reference: Mapping[str, float]) -> Difference | None:
    """`right` less `reference`: id -> share of seeds that were right. None without a common sample.

    The interval is what other samples from the same source could give; that seeds differ is within it.
    """
    common = [name for name in right if name in reference]
    if not common:
        return None
    change_N = np.array([right[name] - reference[name] for name in common])
    random = np.random.default_rng(0)
    draws = [change_N[random.integers(0, len(change_N), len(change_N))].mean() for _ in range(_RESAMPLES)]
    low, high = np.percentile(draws, [2.5, 97.5])
    return Difference(float(change_N.mean()), (float(low), float(high)), len(common))
