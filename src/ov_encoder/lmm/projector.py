"""From the encoder's width to the language model's: the only new weights of a vision language model.

Shapes: N = tokens of all samples, G = merged tokens of all samples, M = tokens of a square, D = width of the encoder,
E = width of the language model, Q = queries, B = samples, h = heads, d = channels of a head.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import nn


class MergeProjector(nn.Module):
    """Norm, join the M tokens of each square, two linear layers with GELU: [N, D] -> [N / M, E].

    With merge=1 this is the two-layer projector of LLaVA with a norm before it (features are taken before the
    encoder's last norm, so their scale is not fixed).
    """

    def __init__(self, width: int, out: int, *, merge: int = 1) -> None:
        super().__init__()
        joined = width * merge * merge
        self.norm = nn.LayerNorm(width, eps=1e-6)
        self.fc1 = nn.Linear(joined, max(joined, out))
        self.fc2 = nn.Linear(max(joined, out), out)

    def forward(self, x_ND: torch.Tensor, order_GM: torch.Tensor, lengths_B: Sequence[int]) -> torch.Tensor:
        """order_GM: token numbers of each square (`layout.merge_order`), counted over the whole batch."""
        joined = self.norm(x_ND)[order_GM].flatten(1)
        return self.fc2(F.gelu(self.fc1(joined)))


class Resampler(nn.Module):
    """Q learned queries look at all tokens of a sample: [N, D] -> [B * Q, E], whatever its length."""

    def __init__(self, width: int, out: int, *, queries: int, head_dim: int = 64) -> None:
        super().__init__()
        self.heads = max(out // head_dim, 1)
        inner = self.heads * head_dim
        self.queries_QE = nn.Parameter(torch.randn(queries, out) * 0.02)
        self.norm = nn.LayerNorm(width, eps=1e-6)
        self.norm_queries = nn.LayerNorm(out, eps=1e-6)
        self.to_q = nn.Linear(out, inner)
        self.to_kv = nn.Linear(width, 2 * inner)
        self.fc1 = nn.Linear(inner, out)
        self.fc2 = nn.Linear(out, out)

    def forward(self, x_ND: torch.Tensor, order_GM: torch.Tensor, lengths_B: Sequence[int]) -> torch.Tensor:
        """Every sample on its own; the order of tokens does not matter."""
        q_hQd = self._heads(self.to_q(self.norm_queries(self.queries_QE)))
        k_ND, v_ND = self.to_kv(self.norm(x_ND)).chunk(2, dim=-1)
        seen = [
            F.scaled_dot_product_attention(q_hQd, self._heads(k), self._heads(v)).transpose(0, 1).flatten(1)
            for k, v in zip(k_ND.split(list(lengths_B)), v_ND.split(list(lengths_B)), strict=True)
        ]
        return self.fc2(F.gelu(self.fc1(torch.cat(seen))))

    def _heads(self, x: torch.Tensor) -> torch.Tensor:
        return x.unflatten(-1, (self.heads, -1)).transpose(0, 1)
