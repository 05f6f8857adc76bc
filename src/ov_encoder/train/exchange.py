"""The only place where a head talks to the other processes: each collective of a step, and its bytes by formula.

Not here: what is computed between them. Without an initialised process group everything is a no-op on one shard.
Suffixes: b = rows of this process (padded to the largest b), B = rows of all processes, L = label columns,
D = embedding width.
"""

from __future__ import annotations

import torch
import torch.distributed as dist
from torch import Tensor

NUMBERS = 4  # int64 that every process tells first: rows, label columns, smallest and largest label


def communication_bytes(
    *, world: int, rows: int, dim: int, labels: int, drawn: int, itemsize: int = 4
) -> dict[str, int]:
    """Bytes of each collective of one forward and backward: the whole tensor that it builds or reduces.

    `rows` per process (the largest), `labels` columns given, `drawn` columns used, `itemsize` 4 (8 for float64 heads).
    A ring sends (world - 1) / world of a gathered or scattered tensor per process, twice that of an all-reduced one.
    Independent of the number of classes.
    """
    if world == 1:
        return {}
    batch = world * rows
    return {
        "numbers, gathered": world * NUMBERS * 8,
        "labels, gathered": batch * labels * 8,
        "embeddings, gathered": batch * dim * itemsize,
        "maxima, reduced": batch * 2 * itemsize,
        "sums, reduced": batch * (drawn + 3) * itemsize,
        "gradient of the embeddings, scattered": batch * dim * itemsize,
    }


class Exchange:
    """Rank, number of processes, and the five collectives of the head over one process group."""

    def __init__(self, group: dist.ProcessGroup | None = None) -> None:
        self.group = group
        alone = not (dist.is_available() and dist.is_initialized())
        self.rank = 0 if alone else dist.get_rank(group)
        self.world = 1 if alone else dist.get_world_size(group)

    def numbers(self, mine_4: Tensor) -> list[list[int]]:
        """Four int64 of every process, on the host."""
        if self.world == 1:
            return [mine_4.tolist()]
        all_W4 = mine_4.new_empty(self.world * NUMBERS)
        _gather(all_W4, mine_4, self.group)
        return all_W4.view(self.world, NUMBERS).tolist()

    def gather(self, x_bD: Tensor, rows: int, fill: float) -> Tensor:
        """The rows of every process, each padded with `fill` to `rows` rows."""
        if self.world == 1:
            return x_bD
        if len(x_bD) < rows:
            x_bD = torch.cat([x_bD, x_bD.new_full((rows - len(x_bD), x_bD.shape[1]), fill)])
        x_BD = x_bD.new_empty(self.world * rows, x_bD.shape[1])
        _gather(x_BD, x_bD.contiguous(), self.group)
        return x_BD

    def maximum_(self, x: Tensor) -> Tensor:
        """In place: the largest over all processes."""
        if self.world > 1:
            dist.all_reduce(x, dist.ReduceOp.MAX, group=self.group)
        return x

    def sum_(self, x: Tensor) -> Tensor:
        """In place: the sum over all processes."""
        if self.world > 1:
            dist.all_reduce(x, dist.ReduceOp.SUM, group=self.group)
        return x

    def scatter_sum(self, x_BD: Tensor) -> Tensor:
        """This process's rows (with padding) of the sum over all processes."""
        if self.world == 1:
            return x_BD
        x_bD = x_BD.new_empty(len(x_BD) // self.world, x_BD.shape[1])
        # torch 2.13 renamed both collectives and warns of the old names.
        scatter = dist.reduce_scatter_single if hasattr(dist, "reduce_scatter_single") else dist.reduce_scatter_tensor
        scatter(x_bD, x_BD, group=self.group)
        return x_bD


def _gather(all_rows: Tensor, mine: Tensor, group: dist.ProcessGroup | None) -> None:
    gather = dist.all_gather_single if hasattr(dist, "all_gather_single") else dist.all_gather_into_tensor
    gather(all_rows, mine, group=group)
