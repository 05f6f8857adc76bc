"""The parts of the encoder, with the parameter names of released checkpoints. All of them take packed tokens.

Norms compute in float32 inside their kernels whatever the dtype of the tokens; everything else runs in the dtype
of the weights. Shapes: N = tokens, D = width, H = heads, E = channels of a head, B = samples, P = patch side.
"""

import torch
from torch import nn
from torch.nn import functional as F
from torch.utils.checkpoint import checkpoint

from ov_encoder.model.attention import Segments, attend
from ov_encoder.model.config import OVEncoderConfig
from ov_encoder.model.rope import RotaryTable, apply_rotary

MLP_ROWS = 1024  # rows the MLP widens at a time without gradients: bounds memory, keeps the wide rows in cache


def make_norm(config: OVEncoderConfig) -> nn.Module:
    """The norm of the blocks, by `layer_norm_type`."""
    kind = nn.RMSNorm if config.layer_norm_type == "rms_norm" else nn.LayerNorm
    return kind(config.hidden_size, eps=config.layer_norm_eps)


class PatchEmbedding(nn.Module):
    """The stride-P convolution as one matrix product over patches that are already cut."""

    def __init__(self, config: OVEncoderConfig) -> None:
        super().__init__()
        P = config.patch_size
        self.patch_embedding = nn.Conv2d(config.num_channels, config.hidden_size, P, stride=P, bias=False)

    def forward(self, patches_NP: torch.Tensor) -> torch.Tensor:
        """Normalised patches [N, 3*P*P] to tokens [N, D]."""
        return F.linear(patches_NP, self.patch_embedding.weight.flatten(1))


class SelfAttention(nn.Module):
    """Multi-head attention within each sample, with rotary positions."""

    def __init__(self, config: OVEncoderConfig) -> None:
        super().__init__()
        D = config.hidden_size
        self.heads = config.num_attention_heads
        self.q_proj, self.k_proj, self.v_proj, self.out_proj = (nn.Linear(D, D) for _ in range(4))

    def forward(self, x_ND: torch.Tensor, rotary: RotaryTable, segments: Segments, kernel: str) -> torch.Tensor:
        """Tokens [N, D] to tokens [N, D]."""
        heads = (self.heads, -1)
        q_NHE = apply_rotary(self.q_proj(x_ND).unflatten(-1, heads), rotary)
        k_NHE = apply_rotary(self.k_proj(x_ND).unflatten(-1, heads), rotary)
        v_NHE = self.v_proj(x_ND).unflatten(-1, heads)
        return self.out_proj(attend(q_NHE, k_NHE, v_NHE, segments, segments, kernel).flatten(1))


class MLP(nn.Module):
    """Widen, exact GELU, narrow."""

    def __init__(self, config: OVEncoderConfig) -> None:
        super().__init__()
        self.fc1 = nn.Linear(config.hidden_size, config.intermediate_size)
        self.fc2 = nn.Linear(config.intermediate_size, config.hidden_size)

    def forward(self, x_ND: torch.Tensor) -> torch.Tensor:
        """Rows [N, D] to rows [N, D]."""
        if torch.is_grad_enabled() or len(x_ND) <= MLP_ROWS or x_ND.device.type != "cpu":
            return self.fc2(F.gelu(self.fc1(x_ND)))
        return torch.cat([self.fc2(F.gelu(self.fc1(rows))) for rows in x_ND.split(MLP_ROWS)])


class Block(nn.Module):
    """x += attention(norm(x)); x += mlp(norm(x))."""

    def __init__(self, config: OVEncoderConfig) -> None:
        super().__init__()
        self.layer_norm1 = make_norm(config)
        self.self_attn = SelfAttention(config)
        self.layer_norm2 = make_norm(config)
        self.mlp = MLP(config)

    def forward(self, x_ND: torch.Tensor, rotary: RotaryTable, segments: Segments, kernel: str) -> torch.Tensor:
        """Tokens [N, D] to tokens [N, D]."""
        x_ND = x_ND + self.self_attn(self.layer_norm1(x_ND), rotary, segments, kernel)
        return x_ND + self.mlp(self.layer_norm2(x_ND))


