"""V-JEPA 2 as a tower: its encoder, without predictor.

Shapes: T = frames, C = 3 colours, Y, X = pixels, S = tubelets, L = patches of a tubelet, D = width.
"""

from __future__ import annotations

from pathlib import Path

import torch

from ov_encoder.evaluate.baselines.towers import IMAGENET, load, mean_and_std, side
from ov_encoder.evaluate.cost import linear_flops, transformer_flops


class Vjepa2:
    """All tokens of a clip see each other; pooled: none of its own. Any even number of frames."""

    slices, video = None, True

    def __init__(self, path: Path) -> None:
        self.model = load("VJEPA2Model", path)
        self.config = self.model.config
        self.patch = side(self.config.patch_size, f"{path}: patch_size")
        self.rows = self.config.crop_size // self.patch
        self.step = self.config.tubelet_size
        self.mean, self.std = mean_and_std(path, IMAGENET)

    def grid(self, height: int, width: int) -> tuple[int, int]:
        """The checkpoint's own: its rotary positions assume it."""
        return self.rows, self.rows

    def __call__(self, pixels_TCYX: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor | None]:
        """A clip to tokens [S, L, D]."""
        tokens_1ND = self.model.get_vision_features(pixels_TCYX[None])
        return tokens_1ND.reshape(len(pixels_TCYX) // self.step, self.rows**2, -1), None

    def flops(self, slices: int, tokens: int) -> int:
        """Tubelet embedding and blocks over the whole clip."""
        c = self.config
        N, D = slices * tokens, c.hidden_size
        blocks = transformer_flops([N], width=D, hidden=int(D * c.mlp_ratio), layers=c.num_hidden_layers)
        return linear_flops(N, 3 * self.step * self.patch**2, D) + blocks
