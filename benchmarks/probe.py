"""Probing from a cache: seconds of each probe, and of one step of a grid beside heads trained one by one.

    python benchmarks/probe.py [--samples 10000] [--tokens 256] [--width 192] [--classes 100] [--seeds 1] [--save FILE]

A cache of random features (bfloat16, on disk, 1 GB at the defaults) in which the class shifts the mean of the tokens
is made first. Then every probe runs whole, grid, choice and second training included, on four fifths of the samples,
and is scored on the others. Beside it, taking turns on the same batches, steps of (a) the grid as parallel heads and
(b) as many heads of torch's MultiheadAttention, each with an AdamW of its own. The last line of stdout is JSON.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import resource
import statistics
import tempfile
import time
from importlib import metadata
from pathlib import Path

import numpy as np
import torch
from torch import nn

from ov_encoder.data.manifest import Sample
from ov_encoder.evaluate.attentive import AttentiveHeads, attention_heads
from ov_encoder.evaluate.features import BLOCK, Block, FeatureCache, Timing, block_name, index_bytes, read_header
from ov_encoder.evaluate.featurizer import Features
from ov_encoder.evaluate.heads import HeadsAdamW, Tokens
from ov_encoder.evaluate.protocol import PROBES, RECIPES, make_task, run_probe


def make_cache(folder: Path, samples: int, tokens: int, width: int, classes: int) -> tuple[FeatureCache, list[Sample]]:
    random = np.random.default_rng(0)
    centres_CD = 0.15 * random.standard_normal((classes, width), np.float32)
    (folder / "blocks").mkdir(parents=True)
    (folder / "timings").mkdir()
    (folder / "run.json").write_text("{}")
    named, headers = [], []
    for number, start in enumerate(range(0, samples, BLOCK)):
        rows = range(start, min(start + BLOCK, samples))
        block = Block([str(i) for i in rows], key="")
        for row, i in enumerate(rows):
            x_ND = random.standard_normal((tokens, width), np.float32) + centres_CD[i % classes]
            x_ND += 0.3 * random.standard_normal(width, np.float32)  # what samples of a class do not share
            block.features[row] = Features(x_ND.mean(axis=0), x_ND, tokens)
            block.timings[row] = Timing(0.0, 0.0, 1)
            named.append(Sample(str(i), f"{i}.mp4", "video", (f"{i % classes:03d}",)))
        path = folder / "blocks" / block_name(number)
        path.write_bytes(block.to_bytes())
        headers.append(read_header(path))
    (folder / "index.parquet").write_bytes(index_bytes(headers))
    return FeatureCache.open(folder), named


class PlainHead(nn.Module):
    """The same head with torch's own modules."""

    def __init__(self, width: int, classes: int) -> None:
        super().__init__()
        self.probe = nn.Parameter(torch.randn(1, 1, width))
        self.attention = nn.MultiheadAttention(width, attention_heads(width), batch_first=True)
        self.rms, self.norm = nn.RMSNorm(width), nn.LayerNorm(width)
        self.mlp = nn.Sequential(nn.Linear(width, 4 * width), nn.GELU(), nn.Linear(4 * width, width))
        self.classify = nn.Linear(width, classes)

    def forward(self, x_BLD: torch.Tensor) -> torch.Tensor:
        y_B1D, _ = self.attention(self.probe.expand(len(x_BLD), -1, -1), x_BLD, x_BLD, need_weights=False)
        y_BD = y_B1D[:, 0]
        return self.classify(self.norm(y_BD + self.mlp(self.rms(y_BD))))


