"""What the loop trains: a module, a loss on batches, and optimizers beside it. ClusterTask is the first task.

A task of another kind (a language model, say) has the same five members; see `Task`. B = samples, D = width.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, Protocol, TypeVar

import torch
from torch import Tensor, nn

from ov_encoder.model.encoder import OVEncoder
from ov_encoder.train.centre_optimizer import CentreAdamW
from ov_encoder.train.cluster_head import ClusterHead
from ov_encoder.train.config import HeadConfig, OptimConfig
from ov_encoder.train.loader import TrainBatch
from ov_encoder.train.optim import parameter_groups

Batch = TypeVar("Batch", contravariant=True)


class SideOptimizer(Protocol):
    """Updates parameters that are not the module's (class centres, sharded over processes by their own rule)."""

    lr: float

    def square_sum(self) -> Tensor:
        """Of this process's gradients."""

    def step(self) -> None:
        """Update."""

    def zero_grad(self) -> None:
        """Forget the gradients."""


class Task(Protocol[Batch]):
    """What `Loop` needs. The loop spreads `module` over processes and hands back what to call as `forward`.

    module: what AdamW trains and checkpoints hold. blocks: its parts that FSDP gathers one at a time. sides: (lr
    relative to the schedule's, optimizer) of what is beside it.
    """

    @property
    def module(self) -> nn.Module:
        """Trained by AdamW."""

    @property
    def sides(self) -> Sequence[tuple[float, SideOptimizer]]:
        """Beside it."""

    def blocks(self) -> Iterable[nn.Module]:
        """Units of FSDP and of activation checkpointing."""

    def groups(self) -> list[dict[str, Any]]:
        """Parameter groups of the module, see `optim.parameter_groups`. Called after it was spread."""

    def loss(self, forward: Callable[..., Any], batch: Batch) -> tuple[Tensor, dict[str, Tensor]]:
        """A scalar to differentiate, the same in every process, and detached 0-dim numbers to log."""

    def side_state(self) -> tuple[dict[str, tuple[Tensor, int]], dict[str, Any]]:
        """What checkpoints hold beside the module: rows of this process and rows of all, by name; plain values."""

    def load_side_state(self, plain: Mapping[str, Any]) -> None:
        """Take the plain values back; the rows were loaded in place."""

    def flops(self, batch: Batch) -> float:
        """Floating point operations of forward and backward, for the utilisation; 0 if unknown."""


class ClusterTask:
    """Cluster discrimination: the pooled vector of every sample against the class centres of its head."""

    def __init__(
        self,
        encoder: OVEncoder,
        heads: Sequence[HeadConfig],
        classes: Mapping[str, int],
        *,
        optim: OptimConfig,
        device: torch.device,
        seed: int = 0,
    ) -> None:
        self.module = encoder
        self.optim = optim
        self.configs = list(heads)
        self.heads = {
            head.name: ClusterHead(
                encoder.config.hidden_size,
                head.classes or classes[head.name],
                margin=head.margin,
                m=head.m,
                scale=head.scale,
                sample_rate=head.sample_rate,
                labels_per_step=head.labels_per_step,
                filter_threshold=head.filter_threshold,
                objective=head.objective,
                seed=seed + i,
                device=device,
            )
            for i, head in enumerate(heads)
        }
        self.optimizers = {
            name: CentreAdamW(head, betas=optim.betas, eps=optim.eps, weight_decay=optim.centre_decay, seed=seed)
            for name, head in self.heads.items()
        }
        self.sides: Sequence[tuple[float, SideOptimizer]] = [(optim.centre_lr, o) for o in self.optimizers.values()]

    def blocks(self) -> Iterable[nn.Module]:
        """The encoder's blocks."""
        return list(self.module.encoder.layers)

    def groups(self) -> list[dict[str, Any]]:
        """Decay on matrices only."""
        return parameter_groups(self.module, weight_decay=self.optim.weight_decay)

    def loss(self, forward: Callable[..., Any], batch: TrainBatch) -> tuple[Tensor, dict[str, Tensor]]:
        """Sum of weight * loss over heads; a head without a sample in this process still takes part (collectives)."""
        return self.head_loss(forward(batch.patches).pooled_BD, batch)

    def head_loss(self, pooled_BD: Tensor, batch: TrainBatch) -> tuple[Tensor, dict[str, Tensor]]:
        """The same, from the pooled vectors of a batch."""
        total = pooled_BD.new_zeros((), dtype=torch.float32)
        metrics: dict[str, Tensor] = {}
        for config in self.configs:
            name, head = config.name, self.heads[config.name]
            rows_b = torch.from_numpy(batch.rows[name]).to(pooled_BD.device)
            labels_bL = torch.from_numpy(batch.labels[name]).to(pooled_BD.device)
            loss = head(pooled_BD[rows_b], labels_bL)
            total = total + config.weight * loss
            assert head.statistics is not None
            metrics[f"{name}/loss"] = loss.detach()
            metrics[f"{name}/accuracy"] = head.statistics.accuracy
            metrics[f"{name}/positive_cosine"] = head.statistics.positive_cosine
        return total, metrics

    def side_state(self) -> tuple[dict[str, tuple[Tensor, int]], dict[str, Any]]:
        """Centres, moments and step counts, one row per class; how often was drawn and rounded."""
        rows: dict[str, tuple[Tensor, int]] = {}
        plain: dict[str, Any] = {}
        for name, head in self.heads.items():
            optimizer = self.optimizers[name].state_dict()
            rows[f"heads.{name}.centres_CD"] = head.centres_CD.detach(), head.classes
            for key in ("mean_CD", "square_CD", "steps_C"):
                rows[f"heads.{name}.{key}"] = optimizer[key], head.classes
            plain[name] = {"draws": head.draws, "rounds": optimizer["rounds"], "classes": head.classes}
        return rows, plain

    def load_side_state(self, plain: Mapping[str, Any]) -> None:
        """Counterpart of side_state."""
        for name, values in plain.items():
            self.heads[name].draws = values["draws"]
            self.optimizers[name].rounds = values["rounds"]

    def flops(self, batch: TrainBatch) -> float:
        """Matrix products: 2 operations per weight and token forward, twice that backward, and attention's."""
        config = self.module.config
        D, layers = config.hidden_size, config.num_hidden_layers
        per_token = layers * (4 * D * D + 2 * D * config.intermediate_size) + config.patch_dim * D + 2 * D * D
        attention = sum(2 * n * n * D * layers for n in batch.patches.lengths_B)
        drawn = sum(len(batch.rows[n]) * h.sample_rate * (h.stop - h.start) for n, h in self.heads.items())
        heads = drawn * self.module.config.hidden_size * 4 / 3 * max(1, next(iter(self.heads.values())).exchange.world)
        return 6.0 * (per_token * batch.tokens + attention + heads)
