"""Cost accounting: operations by formula, seconds and memory as measured, per clip. Nothing is evaluated here.

A multiplication and an addition are two operations. Only matrix products, convolutions and attention count, as in
torch.utils.flop_counter, which the tests compare with. L = tokens of a sequence, D = width, M = width of the MLP.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING

from ov_encoder.model.config import OVEncoderConfig

if TYPE_CHECKING:
    import torch


def linear_flops(rows: int, inputs: int, outputs: int) -> int:
    """A matrix product of [rows, inputs] and [inputs, outputs]."""
    return 2 * rows * inputs * outputs


def transformer_flops(lengths: Iterable[int], *, width: int, hidden: int, layers: int, gated: bool = False) -> int:
    """Blocks of attention (four projections, scores, weighted sum) and MLP (two matrices, three if gated)."""
    matrices = 4 * width * width + (3 if gated else 2) * width * hidden
    return layers * sum(2 * L * matrices + 4 * L * L * width for L in lengths)


def pooling_flops(lengths: Iterable[int], *, width: int, hidden: int) -> int:
    """One learned probe attends to every token, then an MLP: the head of SigLIP and of our encoder."""
    probe = linear_flops(1, width, 2 * width) + 2 * linear_flops(1, width, hidden)  # q, out, fc1, fc2
    return sum(probe + linear_flops(L, width, 2 * width) + 4 * L * width for L in lengths)


def encoder_flops(config: OVEncoderConfig, lengths: Sequence[int]) -> int:
    """OVEncoder on samples of `lengths` tokens: patch embedding, blocks and, where it has one, the pooling head."""
    D, M = config.hidden_size, config.intermediate_size
    total = linear_flops(sum(lengths), config.patch_dim, D)
    total += transformer_flops(lengths, width=D, hidden=M, layers=config.num_hidden_layers)
    return total + (pooling_flops(lengths, width=D, hidden=M) if config.use_head else 0)


def counted_flops(model: torch.nn.Module, *inputs: torch.Tensor) -> int:
    """What torch counts in one forward pass: for networks without a formula here (convolutions)."""
    import torch
    from torch.utils.flop_counter import FlopCounterMode

    with FlopCounterMode(display=False) as counter, torch.no_grad():
        model(*inputs)
    return counter.get_total_flops()
