"""Linear heads: one matrix on one vector a sample.

Shapes: G = heads, B = samples, C = classes, D = width.
"""

from __future__ import annotations

import torch
from torch import nn


class LinearHeads(nn.Module):
    """G classifiers that start equal, at zero, on features less their mean, over their deviation."""

    mean_D: torch.Tensor
    deviation_D: torch.Tensor

    def __init__(self, heads: int, classes: int, *, mean_D: torch.Tensor, deviation_D: torch.Tensor) -> None:
        super().__init__()
        self.weight_GDC = nn.Parameter(torch.zeros(heads, len(mean_D), classes, device=mean_D.device))
        self.bias_GC = nn.Parameter(torch.zeros(heads, classes, device=mean_D.device))
        self.register_buffer("mean_D", mean_D)
        self.register_buffer("deviation_D", deviation_D)

    def forward(self, x_BD: torch.Tensor) -> torch.Tensor:
        """Logits [G, B, C]."""
        x = (x_BD - self.mean_D) / self.deviation_D
        return torch.baddbmm(self.bias_GC[:, None], x.expand(len(self.bias_GC), -1, -1), self.weight_GDC)
