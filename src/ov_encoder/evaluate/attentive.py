"""Attentive heads: a learned query attends to all tokens of a sample, then MLP, norm and classifier (the head of the
reference's attentive probe).

The query is one, so the key projection moves onto it: q (W_k x + b_k) = (q W_k) x + a constant that softmax ignores;
and the values are projected after they are averaged. Tokens meet one matrix of G * H columns instead of two of D for
each head: D / H = 64 times less work, and all heads of a grid share one product. Equal to torch's MultiheadAttention
to rounding (tested).

Shapes: G = heads of the grid, H = attention heads, E = D / H, B = samples, L = tokens, D = width, C = classes.
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import nn

_HEAD_DIM = 64
_EPS = 1e-6


def attention_heads(width: int) -> int:
    """D / 64 where that divides, as in the reference; else the most heads of at least 64 dims that divide D."""
    return next(h for h in range(max(width // _HEAD_DIM, 1), 0, -1) if width % h == 0)


class AttentiveHeads(nn.Module):
    """G heads that start equal, from `seed`.

    Probe N(0, 1), input projection Xavier-uniform, matrices N(0, 0.02) and the classifier a truncated N(0, 0.02) times
    0.001, biases 0. mean_D, deviation_D: tokens are taken less the mean, over the deviation.
    """

    mean_D: torch.Tensor
    deviation_D: torch.Tensor

    def __init__(
        self,
        heads: int,
        width: int,
        classes: int,
        *,
        seed: int = 0,
        mean_D: torch.Tensor | None = None,
        deviation_D: torch.Tensor | None = None,
        device: torch.device | str = "cpu",
    ) -> None:
        super().__init__()
        G, D, C = heads, width, classes
        self.attention_heads = attention_heads(D)
        random = torch.Generator().manual_seed(seed)

        def matrix(rows: int, columns: int, std: float = 0.02) -> torch.Tensor:
            return torch.empty(rows, columns).normal_(std=std, generator=random)

        def stacked(one: torch.Tensor) -> nn.Parameter:
            return nn.Parameter(one.expand(G, *one.shape).to(device, copy=True))

        self.probe_GD = stacked(torch.empty(D).normal_(generator=random))
        bound = math.sqrt(6 / (3 * D + D))  # Xavier of the joint projection
        self.in_weight_GFD = stacked(torch.empty(3 * D, D).uniform_(-bound, bound, generator=random))
        self.in_bias_GF = stacked(torch.zeros(3 * D))
        self.out_weight_GDD = stacked(matrix(D, D))
        self.out_bias_GD = stacked(torch.zeros(D))
        self.rms_GD = stacked(torch.ones(D))
        self.up_GMD, self.up_bias_GM = stacked(matrix(4 * D, D)), stacked(torch.zeros(4 * D))
        self.down_GDM, self.down_bias_GD = stacked(matrix(D, 4 * D)), stacked(torch.zeros(D))
        self.norm_GD, self.norm_bias_GD = stacked(torch.ones(D)), stacked(torch.zeros(D))
        classifier = nn.init.trunc_normal_(torch.empty(C, D), std=0.02, generator=random) * 1e-3
        self.class_GCD, self.class_bias_GC = stacked(classifier), stacked(torch.zeros(C))
        self.register_buffer("mean_D", (torch.zeros(D) if mean_D is None else mean_D).to(device))
        self.register_buffer("deviation_D", (torch.ones(D) if deviation_D is None else deviation_D).to(device))

    def forward(self, x_BLD: torch.Tensor, mask_BL: torch.Tensor | None = None) -> torch.Tensor:
        """Logits [G, B, C]. mask_BL: True for the tokens that exist; all, if None."""
        y_GBD = self.pool(x_BLD, mask_BL)
        D = y_GBD.shape[-1]
        z = y_GBD * (y_GBD.square().mean(dim=2, keepdim=True) + _EPS).rsqrt() * self.rms_GD[:, None]
        z = F.gelu(_project(z, self.up_GMD, self.up_bias_GM))
        y_GBD = y_GBD + _project(z, self.down_GDM, self.down_bias_GD)
        y_GBD = F.layer_norm(y_GBD, (D,), eps=_EPS) * self.norm_GD[:, None] + self.norm_bias_GD[:, None]
        return _project(y_GBD, self.class_GCD, self.class_bias_GC)

    def pool(self, x_BLD: torch.Tensor, mask_BL: torch.Tensor | None = None) -> torch.Tensor:
        """What attention makes of the tokens, [G, B, D]."""
        G, H = len(self.probe_GD), self.attention_heads
        B, _, D = x_BLD.shape
        query, key, value = self.in_weight_GFD.chunk(3, dim=1)
        query_bias, _, value_bias = self.in_bias_GF.chunk(3, dim=1)
        q_GHE = (torch.einsum("gfd,gd->gf", query, self.probe_GD) + query_bias).view(G, H, -1)
        u_GHD = torch.einsum("ghe,ghed->ghd", q_GHE, key.view(G, H, -1, D)) / math.sqrt(D // H)
        # (x - mean) / deviation costs nothing here: the mean is one more constant, the deviation joins u.
        u_KD = (u_GHD / self.deviation_D).flatten(0, 1)
        scores_BKL = u_KD @ x_BLD.mT
        if mask_BL is not None:
            scores_BKL = scores_BKL.masked_fill(~mask_BL[:, None], -torch.inf)
        z_BKD = scores_BKL.softmax(dim=2) @ x_BLD
        z_GHBD = ((z_BKD - self.mean_D) / self.deviation_D).view(B, G, H, D).permute(1, 2, 0, 3)
        v_GHBE = z_GHBD @ value.view(G, H, -1, D).mT
        y_GBD = v_GHBE.transpose(1, 2).reshape(G, B, D) + value_bias[:, None]
        return _project(y_GBD, self.out_weight_GDD, self.out_bias_GD)


def _project(x_GBI: torch.Tensor, weight_GOI: torch.Tensor, bias_GO: torch.Tensor) -> torch.Tensor:
    return torch.baddbmm(bias_GO[:, None], x_GBI, weight_GOI.mT)
