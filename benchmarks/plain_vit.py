"""What benchmarks/encode.py compares with: the same ViT as most people would write it, over [B, 3, T, H, W].

With `eager=True` it works as the reference does without flash-attn: every patch of every frame is embedded before
tokens are dropped, and attention builds its N x N scores.
"""

import torch
from torch import nn
from torch.nn import functional as F

from ov_encoder.model.config import OVEncoderConfig


class PlainBlock(nn.Module):
    def __init__(self, D: int, wide: int, heads: int, eager: bool) -> None:
        super().__init__()
        self.heads, self.eager = heads, eager
        self.norm1, self.norm2 = nn.LayerNorm(D, eps=1e-6), nn.LayerNorm(D, eps=1e-6)
        self.q, self.k, self.v, self.out = (nn.Linear(D, D) for _ in range(4))
        self.mlp = nn.Sequential(nn.Linear(D, wide), nn.GELU(), nn.Linear(wide, D))

    def forward(self, x: torch.Tensor, cos: torch.Tensor, sin: torch.Tensor) -> torch.Tensor:
        B, N, D = x.shape
        y = self.norm1(x)
        q, k, v = (proj(y).view(B, N, self.heads, -1).transpose(1, 2) for proj in (self.q, self.k, self.v))
        q, k = (q * cos + rotate_half(q) * sin).to(v), (k * cos + rotate_half(k) * sin).to(v)
        if self.eager:
            scores = q @ k.transpose(-1, -2) * q.shape[-1] ** -0.5
            attended = scores.softmax(-1, dtype=torch.float32).to(v) @ v
        else:
            attended = F.scaled_dot_product_attention(q, k, v)
        x = x + self.out(attended.transpose(1, 2).reshape(B, N, D))
        return x + self.mlp(self.norm2(x))


class PlainViT(nn.Module):
    def __init__(self, config: OVEncoderConfig, *, eager: bool = False) -> None:
        super().__init__()
        D, wide, heads = config.hidden_size, config.intermediate_size, config.num_attention_heads
        self.eager, self.head_dim = eager, config.head_dim
        self.patch = nn.Conv2d(3, D, config.patch_size, config.patch_size, bias=False)
        self.norm_pre, self.norm_post = nn.LayerNorm(D, eps=1e-6), nn.LayerNorm(D, eps=1e-6)
        self.blocks = nn.ModuleList(PlainBlock(D, wide, heads, eager) for _ in range(config.num_hidden_layers))
        self.probe = nn.Parameter(torch.empty(1, 1, D))
        self.pool = nn.MultiheadAttention(D, heads, batch_first=True)
        self.pool_norm = nn.RMSNorm(D, eps=1e-6)
        self.pool_mlp = nn.Sequential(nn.Linear(D, wide), nn.GELU(), nn.Linear(wide, D))

    def forward(self, video: torch.Tensor, index_BN: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Normalised video [B, 3, T, H, W]; index_BN picks tokens if there are fewer than patches."""
        B = len(video)
        x = self.patch(video.transpose(1, 2).flatten(0, 1)).flatten(2).transpose(1, 2)
        x = self.norm_pre(x.reshape(B, -1, x.shape[-1]))
        if index_BN.shape[1] != x.shape[1]:
            x = x.gather(1, index_BN[..., None].expand(-1, -1, x.shape[-1]))
        cos, sin = self.table(index_BN)
        for block in self.blocks:
            x = block(x, cos, sin)
        x = self.norm_post(x)
        y = self.pool(self.probe.expand(B, -1, -1), x, x, need_weights=False)[0]
        return x, (y + self.pool_mlp(self.pool_norm(y)))[:, 0]

    def table(self, index_BN: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        half = self.head_dim // 2
        columns = []
        for place, n in (
            (index_BN // 256, half // 4),
            (index_BN // 16 % 16, half * 3 // 8),
            (index_BN % 16, half * 3 // 8),
        ):
            columns.append(place[..., None] * 10000.0 ** (-torch.arange(n, device=index_BN.device) / n))
        angles = torch.cat(columns * 2, -1)[:, None]
        return angles.cos(), angles.sin()


def rotate_half(x: torch.Tensor) -> torch.Tensor:
    first, second = x.float().chunk(2, dim=-1)
    return torch.cat((-second, first), dim=-1)
