"""V-JEPA 2 as a tower: its encoder, without predictor.

Shapes: T = frames, C = 3 colours, Y, X = pixels, S = tubelets, L = patches of a tubelet, D = width.
"""

from __future__ import annotations

from pathlib import Path

import torch

from ov_encoder.evaluate.baselines.frames import FrameShape
from ov_encoder.evaluate.baselines.towers import IMAGENET, load, mean_and_std, side
from ov_encoder.evaluate.cost import linear_flops, transformer_flops


class Vjepa2:
    """All tokens of a clip see each other; pooled: none of its own. Any even number of frames."""

    video = True

    def __init__(self, path: Path) -> None:
        self.model = load("VJEPA2Model", path)
        self.config = self.model.config
        patch = side(self.config.patch_size, f"{path}: patch_size")
        self.shape = FrameShape(patch=patch, rows=self.config.crop_size // patch, step=self.config.tubelet_size)
        self.mean, self.std = mean_and_std(path, IMAGENET)

    def __call__(self, pixels_TCYX: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor | None]:
        """A clip to tokens [S, L, D]."""
        tokens_1ND = self.model.get_vision_features(pixels_TCYX[None])
        return tokens_1ND.unflatten(1, (len(pixels_TCYX) // self.shape.step, -1))[0], None

    def flops(self, slices: int, tokens: int) -> int:
        """Tubelet embedding and blocks over the whole clip."""
        c = self.config
        N, D = slices * tokens, c.hidden_size
        blocks = transformer_flops([N], width=D, hidden=int(D * c.mlp_ratio), layers=c.num_hidden_layers)
        return linear_flops(N, 3 * self.shape.step * self.shape.patch**2, D) + blocks
