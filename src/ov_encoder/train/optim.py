"""The optimizer of the module: AdamW with decay on matrices only, one global gradient norm, an average of weights.

Not here: class centres (centre_optimizer.py), learning rates over time (schedule.py).
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from ov_encoder.train.config import OptimConfig
from ov_encoder.train.parallel import clean_name, full, local


def parameter_groups(module: nn.Module, *, weight_decay: float, lr_scale: float = 1.0) -> list[dict[str, Any]]:
    """Matrices (two or more dimensions larger than one) with decay; norms, biases, probes and the like without."""
    groups: list[dict[str, Any]] = [
        {"params": [], "weight_decay": weight_decay, "lr_scale": lr_scale},
        {"params": [], "weight_decay": 0.0, "lr_scale": lr_scale},
    ]
    for parameter in module.parameters():
        if parameter.requires_grad:
            groups[sum(side > 1 for side in parameter.shape) < 2]["params"].append(parameter)
    return [group for group in groups if group["params"]]


def make_optimizer(groups: list[dict[str, Any]], optim: OptimConfig) -> torch.optim.AdamW:
    """AdamW over groups of parameters; their `lr_scale` multiplies the schedule's rate."""
    return torch.optim.AdamW(groups, lr=optim.lr, betas=optim.betas, eps=optim.eps, fused=True)


def set_rate(optimizer: torch.optim.Optimizer, lr: float) -> None:
    """The rate of the next step."""
    for group in optimizer.param_groups:
        group["lr"] = lr * group["lr_scale"]


def gradient_norm(optimizer: torch.optim.Optimizer) -> Tensor:
    """Of all gradients and processes together, 0-dim."""
    grads = [p.grad for group in optimizer.param_groups for p in group["params"] if p.grad is not None]
    return full(torch.nn.utils.get_total_norm(grads))


def scale_gradients(optimizer: torch.optim.Optimizer, factor: Tensor) -> None:
    """Multiply every gradient."""
    grads = [local(p.grad) for group in optimizer.param_groups for p in group["params"] if p.grad is not None]
    torch._foreach_mul_(grads, factor)


class Average:
    """An exponential moving average of the weights, sharded as they are: average = decay * average + (1 - decay) * w.

    The first steps use a smaller decay, (1 + n) / (10 + n) after n steps, so that it forgets the fresh weights.
    """

    def __init__(self, module: nn.Module, decay: float) -> None:
        self.decay = decay
        self.module = module
        self.weights = {clean_name(n): p.detach().clone() for n, p in module.named_parameters()}

    @torch.no_grad()
    def update(self, steps: int) -> None:
        """After step number `steps` (from 1)."""
        weight = 1 - min(self.decay, (1 + steps) / (10 + steps))
        now = [local(p) for p in self.module.parameters()]
        torch._foreach_lerp_([local(x) for x in self.weights.values()], now, weight)


def module_state(module: nn.Module, optimizer: torch.optim.Optimizer, average: Average | None) -> dict[str, Tensor]:
    """Weights, moments and average by clean names: the tensors themselves, to be saved or loaded into.

    Moments that AdamW has not made yet are made here.
    """
    state: dict[str, Tensor] = {}
    for long_name, parameter in module.named_parameters():
        name = clean_name(long_name)
        state[f"model.{name}"] = parameter.detach()
        if parameter.requires_grad:
            moments = optimizer.state[parameter]
            if not moments:
                moments["step"] = torch.zeros((), device=parameter.device)
                moments["exp_avg"] = torch.zeros_like(parameter)
                moments["exp_avg_sq"] = torch.zeros_like(parameter)
            state |= {f"optimizer.{name}.{key}": value.detach() for key, value in moments.items()}
    if average is not None:
        state |= {f"average.{name}": value for name, value in average.weights.items()}
    return state
