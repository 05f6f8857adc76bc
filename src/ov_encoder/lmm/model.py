"""OVLanguageModel: an encoder, a projector and any causal language model of transformers, as one module.

Shapes: B = prompts, L = tokens of the longest prompt, N = patches of all media, G = visual tokens, D = width of the
encoder, E = width of the language model.
"""

from __future__ import annotations

import itertools
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import nn

from ov_encoder.errors import OvEncoderError, missing_extra
from ov_encoder.lmm.config import LMMConfig
from ov_encoder.lmm.layout import first_slots, merge_order
from ov_encoder.lmm.projector import MergeProjector, Resampler
from ov_encoder.lmm.towers import VisionTower
from ov_encoder.model.encoder import OVEncoder
from ov_encoder.model.weights import check_state, load_model, read_state, save_model
from ov_encoder.patchify.batch import PatchBatch

try:
    from transformers import AutoModelForCausalLM, AutoTokenizer
except ImportError as e:
    raise missing_extra("transformers", "lmm", "a language model") from e

PROJECTOR, ENCODER, LLM = "projector.safetensors", "encoder", "llm"


class OVLanguageModel(nn.Module):
    """Answers about images and videos. Build it from parts, or `load` a directory that `save` wrote.

    encoder: any OVEncoder, or a VisionTower whose `shape` is `config.tower`. llm: any causal language model of
    transformers that takes `inputs_embeds`. vision_id: the token that stands for visual tokens in `input_ids`
    (`OVProcessor.vision_id`).
    """

    def __init__(self, encoder: OVEncoder | VisionTower, llm: Any, config: LMMConfig, *, vision_id: int) -> None:
        super().__init__()
        self.encoder, self.llm, self.config, self.vision_id = encoder, llm, config, vision_id
        shape = encoder.shape if isinstance(encoder, VisionTower) else None
        if shape != config.tower:
            raise ValueError(f"the encoder is {shape or 'ours'}, but config.tower={config.tower}; they must agree")
        if isinstance(encoder, VisionTower):
            width = encoder.width
        else:
            width, layers = encoder.config.hidden_size, encoder.config.num_hidden_layers
            if not -layers - 1 <= config.feature_layer <= layers:
                raise ValueError(
                    f"feature_layer={config.feature_layer}; the encoder has states 0 to {layers} (or -1 ...)"
                )
        out = self.embedding.weight.shape[1]
        self.projector: MergeProjector | Resampler
        if config.projector == "resampler":
            self.projector = Resampler(width, out, queries=config.queries)
        else:
            self.projector = MergeProjector(width, out, merge=config.merge)
        self.projector.to(device=encoder.device, dtype=llm.dtype)

    @property
    def embedding(self) -> nn.Embedding:
        """The language model's table of token embeddings."""
        table = self.llm.get_input_embeddings()
        assert isinstance(table, nn.Embedding), type(table)
        return table

    @property
    def device(self) -> torch.device:
        """Where the language model's embeddings are."""
        return self.embedding.weight.device

    def visual_tokens(self, vision: PatchBatch) -> torch.Tensor:
        """Features of all media in the order of their placeholders, [G, E].

        Raises:
            ValueError: patches that the encoder does not take.
        """
        samples = vision.numpy().unpack()
        if isinstance(self.encoder, VisionTower):
            for one in samples:
                self.encoder.shape.check(one)
            features_ND = self.encoder(vision)
        else:
            features_ND = self.encoder(vision, hidden_states=[self.config.feature_layer]).hidden_states[0]
        positions = [first_slots(one.positions_N3, self.config.step) for one in samples]
        lengths = [len(p) for p in positions]
        starts = itertools.accumulate(lengths[:-1], initial=0)
        order = np.concatenate([s + merge_order(p, self.config.merge) for s, p in zip(starts, positions, strict=True)])
        order_GM = torch.as_tensor(order, device=features_ND.device)
        dtype = self.projector.norm.weight.dtype  # as seen here: training keeps float32 behind bfloat16
        return self.projector(features_ND.to(dtype), order_GM, lengths)

    def embed(self, input_ids: torch.Tensor, vision: PatchBatch | None) -> torch.Tensor:
        """Embeddings [B, L, E] of text and, where `vision_id` stands, of the media.

        Raises:
            ValueError: the number of placeholders differs from the number of visual tokens.
        """
        is_visual_BL = input_ids == self.vision_id
        found = int(is_visual_BL.sum())
        embeds_BLE = self.embedding(input_ids.masked_fill(is_visual_BL, 0))
        if vision is None:
            if found:
                raise ValueError(f"input_ids hold {found} visual placeholders, but no vision was given")
            return embeds_BLE
        visual_GE = self.visual_tokens(vision)
        if found != len(visual_GE):
            raise ValueError(
                f"input_ids hold {found} visual placeholders for {len(visual_GE)} visual tokens; make them with an "
                f"OVProcessor of the same config"
            )
        return embeds_BLE.masked_scatter(is_visual_BL.unsqueeze(-1), visual_GE.to(embeds_BLE))

    def forward(
        self,
        input_ids: torch.Tensor,
        attention_mask: torch.Tensor | None = None,
        vision: PatchBatch | None = None,
        **llm_options: Any,
    ) -> Any:
        """What the language model returns for these embeddings; `labels`, `position_ids`, ... are passed on."""
        return self.llm(inputs_embeds=self.embed(input_ids, vision), attention_mask=attention_mask, **llm_options)

    @torch.inference_mode()
    def generate(
        self,
        input_ids: torch.Tensor,
        attention_mask: torch.Tensor | None = None,
        vision: PatchBatch | None = None,
        **options: Any,
    ) -> torch.Tensor:
        """New tokens [B, new], by transformers' own `generate` with all its options. Pad prompts on the left."""
        embeds = self.embed(input_ids, vision)
        return self.llm.generate(inputs_embeds=embeds, attention_mask=attention_mask, **options)

    def save(self, directory: str | Path) -> None:
        """Write encoder/, llm/, projector.safetensors and lmm.json; add the processor with its `save_pretrained`."""
        folder = Path(directory)
        if isinstance(self.encoder, VisionTower):
            self.encoder.save(folder / ENCODER)
        else:
            save_model(self.encoder, folder / ENCODER)
        self.llm.save_pretrained(folder / LLM)
        tensors = {name: t.detach().cpu().contiguous() for name, t in self.projector.state_dict().items()}
        save_file(tensors, str(folder / PROJECTOR), metadata={"format": "pt", "vision_id": str(self.vision_id)})
        self.config.save(folder)

    @classmethod
    def load(
        cls, directory: str | Path, *, device: torch.device | str | None = None, dtype: torch.dtype | None = None
    ) -> OVLanguageModel:
        """Read a directory that `save` wrote, in eval mode.

        Raises:
            OvEncoderError: a part is missing, damaged, or does not fit the others.
        """
        folder = Path(directory)
        config = LMMConfig.load(folder)
        encoder: OVEncoder | VisionTower
        if config.tower is not None:
            layer = config.feature_layer
            encoder = VisionTower.open(config.tower.name, folder / ENCODER, layer=layer, device=device, dtype=dtype)
        else:
            encoder = load_model(folder / ENCODER, device=device, dtype=dtype)
        llm = load_llm(folder / LLM, dtype=dtype).to(device or "cpu")
        try:
            with safe_open(str(folder / PROJECTOR), "pt") as f:
                vision_id = int((f.metadata() or {})["vision_id"])
        except (OSError, SafetensorError, KeyError, ValueError) as e:
            raise OvEncoderError(f"{folder / PROJECTOR}: cannot be read as a projector: {e!r}") from e
        model = cls(encoder, llm, config, vision_id=vision_id)
        state = read_state(folder / PROJECTOR)
        check_state(model.projector.state_dict(), state, str(folder / PROJECTOR))
        model.projector.load_state_dict(state)
        return model.eval()


