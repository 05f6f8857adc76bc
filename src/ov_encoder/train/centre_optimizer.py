"""AdamW for class centres: only rows that took part in the step are read, decayed and written.

Here: the update of one head's centres, its state, rounding to bfloat16. Not here: the encoder's optimizer.
Suffixes: C = classes of this shard, D = embedding width, n = rows with a gradient, T = rows of a tile.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor

from .cluster_head import ClusterHead
from .sampling import generator_for


class CentreAdamW:
    """AdamW (Loshchilov & Hutter 2019) on sampled rows, each with its own step count for bias correction.

        optimizer = CentreAdamW(head, lr=1e-3)
        loss.backward(); optimizer.step(); optimizer.zero_grad()

    A row without gradient is not touched: no decay, no momentum. `lr` and `weight_decay` are plain attributes, to be
    set before each step. The state is sharded like the centres; `reshard` cuts it anew.

    Args:
        head: whose centres to update.
        lr: learning rate.
        betas, eps, weight_decay: of AdamW; decay is lr * weight_decay of each touched row.
        moments_dtype: float32 or bfloat16; None: float32 (float64 for float64 centres).
        seed: of stochastic rounding, used where centres or moments are bfloat16: rounding up or down with the
            chance that keeps the expectation, without which small updates of bfloat16 would all be lost.

    Memory per million classes x 1024, all processes together: centres 4.10 GB, two moments 8.19 GB, 12.29 GB in all
    in float32; 6.14 GB in bfloat16 (2.05 + 4.10). Step counts 4 MB. A step needs four tiles of rows besides (1,024
    rows each on CPU, 16,384 elsewhere).
    """

    def __init__(
        self,
        head: ClusterHead,
        *,
        lr: float = 1e-3,
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-8,
        weight_decay: float = 0.05,
        moments_dtype: torch.dtype | None = None,
        seed: int = 0,
    ) -> None:
        centres_CD = head.centres_CD
        wide = torch.float64 if centres_CD.dtype == torch.float64 else torch.float32
        moments_dtype = moments_dtype or wide
        if moments_dtype not in (wide, torch.bfloat16):
            raise ValueError(f"moments_dtype={moments_dtype}: need {wide} or torch.bfloat16")
        if not (all(0 <= beta < 1 for beta in betas) and eps > 0):
            raise ValueError(f"betas={betas}, eps={eps}: need betas in [0, 1) and eps above 0")
        self.head, self.lr, self.betas, self.eps, self.weight_decay = head, lr, betas, eps, weight_decay
        self.seed, self.rounds, self._wide = seed, 0, wide
        self.mean_CD = torch.zeros_like(centres_CD, dtype=moments_dtype, requires_grad=False)
        self.square_CD = torch.zeros_like(self.mean_CD)
        self.steps_C = torch.zeros(len(centres_CD), dtype=torch.int32, device=centres_CD.device)

    def gradient(self) -> tuple[Tensor | None, Tensor] | None:
        """Rows (None: all) and values of the gradient, or None. Rows of several backwards are added up."""
        grad = self.head.centres_CD.grad
        if grad is None:
            return None
        if not grad.is_sparse:
            return None, grad
        rows_n, values_nD = grad._indices()[0], grad._values()
        if not bool((rows_n[1:] > rows_n[:-1]).all()):
            grad = self.head.centres_CD.grad = grad.coalesce()
            rows_n, values_nD = grad._indices()[0], grad._values()
        return rows_n, values_nD

    def square_sum(self) -> Tensor:
        """Sum of squares of this shard's gradient (0-dim float32): add over processes for a global norm."""
        found = self.gradient()
        if found is None:
            return torch.zeros((), device=self.head.centres_CD.device)
        return torch.linalg.vector_norm(found[1], dtype=self._wide).square()

    @torch.no_grad()
    def step(self, *, gradient_scale: float | Tensor = 1.0) -> None:
        """Update the rows that have a gradient; `gradient_scale` multiplies it (for clipping)."""
        found = self.gradient()
        if found is None:
            return
        rows_n, values_nD = found
        generator = self._rounding()
        self.rounds += 1
        b1, b2 = self.betas
        tile = 1024 if values_nD.device.type == "cpu" else 16384
        scratch_4TD = values_nD.new_empty((4, tile, values_nD.shape[1]), dtype=self._wide)
        for rows, grad_TD in _row_tiles(rows_n, values_nD, tile):
            g_TD, centre_TD, mean_TD, square_TD = scratch_4TD[:, : len(grad_TD)]
            _read(self.head.centres_CD, rows, centre_TD)
            _read(self.mean_CD, rows, mean_TD)
            _read(self.square_CD, rows, square_TD)
            torch.mul(grad_TD, gradient_scale, out=g_TD)
            steps_T = self.steps_C[rows] + 1
            age_T1 = steps_T.to(torch.float64)[:, None]
            size_T1 = (self.lr / (1 - b1**age_T1)).to(self._wide)
            unbias_T1 = (1 - b2**age_T1).rsqrt().to(self._wide)
            mean_TD.lerp_(g_TD, 1 - b1)
            square_TD.mul_(b2).addcmul_(g_TD, g_TD, value=1 - b2)
            self._write(self.mean_CD, rows, mean_TD, generator)
            self._write(self.square_CD, rows, square_TD, generator)
            update_TD = mean_TD.div_(square_TD.sqrt_().mul_(unbias_T1).add_(self.eps)).mul_(size_T1)
            centre_TD.mul_(1 - self.lr * self.weight_decay).sub_(update_TD)
            self._write(self.head.centres_CD, rows, centre_TD, generator)
            self.steps_C[rows] = steps_T

    def zero_grad(self) -> None:
        """Forget the gradient."""
        self.head.centres_CD.grad = None

    def state_dict(self) -> dict[str, Any]:
        """Moments and step counts of this shard's rows (no copies), and the number of steps for the rounding."""
        return {"mean_CD": self.mean_CD, "square_CD": self.square_CD, "steps_C": self.steps_C, "rounds": self.rounds}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Counterpart of state_dict; moments of another dtype are converted. ValueError if rows do not fit."""
        for name in ("mean_CD", "square_CD", "steps_C"):
            mine = getattr(self, name)
            if state[name].shape != mine.shape:
                raise ValueError(f"{name} of shape {tuple(state[name].shape)}: this shard has {tuple(mine.shape)}")
            mine.copy_(state[name])
        self.rounds = state["rounds"]

    def _rounding(self) -> torch.Generator:
        return generator_for(
            "rounding",
            seed=self.seed,
            step=self.rounds,
            rank=self.head.exchange.rank,
            device=self.head.centres_CD.device,
        )

    def _write(self, x_CD: Tensor, rows: Tensor | slice, new_TD: Tensor, generator: torch.Generator) -> None:
        narrow = x_CD.dtype == torch.bfloat16 and self._wide != torch.bfloat16
        value_TD = round_stochastically(new_TD, generator=generator) if narrow else new_TD
        if isinstance(rows, slice):
            x_CD[rows] = value_TD
        else:
            x_CD.index_copy_(0, rows, value_TD)


def _read(x_CD: Tensor, rows: Tensor | slice, out_TD: Tensor) -> None:
    """Copy some rows into memory of the wide dtype."""
    if isinstance(rows, slice):
        out_TD.copy_(x_CD[rows])
    elif x_CD.dtype == out_TD.dtype:
        torch.index_select(x_CD, 0, rows, out=out_TD)
    else:
        out_TD.copy_(x_CD.index_select(0, rows))


def _row_tiles(rows_n: Tensor | None, values_nD: Tensor, size: int) -> Iterator[tuple[Tensor | slice, Tensor]]:
    for first in range(0, len(values_nD), size):
        values_TD = values_nD[first : first + size]
        rows = slice(first, first + len(values_TD)) if rows_n is None else rows_n[first : first + size]
        yield rows, values_TD


def round_stochastically(x: Tensor, *, generator: torch.Generator) -> Tensor:
    """float32 to bfloat16, up or down with the chance that keeps the expectation.

    A uniform 16-bit number is added to the bits below bfloat16's, then they are cut off: the carry rounds away from
    zero with a chance proportional to what is cut.
    """
    if x.dtype != torch.float32:
        x = x.float()
    words = torch.empty(-(-x.numel() // 4), dtype=torch.int64, device=x.device)
    words.random_(-(2**63), None, generator=generator)  # one draw of 64 bits serves four numbers
    noise = words.view(torch.int16)[: x.numel()].view(x.shape).to(torch.int32).bitwise_and_(0xFFFF)
    return noise.add_(x.contiguous().view(torch.int32)).bitwise_and_(-0x10000).view(torch.float32).bfloat16()
