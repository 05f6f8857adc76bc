"""From a run to a model directory: the encoder of a checkpoint (its average, if there is one), with card and curves."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

import torch

from ov_encoder.data.folder import RUN, write_atomically
from ov_encoder.errors import OvEncoderError
from ov_encoder.model.config import OVEncoderConfig
from ov_encoder.model.encoder import CLIP_MEAN, CLIP_STD, OVEncoder
from ov_encoder.model.weights import check_state, save_model
from ov_encoder.train import checkpoint
from ov_encoder.train.card import Facts, card, read_results
from ov_encoder.train.config import TrainConfig
from ov_encoder.train.loop import CHECKPOINTS
from ov_encoder.train.metrics import CURVES, read_metrics

CARD, PROCESSOR = "README.md", "preprocessor_config.json"


def export_run(
    run: str | Path,
    out: str | Path,
    *,
    average: bool = True,
    dtype: Literal["float32", "bfloat16"] = "float32",
    title: str = "",
    results: Sequence[str | Path] = (),
) -> OVEncoder:
    """Write config.json, model.safetensors, a processor for transformers, README.md and the curves, from the newest
    checkpoint.

    average: take the moving average of the weights where the run kept one. dtype: of the file. title: of the card.
    results: probe.json files of `ov-encoder probe` to quote in it. `ov_encoder.load_model(out)` and transformers
    (after `import ov_encoder.hf`) read the directory.

    Raises:
        OvEncoderError: the run has no whole checkpoint, or a result is no probe.json.
    """
    run, out = Path(run), Path(out)
    found = checkpoint.newest(run / CHECKPOINTS)
    if found is None:
        raise OvEncoderError(f"{run}: has no checkpoint to export; is this the folder of a run?")
    path, about = found
    quoted = read_results([Path(result) for result in results])
    prefix = "average." if average and about["config"]["optim"]["ema"] else "model."
    with torch.device("meta"):
        encoder = OVEncoder(OVEncoderConfig.from_dict(about["encoder"]))
    state = checkpoint.read_tensors(path, prefix)
    check_state(encoder.state_dict(), state, str(path))
    encoder.load_state_dict(state, assign=True)
    save_model(encoder.to(getattr(torch, dtype)).eval(), out)
    write_atomically(out / PROCESSOR, (json.dumps(_processor(about), indent=1) + "\n").encode())
    curves = (run / CURVES).read_bytes() if (run / CURVES).exists() else None  # drawn when a run ends or is stopped
    if curves is not None:
        write_atomically(out / CURVES, curves)
    facts = Facts(
        about=about,
        records=read_metrics(run),
        run=json.loads((run / RUN).read_text()) if (run / RUN).exists() else {},
        averaged=prefix == "average.",
        picture=CURVES if curves is not None else None,
        results=quoted,
    )
    write_atomically(out / CARD, card(facts, title=title).encode())
    return encoder


def _processor(about: dict[str, Any]) -> dict[str, Any]:
    """Settings of OneVisionEncoderProcessor: pictures as the run saw them, its slots."""
    config = TrainConfig.from_dict(about["config"])
    side = max((config.image if config.heads[0].kind != "video" else config.video.picture).sizes)
    return {
        "image_processor_type": "OneVisionEncoderProcessor", "size": side, "crop_size": side, "do_center_crop": True,
        "patch_size": about["encoder"]["patch_size"], "slots": config.video.frames,
        "image_mean": list(CLIP_MEAN), "image_std": list(CLIP_STD),
    }  # fmt: skip