def load_llm(name_or_path: str | Path, *, dtype: torch.dtype | None = None) -> Any:
    """A causal language model of transformers: a directory, a hub id, or a .gguf file (which needs `gguf`).

    Raises:
        OvEncoderError: there is none, its class is not known to the installed transformers, or its weights are damaged
            or not all there.
    """
    path = Path(name_or_path)
    llm: Any
    try:
        if path.suffix == ".gguf":
            llm = AutoModelForCausalLM.from_pretrained(path.parent, gguf_file=path.name, dtype=dtype or "auto")
            llm.hf_quantizer = None  # its weights are plain tensors now; with it set, save_pretrained refuses
            llm.config.quantization_config = None
            return llm
        made: Any = AutoModelForCausalLM.from_pretrained(
            str(name_or_path), dtype=dtype or "auto", output_loading_info=True
        )
        llm, report = made
    except (OSError, ValueError, KeyError, RuntimeError, SafetensorError) as e:
        raise OvEncoderError(f"{name_or_path}: cannot be loaded as a causal language model: {e}") from e
    if missing := sorted(report["missing_keys"]):  # transformers would go on with random ones
        raise OvEncoderError(
            f"{name_or_path}: lacks {len(missing)} weights of {type(llm).__name__}, first {missing[0]}"
        )
    return llm


def load_tokenizer(name_or_path: str | Path) -> Any:
    """The tokenizer of a language model, from the same places as `load_llm`.

    Raises:
        OvEncoderError: there is none.
    """
    path = Path(name_or_path)
    try:
        if path.suffix == ".gguf":
            return AutoTokenizer.from_pretrained(path.parent, gguf_file=path.name)
        return AutoTokenizer.from_pretrained(str(name_or_path))
    except (OSError, ValueError, KeyError) as e:
        raise OvEncoderError(f"{name_or_path}: its tokenizer cannot be loaded: {e}") from e
