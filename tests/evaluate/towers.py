"""Tiny checkpoints of the real classes, saved as their authors publish them (two towers, language model, heads)."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

VISION = {
    "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2, "num_attention_heads": 2, "patch_size": 8,
}  # fmt: skip
IMAGE = {**VISION, "image_size": 32}
TEXT = {
    "hidden_size": 32, "intermediate_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2, "vocab_size": 64,
    "max_position_embeddings": 8, "bos_token_id": 1, "eos_token_id": 2, "pad_token_id": 0,
}  # fmt: skip
QWEN_TEXT = {
    "hidden_size": 32, "intermediate_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2, "head_dim": 16,
    "num_key_value_heads": 2, "vocab_size": 64,
    "rope_scaling": {"rope_type": "default", "mrope_section": [2, 3, 3], "mrope_interleaved": True},
}  # fmt: skip
QWEN_VISION = {
    "depth": 2, "hidden_size": 32, "intermediate_size": 48, "num_heads": 2, "patch_size": 8, "out_hidden_size": 40,
    "num_position_embeddings": 16, "deepstack_visual_indexes": [0],
}  # fmt: skip
VIDEOMAE = {
    **IMAGE, "num_frames": 8, "decoder_hidden_size": 16, "decoder_num_attention_heads": 2,
    "decoder_num_hidden_layers": 1, "decoder_intermediate_size": 16,
}  # fmt: skip
VJEPA2 = {
    "hidden_size": 36, "num_hidden_layers": 2, "num_attention_heads": 2, "patch_size": 8, "crop_size": 32,
    "frames_per_clip": 8, "pred_hidden_size": 36, "pred_num_attention_heads": 2, "pred_num_hidden_layers": 1,
    "num_pooler_layers": 1,
}  # fmt: skip

# baseline name -> (class that is saved, its config class, config, its vision tower)
TOWERS: dict[str, tuple[str, str, dict[str, Any], Callable[[Any], Any]]] = {
    "siglip2": ("SiglipModel", "SiglipConfig", {"text_config": TEXT, "vision_config": IMAGE}, lambda m: m.vision_model),
    "naflex": (
        "Siglip2Model",
        "Siglip2Config",
        {"text_config": TEXT, "vision_config": {**VISION, "num_patches": 16}},
        lambda m: m.vision_model,
    ),
    "clip": ("CLIPModel", "CLIPConfig", {"text_config": TEXT, "vision_config": IMAGE}, lambda m: m.vision_model),
    "metaclip2": (
        "MetaClip2Model",
        "MetaClip2Config",
        {"text_config": TEXT, "vision_config": IMAGE},
        lambda m: m.vision_model,
    ),
    "aimv2": ("Aimv2Model", "Aimv2Config", {"text_config": TEXT, "vision_config": IMAGE}, lambda m: m.vision_model),
    "dinov3": (
        "DINOv3ViTModel",
        "DINOv3ViTConfig",
        {**IMAGE, "num_register_tokens": 3, "use_gated_mlp": True},
        lambda m: m,
    ),
    "qwen3vl": (
        "Qwen3VLForConditionalGeneration",
        "Qwen3VLConfig",
        {"text_config": QWEN_TEXT, "vision_config": QWEN_VISION},
        lambda m: m.model.visual,
    ),
    "vjepa2": ("VJEPA2ForVideoClassification", "VJEPA2Config", VJEPA2, lambda m: m.vjepa2),
    "videomae": ("VideoMAEForPreTraining", "VideoMAEConfig", VIDEOMAE, lambda m: m.videomae),
}
MEAN, STD = (0.4, 0.45, 0.5), (0.2, 0.25, 0.3)


def save_tower(name: str, folder: Path) -> Any:
    """Write a tiny checkpoint with its preprocessor file; returns the vision tower that was saved."""
    import transformers

    class_name, config_name, config, tower = TOWERS[name]
    torch.manual_seed(0)
    model = getattr(transformers, class_name)(getattr(transformers, config_name)(**config)).eval()
    for weight in model.parameters():  # fresh biases and scales are 0 and 1, which would hide mistakes
        torch.nn.init.normal_(weight, std=0.3)
    model.save_pretrained(folder)
    (folder / "preprocessor_config.json").write_text(json.dumps({"image_mean": MEAN, "image_std": STD}))
    return tower(model)
