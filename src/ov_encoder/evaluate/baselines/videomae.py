"""VideoMAE as a tower. Its position table has a fixed number of frames: fewer are shown as it was trained, masked.

Shapes: T = frames, C = 3 colours, Y, X = pixels, S = tubelets shown, L = patches of a tubelet, D = width.
"""

from __future__ import annotations

from pathlib import Path

import torch

from ov_encoder.evaluate.baselines.towers import IMAGENET, load, mean_and_std, square
from ov_encoder.evaluate.cost import linear_flops, transformer_flops
from ov_encoder.patchify.sampling import chunk_slots


class VideoMAE:
    """All tokens of a clip see each other; pooled: none of its own (checkpoints of V1 have no last norm either).

    A budget of fewer tubelets than `num_frames` gives shows them at the middles of equal chunks of the position
    table and masks the rest, which is what pre-training did with nine tenths of them.
    """

    video = True

    def __init__(self, path: Path) -> None:
        self.model = load("VideoMAEModel", path)
        self.config = self.model.config
        step = self.config.tubelet_size
        self.slices = self.config.num_frames // step
        self.shape = square(self.config, path, step=step, slices=self.slices)
        self.mean, self.std = mean_and_std(path, IMAGENET)

    def __call__(self, pixels_TCYX: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor | None]:
        """A clip to tokens [S, L, D]."""
        step, rows = self.shape.step, pixels_TCYX.shape[-2] // self.shape.patch
        S, L = len(pixels_TCYX) // step, rows * rows
        shown_S = torch.from_numpy(chunk_slots(self.slices, S))
        clip = pixels_TCYX.new_zeros(self.slices, step, *pixels_TCYX.shape[1:])
        clip[shown_S] = pixels_TCYX.unflatten(0, (S, step))
        masked = torch.ones(self.slices, L, dtype=torch.bool, device=pixels_TCYX.device)
        masked[shown_S] = False
        out = self.model(pixel_values=clip.flatten(0, 1)[None], bool_masked_pos=masked.reshape(1, -1))
        return out.last_hidden_state.reshape(S, L, -1), None

    def flops(self, slices: int, tokens: int) -> int:
        """Embedding of every tubelet, shown or not, and blocks over those shown."""
        c = self.config
        blocks = transformer_flops(
            [slices * tokens], width=c.hidden_size, hidden=c.intermediate_size, layers=c.num_hidden_layers
        )
        return linear_flops(self.slices * tokens, 3 * self.shape.step * self.shape.patch**2, c.hidden_size) + blocks
