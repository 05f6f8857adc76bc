"""`ov-encoder encode`: files and folders to embeddings, in a job that can be killed and goes on."""

from __future__ import annotations

import os
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Annotated, Literal

import tyro

from ov_encoder.bundled import DEFAULT
from ov_encoder.cli.options import Options, PatchOptions

_GPU_TOKENS = 65_536  # about what keeps a large GPU busy


def encode(
    paths: Annotated[tyro.conf.Positional[tuple[str, ...]], tyro.conf.arg(metavar="PATHS...")],
    *,
    out: Annotated[Path, tyro.conf.arg(aliases=["-o"])],
    model: str = DEFAULT,
    format: Literal["safetensors", "parquet"] = "safetensors",
    tokens: bool = False,
    rate: float | None = None,
    workers: int | None = None,
    timeout: float = 600.0,
    device: str = "auto",
    dtype: Literal["float32", "bfloat16"] | None = None,
    batch_tokens: int | None = None,
    options: PatchOptions = Options(),  # noqa: B008 (frozen)
) -> int:
    """Encode images and videos: one embedding for each file, or for each window of it with --rate.

    Folders are searched for media. A run that was stopped or killed goes on when the command is given again.
    Exit code 1 if a file failed; failures are listed at the end and in OUT/failures.jsonl.

    Example: ov-encoder encode videos/ -o embeddings --model base --tokens --budget 1024

    Args:
        paths: Files and folders.
        out: Folder for the embeddings.
        model: A name (see ov-encoder models), a directory, or a hub id.
        format: A file for each input, or shards of rows.
        tokens: Keep every token with its place, not only the pooled vector.
        rate: Cut long videos into windows of --frames slots, this many slots a second.
        workers: Processes that read and choose patches; by default one for each core.
        timeout: Seconds that one file may take to read.
        device: cpu, cuda, ...; auto takes a GPU if there is one.
        dtype: Of the encoder; by default that of its weights.
        batch_tokens: Encode files together up to this many tokens. By default every file alone on a CPU (so the
            same bits come out whatever else is in the run), 65536 on a GPU.
    """
    import torch

    from ov_encoder.cli.job import FAILURES, read_patches, run_job
    from ov_encoder.cli.outputs import WRITERS
    from ov_encoder.data.folder import agree_on_options, locked
    from ov_encoder.data.sources import entries, find_media
    from ov_encoder.model.weights import SEED, fingerprint, load_model

    patchify_options = asdict(options)
    find_media(paths)
    if rate is not None and not rate > 0:
        raise ValueError(f"rate={rate}; must be a positive number of slots per second")
    if device == "auto":
        device = "cuda" if torch.cuda.is_available() else "cpu"
    encoder = load_model(model, device=device, dtype=dtype)
    if encoder.config.patch_size != options.patch:
        raise ValueError(f"patch={options.patch}, but {model} takes patches of {encoder.config.patch_size} pixels")
    if encoder.config.use_head is False and not tokens:
        raise ValueError(f"{model} has no pooling head, so there is nothing to keep without --tokens")
    if batch_tokens is None:
        batch_tokens = 0 if device == "cpu" else _GPU_TOKENS
    chosen = {
        "model": model,
        "weights": fingerprint(encoder),
        "seed": SEED,
        "dtype": str(encoder.dtype).removeprefix("torch."),
        "format": format,
        "tokens": tokens,
        "rate": rate,
        "patchify": {name: value for name, value in patchify_options.items() if name != "threads"},
    }
    with locked(out):
        writer = WRITERS[format](out)
        done = writer.done()
        agree_on_options(out, chosen, len(done))
        inputs = entries(paths, done)
        todo = [entry for entry in inputs if entry.source not in done]
        steps = run_job(
            todo,
            folder=out,
            writer=writer,
            model=encoder,
            read=partial(read_patches, options=patchify_options, rate=rate),
            keep_tokens=tokens,
            workers=workers if workers is not None else _cores(),
            timeout_s=timeout,
            batch_tokens=batch_tokens,
        )
        failures = _show(steps, total=len(inputs), skipped=len(inputs) - len(todo), out=out)
        if failures:
            print(f"{failures} failed; reasons in {out / FAILURES}; the same command tries them again")
    return 1 if failures else 0


def _cores() -> int:
    """Cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _show(steps, *, total: int, skipped: int, out: Path) -> int:
    """Progress on stderr while steps come in, then the summary and every failure. Returns their number."""
    import time

    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn("{task.fields[rate]}"),
        TimeRemainingColumn(),
        TextColumn("{task.fields[failed]}"),
    )
    began, failures, tokens, files = time.monotonic(), [], 0, 0
    with Progress(*columns, console=Console(stderr=True)) as progress:
        task = progress.add_task("encoding", total=total, completed=skipped, rate="", failed="")
        for step in steps:
            if step.failure:
                failures.append(step)
            else:
                files, tokens = files + 1, tokens + step.tokens
            spent = time.monotonic() - began
            rate = f"{files / spent:.1f} files/s, {tokens / spent:,.0f} tokens/s"
            progress.update(task, advance=1, rate=rate, failed=f"{len(failures)} failed" if failures else "")
    earlier = f", {skipped} were there before" if skipped else ""
    print(f"{files} encoded, {tokens:,} tokens, {time.monotonic() - began:.1f} s{earlier}; in {out}")
    for step in failures:
        print(f"failed ({step.failure}): {step.entry.id}: {step.reason}")
    return len(failures)
