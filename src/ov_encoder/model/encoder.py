"""OVEncoder: a PatchBatch in, tokens and one pooled vector per sample out. Parts are in `layers`.

Shapes: N = tokens of all samples, D = width, B = samples, P = values of a patch.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import nn

from ov_encoder.model.attention import Segments, choose_kernel
from ov_encoder.model.config import OVEncoderConfig
from ov_encoder.model.layers import BlockStack, PatchEmbedding, PoolingHead, init_weights, make_norm
from ov_encoder.model.rope import rotary_table
from ov_encoder.patchify.batch import PatchBatch

CLIP_MEAN = (0.48145466, 0.4578275, 0.40821073)  # RGB in [0, 1], as released weights were trained
CLIP_STD = (0.26862954, 0.26130258, 0.27577711)


@dataclass(slots=True)
class EncoderOutput:
    """What the encoder says about a batch.

    tokens_ND: every token after the last norm, in the order of the batch. pooled_BD: one vector per sample, None
    for a model without a head. lengths_B: tokens of each sample. hidden_states: the states that were asked for,
    each [N, D] and *before* the last norm, in the order asked.
    """

    tokens_ND: torch.Tensor
    pooled_BD: torch.Tensor | None
    lengths_B: list[int]
    hidden_states: tuple[torch.Tensor, ...] = ()

    def split(self) -> list[torch.Tensor]:
        """The tokens of each sample, [length, D], as views."""
        return list(self.tokens_ND.split(self.lengths_B))


class EncoderParts:
    """The modules and the packed forward, shared by `OVEncoder` and the transformers class in `ov_encoder.hf`.

    Both need these exact names at their top level, because the names are the keys of released checkpoints.
    """

    def add_parts(self, config: OVEncoderConfig) -> None:
        """Create the modules, uninitialised where torch leaves them so."""
        self.embeddings = PatchEmbedding(config)
        self.layernorm_pre = make_norm(config)
        self.encoder = BlockStack(config)
        self.layernorm_post = make_norm(config)
        self.head = PoolingHead(config) if config.use_head else None

    def encode(
        self,
        patches_NP: torch.Tensor,
        positions_N3: torch.Tensor,
        lengths_B: Sequence[int],
        *,
        config: OVEncoderConfig,
        attention: str = "auto",
        hidden_states: bool | Sequence[int] = False,
    ) -> EncoderOutput:
        """Packed tensors on the device of the weights: normalised patches [N, 3*P*P] and positions [N, 3].

        Raises:
            ValueError: a hidden state that does not exist, or an attention kernel that cannot run here.
        """
        weight = self.embeddings.patch_embedding.weight
        wanted = _layer_indices(hidden_states, config.num_hidden_layers)
        kernel = choose_kernel(attention, weight.device.type, weight.dtype)
        segments = Segments.of(lengths_B, weight.device)
        rotary = rotary_table(positions_N3, head_dim=config.head_dim, theta=config.rope_theta, kind=config.rope)
        x_ND = self.layernorm_pre(self.embeddings(patches_NP.to(weight.dtype)))
        x_ND, kept = self.encoder(x_ND, rotary, segments, kernel, frozenset(wanted))
        tokens_ND = self.layernorm_post(x_ND)
        pooled_BD = None if self.head is None else self.head(tokens_ND, segments, kernel)
        return EncoderOutput(tokens_ND, pooled_BD, list(lengths_B), tuple(kept[i] for i in wanted))


class OVEncoder(EncoderParts, nn.Module):
    """The encoder for packed patches of images, frames and sparse video.

    `attention` is "auto" (the varlen kernel on a GPU in 16 bit, fused SDPA elsewhere), "sdpa" or "varlen". The
    model runs in the dtype of its weights, float32 or bfloat16, without autocast; norms and rotary angles are
    float32 inside. Weights are fresh (see `layers.init_weights`); `load_model` gives trained ones.
    """

    def __init__(self, config: OVEncoderConfig, *, attention: str = "auto") -> None:
        super().__init__()
        self.config = config
        self.attention = attention
        self.add_parts(config)
        if self.device.type != "meta":
            init_weights(self, std=config.initializer_range)

    @property
    def device(self) -> torch.device:
        """Where the weights are."""
        return self.embeddings.patch_embedding.weight.device

    @property
    def dtype(self) -> torch.dtype:
        """What the weights are."""
        return self.embeddings.patch_embedding.weight.dtype

    def set_gradient_checkpointing(self, enabled: bool = True) -> None:
        """Recompute activations in the backward pass: same outputs and gradients, less memory, more time."""
        self.encoder.gradient_checkpointing = enabled

    def forward(self, batch: PatchBatch, *, hidden_states: bool | Sequence[int] = False) -> EncoderOutput:
        """Encode a batch of numpy arrays or of tensors; it is moved to the device of the weights if needed.

        `hidden_states`: True for all, or the wanted ones by number: i is the input of block i, `layers` (or -1)
        the output of the last block, each before the last norm.

        Raises:
            ValueError: patches of another size than the model's, or a hidden state that does not exist.
        """
        if batch.patch_size != self.config.patch_size:
            raise ValueError(
                f"the batch has patches of {batch.patch_size} pixels, this model takes {self.config.patch_size}"
            )
        patches_NP = torch.as_tensor(batch.patches_ND).to(self.device, non_blocking=True)
        positions_N3 = torch.as_tensor(batch.positions_N3).to(self.device, non_blocking=True)
        if patches_NP.dtype == torch.uint8:
            patches_NP = normalise(patches_NP)
        return self.encode(
            patches_NP,
            positions_N3,
            batch.lengths_B,
            config=self.config,
            attention=self.attention,
            hidden_states=hidden_states,
        )


def normalise(patches_NP: torch.Tensor) -> torch.Tensor:
    """uint8 RGB patches [N, 3*P*P] to float32 with CLIP's mean and deviation, on the device they are on."""
    mean_C1 = torch.tensor(CLIP_MEAN, device=patches_NP.device)[:, None]
    std_C1 = torch.tensor(CLIP_STD, device=patches_NP.device)[:, None]
    x_NCS = patches_NP.unflatten(1, (3, -1)).float()
    return x_NCS.div_(255).sub_(mean_C1).div_(std_C1).flatten(1)  # in place: one array of the patches' size, not four


def _layer_indices(hidden_states: bool | Sequence[int], layers: int) -> list[int]:
    if isinstance(hidden_states, bool):
        return list(range(layers + 1)) if hidden_states else []
    if bad := [i for i in hidden_states if not -layers - 1 <= i <= layers]:
        raise ValueError(f"hidden state {bad[0]} does not exist; {layers} blocks have states 0 to {layers}")
    return [i % (layers + 1) for i in hidden_states]
