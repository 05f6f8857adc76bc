"""OV-Encoder: codec signals choose the patches, one encoder reads images, frames and sparse video.

    import ov_encoder as ov
    batch = ov.patchify("clip.mp4", budget=2048)
    out = ov.load_model("ov-encoder-tiny")(batch)  # out.tokens_ND, out.pooled_BD

Names are loaded on first use, so that `import ov_encoder` stays light (no torch, no av).
"""

import importlib
from typing import TYPE_CHECKING

__version__ = "0.1.0.dev0"

_EXPORTS = {
    "ClipSignals": "ov_encoder.codec.signals",
    "FrameSignals": "ov_encoder.codec.signals",
    "Limits": "ov_encoder.codec.limits",
    "read_signals": "ov_encoder.codec.read",
    "iter_signals": "ov_encoder.codec.read",
    "PatchBatch": "ov_encoder.patchify.batch",
    "pack": "ov_encoder.patchify.batch",
    "plan": "ov_encoder.patchify.api",
    "patchify_windows": "ov_encoder.patchify.api",
    "OVEncoder": "ov_encoder.model.encoder",
    "EncoderOutput": "ov_encoder.model.encoder",
    "OVEncoderConfig": "ov_encoder.model.config",
    "list_models": "ov_encoder.model.weights",
    "load_model": "ov_encoder.model.weights",
    "OvEncoderError": "ov_encoder.errors",
}
__all__ = ["patchify", *sorted(_EXPORTS)]


def __getattr__(name: str):
    if name == "patchify":
        return importlib.import_module("ov_encoder.patchify")
    if name in _EXPORTS:
        return getattr(importlib.import_module(_EXPORTS[name]), name)
    raise AttributeError(f"module 'ov_encoder' has no attribute {name!r}; public names: {', '.join(__all__)}")


def __dir__() -> list[str]:
    return [*__all__, "__version__"]


if TYPE_CHECKING:
    from ov_encoder.codec.limits import Limits as Limits
    from ov_encoder.codec.read import iter_signals as iter_signals
    from ov_encoder.codec.read import read_signals as read_signals
    from ov_encoder.codec.signals import ClipSignals as ClipSignals
    from ov_encoder.codec.signals import FrameSignals as FrameSignals
    from ov_encoder.errors import OvEncoderError as OvEncoderError
    from ov_encoder.model.config import OVEncoderConfig as OVEncoderConfig
    from ov_encoder.model.encoder import EncoderOutput as EncoderOutput
    from ov_encoder.model.encoder import OVEncoder as OVEncoder
    from ov_encoder.model.weights import list_models as list_models
    from ov_encoder.model.weights import load_model as load_model
    from ov_encoder.patchify.api import patchify as patchify
    from ov_encoder.patchify.api import patchify_windows as patchify_windows
    from ov_encoder.patchify.api import plan as plan
    from ov_encoder.patchify.batch import PatchBatch as PatchBatch
    from ov_encoder.patchify.batch import pack as pack
