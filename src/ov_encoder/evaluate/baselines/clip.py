"""CLIP and MetaCLIP 2 as towers: one architecture under two names.

Shapes: T = frames, C = 3 colours, Y, X = pixels, L = patches of a frame, D = width.
"""

from __future__ import annotations

from pathlib import Path

import torch

from ov_encoder.evaluate.baselines.towers import CLIP, load, mean_and_std, square
from ov_encoder.evaluate.cost import linear_flops, transformer_flops


class Clip:
    """Patch tokens after the last norm (which transformers applies to the class token only); pooled: class token."""

    video = False
    loaded_as = "CLIPVisionModel"

    def __init__(self, path: Path) -> None:
        self.model = load(self.loaded_as, path)
        self.config = self.model.config
        self.shape = square(self.config, path)
        self.mean, self.std = mean_and_std(path, CLIP)

    def __call__(self, pixels_TCYX: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor | None]:
        """Every frame on its own: tokens [T, L, D], without the class token."""
        out = self.model(pixel_values=pixels_TCYX)
        return self.model.post_layernorm(out.last_hidden_state[:, 1:]), out.pooler_output.mean(dim=0)

    def flops(self, slices: int, tokens: int) -> int:
        """Patch embedding and blocks for each frame, class token included."""
        D, M = self.config.hidden_size, self.config.intermediate_size
        blocks = transformer_flops([tokens + 1], width=D, hidden=M, layers=self.config.num_hidden_layers)
        return slices * (linear_flops(tokens, 3 * self.shape.patch**2, D) + blocks)


class MetaClip2(Clip):
    """The same towers, trained on worldwide data."""

    loaded_as = "MetaClip2VisionModel"
