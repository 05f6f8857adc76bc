"""What lmms-eval finds through the entry point `lmms_eval.models`: the model name `ov_encoder`. See `harness_model`."""

from __future__ import annotations

from typing import Any


def manifest() -> Any:
    """The registration of our model, as lmms-eval wants it."""
    from lmms_eval.models.registry_v2 import ModelManifest

    return ModelManifest(
        model_id="ov_encoder",
        simple_class_path="ov_encoder.lmm.harness_model.OVEncoderForEval",
        aliases=("ov-encoder",),
    )
