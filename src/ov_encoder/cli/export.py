"""`ov-encoder export`: a training run to a model directory."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

import tyro


def export(
    run: Annotated[tyro.conf.Positional[Path], tyro.conf.arg(metavar="RUN")],
    *,
    out: Annotated[Path, tyro.conf.arg(aliases=["-o"])],
    average: bool = True,
    dtype: Literal["float32", "bfloat16"] = "float32",
    title: str = "",
    results: tuple[Path, ...] = (),
) -> int:
    """Write the encoder of a run's newest checkpoint, with a model card: data, licences, cost, results, limits.

    The directory loads with ov_encoder.load_model and, after import ov_encoder.hf, with transformers.

    Example: ov-encoder export run -o model

    Args:
        run: Folder of ov-encoder pretrain.
        out: Folder for config.json, model.safetensors and README.md.
        average: Take the moving average of the weights, where the run kept one.
        dtype: Of the file. bfloat16 is half the size.
        title: Of the card; by default the recipe's name.
        results: Files probe.json of ov-encoder probe, to be quoted in the card.
    """
    from ov_encoder.train.export import export_run

    encoder = export_run(run, out, average=average, dtype=dtype, title=title, results=results)
    print(f"wrote {out}: {sum(p.numel() for p in encoder.parameters()) / 1e6:.1f} M parameters and a model card")
    return 0
