"""Encoding: the packed encoder beside the sum of its own kernels and beside plain models, all in one run.

    python benchmarks/encode.py [--size large] [--rows clip-bf16,clip-fp32] [--blocks 4] [--quick] [--save FILE.json]

Every row runs in processes of its own, so that peak memory is its own. In the first, four ways take turns after a
warm-up and the medians count:

* ours     `OVEncoder` on a uint8 PatchBatch, normalisation and pooling included.
* kernels  the matrix products and attention kernels of the same layers at the same shapes, timed one by one and
           summed: what no model of this shape can be faster than.
* plain    a straightforward PyTorch ViT with fused SDPA (benchmarks/plain_vit.py).
* eager    the same with N x N attention, embedding all 16,384 patches before dropping, as the reference does
           without flash-attn (rows of one clip only).

Rows marked with a depth run that many blocks of the model and are scaled to all of them; memory always holds all
weights. On an NVIDIA GPU a second table gives tokens per second with the transfer of pixels included, and the share
of the machine's own bf16 matmul rate. The last line of stdout is JSON.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import resource
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn
from torch.nn import functional as F

from ov_encoder.model.config import SIZES, OVEncoderConfig
from ov_encoder.model.encoder import OVEncoder, normalise
from ov_encoder.patchify.batch import PatchBatch
from plain_vit import PlainViT

GRID = (64, 16, 16)  # 64 slots of 224 x 224 pixels


@dataclass(frozen=True)
class Row:
    """One comparison: clips of `tokens` each, packed. `blocks`: how many are run and scaled (0 = all)."""

    what: str
    dtype: str
    clips: int
    tokens: int
    blocks: int = 0
    eager: bool = False


ROWS = {
    "clip-bf16": Row("one clip, 2,048 tokens", "bfloat16", 1, 2048, eager=True),
    "clip-fp32": Row("one clip, 2,048 tokens", "float32", 1, 2048, eager=True),
    "sparse-512": Row("512 sparse tokens", "bfloat16", 1, 512),
    "frames-16": Row("4,096 tokens: sparse, or 16 frames dense or as chunks", "bfloat16", 1, 4096, blocks=12),
    "dense-64": Row("64 frames dense, 16,384 tokens", "bfloat16", 1, 16384, blocks=2),
    "packed-8": Row("8 clips of 2,048 tokens, packed", "bfloat16", 8, 2048, blocks=4),
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--size", default="large", choices=SIZES)
    parser.add_argument("--rows", default=",".join(ROWS), help="comma-separated names; default: all")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--blocks", type=int, help="run this many blocks and scale; default: see each row")
    parser.add_argument("--quick", action="store_true", help="tiny model, few tokens, one round")
    parser.add_argument("--save", type=Path, help="also write the JSON to this file")
    parser.add_argument("--child", help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.child:
        print(json.dumps(child(**json.loads(args.child))))
        return
    if unknown := set(args.rows.split(",")) - set(ROWS):
        parser.error(f"unknown row {sorted(unknown)[0]!r}; rows: {', '.join(ROWS)}")
    size, rounds = ("tiny", 1) if args.quick else (args.size, args.rounds)
    result: dict[str, Any] = {
        "benchmark": "encode",
        "machine": machine(),
        "size": size,
        "rounds": rounds,
        "quick": args.quick,
        "rows": {},
    }
    print(f"{size} on {result['machine']['cpu']}, {torch.get_num_threads()} threads, torch {torch.__version__}")
    print(f"{'row':<11} {'dtype':<9} {'blocks':>6} {'ours s':>8} {'kernels s':>9} {'ratio':>6} {'plain s':>8} "
          f"{'ratio':>6} {'eager s':>8} {'tokens/s':>8} {'peak MB: ours':>13} {'plain':>6} {'eager':>6}")  # fmt: skip
    for name in args.rows.split(","):
        row = ROWS[name] if args.blocks is None else replace(ROWS[name], blocks=args.blocks)
        tokens = max(256, row.tokens // 8) if args.quick else row.tokens
        figures = compare_row(row, size=size, tokens=tokens, rounds=rounds)
        result["rows"][name] = {**asdict(row), "tokens": tokens, **figures}
        print_row(name, row, figures)
    if torch.cuda.is_available():
        result["gpu"] = gpu_table(size, args.quick)
    if args.save:
        args.save.write_text(json.dumps(result, indent=1) + "\n")
    print(json.dumps(result))


def compare_row(row: Row, *, size: str, tokens: int, rounds: int) -> dict[str, Any]:
    """Timings from one process, peak memory of each way from one process each."""
    common = {"size": size, "dtype": row.dtype, "clips": row.clips, "tokens": tokens, "blocks": row.blocks}
    ways = ["ours", "plain", *(["eager"] if row.eager else [])]
    figures = spawn(task="time", ways=ways, rounds=rounds, **common)
    for way in ways:
        figures[f"{way}_peak_mb"] = spawn(task="memory", ways=[way], rounds=1, **common)["peak_mb"]
    return figures


def print_row(name: str, row: Row, f: dict[str, Any]) -> None:
    eager, eager_mb = (f"{f[k]:.{d}f}" if k in f else "-" for k, d in (("eager_s", 3), ("eager_peak_mb", 0)))
    print(f"{name:<11} {row.dtype:<9} {f['blocks']:>6} {f['ours_s']:>8.3f} {f['kernels_s']:>9.3f} "
          f"{f['ours_over_kernels']:>6.3f} {f['plain_s']:>8.3f} {f['plain_over_kernels']:>6.3f} {eager:>8} "
          f"{f['tokens_per_s']:>8.0f} {f['ours_peak_mb']:>13.0f} {f['plain_peak_mb']:>6.0f} {eager_mb:>6}")  # fmt: skip
    if row.clips > 1:
        print(f"{'':<11} {row.clips} clips packed over {row.clips} x one: {f['packed_over_separate']:.3f}")


def spawn(**task: Any) -> dict[str, Any]:
    command = [sys.executable, __file__, "--child", json.dumps(task)]
    done = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True)
    return json.loads(done.stdout.splitlines()[-1])


def child(
    *, task: str, ways: list[str], size: str, dtype: str, clips: int, tokens: int, blocks: int, rounds: int
) -> dict[str, Any]:
    """What runs in a process of its own: one round of one way for its memory, or all ways in turn for their time."""
    config, kind = OVEncoderConfig.from_name(size), getattr(torch, dtype)
    depth = config.num_hidden_layers
    run_blocks = min(blocks or depth, depth)
    batch = make_batch(clips, tokens)
    runs = {way: make_way(way, config, kind, run_blocks, batch) for way in ways}
    with torch.inference_mode():
        if task == "memory":
            runs[ways[0]]()
            return {"peak_mb": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024}
        kernels = make_kernels(config, kind, run_blocks, batch)
        seconds: dict[str, list[float]] = {way: [] for way in (*ways, "kernels", "separate")}
        ones = batch.unpack()
        for _ in range(rounds + 1):
            for way, run in runs.items():
                seconds[way].append(timed(run))
            seconds["kernels"].append(kernels())
            if clips > 1:
                seconds["separate"].append(timed(lambda: [runs["ours"].model(one) for one in ones]))
        return summary(seconds, run_blocks, depth, clips * tokens)


def summary(seconds: dict[str, list[float]], run_blocks: int, depth: int, tokens: int) -> dict[str, Any]:
    """Medians without the warm-up, scaled to all blocks; ratios are medians of the ratios of each round."""

    def ratio(a: str, b: str) -> float:
        return statistics.median(x / y for x, y in zip(seconds[a][1:], seconds[b][1:], strict=True))

    scale = depth / run_blocks
    out: dict[str, Any] = {"blocks": run_blocks}
    for way, values in seconds.items():
        if values:
            out[f"{way}_s"] = statistics.median(values[1:]) * scale
            out[f"{way}_over_kernels"] = ratio(way, "kernels")
    if seconds["separate"]:
        out["packed_over_separate"] = ratio("ours", "separate")
    out["tokens_per_s"] = tokens / out["ours_s"]
    return out


class Way:
    """One model with its input, ready to be called."""

    def __init__(self, model: nn.Module, *inputs: Any) -> None:
        self.model, self.inputs = model, inputs

    def __call__(self) -> None:
        self.model(*self.inputs)


def make_way(way: str, config: OVEncoderConfig, dtype: torch.dtype, blocks: int, batch: PatchBatch) -> Way:
    """The model with small random weights, all of them in memory, of which `blocks` blocks run."""
    with torch.device("meta"):
        model = OVEncoder(config) if way == "ours" else PlainViT(config, eager=way == "eager")
    model = model.to(dtype).to_empty(device="cpu").eval()
    for p in model.parameters():
        nn.init.normal_(p, std=0.02)
    stack = model.encoder.layers if isinstance(model, OVEncoder) else model.blocks
    model.idle_blocks = list(stack)[blocks:]  # a plain attribute of modules that stay in memory but do not run
    del stack[blocks:]
    if way == "ours":
        return Way(model, batch)
    t, h, w = torch.from_numpy(batch.positions_N3.astype(np.int64)).T
    index_BN = (t * 256 + h * 16 + w).view(len(batch), -1)
    fake_frames = 64 if way == "eager" else max(1, index_BN.shape[1] // 256)
    return Way(model, frames_of(batch, fake_frames).to(dtype), index_BN[:, : fake_frames * 256])


def frames_of(batch: PatchBatch, T: int) -> torch.Tensor:
    """Normalised frames [B, 3, T, 224, 224]: the packed patches as fake frames, or all 64 real ones."""
    B = len(batch)
    if batch.tokens < T * 256 * B:
        return torch.randn(B, 3, T, 224, 224)
    grid = normalise(torch.from_numpy(batch.patches_ND)).view(B, T, 16, 16, 3, 14, 14)
    return grid.permute(0, 4, 1, 2, 5, 3, 6).reshape(B, 3, T, 224, 224)


def make_kernels(config: OVEncoderConfig, dtype: torch.dtype, blocks: int, batch: PatchBatch) -> Callable[[], float]:
    """Seconds of the matrix products and attention kernels alone, each with weights of its own per block."""
    D, wide, H, N, B = (
        config.hidden_size,
        config.intermediate_size,
        config.num_attention_heads,
        batch.tokens,
        len(batch),
    )

    def tensor(*shape: int) -> torch.Tensor:
        return (torch.randn(*shape) * 0.02).to(dtype)

    x_ND, wide_NW, patches_NS = tensor(N, D), tensor(N, wide), tensor(N, config.patch_dim)
    q, k, v = (tensor(B, H, N // B, D // H) for _ in range(3))
    embed = (patches_NS, tensor(D, config.patch_dim), None)
    keys_and_values = [(x_ND, tensor(D, D), tensor(D)) for _ in range(2)]  # of the pooling head
    layers = []
    for _ in range(blocks):
        square = [(x_ND, tensor(D, D), tensor(D)) for _ in range(4)]
        layers.append([*square, (x_ND, tensor(wide, D), tensor(wide)), (wide_NW, tensor(D, wide), tensor(D))])

    def run() -> float:
        products = [embed, *keys_and_values, *(product for layer in layers for product in layer)]
        total = sum(timed(lambda p=p: F.linear(*p)) for p in products)
        return total + sum(timed(lambda: F.scaled_dot_product_attention(q, k, v)) for _ in range(blocks))

    return run


def make_batch(clips: int, tokens: int) -> PatchBatch:
    rng = np.random.default_rng(0)
    cells = [np.sort(rng.choice(np.prod(GRID), tokens, replace=False)) for _ in range(clips)]
    return PatchBatch.from_arrays(
        patches_ND=rng.integers(0, 256, (clips * tokens, 588), dtype=np.uint8),
        positions_N3=np.stack(np.unravel_index(np.concatenate(cells), GRID), axis=1),
        lengths_B=[tokens] * clips,
    )


def timed(run: Callable[[], Any]) -> float:
    began = time.perf_counter()
    run()
    return time.perf_counter() - began


def gpu_table(size: str, quick: bool, device: str = "cuda") -> dict[str, Any]:
    """bf16 on a GPU: tokens per second from uint8 on the host, and the share of the machine's own matmul rate."""

    def seconds(run: Callable[[], Any], repeats: int = 10) -> float:
        for _ in range(3):
            run()
        values = []
        for _ in range(repeats):
            torch.cuda.synchronize()
            began = time.perf_counter()
            run()
            torch.cuda.synchronize()
            values.append(time.perf_counter() - began)
        return statistics.median(values)

    side = 8192
    a = torch.randn(side, side, device=device, dtype=torch.bfloat16)
    out: dict[str, Any] = {
        "device": torch.cuda.get_device_name(),
        "matmul_tflops": 2e-12 * side**3 / seconds(lambda: a @ a),
    }
    print(f"\n{out['device']}: bf16 matmul {out['matmul_tflops']:.0f} TFLOP/s")
    config = OVEncoderConfig.from_name(size)
    model = OVEncoder(config).to(device, torch.bfloat16).eval()
    tokens = 256 if quick else 2048
    for compiled in (False, True):
        if compiled:
            model.compile(fullgraph=True, dynamic=False)
        for clips in (1, 8, 32):
            batch = make_batch(clips, tokens)
            with torch.inference_mode():
                # Moved first and pooled fetched last: both transfers are part of the time.
                s = seconds(lambda b=batch: model(b.to(device)).pooled_BD.cpu())
            rate, share = clips * tokens / s, flops(config, clips, tokens) / s / 1e12 / out["matmul_tflops"]
            name = f"{clips} clips{', compiled' if compiled else ''}"
            out[name] = {"seconds": s, "tokens_per_s": rate, "share_of_matmul_rate": share}
            print(f"{name:<20} {s * 1e3:9.2f} ms {rate:12.0f} tokens/s {share:6.1%} of the matmul rate")
    return out


def flops(config: OVEncoderConfig, clips: int, tokens: int) -> float:
    D, wide = config.hidden_size, config.intermediate_size
    per_token = config.num_hidden_layers * (8 * D * D + 4 * D * wide + 4 * tokens * D) + 2 * D * config.patch_dim
    return float(clips * tokens * (per_token + 4 * D * D))


def machine() -> dict[str, Any]:
    info = Path("/proc/cpuinfo")
    models = (
        [line.split(":", 1)[1].strip() for line in info.read_text().splitlines() if "model name" in line]
        if info.exists()
        else []
    )
    return {
        "cpu": models[0] if models else platform.processor(),
        "cores": os.cpu_count(),
        "threads": torch.get_num_threads(),
        "system": platform.system(),
        "python": platform.python_version(),
        "torch": torch.__version__,
        "numpy": np.__version__,
    }


if __name__ == "__main__":
    main()
