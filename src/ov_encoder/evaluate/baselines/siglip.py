"""SigLIP and SigLIP2, fixed size and NaFlex, as towers.

Shapes: T = frames, C = 3 colours, Y, X = pixels, L = patches of a frame, P = values of a patch, D = width.
"""

from __future__ import annotations

import math
from pathlib import Path

import torch

from ov_encoder.evaluate.baselines.towers import HALF, load, mean_and_std, model_type, side
from ov_encoder.evaluate.cost import linear_flops, pooling_flops, transformer_flops


class Siglip:
    """Fixed size: patch tokens after the last norm, pooled by its attention head (mean over frames)."""

    step, slices, video = 1, None, False

    def __init__(self, path: Path) -> None:
        self.model = load("SiglipVisionModel", path)
        self.config = self.model.config
        self.patch = side(self.config.patch_size, f"{path}: patch_size")
        self.rows = side(self.config.image_size, f"{path}: image_size") // self.patch
        self.mean, self.std = mean_and_std(path, (HALF, HALF))

    def grid(self, height: int, width: int) -> tuple[int, int]:
        """The checkpoint's own, whatever the frame."""
        return self.rows, self.rows

    def __call__(self, pixels_TCYX: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor | None]:
        """Every frame on its own: tokens [T, L, D]."""
        out = self.model(pixel_values=pixels_TCYX)
        return out.last_hidden_state, pooled_mean(out.pooler_output)

    def flops(self, slices: int, tokens: int) -> int:
        """Patch embedding, blocks and head for each frame."""
        return slices * _frame_flops(self.config, tokens, 3 * self.patch**2)


class SiglipNaflex:
    """NaFlex: any grid of at most `num_patches` patches, so that a frame keeps its shape (within one patch)."""

    step, slices, video = 1, None, False

    def __init__(self, path: Path) -> None:
        self.model = load("Siglip2VisionModel", path)
        self.config = self.model.config
        self.patch = side(self.config.patch_size, f"{path}: patch_size")
        self.mean, self.std = mean_and_std(path, (HALF, HALF))

    def grid(self, height: int, width: int) -> tuple[int, int]:
        """The largest grid of the frame's shape, sides rounded up, that has at most `num_patches` patches."""
        most = self.config.num_patches
        # Either side steps up at whole numbers of patches: of all scales that matter the largest that still fits.
        steps = sorted({n / length for length in (height, width) for n in range(1, most + 1)}, reverse=True)
        for scale in steps:
            rows, columns = (max(math.ceil(length * scale - 1e-9), 1) for length in (height, width))
            if rows * columns <= most:
                return rows, columns
        return 1, 1

    def __call__(self, pixels_TCYX: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor | None]:
        """Every frame on its own: tokens [T, L, D]. Patches are flattened row, column, colour, as it was trained."""
        T, C, Y, X = pixels_TCYX.shape
        rows, columns, P = Y // self.patch, X // self.patch, self.patch
        patches_TLP = pixels_TCYX.reshape(T, C, rows, P, columns, P).permute(0, 2, 4, 3, 5, 1).reshape(T, -1, P * P * C)
        out = self.model(
            pixel_values=patches_TLP,
            pixel_attention_mask=torch.ones(patches_TLP.shape[:2], dtype=torch.long, device=pixels_TCYX.device),
            spatial_shapes=torch.tensor([[rows, columns]] * T),
        )
        return out.last_hidden_state, pooled_mean(out.pooler_output)

    def flops(self, slices: int, tokens: int) -> int:
        """Patch embedding, blocks and head for each frame."""
        return slices * _frame_flops(self.config, tokens, 3 * self.patch**2)


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
