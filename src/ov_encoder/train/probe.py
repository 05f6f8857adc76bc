"""A small probe while training: k nearest neighbours by cosine on a labelled set. Studies live in `evaluate`.

D = width, N = samples of the bank, Q = queries.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from ov_encoder.errors import OvEncoderError
from ov_encoder.patchify.batch import PatchBatch, pack

TOKENS = 8192  # encoded together


def knn_accuracy(bank_ND: Tensor, labels_N: Tensor, queries_QD: Tensor, truth_Q: Tensor, *, k: int) -> float:
    """Share of queries whose k nearest by cosine vote for the right class, votes weighted by exp(cosine / 0.07)."""
    bank, queries = (nn.functional.normalize(x.float(), dim=1) for x in (bank_ND, queries_QD))
    near_Qk, who_Qk = (queries @ bank.T).topk(min(k, len(bank)), dim=1)
    votes_QC = torch.zeros(len(queries), int(labels_N.max()) + 1, device=queries.device)
    votes_QC.scatter_add_(1, labels_N[who_Qk], (near_Qk / 0.07).exp())
    return float((votes_QC.argmax(1) == truth_Q).float().mean())


@torch.no_grad()
def pooled(encoder: nn.Module, batches: list[PatchBatch]) -> Tensor:
    """Pooled vectors of samples, a few at a time, float32 on the CPU: [samples, D]."""
    was, out, group = encoder.training, [], list[PatchBatch]()
    encoder.eval()
    for i, batch in enumerate(batches):
        group.append(batch)
        if sum(b.tokens for b in group) >= TOKENS or i == len(batches) - 1:
            out.append(encoder(pack(group)).pooled_BD.float().cpu())
            group = []
    encoder.train(was)
    return torch.cat(out)


def spread(count: int, most: int) -> Sequence[int]:
    """At most `most` places of `count`, evenly spread, because a manifest may be sorted by class."""
    step = max(count / most, 1.0)
    return [int(i * step) for i in range(min(count, most))]


class Probe:
    """Prepared once, measured as often as wanted: `Probe(...)(encoder)` -> {"probe": accuracy}."""

    def __init__(self, train: list[tuple[PatchBatch, str]], test: list[tuple[PatchBatch, str]], *, k: int) -> None:
        names = sorted({label for _, label in train})
        known = [(batch, label) for batch, label in test if label in names]
        if not known:
            raise OvEncoderError("the probe's test samples have no class that its training samples have")
        self.k = k
        self.sets = [
            ([batch for batch, _ in part], torch.tensor([names.index(label) for _, label in part]))
            for part in (train, known)
        ]

    def __call__(self, encoder: nn.Module) -> dict[str, float]:
        """Accuracy of the encoder as it is, under the name "probe"."""
        (bank, labels_N), (queries, truth_Q) = self.sets
        bank_ND, queries_QD = pooled(encoder, bank), pooled(encoder, queries)
        return {"probe": round(knn_accuracy(bank_ND, labels_N, queries_QD, truth_Q, k=self.k), 4)}
