"""`ov-encoder export`: a training run to a model directory."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import tyro


def export(
    run: Annotated[tyro.conf.Positional[Path], tyro.conf.arg(metavar="RUN")],
    *,
    out: Annotated[Path, tyro.conf.arg(aliases=["-o"])],
    average: bool = True,
) -> int:
    """Write the encoder of a run's newest checkpoint, with a model card.

    The directory loads with ov_encoder.load_model and, after import ov_encoder.hf, with transformers.

    Example: ov-encoder export run -o model

    Args:
        run: Folder of ov-encoder pretrain.
        out: Folder for config.json, model.safetensors and README.md.
        average: Take the moving average of the weights, where the run kept one.
    """
    from ov_encoder.train.export import export_run

    encoder = export_run(run, out, average=average)
    print(f"wrote {out}: {sum(p.numel() for p in encoder.parameters()) / 1e6:.1f} M parameters and a model card")
    return 0