class BlockStack(nn.Module):
    """All blocks. With `gradient_checkpointing`, activations of a block are recomputed in the backward pass."""

    def __init__(self, config: OVEncoderConfig) -> None:
        super().__init__()
        self.gradient_checkpointing = False
        self.layers = nn.ModuleList(Block(config) for _ in range(config.num_hidden_layers))

    def forward(
        self, x_ND: torch.Tensor, rotary: RotaryTable, segments: Segments, kernel: str, keep: frozenset[int]
    ) -> tuple[torch.Tensor, dict[int, torch.Tensor]]:
        """The last state, and the states in `keep`: i is the input of block i, the last one the final output."""
        recompute = self.gradient_checkpointing and torch.is_grad_enabled()
        kept = {}
        for i, block in enumerate(self.layers):
            if i in keep:
                kept[i] = x_ND
            if recompute:
                x_ND = checkpoint(block, x_ND, rotary, segments, kernel, use_reentrant=False)
            else:
                x_ND = block(x_ND, rotary, segments, kernel)
        if len(self.layers) in keep:
            kept[len(self.layers)] = x_ND
        return x_ND, kept


class ProbeAttention(nn.Module):
    """Parameters laid out like torch's MultiheadAttention, applied to one query per sample."""

    def __init__(self, config: OVEncoderConfig) -> None:
        super().__init__()
        D = config.hidden_size
        self.heads = config.num_attention_heads
        self.in_proj_weight = nn.Parameter(torch.empty(3 * D, D))
        self.in_proj_bias = nn.Parameter(torch.zeros(3 * D))
        self.out_proj = nn.Linear(D, D)

    def forward(self, probe_1D: torch.Tensor, x_ND: torch.Tensor, segments: Segments, kernel: str) -> torch.Tensor:
        """Tokens [N, D] of B samples to [B, D]."""
        B, heads = len(segments.lengths), (self.heads, -1)
        q_weight, k_weight, v_weight = self.in_proj_weight.chunk(3)
        q_bias, k_bias, v_bias = self.in_proj_bias.chunk(3)
        q_BHE = F.linear(probe_1D.expand(B, -1), q_weight, q_bias).unflatten(-1, heads)
        k_NHE = F.linear(x_ND, k_weight, k_bias).unflatten(-1, heads)
        v_NHE = F.linear(x_ND, v_weight, v_bias).unflatten(-1, heads)
        probes = Segments.of([1] * B, x_ND.device)
        return self.out_proj(attend(q_BHE, k_NHE, v_NHE, probes, segments, kernel).flatten(1))


class PoolingHead(nn.Module):
    """One learned probe attends to all tokens of a sample: y = attention(probe), pooled = y + mlp(norm(y))."""

    def __init__(self, config: OVEncoderConfig) -> None:
        super().__init__()
        self.probe = nn.Parameter(torch.empty(1, 1, config.hidden_size))
        self.attention = ProbeAttention(config)
        self.norm = nn.RMSNorm(config.hidden_size, eps=config.layer_norm_eps)
        self.mlp = MLP(config)

    def forward(self, x_ND: torch.Tensor, segments: Segments, kernel: str) -> torch.Tensor:
        """Tokens [N, D] to one vector per sample [B, D]."""
        y_BD = self.attention(self.probe[0], x_ND, segments, kernel)
        return y_BD + self.mlp(self.norm(y_BD))


def init_weights(module: nn.Module, *, std: float, generator: torch.Generator | None = None) -> None:
    """Fresh weights for every parameter below `module`. `generator` makes them a function of its seed alone."""
    for part in module.modules():
        init_part(part, std=std, generator=generator)


def init_part(part: nn.Module, *, std: float, generator: torch.Generator | None = None) -> None:
    """Fresh weights for the parameters that `part` itself holds.

    Linear and patch embedding N(0, std), biases 0, norms 1 and 0, probe N(0, 1), and the probe's input projection
    Xavier-uniform.
    """
    if isinstance(part, nn.Linear | nn.Conv2d):
        nn.init.normal_(part.weight, std=std, generator=generator)
        if part.bias is not None:
            nn.init.zeros_(part.bias)
    elif isinstance(part, nn.LayerNorm | nn.RMSNorm):
        part.reset_parameters()
    elif isinstance(part, ProbeAttention):
        nn.init.xavier_uniform_(part.in_proj_weight, generator=generator)
        nn.init.zeros_(part.in_proj_bias)
    elif isinstance(part, PoolingHead):
        nn.init.normal_(part.probe, generator=generator)
