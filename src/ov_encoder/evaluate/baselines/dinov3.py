"""DINOv3 (ViT) as a tower.

Shapes: T = frames, C = 3 colours, Y, X = pixels, L = patches of a frame, D = width.
"""

from __future__ import annotations

from pathlib import Path

import torch

from ov_encoder.evaluate.baselines.towers import IMAGENET, load, mean_and_std, square
from ov_encoder.evaluate.cost import linear_flops, transformer_flops


class Dinov3:
    """Patch tokens after the last norm; pooled: class token, mean over frames. Registers are computed, not kept."""

    video = False

    def __init__(self, path: Path) -> None:
        self.model = load("DINOv3ViTModel", path)
        self.config = self.model.config
        self.shape = square(self.config, path)
        self.special = 1 + self.config.num_register_tokens
        self.mean, self.std = mean_and_std(path, IMAGENET)

    def __call__(self, pixels_TCYX: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor | None]:
        """Every frame on its own: tokens [T, L, D]."""
        out = self.model(pixel_values=pixels_TCYX)
        return out.last_hidden_state[:, self.special :], out.pooler_output.mean(dim=0)

    def flops(self, slices: int, tokens: int) -> int:
        """Patch embedding and blocks for each frame, class and register tokens included."""
        c = self.config
        blocks = transformer_flops(
            [tokens + self.special],
            width=c.hidden_size,
            hidden=c.intermediate_size,
            layers=c.num_hidden_layers,
            gated=c.use_gated_mlp,
        )
        return slices * (linear_flops(tokens, 3 * self.shape.patch**2, c.hidden_size) + blocks)
