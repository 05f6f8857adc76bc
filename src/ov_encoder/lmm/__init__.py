"""The encoder inside a language model: projector, processor, model, training and evaluation."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from ov_encoder.lmm.model import OVLanguageModel
    from ov_encoder.lmm.processor import OVProcessor

__all__ = ["OVLanguageModel", "OVProcessor"]


def __getattr__(name: str) -> object:
    if name == "OVLanguageModel":
        from ov_encoder.lmm.model import OVLanguageModel

        return OVLanguageModel
    if name == "OVProcessor":
        from ov_encoder.lmm.processor import OVProcessor

        return OVProcessor
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}; public names: {', '.join(__all__)}")
