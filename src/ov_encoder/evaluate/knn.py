"""Nearest neighbours by cosine: no training, no seeds, so a good first look at features.

Shapes: N = training samples, M = samples to classify, C = classes, D = width, K = neighbours.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F

KS = (1, 5, 10, 20, 50)
_TEMPERATURE = 0.07  # a neighbour weighs exp(cosine / temperature), as in DINO
_ROWS = 1024  # of the cosine matrix at a time


def knn_scores(
    train_ND: torch.Tensor,
    targets_NC: torch.Tensor,
    x_MD: torch.Tensor,
    *,
    k: int,
    leave_one_out: bool = False,
) -> torch.Tensor:
    """Weighted shares of the classes among the k nearest training samples, float32 [M, C].

    Features less the training mean, by cosine. leave_one_out: x_MD is train_ND, and no sample is its own neighbour.

    Raises:
        ValueError: k below 1, or no training samples (but itself).
    """
    most = len(train_ND) - leave_one_out
    if k < 1 or most < 1:
        raise ValueError(f"k={k} of {most} training samples; must both be at least 1")
    mean_D = train_ND.mean(dim=0)
    train, x = F.normalize(train_ND - mean_D, dim=1), F.normalize(x_MD - mean_D, dim=1)
    found = []
    for start in range(0, len(x), _ROWS):
        cosine_BN = x[start : start + _ROWS] @ train.T
        if leave_one_out:
            own = torch.arange(len(cosine_BN))
            cosine_BN[own, own + start] = -torch.inf
        top_BK, near_BK = cosine_BN.topk(min(k, most), dim=1)
        weight_BK = (top_BK / _TEMPERATURE).softmax(dim=1)
        found.append(torch.einsum("bk,bkc->bc", weight_BK, targets_NC[near_BK]))
    return torch.cat(found)


def choose_k(train_ND: torch.Tensor, targets_NC: torch.Tensor, score: Callable[[torch.Tensor], float]) -> int:
    """The k of KS that scores best when every training sample is classified by the others; of equals the smallest."""
    if len(train_ND) < 2:
        return 1
    tried = [k for k in KS if k < len(train_ND)]
    values = [score(knn_scores(train_ND, targets_NC, train_ND, k=k, leave_one_out=True)) for k in tried]
    return tried[max(range(len(tried)), key=lambda i: values[i])]
