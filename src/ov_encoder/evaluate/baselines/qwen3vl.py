"""The vision tower of Qwen3-VL, alone: from its own checkpoint or from that of the whole language model.

Shapes: T = frames, C = 3 colours, Y, X = pixels, S = pairs of frames, L = patches of a pair, D = width, B, A = rows
and columns of merging blocks, m = patches of a block's side, P = patch side, s = frames of a slice.
"""

from __future__ import annotations

from pathlib import Path

import torch

from ov_encoder.evaluate.baselines.frames import FrameShape
from ov_encoder.evaluate.baselines.towers import HALF, load, mean_and_std, side
from ov_encoder.evaluate.cost import linear_flops, transformer_flops

SIDE = 16  # patches: 256 tokens a pair of frames at 256 pixels; the tower takes any size


class Qwen3VL:
    """Tokens before 2 x 2 merging, after the merger's norm. A slice is a pair of frames; pairs do not meet."""

    video = False

    def __init__(self, path: Path) -> None:
        self.model = load("Qwen3VLVisionModel", path, key_mapping={r"^(model\.)?visual\.": ""})
        self.config = self.model.config
        patch = side(self.config.patch_size, f"{path}: patch_size")
        self.shape = FrameShape(patch=patch, rows=SIDE, step=side(self.config.temporal_patch_size, f"{path}: pair"))
        self.mean, self.std = mean_and_std(path, (HALF, HALF))

    def __call__(self, pixels_TCYX: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor | None]:
        """Pairs of frames to tokens [S, L, D] in raster order; the tower itself wants them block by block."""
        (T, C, Y, X), P, s = pixels_TCYX.shape, self.shape.patch, self.shape.step
        S, m = T // s, self.config.spatial_merge_size
        B, A = Y // P // m, X // P // m
        blocks = pixels_TCYX.reshape(S, s, C, B, m, P, A, m, P).permute(0, 3, 6, 4, 7, 2, 1, 5, 8)
        grid_13 = torch.tensor([[S, B * m, A * m]], device=pixels_TCYX.device)
        out = self.model(blocks.reshape(S * B * A * m * m, C * s * P * P), grid_thw=grid_13)
        tokens = self.model.merger.norm(out.last_hidden_state)
        return tokens.reshape(S, B, A, m, m, -1).transpose(2, 3).reshape(S, B * m * A * m, -1), None

    def flops(self, slices: int, tokens: int) -> int:
        """Patch embedding, blocks, merger and deep-stack mergers for each pair (the model computes them all)."""
        c = self.config
        D, unit = c.hidden_size, c.spatial_merge_size**2
        blocks = transformer_flops([tokens], width=D, hidden=c.intermediate_size, layers=c.depth)
        merger = linear_flops(tokens // unit, unit * D, unit * D) + linear_flops(
            tokens // unit, unit * D, c.out_hidden_size
        )
        patches = linear_flops(tokens, 3 * self.shape.step * self.shape.patch**2, D)
        return slices * (patches + blocks + (1 + len(c.deepstack_visual_indexes)) * merger)
