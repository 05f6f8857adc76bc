"""Teaching a vision language model, as a task of `train.loop`: which parts learn, at which rates, from which loss.

Shapes: B = rows, L = tokens of a row, K = those of them that some row learns to say, N = all that are learnt,
V = vocabulary.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from ov_encoder.errors import missing_extra
from ov_encoder.lmm.model import OVLanguageModel
from ov_encoder.lmm.processor import IGNORE
from ov_encoder.lmm.stream import LanguageBatch
from ov_encoder.lmm.towers import VisionTower
from ov_encoder.lmm.train_config import LMMTrainConfig
from ov_encoder.train.optim import parameter_groups
from ov_encoder.train.task import SideOptimizer


class LanguageTask:
    """Next-token loss on answers. Stage 1 trains the projector alone, stage 2 everything or LoRA adapters.

    What no loss can reach (the encoder's pooling head, its last norm, blocks behind `feature_layer`) is frozen.
    """

    sides: Sequence[tuple[float, SideOptimizer]] = ()

    def __init__(self, model: OVLanguageModel, config: LMMTrainConfig) -> None:
        self.module, self.config = model, config
        self._keeps = "logits_to_keep" in inspect.signature(model.llm.forward).parameters
        model.requires_grad_(config.train == "all")
        model.projector.requires_grad_(True)
        if config.lora:
            model.llm = add_lora(model.llm, config.lora)
        if config.train == "all":
            freeze_unreached(model)
        for part, rate in ((model.encoder, config.encoder_lr), (model.llm, config.llm_lr)):
            if rate == 0:
                part.requires_grad_(False)

    def blocks(self) -> Iterable[nn.Module]:
        """Those of the encoder and of the language model."""
        stacks = [m for m in self.module.llm.modules() if isinstance(m, nn.ModuleList)]
        encoder = self.module.encoder
        return [
            *(encoder.blocks if isinstance(encoder, VisionTower) else encoder.encoder.layers),
            *max(stacks, key=len),
        ]

    def groups(self) -> list[dict[str, Any]]:
        """Projector, encoder and language model with rates of their own."""
        decay = self.config.optim.weight_decay
        parts = ((self.module.projector, 1.0), (self.module.encoder, self.config.encoder_lr),
                 (self.module.llm, self.config.llm_lr))  # fmt: skip
        return [g for part, scale in parts for g in parameter_groups(part, weight_decay=decay, lr_scale=scale)]

    def loss(self, forward: Callable[..., Any], batch: LanguageBatch) -> tuple[Tensor, dict[str, Tensor]]:
        """Mean over the answers' tokens of this process; share of them that the model would have said."""
        device = self.module.device
        inputs = {k: v.to(device) if isinstance(v, Tensor) else v for k, v in batch.inputs.items()}
        labels_BL = inputs.pop("labels")
        wanted_BL = labels_BL[:, 1:]
        learnt_BL = wanted_BL != IGNORE
        places_K = learnt_BL.any(dim=0).nonzero()[:, 0]  # where some row has an answer: words are scored only there
        if self._keeps:
            logits_BKV = forward(**inputs, logits_to_keep=places_K).logits
        else:
            logits_BKV = forward(**inputs).logits[:, places_K]
        kept_BK = learnt_BL[:, places_K]
        said_NV, wanted_N = logits_BKV[kept_BK].float(), wanted_BL[:, places_K][kept_BK]
        loss = nn.functional.cross_entropy(said_NV, wanted_N)
        if inputs["vision"] is None:  # every process must give a gradient for every parameter
            loss = loss + sum(p.sum() * 0 for p in self.module.projector.parameters())
            loss = loss + sum(p.sum() * 0 for p in self.module.encoder.parameters() if p.requires_grad)
        right = (said_NV.argmax(-1) == wanted_N).float().mean()
        return loss, {"answers/loss": loss.detach(), "answers/accuracy": right.detach()}

    def side_state(self) -> tuple[dict[str, tuple[Tensor, int]], dict[str, Any]]:
        """Nothing is beside the module."""
        return {}, {}

    def load_side_state(self, plain: Mapping[str, Any]) -> None:
        """Nothing to take."""

    def flops(self, batch: LanguageBatch) -> float:
        """Matrix products of the language model (2 operations per weight and token, the gradient of its inputs and,
        where it learns, of its weights) and of the encoder's blocks; attention is left out."""
        llm = sum(p.numel() for p in self.module.llm.parameters())
        vision = batch.inputs["vision"]
        patches = vision.tokens / self.module.config.step if vision is not None else 0
        encoder = sum(p.numel() for p in self.module.encoder.parameters()) * patches
        config, everything = self.config, self.config.train == "all"
        passes = 3 if everything and config.llm_lr and not config.lora else 2
        return 2.0 * passes * llm * batch.tokens + 2.0 * (3 if everything and config.encoder_lr else 1) * encoder


def freeze_unreached(model: OVLanguageModel) -> None:
    """No gradient reaches what comes after the state that is used."""
    encoder = model.encoder
    if isinstance(encoder, VisionTower):
        for part in encoder.unused:
            part.requires_grad_(False)
        return
    used = model.config.feature_layer % (encoder.config.num_hidden_layers + 1)  # state i is the input of block i
    encoder.layernorm_post.requires_grad_(False)
    if encoder.head is not None:
        encoder.head.requires_grad_(False)
    for block in list(encoder.encoder.layers)[used:]:
        block.requires_grad_(False)


def add_lora(llm: Any, rank: int) -> Any:
    """The language model with low-rank adapters on all its linear layers; only they learn."""
    try:
        from peft import LoraConfig, get_peft_model
    except ImportError as e:
        raise missing_extra("peft", "lmm", "LoRA") from e
    config = LoraConfig(r=rank, lora_alpha=2 * rank, target_modules="all-linear", task_type="CAUSAL_LM")
    return get_peft_model(llm, config)


@torch.no_grad()
def without_lora(llm: Any) -> Any:
    """The same model with its adapters added into the weights; itself if it has none."""
    return llm.merge_and_unload() if hasattr(llm, "merge_and_unload") else llm
