"""From a run to a model directory: the encoder of a checkpoint (its average, if there is one) and a model card."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch

from ov_encoder.data.folder import write_atomically
from ov_encoder.errors import OvEncoderError
from ov_encoder.model.config import OVEncoderConfig
from ov_encoder.model.encoder import CLIP_MEAN, CLIP_STD, OVEncoder
from ov_encoder.model.weights import check_state, save_model
from ov_encoder.train import checkpoint
from ov_encoder.train.config import TrainConfig
from ov_encoder.train.loop import CHECKPOINTS
from ov_encoder.train.metrics import read_metrics

CARD, PROCESSOR = "README.md", "preprocessor_config.json"


def export_run(run: str | Path, out: str | Path, *, average: bool = True) -> OVEncoder:
    """Write config.json, model.safetensors, a processor for transformers, and README.md, from the newest checkpoint.

    average: take the moving average of the weights where the run kept one. `ov_encoder.load_model(out)` and
    transformers (after `import ov_encoder.hf`) read the directory.

    Raises:
        OvEncoderError: the run has no whole checkpoint.
    """
    run, out = Path(run), Path(out)
    found = checkpoint.newest(run / CHECKPOINTS)
    if found is None:
        raise OvEncoderError(f"{run}: has no checkpoint to export; is this the folder of a run?")
    path, about = found
    prefix = "average." if average and about["config"]["optim"]["ema"] else "model."
    with torch.device("meta"):
        encoder = OVEncoder(OVEncoderConfig.from_dict(about["encoder"]))
    state = checkpoint.read_tensors(path, prefix)
    check_state(encoder.state_dict(), state, str(path))
    encoder.load_state_dict(state, assign=True)
    save_model(encoder.eval(), out)
    write_atomically(out / PROCESSOR, (json.dumps(_processor(about), indent=1) + "\n").encode())
    write_atomically(out / CARD, card(about, read_metrics(run), averaged=prefix == "average.").encode())
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


def card(about: dict[str, Any], records: list[dict[str, Any]], *, averaged: bool) -> str:
    """The model card of a checkpoint: what it is, how to use it, what it was trained on, its last numbers."""
    config = TrainConfig.from_dict(about["config"])
    encoder, video = about["encoder"], config.video
    last: dict[str, Any] = next((r for r in reversed(records) if "loss" in r), {})
    probes = [r["probe"] for r in records if r.get("probe") is not None]
    numbers = [f"| {k} | {last[k]} |" for k in sorted(last) if "/" in k or k in ("loss", "grad_norm")]
    numbers += [f"| kNN probe while training, last | {probes[-1]} |"] if probes else []
    data = [f"* {Path(d.path).name}, labels from {Path(d.labels).name if d.labels else d.label}" for d in config.data]
    heads = [
        f"* {h.name} ({h.kind}): {about['side'][h.name]['classes']:,} classes, {h.margin} margin {h.m}, "
        f"rate {h.sample_rate}"
        for h in config.heads
    ]
    picture = video.picture
    shape = f"({max(picture.sizes)}, {max(picture.sizes)})" if picture.aspect == "square" else str(max(picture.sizes))
    lines = [
        "---", "library_name: ov-encoder", "pipeline_tag: feature-extraction", "tags: [video, image, codec]", "---", "",
        f"# {config.name}", "",
        f"A vision transformer of {encoder['num_hidden_layers']} layers, {encoder['hidden_size']} wide, patches of "
        f"{encoder['patch_size']} pixels, rope `{encoder['rope']}`, trained for {about['step']:,} of "
        f"{config.optim.steps:,} steps with ov-encoder" + (" (moving average of the weights)." if averaged else "."),
        "", "```python", "import ov_encoder as ov", 'model = ov.load_model("this folder")',
        f'batch = ov.patchify("clip.mp4", frames={video.frames}, budget={video.budget}, size={shape})',
        "vector_BD = model(batch).pooled_BD", "```", "", "## Trained on", "", *data, "", *heads, "",
        f"Video samples: codec {video.shares[0]:.1%}, frame sampling {video.shares[1]:.1%}, collage "
        f"{video.shares[2]:.1%}, chunk {video.shares[3]:.1%}. {config.batch.samples} samples a step, learning rate "
        f"{config.optim.lr:g} ({config.optim.schedule}), weight decay "
        f"{config.optim.weight_decay:g}, {config.loop.dtype}.",
        "", "## Last numbers of the run", "", "| | |", "|---|---|", *numbers, "",
        "They are measured on training batches; they do not say how well the features do elsewhere.", "",
        "## Limits", "",
        *([f"* {gap}" for gap in config.gaps] or ["* None were recorded with the recipe."]),
        f"* {about['bad_steps']} steps were skipped because they were not finite.", "",
        "## Complete config", "", "```json", json.dumps(config.to_dict(), indent=1), "```",
    ]  # fmt: skip
    return "\n".join(lines) + "\n"
