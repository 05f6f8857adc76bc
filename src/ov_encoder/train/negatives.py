"""One tiled pass over the sampled centres of this shard: all a loss needs to know of its negatives.

The [n, B] cosines exist only one tile at a time. Forward keeps O(B) numbers (maximum, sum, cosines of true classes),
backward computes each tile again. Gradients of centres come as rows and values (a sparse tensor), never as a dense
matrix unless every class takes part. Not here: margins and losses, which are plain autograd on those O(B) numbers.

Suffixes: B = samples of all processes, b = of this one, C = classes of this shard, n = sampled classes,
T = classes in a tile, D = embedding width, L = labels of a sample, l = those of them drawn as positives.
Tiles are [T, B]: class first, so that one spare row can take what does not belong to the tile.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from .exchange import Exchange

Objective = Literal["softmax", "logistic"]


@dataclass(frozen=True)
class Pass:
    """What a pass over the centres does: numbers that do not change from step to step."""

    objective: Objective
    scale: float
    bias: float
    threshold: float | None
    tile: int
    embedding_gradient: float  # factor, see ClusterHead's `encoder_gradients`
    exchange: Exchange


class Negatives(torch.autograd.Function):
    """(embeddings, centres) -> cosines of true classes [B, l] and what the negatives amount to [B].

    softmax: log of the sum of exp(scale * cos) over the negatives of each sample. logistic: the sum of
    log(1 + exp(scale * cos + bias)). Third result, without gradient: [3, B] largest cosine of a negative (before the
    filter), number filtered, number of negatives before the filter.
    """

    @staticmethod
    def forward(
        ctx: Any, x_bD: Tensor, centres_CD: Tensor, rows_n: Tensor | None, columns_LB: Tensor, drawn: int, plan: Pass
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Collectives: gather of x_bD, one maximum, one sum."""
        x_BD = plan.exchange.gather(x_bD.detach(), columns_LB.shape[1] // plan.exchange.world, 0.0)
        batch, scale = len(x_BD), plan.scale
        peak_2B = x_BD.new_full((2, batch), -2.0)  # below every cosine: after, and before the filter
        sum_B, filtered_B = x_BD.new_zeros(batch), x_BD.new_zeros(batch)
        true_lB = x_BD.new_zeros(drawn, batch)
        count = len(centres_CD) if rows_n is None else len(rows_n)
        inverse_n = x_BD.new_empty(count)
        for tile in _tiles(x_BD, centres_CD, rows_n, columns_LB, inverse_n, plan.tile, measure=True):
            cos_TB = tile.cosines()
            true_lB += tile.spare_TB.gather(0, tile.local_LB[:drawn])
            tile.spare_TB.scatter_(0, tile.local_LB, -torch.inf)
            peak_2B[1] = torch.maximum(peak_2B[1], cos_TB.amax(0))
            if plan.threshold is not None:
                over_TB = cos_TB > plan.threshold
                filtered_B += over_TB.sum(0)
                cos_TB.masked_fill_(over_TB, -torch.inf)
            if plan.objective == "softmax":
                peak_B = torch.maximum(peak_2B[0], cos_TB.amax(0))
                sum_B *= torch.exp(scale * (peak_2B[0] - peak_B))
                sum_B += cos_TB.sub_(peak_B).mul_(scale).exp_().sum(0)
                peak_2B[0] = peak_B
            else:
                sum_B += F.softplus(cos_TB.mul_(scale).add_(plan.bias)).sum(0)
        mine_B = peak_2B[0].clone()
        plan.exchange.maximum_(peak_2B)
        if plan.objective == "softmax":
            sum_B *= torch.exp(scale * (mine_B - peak_2B[0]))
        negatives_B = count - (columns_LB >= 0).sum(0).to(sum_B.dtype)
        sums_SB = plan.exchange.sum_(torch.cat([true_lB, torch.stack([sum_B, filtered_B, negatives_B])]))
        true_lB, (sum_B, filtered_B, negatives_B) = sums_SB[:drawn], sums_SB[drawn:]
        if plan.objective == "softmax":
            sum_B = sum_B.log() + scale * peak_2B[0]
        facts_3B = torch.stack([peak_2B[1], filtered_B, negatives_B])
        ctx.save_for_backward(x_BD, centres_CD, columns_LB, inverse_n, sum_B)
        ctx.rows_n, ctx.drawn, ctx.plan, ctx.mine = rows_n, drawn, plan, len(x_bD)
        ctx.mark_non_differentiable(facts_3B)
        return true_lB.T.contiguous(), sum_B, facts_3B

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        """Collective: one reduce-scatter of the embeddings' gradient."""
        dtrue_Bl, dsum_B, _ = gradients
        x_BD, centres_CD, columns_LB, inverse_n, sum_B = ctx.saved_tensors
        plan, rows_n, drawn = ctx.plan, ctx.rows_n, ctx.drawn
        dtrue_lB = dtrue_Bl.T.contiguous()
        dx_BD = torch.zeros_like(x_BD)
        values_nD = centres_CD.new_empty((len(inverse_n), centres_CD.shape[1])) if ctx.needs_input_grad[1] else None
        # A sample without any negative has sum -inf and nothing to weigh; zero keeps exp(-inf - -inf) away.
        shift_B = torch.where(sum_B.isfinite(), sum_B, 0.0) if plan.objective == "softmax" else None
        weight_B = dsum_B * plan.scale
        for tile in _tiles(x_BD, centres_CD, rows_n, columns_LB, inverse_n, plan.tile, measure=False):
            cos_TB = tile.cosines()
            weights_TB = tile.second_TB[:-1]
            torch.mul(cos_TB, plan.scale, out=weights_TB)
            if shift_B is not None:
                weights_TB.sub_(shift_B).exp_()
            else:
                weights_TB.add_(plan.bias).sigmoid_()
            weights_TB.mul_(weight_B)
            if plan.threshold is not None:
                weights_TB.masked_fill_(cos_TB > plan.threshold, 0.0)
            tile.second_TB.scatter_(0, tile.local_LB, 0.0)
            tile.second_TB.scatter_(0, tile.local_LB[:drawn], dtrue_lB)
            # weights_TB is now dloss / dcos. Both directions go through the length of the centre:
            # dloss/dw = (weights x - w (sum weights cos) / |w|) / |w|.
            along_T = torch.mul(weights_TB, cos_TB, out=cos_TB).sum(1)
            weights_TB.mul_(tile.inverse_T[:, None])
            dx_BD.addmm_(weights_TB.T, tile.centres_TD)
            if values_nD is not None:
                tile.write_gradient(values_nD, weights_TB, along_T)
        # Also where these embeddings need no gradient: the other processes wait for this one.
        dx_bD = plan.exchange.scatter_sum(dx_BD)[: ctx.mine].mul_(plan.embedding_gradient)
        dcentres = values_nD
        if values_nD is not None and rows_n is not None:
            dcentres = torch.sparse_coo_tensor(
                rows_n[None], values_nD, centres_CD.shape, is_coalesced=True, check_invariants=False
            )
        return dx_bD, dcentres, None, None, None, None


@dataclass
class _Tile:
    """Some sampled centres against all samples, on borrowed memory: valid until the next tile."""

    first: int
    x_BD: Tensor
    centres_TD: Tensor  # in the dtype of x_BD
    inverse_T: Tensor  # 1 / length
    local_LB: Tensor  # row of each label in this tile; T, the spare row, for labels elsewhere
    spare_TB: Tensor  # [T + 1, B]; the last row collects labels that are not of this tile
    second_TB: Tensor  # as large, for what is computed from the cosines

    def cosines(self) -> Tensor:
        """[T, B]; the spare row is zero."""
        cos_TB = self.spare_TB[:-1]
        torch.mm(self.centres_TD, self.x_BD.T, out=cos_TB)
        self.spare_TB[-1] = 0.0
        return cos_TB.mul_(self.inverse_T[:, None])

    def write_gradient(self, values_nD: Tensor, weights_TB: Tensor, along_T: Tensor) -> None:
        """Gradient of the raw centres: what points along the centre itself is taken out."""
        place_TD = values_nD[self.first : self.first + len(self.centres_TD)]
        same = place_TD.dtype == self.x_BD.dtype
        # `out=` also keeps autocast away: it would make these products bfloat16.
        values_TD = torch.mm(weights_TB, self.x_BD, out=place_TD if same else torch.empty_like(self.centres_TD))
        values_TD.addcmul_(self.centres_TD, (along_T * self.inverse_T.square())[:, None], value=-1)
        if not same:
            place_TD.copy_(values_TD)


def _tiles(
    x_BD: Tensor,
    centres_CD: Tensor,
    rows_n: Tensor | None,
    columns_LB: Tensor,
    inverse_n: Tensor,
    size: int,
    *,
    measure: bool,
) -> Iterator[_Tile]:
    """The sampled centres, `size` at a time. `measure`: fill inverse_n, else read it."""
    count, batch = len(inverse_n), len(x_BD)
    size = min(size, count)
    gathered_TD = centres_CD.new_empty((size, centres_CD.shape[1])) if rows_n is not None else None
    spare_TB, second_TB = x_BD.new_empty((2, size + 1, batch))
    for first in range(0, count, size or 1):
        stop = min(first + size, count)
        length = stop - first
        if rows_n is None or gathered_TD is None:
            raw_TD = centres_CD[first:stop]
        else:
            raw_TD = gathered_TD[:length]
            torch.index_select(centres_CD, 0, rows_n[first:stop], out=raw_TD)
        centres_TD = raw_TD.to(x_BD.dtype)
        inverse_T = inverse_n[first:stop]
        if measure:
            torch.linalg.vector_norm(centres_TD, dim=1, out=inverse_T).clamp_(min=1e-12).reciprocal_()
        local_LB = columns_LB - first
        local_LB = torch.where((local_LB >= 0) & (local_LB < length), local_LB, length)
        yield _Tile(first, x_BD, centres_TD, inverse_T, local_LB, spare_TB[: length + 1], second_TB[: length + 1])
