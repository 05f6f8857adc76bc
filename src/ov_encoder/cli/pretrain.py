"""`ov-encoder pretrain`: a recipe and data to a trained run, in one process or under torchrun."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import tyro

if TYPE_CHECKING:
    from ov_encoder.train.config import DataConfig, TrainConfig


def pretrain(
    recipe: Annotated[tyro.conf.Positional[str], tyro.conf.arg(metavar="RECIPE")],
    *,
    data: tyro.conf.UseAppendAction[tuple[str, ...]] = (),
    out: Annotated[Path, tyro.conf.arg(aliases=["-o"])],
    steps: int | None = None,
    set: tyro.conf.UseAppendAction[tuple[str, ...]] = (),
    probe: str | None = None,
    held_out: int = 0,
    device: str = "auto",
    show: bool = False,
) -> int:
    """Train an encoder: images and videos against the concepts that their labels name.

    RECIPE: tiny_cpu, bundle_tiny, paper_stage1, paper_stage2, large_8gpu, or FILE.py:FUNCTION that returns a
    TrainConfig. A run that was stopped or killed goes on from its last checkpoint when the command is given again.
    Several GPUs: torchrun --no-python --nproc-per-node 8 ov-encoder pretrain ...

    Example: ov-encoder pretrain tiny_cpu --data videos --data pictures --out run

    Args:
        recipe: What to train.
        data: A manifest, a folder with one, class folders, or WebDataset tars; may be given several times. PATH:COLUMN
            names the label column (A+B: both), PATH@labels.parquet takes labels of ov-encoder label, HEAD=PATH sends
            it to a head of that name.
        out: Folder of the run: config, metrics, curves, checkpoints.
        steps: Optimizer steps; the schedule stretches with them.
        set: Change a field of the recipe, such as optim.lr=3e-4 or heads.0.weight=2; may be given several times.
        probe: A labelled set with splits train and test (PATH or PATH:COLUMN) for a nearest-neighbour probe, eight
            times during the run.
        held_out: Measure every head on so many samples of the splits that training leaves out (test, val), eight times
            during the run.
        device: cpu, cuda; auto takes a GPU if there is one.
        show: Only print the config.
    """
    import contextlib
    import signal

    from ov_encoder.data.folder import agree_on_options, locked
    from ov_encoder.train.loader import epochs
    from ov_encoder.train.metrics import draw_curves
    from ov_encoder.train.parallel import start_processes
    from ov_encoder.train.pretrain import prepare_run

    config = _config(recipe, data, steps, set, probe, held_out, out)
    if show:
        _print_config(config)
        return 0
    processes = start_processes(device)
    with contextlib.ExitStack() as stack:
        if processes.first:
            stack.enter_context(locked(out))
            learned = {k: v for k, v in config.to_dict().items() if k not in ("loop", "cache", "probe")}
            agree_on_options(out, learned, finished=0)
            _print_config(config)
        run = prepare_run(config, out, processes)
        if processes.first:
            seen = epochs(config, run.streams, config.optim.steps)
            for name, stream in run.streams.items():
                left_out = f", {len(stream.skipped)} left out" if stream.skipped else ""
                print(
                    f"{name}: {len(stream.samples):,} samples, {run.task.heads[name].classes:,} classes, "
                    f"seen {seen[name]:.1f} times{left_out}"
                )
                for sample, reason in list(stream.skipped.items())[:5]:
                    print(f"left out: {sample}: {reason}")
            print(f"going on from step {run.loop.step:,}" if run.resumed else "starting at step 0")
        _train(run, first=processes.first)
    if not processes.first:
        return 0
    picture = draw_curves(out)
    print(f"wrote {picture}" if picture else "too few records for a picture")
    report_skipped(out)
    if run.loop.stopped:
        print(f"stopped at step {run.loop.step:,}, which is saved; the same command goes on from there")
        return 128 + signal.SIGTERM
    print(f"done; ov-encoder export {out} -o MODEL writes the encoder")
    return 0


def _config(
    recipe: str,
    data: tuple[str, ...],
    steps: int | None,
    changes: tuple[str, ...],
    probe: str | None,
    held_out: int,
    out: Path,
) -> TrainConfig:
    from dataclasses import replace

    from ov_encoder.recipes import find_recipe
    from ov_encoder.train.config import ProbeConfig, override

    config = find_recipe(recipe)
    if steps is not None:
        warmup = min(config.optim.warmup, max(steps // 20, 1), max(steps - 1, 0))
        config = replace(config, optim=replace(config.optim, steps=steps, warmup=warmup))
    heads = [head.name for head in config.heads]
    config = replace(config, data=(*config.data, *(_source(text, heads) for text in data)))
    kinds = _kinds(config) if config.data else {}
    if kinds and (unused := [h.name for h in config.heads if h.name not in kinds]):
        # A recipe's heads that get no data are left out, so that images alone or videos alone train as well.
        config = replace(config, heads=tuple(h for h in config.heads if h.name not in unused))
        print(f"left out, because there is no data for it: head {', '.join(unused)}")
    if probe is not None:
        config = replace(config, probe=ProbeConfig(data=_source(probe, [])))
    if probe is not None or held_out:
        every = config.loop.probe_every or max(config.optim.steps // 8, 1)
        config = replace(
            config, loop=replace(config.loop, probe_every=every, held_out=held_out or config.loop.held_out)
        )
    config = override(config, changes)
    if config.cache == "auto":
        config = replace(config, cache=str(out / "cache"))
    return config


def _source(text: str, heads: list[str]) -> DataConfig:
    """PATH, PATH:COLUMN, PATH@labels.parquet, each with HEAD= before it or not."""
    from ov_encoder.train.config import DataConfig

    head, found, rest = text.partition("=")
    if not found or head not in heads:
        head, rest = "", text
    labels, label = None, "label"
    if not Path(rest).exists():
        if rest.endswith(".parquet") and "@" in rest:
            rest, _, labels = rest.rpartition("@")
        elif ":" in rest:
            rest, _, label = rest.rpartition(":")
    return DataConfig(path=rest, label=label, labels=labels, head=head or None)


def _kinds(config: TrainConfig) -> dict[str, None]:
    """Names of the heads that the data reach."""
    from ov_encoder.data.training_set import head_for, open_samples

    takes = {head.name: head.kind for head in config.heads}
    reached: dict[str, None] = {}
    for source in config.data:
        if source.head:
            reached[source.head] = None
            continue
        for kind in {sample.kind for sample in open_samples(source.path, label=source.label)}:
            reached[head_for(kind, takes, source.path)] = None
    return reached


def _print_config(config: TrainConfig) -> None:
    from ov_encoder.cli.console import print_facts

    rows: list[tuple[str, str]] = []
    for name, value in config.to_dict().items():
        if isinstance(value, dict):
            rows.append((name, _line(value)))
        elif isinstance(value, tuple | list):
            rows += [(f"{name}.{i}", _line(v) if isinstance(v, dict) else str(v)) for i, v in enumerate(value)]
        else:
            rows.append((name, str(value)))
    print_facts("config", rows)


def _line(values: dict[str, Any]) -> str:
    return ", ".join(f"{k}=({_line(v)})" if isinstance(v, dict) else f"{k}={v}" for k, v in values.items())


def _train(run: Any, *, first: bool) -> None:
    """Fit with a progress bar on stderr in the first process."""
    if not first:
        run.fit()
        return
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn("{task.fields[now]}"),
        TimeRemainingColumn(),
    )
    console = Console(stderr=True)
    with Progress(*columns, console=console) as progress:
        task = progress.add_task("training", total=run.config.optim.steps, completed=run.loop.step, now="")

        def on_record(record: dict[str, Any]) -> None:
            if "loss" not in record:
                names = {"probe": "nearest neighbours"}
                found = ", ".join(f"{names.get(k, k)} {v:.3f}" for k, v in record.items() if k != "step")
                progress.console.print(f"step {record['step']}: {found}")
                return
            heads = ", ".join(
                f"{name} {record[f'{name}/loss']:.3f} ({record[f'{name}/accuracy']:.0%})" for name in run.task.heads
                if f"{name}/loss" in record
            )  # fmt: skip
            now = f"{heads}  {record['tokens_per_s']:,.0f} tok/s, waits {record['data_wait']:.0%}"
            progress.update(task, completed=record["step"], now=now)
            if not console.is_terminal:
                print(f"step {record['step']:>6,}  {now}, mfu {record['mfu']:.0%}, lr {record['lr']:.2e}", flush=True)

        run.fit(on_record)


def report_skipped(out: Path) -> None:
    """What could not be used, with reasons."""
    import json

    from ov_encoder.train.loop import SKIPPED

    rows = [json.loads(line) for path in sorted(out.glob(f"{SKIPPED}*")) for line in path.read_text().splitlines()]
    unique = {row.get("id", f"step {row.get('step')}"): row["reason"] for row in rows}
    for name, reason in list(unique.items())[:20]:
        print(f"skipped: {name}: {reason}")
    if unique:
        print(f"{len(unique)} skipped in all; see {out / SKIPPED}")
