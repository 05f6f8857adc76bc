"""`ov-encoder study`: policies x budgets on frozen features, with costs. Everything is done in `evaluate.study`."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import Annotated, Literal

import tyro

from ov_encoder.bundled import DEFAULT
from ov_encoder.cli.options import Options, PatchOptions

Names = Annotated[tuple[str, ...], tyro.conf.arg(metavar="A,B,...")]


def study(
    *,
    data: Path,
    out: Annotated[Path, tyro.conf.arg(aliases=["-o"])],
    model: str = DEFAULT,
    policies: Names = ("fused", "motion", "residual", "uniform", "random", "difference", "centre"),
    baselines: Names = (),
    budgets: Names = ("512", "1024", "2048", "4096"),
    probes: Names = ("knn", "linear"),
    seeds: int = 3,
    label: str = "label",
    train_split: str | None = None,
    val_split: str | None = None,
    fold: int = 1,
    workers: int | None = None,
    device: str = "auto",
    dtype: Literal["float32", "bfloat16"] | None = None,
    options: PatchOptions = Options(size=(224, 224)),  # noqa: B008 (frozen)
) -> int:
    """Compare ways to spend a token budget: codec signals, whole frames, random patches, other networks.

    Every policy at every budget gives frozen features of the same frames; probes are trained on them. Writes
    OUT/study.md, study.json and a picture for each probe: accuracy against tokens, and against seconds with reading. A
    study that was stopped goes on when the command is given again; names, budgets and probes can be added that way.

    Policies: fused, motion, residual, bits (each also :native, :transcode, ...), uniform, random, difference, centre,
    dense; with an intervention: fused+still, fused+other, fused+shuffle. Baselines: siglip2:DIR, dinov3:DIR, clip:DIR,
    metaclip2:DIR, aimv2:DIR, qwen3vl:DIR, vjepa2:DIR, videomae:DIR, mobilenet, efficientnet, pixels, histogram, meta,
    codec. Of the options below, mode, budget and signal are the policy's.

    Example: ov-encoder study --data videos/labels.csv -o study --model base --policies fused,uniform,random

    Args:
        data: A manifest (CSV or parquet), a folder with one, or another layout that `ov-encoder probe` reads.
        out: Folder for everything.
        model: A name (see ov-encoder models), a directory, or a hub id.
        policies: The first one is what the others are compared with.
        baselines: Networks and floors.
        budgets: Tokens a clip.
        probes: knn, linear, attentive, reference.
        seeds: Of the probes that are trained.
        label: Column of the manifest that holds the labels.
        train_split: By default the one called train.
        val_split: By default the one called val, validation or test.
        fold: Which official split of UCF101 or HMDB51.
        workers: Processes that read; by default one for each core but one.
        device: cpu, cuda, ...; auto takes a GPU if there is one.
        dtype: Of the encoder and the baselines; by default that of the encoder's weights.
    """
    import torch
    from rich.console import Console

    from ov_encoder.cli.console import print_table
    from ov_encoder.data.layouts import read_dataset
    from ov_encoder.evaluate.extract import progress_bar
    from ov_encoder.evaluate.report import RIGHT, table, trouble, write
    from ov_encoder.evaluate.study import run_study
    from ov_encoder.model.weights import load_model

    if device == "auto":
        device = "cuda" if torch.cuda.is_available() else "cpu"
    manifest = read_dataset(data, label=label, fold=fold)
    encoder = load_model(model, device=device, dtype=dtype)
    chosen = _listed(probes)
    results = run_study(
        out,
        manifest,
        encoder,
        policies=_listed(policies),
        budgets=[_number(text) for text in _listed(budgets)],
        baselines=_listed(baselines),
        probes=chosen,
        seeds=seeds,
        options=options,
        workers=workers or max(_cores() - 1, 1),
        train=train_split,
        validation=val_split,
        watch=progress_bar,
    )
    place = manifest.path.resolve()
    name = str(manifest.card.get("name") or (place if place.is_dir() else place.parent).name)
    written = write(out, results, data=name, label=label, model=model, seeds=seeds, probes=chosen)
    console = Console(width=None if sys.stdout.isatty() else 140)  # nothing is folded in a log
    for probe in chosen:
        print(f"\n{probe}")
        print_table(*table(results, probe), right=RIGHT, console=console)
    for line in trouble(results):
        print(f"note: {line}")
    print("\n" + "\n".join(str(path) for path in written))
    return 0 if any(result["probes"] for result in results) else 1


def _listed(given: tuple[str, ...]) -> list[str]:
    """Names with commas or spaces between them."""
    return [part.strip() for text in given for part in text.split(",") if part.strip()]


def _number(text: str) -> int:
    try:
        return int(text)
    except ValueError:
        raise ValueError(f"budgets={text!r}; must be whole numbers of tokens, such as 512,1024") from None


def _cores() -> int:
    """Cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
