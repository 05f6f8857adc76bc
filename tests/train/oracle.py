"""The head's loss written pair by pair from its definition, and the reference's eight columns: slow, plain autograd."""

import torch
import torch.nn.functional as F


def margined(cos, margin, m, scale):
    if margin == "cosface":
        return scale * (cos - m)
    if margin == "arcface":
        return scale * torch.cos(torch.acos(cos) + m)
    return scale * cos


def labels_of(row):
    return sorted({int(label) for label in row if label >= 0})


def plain_loss(
    x_BD, w_CD, labels_BL, drawn_Bl, rows, *, margin, m, scale, objective="softmax", bias=0.0, threshold=None
):
    """Mean over pairs; `labels_BL`: all labels, `drawn_Bl`: the pairs of this step, `rows`: sampled classes."""
    cos_BC = F.normalize(x_BD) @ F.normalize(w_CD).T
    terms, pairs = [], 0
    for i, (own, drawn) in enumerate(zip(map(labels_of, labels_BL), map(labels_of, drawn_Bl), strict=True)):
        negatives = [k for k in rows if k not in own and not (threshold is not None and cos_BC[i, k] > threshold)]
        negative = scale * cos_BC[i, negatives]
        if objective == "logistic" and drawn:
            terms.append(torch.log1p(torch.exp(negative + bias)).sum())
        for j in drawn:
            true = margined(cos_BC[i, j], margin, m, scale)
            if objective == "logistic":
                terms.append(torch.log1p(torch.exp(-true - bias)))
            else:
                terms.append(torch.logsumexp(torch.cat([true[None], negative]), 0) - true)
            pairs += 1
    return sum(terms, x_BD.sum() * 0) / max(pairs, 1)


def reference_loss(x_BD, w_CD, labels_Bl, rows, *, limit, m=0.3, scale=64.0, threshold=0.75):
    """Each label column its own softmax over all sampled classes, as the reference has it; their mean."""
    columns = []
    place = {k: n for n, k in enumerate(rows)}
    for label_B in labels_Bl.T.tolist():
        cos_Bn = F.normalize(x_BD) @ F.normalize(w_CD[rows]).T
        true_Bn = torch.zeros_like(cos_Bn)
        true_Bn[range(len(x_BD)), [place[label] for label in label_B]] = 1.0
        logits_Bn = torch.where((cos_Bn > threshold) & (true_Bn == 0), 0.0 * cos_Bn, cos_Bn) - m * true_Bn
        columns.append(-(torch.log_softmax(scale * logits_Bn, 1) * true_Bn).sum(1).clamp(min=-limit).mean())
    return torch.stack(columns).mean()
