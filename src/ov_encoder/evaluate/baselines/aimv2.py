"""AIMv2 as a tower.

Shapes: T = frames, C = 3 colours, Y, X = pixels, L = patches of a frame, D = width.
"""

from __future__ import annotations

from pathlib import Path

import torch

from ov_encoder.evaluate.baselines.siglip import pooled_mean
from ov_encoder.evaluate.baselines.towers import CLIP, load, mean_and_std, square
from ov_encoder.evaluate.cost import linear_flops, transformer_flops


class Aimv2:
    """Patch tokens after the last norm; pooled by its head where the checkpoint has one (mean over frames)."""

    video = False

    def __init__(self, path: Path) -> None:
        self.model = load("Aimv2VisionModel", path, key_mapping={r"^vision_model\.": ""})
        self.config = self.model.config
        self.shape = square(self.config, path)
        self.mean, self.std = mean_and_std(path, CLIP)

    def __call__(self, pixels_TCYX: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor | None]:
        """Every frame on its own: tokens [T, L, D]."""
        out = self.model(pixel_values=pixels_TCYX)
        return out.last_hidden_state, pooled_mean(out.pooler_output)

    def flops(self, slices: int, tokens: int) -> int:
        """Patch embedding, gated blocks and head (keys, values, attention of one query, output) for each frame."""
        c = self.config
        D = c.hidden_size
        total = linear_flops(tokens, 3 * self.shape.patch**2, D)
        total += transformer_flops(
            [tokens], width=D, hidden=c.intermediate_size, layers=c.num_hidden_layers, gated=True
        )
        if c.use_head:
            total += linear_flops(tokens, D, 2 * D) + 4 * tokens * D + linear_flops(1, D, D)
        return slices * total
