"""Config and model for transformers, drop-in for the reference's. The encoder itself is in `encoder` and `layers`.

Shapes: B = samples, N = tokens of one sample, K = chosen tokens of one sample, T, h, w = grid of embedded patches,
P = patch side, S = values of a patch, D = width.
"""

from __future__ import annotations

from dataclasses import fields
from typing import Any

import torch
from torch import nn
from transformers import PretrainedConfig, PreTrainedModel
from transformers.modeling_outputs import BaseModelOutputWithPooling

from ov_encoder.model.config import MODEL_TYPE, OVEncoderConfig
from ov_encoder.model.encoder import EncoderParts
from ov_encoder.model.layers import init_part


class OneVisionEncoderConfig(PretrainedConfig):
    """The fields of `OVEncoderConfig` as a transformers config. Without `rope` it means "reference".

    Raises:
        ValueError: naming the field, its value and what is allowed.
    """

    model_type = MODEL_TYPE

    def __init__(self, **kwargs: Any) -> None:
        ours = OVEncoderConfig.from_dict({k: v for k, v in kwargs.items() if k != "model_type"})
        names = {f.name for f in fields(OVEncoderConfig)}
        for name in names:
            setattr(self, name, getattr(ours, name))
        super().__init__(**{k: v for k, v in kwargs.items() if k not in names})

    def encoder_config(self) -> OVEncoderConfig:
        """The same values for the packed encoder."""
        return OVEncoderConfig(**{f.name: getattr(self, f.name) for f in fields(OVEncoderConfig)})


class OneVisionEncoderModel(EncoderParts, PreTrainedModel):
    """The encoder behind the reference's `forward`. Its state dict has exactly the keys of released checkpoints.

    Attention always goes through the encoder's own seam, whatever `attn_implementation` says: the varlen kernel
    on a GPU in 16 bit, fused SDPA elsewhere. The numbers are those of eager attention.
    """

    config_class = OneVisionEncoderConfig
    base_model_prefix = "onevision_encoder"
    main_input_name = "pixel_values"
    input_modalities = ["image", "video"]  # noqa: RUF012
    supports_gradient_checkpointing = True
    _no_split_modules = ["Block", "PoolingHead"]  # noqa: RUF012 - the type transformers reads
    _supports_sdpa = True
    _supports_flash_attn = True

    def __init__(self, config: OneVisionEncoderConfig) -> None:
        PreTrainedModel.__init__(self, config)
        self.add_parts(config.encoder_config())
        self.post_init()

    def _init_weights(self, module: nn.Module) -> None:
        init_part(module, std=self.config.initializer_range)

    def forward(
        self,
        pixel_values: torch.Tensor,
        visible_indices: torch.Tensor | None = None,
        patch_positions: torch.Tensor | None = None,
        output_hidden_states: bool | None = None,
        output_attentions: bool | None = None,
        return_dict: bool | None = None,
    ) -> BaseModelOutputWithPooling | tuple[Any, ...]:
        """Encode images [B, 3, H, W] or videos [B, 3, T, H, W] of normalised pixels; patches are t-major.

        visible_indices [B, K], each t * h * w + row * w + column: if K is the number of patches in `pixel_values`
        (packed fake frames), they only say where each patch comes from; otherwise they also choose the patches,
        and only those are embedded. patch_positions [B, K, 3]: the (t, h, w) of every encoded token, integer or
        fractional; they take precedence over positions from indices.

        Returns last_hidden_state [B, K, D] after the last norm, pooler_output [B, D] and, if asked, hidden_states:
        the input of every block and the output of the last, *before* the last norm.

        Raises:
            ValueError: shapes that do not fit together, indices outside the grid, or output_attentions=True.
        """
        if output_attentions:
            raise ValueError("output_attentions=True: fused attention keeps no scores to return")
        if pixel_values.ndim not in (4, 5) or pixel_values.shape[1] != 3:
            raise ValueError(f"pixel_values must be [B, 3, H, W] or [B, 3, T, H, W], got {list(pixel_values.shape)}")
        video = pixel_values if pixel_values.ndim == 5 else pixel_values.unsqueeze(2)
        P = self.config.patch_size
        B, _, T, H, W = video.shape
        h, w = H // P, W // P  # like the reference's convolution: pixels beyond the last whole patch are unused
        if h == 0 or w == 0:
            raise ValueError(f"frames of {H} x {W} pixels hold no whole patch of {P} x {P}")
        slots = self.config.rope_temporal_size or T if pixel_values.ndim == 5 else 1
        index_BK = _indices(visible_indices, B, T * h * w, max(slots, T) * h * w, video.device)
        patches_BKS = _cut(video, index_BK, P)
        positions_BK3 = _positions(index_BK, h, w) if patch_positions is None else patch_positions
        K = index_BK.shape[1]
        if positions_BK3.shape != (B, K, 3):
            raise ValueError(f"patch_positions must be [{B}, {K}, 3], got {list(positions_BK3.shape)}")
        if output_hidden_states is None:
            output_hidden_states = self.config.output_hidden_states
        out = self.encode(
            patches_BKS.flatten(0, 1),
            positions_BK3.flatten(0, 1),
            [K] * B,
            config=self.config.encoder_config(),
            hidden_states=bool(output_hidden_states),
        )
        hidden = tuple(x_ND.unflatten(0, (B, K)) for x_ND in out.hidden_states) or None
        output = BaseModelOutputWithPooling(out.tokens_ND.unflatten(0, (B, K)), out.pooled_BD, hidden)
        return_dict = self.config.return_dict if return_dict is None else return_dict
        return output if return_dict else output.to_tuple()


def _indices(
    visible_indices: torch.Tensor | None, B: int, patches: int, limit: int, device: torch.device
) -> torch.Tensor:
    """Indices [B, K] of the tokens to encode, checked against the grid."""
    if visible_indices is None:
        return torch.arange(patches, device=device).expand(B, -1)
    if visible_indices.ndim != 2 or len(visible_indices) != B:
        raise ValueError(f"visible_indices must be [{B}, K], got {list(visible_indices.shape)}")
    K = visible_indices.shape[1]
    bound = limit if patches == K else patches
    low, high = int(visible_indices.min()), int(visible_indices.max())
    if low < 0 or high >= bound:
        raise ValueError(f"visible_indices run from {low} to {high}; with {K} of them they must be in [0, {bound})")
    return visible_indices.to(device=device, dtype=torch.long)


def _cut(video: torch.Tensor, index_BK: torch.Tensor, P: int) -> torch.Tensor:
    """The patches to embed, [B, K, 3*P*P]: all of them if there are as many indices, else the chosen ones."""
    B, _, T, H, W = video.shape
    h, w = H // P, W // P
    grid = video[..., : h * P, : w * P].unflatten(4, (w, P)).unflatten(3, (h, P))  # [B, 3, T, h, P, w, P]
    grid = grid.permute(0, 2, 3, 5, 1, 4, 6)
    if index_BK.shape[1] == T * h * w:
        return grid.flatten(4).flatten(1, 3)
    t, row, column = _positions(index_BK, h, w).unbind(-1)
    return grid[torch.arange(B, device=video.device)[:, None], t, row, column].flatten(2)


def _positions(index_BK: torch.Tensor, h: int, w: int) -> torch.Tensor:
    t, cell = index_BK // (h * w), index_BK % (h * w)
    return torch.stack((t, cell // w, cell % w), dim=-1)
