"""A training step taken apart: waiting for data, encoder, heads, optimizer; and the encoder against itself alone.

    python benchmarks/step.py [--data DIR ...] [--recipe tiny_cpu] [--steps 30] [--save FILE.json]

Each step runs the recipe's own loader, encoder, heads and optimizers; the encoder's forward and backward are then
repeated on the same batch by a plain module in the dtype of the computation, with no weights to cast, no heads and
no optimizer. The figure to quote is the median of the ratios. Without --data a set of images and clips is generated.
The first pass over the data decodes and fills the cache, and is not counted. The last line of stdout is JSON.
"""

from __future__ import annotations

import argparse
import copy
import json
import os
import platform
import statistics
import tempfile
import time
from dataclasses import replace
from fractions import Fraction
from importlib import metadata
from pathlib import Path

import av
import numpy as np
import torch
from PIL import Image

from ov_encoder.recipes import find_recipe
from ov_encoder.train.config import DataConfig, TrainConfig
from ov_encoder.train.optim import gradient_norm
from ov_encoder.train.parallel import start_processes
from ov_encoder.train.pretrain import Run, fresh_encoder, prepare_run
from ov_encoder.train.schedule import learning_rate

PARTS = ("data", "encoder forward", "heads", "encoder backward", "optimizer")


def make_set(folder: Path, *, clips: int = 48, images: int = 48) -> Path:
    """Noise that moves, in eight classes of images and of clips."""
    for i in range(max(clips, images)):
        rng = np.random.default_rng(i)
        (folder / f"class{i % 8}").mkdir(parents=True, exist_ok=True)
        noise = rng.integers(0, 255, (30, 40, 3), dtype=np.uint8)
        picture = np.asarray(Image.fromarray(noise).resize((320, 240), Image.Resampling.BICUBIC))
        if i < images:
            Image.fromarray(picture).save(folder / f"class{i % 8}" / f"{i}.jpg", quality=90)
        if i < clips:
            with av.open(str(folder / f"class{i % 8}" / f"{i}.mp4"), "w") as out:
                stream = out.add_stream("libx264", rate=25)
                stream.width, stream.height, stream.pix_fmt = 320, 240, "yuv420p"
                for t in range(48):
                    shown = np.roll(picture, t * (1 + i % 4), axis=1).copy()
                    frame = av.VideoFrame.from_ndarray(shown, format="rgb24")
                    frame.pts, frame.time_base = t, Fraction(1, 25)
                    out.mux(stream.encode(frame))
                out.mux(stream.encode(None))
    return folder


def fill_cache(run: Run) -> float:
    """One pass over all samples, so that steps measure what they do after the first epoch. Seconds."""
    began = time.perf_counter()
    needed = max(len(s.samples) for s in run.streams.values()) * len(run.streams)
    seen = 0
    while seen < needed:
        seen += len(next(run.loader).ids)
    return time.perf_counter() - began


def measure(run: Run, config: TrainConfig, steps: int) -> tuple[list[dict[str, float]], list[int]]:
    """Seconds of every part of each step, "alone" for the plain encoder, and tokens. The first three are warm-up."""
    dtype = getattr(torch, config.loop.dtype)
    device = run.loop.processes.device
    alone = fresh_encoder(config).to(device=device, dtype=dtype)
    rows, tokens = [], []
    for step in range(steps + 3):
        marks = [now(device)]
        batch = next(run.loader)
        marks.append(now(device))
        pooled_BD = run.loop.forward(batch.patches).pooled_BD
        marks.append(now(device))
        leaf_BD = pooled_BD.detach().requires_grad_()
        run.task.head_loss(leaf_BD, batch)[0].backward()
        marks.append(now(device))
        pooled_BD.backward(leaf_BD.grad)
        marks.append(now(device))
        run.loop.update(learning_rate(step, config.optim), gradient_norm(run.loop.optimizer))
        run.loop.forget_gradients()
        run.loop.step += 1
        marks.append(now(device))
        gradient = copy.deepcopy(leaf_BD.grad)
        began = now(device)
        out_BD = alone(batch.patches).pooled_BD
        out_BD.backward(gradient.to(out_BD.dtype))
        spent = now(device) - began
        alone.zero_grad(set_to_none=True)
        rows.append(dict(zip(PARTS, np.diff(marks).tolist(), strict=True)) | {"alone": spent})
        tokens.append(batch.tokens)
    return rows[3:], tokens[3:]


def now(device: torch.device) -> float:
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return time.perf_counter()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", action="append", default=[], help="as for ov-encoder pretrain; several times")
    parser.add_argument("--recipe", default="tiny_cpu")
    parser.add_argument("--steps", type=int, default=30)
    parser.add_argument("--save", type=Path, help="also write the JSON to this file")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        paths = args.data or [str(make_set(Path(folder) / "set"))]
        config = find_recipe(args.recipe)
        config = replace(config, data=tuple(DataConfig(path=p) for p in paths), cache=str(Path(folder) / "cache"))
        run = prepare_run(config, Path(folder) / "run", start_processes("auto"))
        first = fill_cache(run)
        rows, tokens = measure(run, config, args.steps)
        run.loader.close()
    medians = {name: statistics.median(row[name] for row in rows) for name in (*PARTS, "alone")}
    whole = sum(medians[name] for name in PARTS)
    ratio = statistics.median((r["encoder forward"] + r["encoder backward"]) / r["alone"] for r in rows)
    print(f"{args.recipe}, {statistics.median(tokens):,.0f} tokens a step, medians of {args.steps} steps")
    for name in PARTS:
        print(f"{name:18} {1e3 * medians[name]:9.1f} ms {medians[name] / whole:6.1%}")
    print(f"{'step':18} {1e3 * whole:9.1f} ms, {statistics.median(tokens) / whole:,.0f} tokens/s")
    print(f"encoder forward and backward in the step / alone: {ratio:.2f}")
    print(f"first pass over {sum(len(s.samples) for s in run.streams.values())} samples, decoding: {first:.1f} s")
    device = run.loop.processes.device
    result = {
        "benchmark": "step",
        "recipe": args.recipe,
        "machine": {
            "cpu": platform.processor() or platform.machine(),
            "cores": os.cpu_count(),
            "threads": torch.get_num_threads(),
            "gpu": torch.cuda.get_device_name(device) if device.type == "cuda" else None,
        },
        "versions": {"python": platform.python_version(), **{p: metadata.version(p) for p in ("torch", "numpy", "av")}},
        "tokens": statistics.median(tokens),
        "median_s": {name: round(value, 5) for name, value in medians.items()},
        "shares": {name: round(medians[name] / whole, 4) for name in PARTS},
        "encoder_ratio": round(ratio, 3),
        "tokens_per_s": round(statistics.median(tokens) / whole, 1),
        "first_pass_s": round(first, 2),
    }
    if args.save:
        args.save.write_text(json.dumps(result, indent=1) + "\n")
    print(json.dumps(result))


if __name__ == "__main__":
    main()
