"""The million-class head the way the reference does it, written plainly from its description; for head.py only.

Each of the drawn label columns samples its own negatives, gathers and normalises its own centres, makes its own
logits and keeps them for the backward pass; the gradient of the centres is dense and AdamW walks over all of them.
Where there is a choice, the cheaper one is taken: softmax in place, fused AdamW.
Suffixes: B = samples, C = classes, n = sampled classes, D = embedding width, L = labels, l = drawn labels.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class SoftmaxLoss(torch.autograd.Function):
    """-log softmax of the true column, mean over samples; logits are overwritten."""

    @staticmethod
    def forward(ctx, logits_Bn: Tensor, true_B: Tensor) -> Tensor:
        logits_Bn.sub_(logits_Bn.amax(1, keepdim=True)).exp_()
        logits_Bn.div_(logits_Bn.sum(1, keepdim=True))
        ctx.save_for_backward(logits_Bn, true_B)
        return -logits_Bn.gather(1, true_B[:, None]).clamp(min=1e-30).log().mean()

    @staticmethod
    def backward(ctx, upstream: Tensor):
        chance_Bn, true_B = ctx.saved_tensors
        chance_Bn[torch.arange(len(true_B), device=true_B.device), true_B] -= 1.0
        return chance_Bn.mul_(upstream / len(true_B)), None


class PlainHead(nn.Module):
    def __init__(self, dim: int, classes: int, *, rate: float, drawn: int, device: torch.device) -> None:
        super().__init__()
        self.classes, self.rate, self.drawn = classes, rate, drawn
        self.centres_CD = nn.Parameter(torch.empty(classes, dim, device=device).normal_(0, 0.01))

    def optimizer(self) -> torch.optim.Optimizer:
        return torch.optim.AdamW([self.centres_CD], lr=1e-3, weight_decay=0.05, fused=True)

    def column(self, x_BD: Tensor, label_B: Tensor) -> Tensor:
        chance_C = torch.rand(self.classes)
        chance_C[label_B.cpu()] = 2.0
        rows_n = chance_C.topk(int(self.rate * self.classes)).indices.sort().values.to(x_BD.device)
        true_B = torch.searchsorted(rows_n, label_B)
        weight_nD = F.normalize(self.centres_CD[rows_n])
        with torch.autocast(x_BD.device.type, dtype=torch.bfloat16, enabled=x_BD.device.type != "cpu"):
            logits_Bn = F.linear(F.normalize(x_BD), weight_nD)
        logits_Bn = logits_Bn.float().clamp(-1, 1)
        with torch.no_grad():
            own_Bn = torch.zeros_like(logits_Bn, dtype=torch.bool).scatter_(1, true_B[:, None], True)
            keep_Bn = (logits_Bn <= 0.75) | own_Bn
        logits_Bn = logits_Bn * keep_Bn * 64.0
        logits_Bn = logits_Bn.scatter_add(
            1, true_B[:, None], torch.full_like(true_B[:, None], -0.3 * 64.0, dtype=torch.float32)
        )
        return SoftmaxLoss.apply(logits_Bn, true_B)

    def forward(self, x_BD: Tensor, labels_BL: Tensor) -> Tensor:
        order_BL = torch.rand(labels_BL.shape, device=labels_BL.device).argsort(1)[:, : self.drawn]
        drawn_Bl = labels_BL.gather(1, order_BL)
        return torch.stack([self.column(x_BD, drawn_Bl[:, j]) for j in range(self.drawn)]).mean()


def plain_bytes(classes: int, dim: int, *, batch: int, rate: float, drawn: int) -> dict[str, int]:
    """Memory by arithmetic (float32): centres and moments, and what a step adds at least (no temporaries)."""
    n = int(rate * classes)
    saved = drawn * n * (4 * 2 * dim + batch * (2 * 4 + 1))  # raw and unit centres; two logits, a mask
    dense = 2 * classes * dim * 4  # the gradient so far and that of one more column
    return {"state": 3 * classes * dim * 4, "step": saved + dense}
