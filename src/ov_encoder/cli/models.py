"""`ov-encoder models`: the encoders that can be loaded by name."""

from __future__ import annotations


def models() -> int:
    """List the encoders that --model takes by name.

    A directory with config.json and model.safetensors, or a hub id such as owner/name, works as well.

    Example: ov-encoder models
    """
    import torch

    from ov_encoder.bundled import BUNDLED
    from ov_encoder.cli.console import print_table
    from ov_encoder.model.config import SIZES, OVEncoderConfig
    from ov_encoder.model.encoder import OVEncoder
    from ov_encoder.model.weights import list_models

    rows = []
    for name in list_models():
        if name in SIZES:
            config, weights = OVEncoderConfig.from_name(name), "untrained"
        else:
            config, weights = OVEncoderConfig.from_json(BUNDLED[name] / "config.json"), "trained"
        with torch.device("meta"):  # shapes only
            parameters = sum(p.numel() for p in OVEncoder(config).parameters())
        rows.append(
            (
                name,
                f"{config.hidden_size}",
                f"{config.num_hidden_layers}",
                f"{config.num_attention_heads}",
                f"{parameters / 1e6:.1f} M",
                f"{config.patch_size}",
                config.rope,
                weights,
            )
        )
    print_table(("name", "width", "layers", "heads", "parameters", "patch", "rope", "weights"), rows, right=range(1, 6))
    return 0
