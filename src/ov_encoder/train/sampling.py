"""What one step uses: which classes act as negatives, which labels of a sample are drawn. No loss here.

Every random number comes from a generator seeded with (seed, step, rank, purpose): the state to save is one step
number, the same on every device and for any number of processes.
Suffixes: B = samples, L = label columns, C = classes of this shard, n = sampled classes, P = positives.
"""

from __future__ import annotations

from typing import Literal

import numpy as np
import torch
from torch import Tensor

PURPOSES = {"centres": 0, "negatives": 1, "labels": 2, "rounding": 3}


def generator_for(
    purpose: Literal["centres", "negatives", "labels", "rounding"],
    *,
    seed: int,
    step: int,
    rank: int = 0,
    device: torch.device | str = "cpu",
) -> torch.Generator:
    """A generator of its own for this purpose, step and rank."""
    words = np.random.SeedSequence((seed, step, rank, PURPOSES[purpose])).generate_state(1, np.uint64)
    return torch.Generator(device).manual_seed(int(words[0]) >> 1)


def distinct(labels_BL: Tensor) -> Tensor:
    """Each row sorted, a label that stands in it twice kept once, the rest -1: pairs (sample, label) are a set."""
    sorted_BL = labels_BL.sort(dim=1).values
    twice_BL = torch.zeros_like(sorted_BL, dtype=torch.bool)
    twice_BL[:, 1:] = sorted_BL[:, 1:] == sorted_BL[:, :-1]
    return sorted_BL.masked_fill(twice_BL, -1)


def draw_first(labels_BL: Tensor, generator: torch.Generator) -> Tensor:
    """Each row shuffled, labels before empty places: the first l columns are l labels drawn without replacement."""
    noise_BL = torch.rand(labels_BL.shape, generator=generator, device=labels_BL.device)
    order_BL = noise_BL.masked_fill(labels_BL < 0, 2.0).argsort(dim=1)
    return labels_BL.gather(1, order_BL)


def sample_rows(positives_P: Tensor, *, classes: int, rate: float, generator: torch.Generator) -> Tensor:
    """Rows of this shard that take part in a step: all positives and random others, int(rate * classes) in all.

    `positives_P`: int64 rows, in any order, repeats allowed; values outside 0..classes-1 are ignored. Every
    non-positive row is equally likely. More positives than int(rate * classes): just the positives.
    Returns sorted, distinct int64 rows [n].
    """
    chance_C = torch.rand(classes + 1, generator=generator, device=positives_P.device)
    inside_P = (positives_P >= 0) & (positives_P < classes)
    chance_C.index_fill_(0, torch.where(inside_P, positives_P, classes), 2.0)
    chance_C = chance_C[:classes]
    n = min(classes, max(1, int(rate * classes)))
    if len(positives_P) > n:  # only then is it worth asking the device how many there are
        n = max(n, int((chance_C == 2.0).sum()))
    return chance_C.topk(n, sorted=False).indices.sort().values
