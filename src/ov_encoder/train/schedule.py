"""The learning rate of every step, in closed form: a resumed run has the same curve. No state."""

from __future__ import annotations

import math

from ov_encoder.train.config import OptimConfig


def learning_rate(step: int, optim: OptimConfig) -> float:
    """Of step 0, 1, ..., steps - 1: linear warm-up, then cosine or polynomial decay.

    Step s < warmup: lr * (s + 1) / (warmup + 1), so that warm-up ends where the decay begins. Then, with
    p = (s - warmup) / (steps - warmup): lr * (final + (1 - final) * d), d = (1 + cos(pi p)) / 2 or (1 - p)^power.
    """
    if step < optim.warmup:
        return optim.lr * (step + 1) / (optim.warmup + 1)
    p = min((step - optim.warmup) / (optim.steps - optim.warmup), 1.0)
    left = (1 + math.cos(math.pi * p)) / 2 if optim.schedule == "cosine" else (1 - p) ** optim.power
    return optim.lr * (optim.final + (1 - optim.final) * left)