def compare_steps(cache: FeatureCache, classes: int, repeats: int) -> dict[str, float]:
    """Median seconds of a step of the whole grid at batch 128."""
    recipe = RECIPES["attentive"]
    grid, data = recipe.grid, Tokens(cache, cache.ids)
    heads = AttentiveHeads(len(grid), data.width, classes)
    together = HeadsAdamW(heads, *zip(*grid, strict=True), clip=recipe.clip)
    plain = [PlainHead(data.width, classes) for _ in grid]
    alone = [
        torch.optim.AdamW(head.parameters(), lr=rate, weight_decay=decay)
        for head, (rate, decay) in zip(plain, grid, strict=True)
    ]
    random = np.random.default_rng(0)
    seconds: dict[str, list[float]] = {"parallel": [], "one by one": []}
    for _ in range(repeats + 1):
        rows = random.integers(0, len(cache.ids), recipe.batch)
        y_B = torch.from_numpy(rows % classes)
        began = time.perf_counter()
        for part in data.parts(np.arange(len(rows))):
            logits_GBC = heads(*data.inputs(rows[part]))
            target = y_B[part].expand(len(grid), -1).flatten()
            nn.functional.cross_entropy(logits_GBC.flatten(0, 1), target, reduction="sum").backward()
        together.step(1.0)
        seconds["parallel"].append(time.perf_counter() - began)
        began = time.perf_counter()
        parts = [(part, data.inputs(rows[part])[0]) for part in data.parts(np.arange(len(rows)))]
        for head, optimizer in zip(plain, alone, strict=True):
            for part, x_BLD in parts:
                nn.functional.cross_entropy(head(x_BLD), y_B[part], reduction="sum").backward()
            nn.utils.clip_grad_norm_(head.parameters(), 5.0)
            optimizer.step()
            optimizer.zero_grad()
        seconds["one by one"].append(time.perf_counter() - began)
    return {name: statistics.median(values[1:]) for name, values in seconds.items()}  # the first warms up


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--samples", type=int, default=10_000)
    parser.add_argument("--tokens", type=int, default=256)
    parser.add_argument("--width", type=int, default=192)
    parser.add_argument("--classes", type=int, default=100)
    parser.add_argument("--seeds", type=int, default=1)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--probes", nargs="+", default=list(PROBES), choices=PROBES)
    parser.add_argument("--threads", type=int, default=os.cpu_count())
    parser.add_argument("--save", type=Path)
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    with tempfile.TemporaryDirectory() as folder:
        cache, samples = make_cache(Path(folder) / "cache", args.samples, args.tokens, args.width, args.classes)
        cut = 4 * len(samples) // 5
        task = make_task(samples[:cut], samples[cut:], cache)
        rows = {}
        for probe in args.probes:
            result = run_probe(probe, cache, task, seeds=args.seeds)
            points = len(RECIPES[probe].grid) if probe in RECIPES else 0
            rows[probe] = {"seconds": result.seconds, "grid": points, "top1": result.best["top1"].value}
        steps = compare_steps(cache, args.classes, args.repeats)
    ratio = steps["one by one"] / steps["parallel"]
    print(
        f"{args.samples:,} samples x {args.tokens} tokens x {args.width}, {args.seeds} seed(s), {args.threads} threads"
    )
    print(f"{'probe':12} {'grid':>4} {'seconds':>8} {'top-1 %':>8}")
    for probe, row in rows.items():
        print(f"{probe:12} {row['grid'] or '':>4} {row['seconds']:8.1f} {100 * row['top1']:8.1f}")
    print(f"a step of the 12-point attentive grid: {steps['parallel']:.3f} s, one by one {steps['one by one']:.3f} s, "
          f"{ratio:.1f} x")  # fmt: skip
    found = {
        "benchmark": "probe",
        "machine": {"cpu": platform.processor() or platform.machine(), "cores": os.cpu_count()},
        "versions": {"python": platform.python_version(), **{p: metadata.version(p) for p in ("torch", "numpy")}},
        "sizes": {name: getattr(args, name) for name in ("samples", "tokens", "width", "classes", "seeds", "threads")},
        "probes": rows,
        "step_s": steps,
        "peak_mb": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e3,
    }
    if args.save:
        args.save.write_text(json.dumps(found, indent=1) + "\n")
    print(json.dumps(found))


if __name__ == "__main__":
    main()
