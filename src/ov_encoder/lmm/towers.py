"""Vision towers of other families in the place of our encoder: SigLIP2 and Qwen3-VL's, behind the same projector.

Networks and their pixels only; which frames they are shown is in `frames`, how they are opened in evaluate.baselines.

Shapes: N = patches of all samples, T = frames of a sample, S = slices (frames, or pairs of them), L = tokens of a
slice, D = width, H, W = patch rows and columns, P = patch side, Y, X = pixels, C = 3 colours.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any, cast

import torch
from safetensors.torch import save_file
from torch import nn

from ov_encoder.evaluate.baselines import open_tower
from ov_encoder.evaluate.baselines.towers import Tower, directory
from ov_encoder.lmm.frames import TowerShape
from ov_encoder.patchify.batch import PatchBatch


def _siglip2(model: Any) -> tuple[nn.ModuleList, list[nn.Module]]:
    return model.encoder.layers, [model.post_layernorm, *([model.head] if model.use_head else [])]


def _qwen3vl(model: Any) -> tuple[nn.ModuleList, list[nn.Module]]:
    model.deepstack_visual_indexes = []  # features for a language model that reads them in several layers
    return model.blocks, [model.merger, model.merger.norm, *model.deepstack_merger_list]


# Its blocks, and what comes after them.
FAMILIES: dict[str, Callable[[Any], tuple[nn.ModuleList, list[nn.Module]]]] = {
    "siglip2": _siglip2,
    "qwen3vl": _qwen3vl,
}


def is_tower(encoder: str) -> bool:
    """Whether the name of an encoder is FAMILY:DIRECTORY or FAMILY:OWNER/MODEL of a family that is known here."""
    return encoder.partition(":")[0] in FAMILIES and ":" in encoder


class VisionTower(nn.Module):
    """A tower that gives the state before block `layer` (-1: after the last), as `LMMConfig.feature_layer` counts.

    As with our encoder, the state is taken before the last norm, and nothing behind it is computed; those weights are
    kept (`unused`), so that what is saved is the whole tower. `shape` says what it takes.
    """

    def __init__(self, name: str, tower: Tower, *, layer: int) -> None:
        super().__init__()
        self.tower, self.model = tower, tower.model
        blocks, after = FAMILIES[name](tower.model)
        layers, config = len(blocks), cast(Any, tower.model.config)
        if not -layers - 1 <= layer <= layers:
            raise ValueError(f"feature_layer={layer}; {name} here has states 0 to {layers} (or -1 ...)")
        self.blocks = list(blocks)
        self.unused = [*self.blocks[layer % (layers + 1) :], *after]
        for module in self.unused:
            module.forward = _same
        self.width: int = config.hidden_size
        self.shape = TowerShape(
            name=name,
            patch=tower.shape.patch,
            rows=None if name == "qwen3vl" else tower.shape.rows,  # its 16 rows are the probes' choice, not its own
            step=tower.shape.step,
            unit=getattr(config, "spatial_merge_size", 1),
        )

    @classmethod
    def open(
        cls,
        name: str,
        place: str | Path,
        *,
        layer: int,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> VisionTower:
        """A tower of FAMILIES in eval mode, from a directory or a hub id. Strict, as baselines are.

        Raises:
            ValueError: no such layer. OvEncoderError: the checkpoint is missing, damaged, or of another family.
        """
        made = cls(name, open_tower(name, directory(str(place))), layer=layer)
        return made.to(device=device, dtype=dtype).eval()

    @property
    def device(self) -> torch.device:
        """Where the weights are."""
        return next(self.model.parameters()).device

    def set_gradient_checkpointing(self) -> None:
        """Recompute activations in the backward pass."""
        self.model.gradient_checkpointing_enable()  # type: ignore[operator]

    def forward(self, batch: PatchBatch) -> torch.Tensor:
        """Tokens of all samples [sum of S * L, D], sample by sample, slice by slice, in raster order.

        Every sample must be whole frames (`TowerShape.check`). A last slice that lacks frames repeats the last one.
        Frames of one size go through the network together, whoever they belong to: its slices do not see each other.
        """
        clips = [self._pixels(one) for one in batch.unpack()]
        tokens: dict[int, torch.Tensor] = {}
        for size in dict.fromkeys(clip_TCYX.shape[2:] for clip_TCYX in clips):
            mine = [i for i, clip_TCYX in enumerate(clips) if clip_TCYX.shape[2:] == size]
            tokens_SLD, _ = self.tower(torch.cat([clips[i] for i in mine]))
            slices = [len(clips[i]) // self.shape.step for i in mine]
            tokens |= {i: part.flatten(0, 1) for i, part in zip(mine, tokens_SLD.split(slices), strict=True)}
        return torch.cat([tokens[i] for i in range(len(clips))])

    def _pixels(self, one: PatchBatch) -> torch.Tensor:
        """The frames of one sample as the network takes them, [T, C, Y, X], T a multiple of `step`."""
        weight, (_, H, W), P = next(self.model.parameters()), one.grids_B[0], self.shape.patch
        patches_THWCPP = torch.as_tensor(one.patches_ND).to(weight.device).reshape(-1, H, W, 3, P, P)
        rgb_TCYX = patches_THWCPP.permute(0, 3, 1, 4, 2, 5).reshape(-1, 3, H * P, W * P).float() / 255
        mean_C11, std_C11 = (
            torch.tensor(values, device=weight.device)[:, None, None] for values in (self.tower.mean, self.tower.std)
        )
        x_TCYX = ((rgb_TCYX - mean_C11) / std_C11).to(weight.dtype)
        lacking = -len(x_TCYX) % self.shape.step
        return torch.cat([x_TCYX, x_TCYX[-1:].expand(lacking, -1, -1, -1)])

    def save(self, folder: Path) -> None:
        """Write config.json, model.safetensors and the pixels' mean and deviation; `open` reads them."""
        tensors = {name: t.detach().cpu().contiguous() for name, t in self.model.state_dict().items()}
        cast(Any, self.model.config).save_pretrained(folder)
        save_file(tensors, str(folder / "model.safetensors"), metadata={"format": "pt"})
        means = {"image_mean": self.tower.mean, "image_std": self.tower.std}
        (folder / "preprocessor_config.json").write_text(json.dumps(means) + "\n")


def _same(x: torch.Tensor, *rest: Any, **options: Any) -> torch.Tensor:
    return x
