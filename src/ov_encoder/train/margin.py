"""Margins: how much harder the true class is made. Not here: negatives, losses."""

from __future__ import annotations

import math
from typing import Literal

import torch
from torch import Tensor

Margin = Literal["cosface", "arcface", "none"]
MARGINS = ("cosface", "arcface", "none")


def margined_logits(cos: Tensor, *, margin: Margin, m: float, scale: float) -> Tensor:
    """Logits of true classes from their cosines, any shape.

    cosface: scale * (cos - m) (Wang et al. 2018). arcface: scale * cos(angle + m) (Deng et al. 2019), and
    scale * (cos - m sin m) where angle + m would pass pi, so that the logit never rises as the angle grows.
    none: scale * cos.
    """
    if margin == "cosface":
        return scale * (cos - m)
    if margin == "arcface":
        # Away from cos = +-1 by 1e-6: there the slope of the sine is infinite.
        safe = cos.clamp(-1 + 1e-6, 1 - 1e-6)
        turned = safe * math.cos(m) - (1 - safe * safe).sqrt() * math.sin(m)
        return scale * torch.where(cos > -math.cos(m), turned, cos - m * math.sin(m))
    return scale * cos
