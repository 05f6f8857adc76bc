"""What an encoder is made of: sizes by name, and the config.json of released checkpoints. No tensors here."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

from ov_encoder.errors import OvEncoderError

MODEL_TYPE = "onevision_encoder"
ROPES = ("reference", "rotation")
SIZES = {  # name -> (width, heads, layers); the MLP is four times as wide, patches are 14 x 14
    "tiny": (192, 3, 12),
    "small": (384, 6, 12),
    "base": (768, 12, 12),
    "large": (1024, 16, 24),
    "huge": (1280, 20, 32),
}


@dataclass(frozen=True, kw_only=True)
class OVEncoderConfig:
    """Shape of the encoder. The names are those of the released config.json, `rope` is ours.

    `rope="reference"` is what released weights were trained with, `"rotation"` the true 3D rotation (see
    `model.rope`). A config.json without the key was written by the reference and means "reference".
    `image_size` and `rope_temporal_size` do not change the packed encoder; they are kept for `ov_encoder.hf`.

    Raises:
        ValueError: naming the field, its value and what is allowed.
    """

    hidden_size: int = 1024
    intermediate_size: int = 4096
    num_hidden_layers: int = 24
    num_attention_heads: int = 16
    num_channels: int = 3
    image_size: int = 448
    patch_size: int = 14
    hidden_act: str = "gelu"
    layer_norm_eps: float = 1e-6
    layer_norm_type: str = "layer_norm"
    attention_dropout: float = 0.0
    initializer_range: float = 0.02
    rope_theta: float = 10000.0
    rope_temporal_size: int | None = 64
    use_head: bool = True
    rope: str = "rotation"

    def __post_init__(self) -> None:
        for name in (
            "hidden_size",
            "intermediate_size",
            "num_hidden_layers",
            "num_attention_heads",
            "image_size",
            "patch_size",
        ):
            value = getattr(self, name)
            if not isinstance(value, int) or isinstance(value, bool) or value < 1:
                raise ValueError(f"{name} must be a positive integer, got {value!r}")
        width, heads = self.hidden_size, self.num_attention_heads
        if width % heads or (width // heads) % 32:
            raise ValueError(
                f"hidden_size {width} over {heads} heads gives {width / heads:g} channels a head; it must be a "
                f"multiple of 32, so that half of it splits 4:6:6 over time, row and column"
            )
        if self.rope_temporal_size is not None and self.rope_temporal_size < 1:
            raise ValueError(f"rope_temporal_size must be positive or None, got {self.rope_temporal_size!r}")
        for name, allowed in (
            ("num_channels", (3,)),
            ("hidden_act", ("gelu",)),
            ("layer_norm_type", ("layer_norm", "rms_norm")),
            ("attention_dropout", (0.0,)),
            ("rope", ROPES),
        ):
            if getattr(self, name) not in allowed:
                choices = ", ".join(repr(a) for a in allowed)
                raise ValueError(f"{name} is {getattr(self, name)!r}; allowed: {choices}")

    @property
    def head_dim(self) -> int:
        """Channels of one attention head."""
        return self.hidden_size // self.num_attention_heads

    @property
    def patch_dim(self) -> int:
        """Values of one patch, 3 * P * P."""
        return self.num_channels * self.patch_size**2

    @classmethod
    def from_name(cls, name: str, **changes: Any) -> OVEncoderConfig:
        """The config of a size in SIZES, with any field changed by keyword.

        Raises:
            ValueError: no such size.
        """
        if name not in SIZES:
            raise ValueError(f"unknown size {name!r}; sizes: {', '.join(SIZES)}")
        width, heads, layers = SIZES[name]
        sizes = {
            "hidden_size": width,
            "intermediate_size": 4 * width,
            "num_hidden_layers": layers,
            "num_attention_heads": heads,
        }
        return cls(**{**sizes, **changes})

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> OVEncoderConfig:
        """Fields of a parsed config.json. Keys that are not ours (transformers adds some) are ignored.

        Raises:
            ValueError: another model_type, or a value that is not allowed.
        """
        model_type = values.get("model_type", MODEL_TYPE)
        if model_type != MODEL_TYPE:
            raise ValueError(f"model_type is {model_type!r}; must be {MODEL_TYPE!r}")
        ours = {f.name for f in fields(cls)}
        return cls(**{"rope": "reference", **{k: v for k, v in values.items() if k in ours}})

    @classmethod
    def from_json(cls, path: str | Path) -> OVEncoderConfig:
        """Read a config.json.

        Raises:
            OvEncoderError: the file is missing, is not JSON, or holds values that are not allowed.
        """
        try:
            values = json.loads(Path(path).read_text())
            if not isinstance(values, dict):
                raise ValueError(f"holds a {type(values).__name__}, must be an object")
            return cls.from_dict(values)
        except (OSError, ValueError, TypeError) as e:
            raise OvEncoderError(f"{path}: cannot be read as the config of an encoder: {e}") from e

    def to_dict(self) -> dict[str, Any]:
        """All fields and `model_type`, ready for JSON."""
        return {"model_type": MODEL_TYPE, **asdict(self)}

    def to_json(self, path: str | Path) -> None:
        """Write a config.json that `from_json` and the reference read."""
        Path(path).write_text(json.dumps(self.to_dict(), indent=1) + "\n")
