"""SigLIP and SigLIP2, fixed size and NaFlex, as towers.

Shapes: T = frames, C = 3 colours, Y, X = pixels, L = patches of a frame, P = values of a patch, D = width.
"""

from __future__ import annotations

from pathlib import Path

import torch

from ov_encoder.evaluate.baselines.frames import FrameShape
from ov_encoder.evaluate.baselines.towers import HALF, load, mean_and_std, model_type, side, square
from ov_encoder.evaluate.cost import linear_flops, pooling_flops, transformer_flops


class Siglip:
    """Fixed size: patch tokens after the last norm, pooled by its attention head (mean over frames)."""

    video = False

    def __init__(self, path: Path) -> None:
        self.model = load("SiglipVisionModel", path)
        self.config = self.model.config
        self.shape = square(self.config, path)
        self.mean, self.std = mean_and_std(path, (HALF, HALF))

    def __call__(self, pixels_TCYX: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor | None]:
        """Every frame on its own: tokens [T, L, D]."""
        out = self.model(pixel_values=pixels_TCYX)
        return out.last_hidden_state, pooled_mean(out.pooler_output)

    def flops(self, slices: int, tokens: int) -> int:
        """Patch embedding, blocks and head for each frame."""
        return slices * _frame_flops(self.config, tokens, 3 * self.shape.patch**2)


class SiglipNaflex:
    """NaFlex: any grid of at most `num_patches` patches, so that a frame keeps its shape (within one patch)."""

    video = False

    def __init__(self, path: Path) -> None:
        self.model = load("Siglip2VisionModel", path)
        self.config = self.model.config
        self.shape = FrameShape(patch=side(self.config.patch_size, f"{path}: patch_size"), most=self.config.num_patches)
        self.mean, self.std = mean_and_std(path, (HALF, HALF))

    def __call__(self, pixels_TCYX: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor | None]:
        """Every frame on its own: tokens [T, L, D]. Patches are flattened row, column, colour, as it was trained."""
        T, C, Y, X = pixels_TCYX.shape
        P = self.shape.patch
        rows, columns = Y // P, X // P
        patches_TLP = pixels_TCYX.reshape(T, C, rows, P, columns, P).permute(0, 2, 4, 3, 5, 1).reshape(T, -1, P * P * C)
        out = self.model(
            pixel_values=patches_TLP,
            pixel_attention_mask=torch.ones(patches_TLP.shape[:2], dtype=torch.long, device=pixels_TCYX.device),
            spatial_shapes=torch.tensor([[rows, columns]] * T),
        )
        return out.last_hidden_state, pooled_mean(out.pooler_output)

    def flops(self, slices: int, tokens: int) -> int:
        """Patch embedding, blocks and head for each frame."""
        return slices * _frame_flops(self.config, tokens, 3 * self.shape.patch**2)


def pooled_mean(pooled_TD: torch.Tensor | None) -> torch.Tensor | None:
    """The mean over frames of what a network pools of each."""
    return None if pooled_TD is None else pooled_TD.mean(dim=0)


def _frame_flops(config, tokens: int, patch_values: int) -> int:
    D, M = config.hidden_size, config.intermediate_size
    total = linear_flops(tokens, patch_values, D)
    total += transformer_flops([tokens], width=D, hidden=M, layers=config.num_hidden_layers)
    return total + (pooling_flops([tokens], width=D, hidden=M) if config.vision_use_head else 0)


def open_siglip(path: Path) -> Siglip | SiglipNaflex:
    """Fixed size or NaFlex, as the checkpoint says (fixed-size SigLIP2 calls itself plain siglip).

    Raises:
        OvEncoderError: not a checkpoint of either.
    """
    kind = model_type(path)
    return SiglipNaflex(path) if kind.startswith("siglip2") else Siglip(path)
