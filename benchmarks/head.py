"""The million-class head: time and memory of forward + backward + update, against the reference's way, in one run.

    python benchmarks/head.py [--classes 250000 1000000] [--dim 1024] [--device cpu|cuda] [--save FILE.json]

Three contestants, each in a process of its own at every number of classes: `plain` (plain_head.py: one sampling and
one logit matrix per label column, dense AdamW), `ours` and `ours-bf16` (bfloat16 centres and moments with stochastic
rounding). What does not fit the free memory is not run; its memory is given by arithmetic. Memory of a step is the
peak of the process (ru_maxrss; on a GPU the allocator's) minus what was resident once centres and moments stood.
Then: loss curves of float32 and bfloat16 on data that can be learnt (`--curve-steps`, `--curve-classes`), and weak
scaling over 1, 2 and 4 gloo processes with the bytes of every collective counted. The last line of stdout is JSON.
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
import tempfile
import time
from importlib import metadata
from pathlib import Path

import torch
import torch.distributed as dist
import torch.multiprocessing

from ov_encoder.train import CentreAdamW, ClusterHead, communication_bytes
from plain_head import PlainHead, plain_bytes

CONTESTANTS = ("plain", "ours", "ours-bf16")
COLLECTIVES = {  # names (those before torch 2.13 too) and which argument is the whole tensor
    "all_gather_single": 0,
    "all_gather_into_tensor": 0,
    "all_reduce": 0,
    "reduce_scatter_single": 1,
    "reduce_scatter_tensor": 1,
}
RUN_BASE = 1 << 30  # interpreter, torch, room to spare


def say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


def our_bytes(classes: int, dim: int, *, rate: float, item: int) -> dict[str, int]:
    """Memory by arithmetic: centres, moments and step counts; the gradient of the sampled rows."""
    return {"state": classes * (3 * dim * item + 4), "step": int(rate * classes) * dim * item}


def by_arithmetic(contestant: str, classes: int, args: argparse.Namespace) -> dict[str, int]:
    if contestant == "plain":
        return plain_bytes(classes, args.dim, batch=args.batch, rate=args.rate, drawn=args.drawn)
    return our_bytes(classes, args.dim, rate=args.rate, item=2 if contestant == "ours-bf16" else 4)


def free_bytes(device: str) -> int:
    if device != "cpu":
        return torch.cuda.mem_get_info()[0]
    lines = Path("/proc/meminfo").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith("MemAvailable"))


def resident(device: str) -> int:
    if device != "cpu":
        return torch.cuda.memory_allocated()
    return int(Path("/proc/self/statm").read_text().split()[1]) * resource.getpagesize()


def peak(device: str) -> int:
    if device != "cpu":
        return torch.cuda.max_memory_allocated()
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def make_ours(classes: int, args: argparse.Namespace, dtype: torch.dtype, **options) -> tuple[ClusterHead, CentreAdamW]:
    head = ClusterHead(
        args.dim,
        classes,
        sample_rate=args.rate,
        labels_per_step=args.drawn,
        filter_threshold=0.75,
        dtype=dtype,
        device=args.device,
        **options,
    )
    optimizer = CentreAdamW(head, moments_dtype=dtype)
    for x in (optimizer.mean_CD, optimizer.square_CD, optimizer.steps_C):
        x.fill_(0)  # zeros are not resident before they are written: they shall count as state, not as the step's
    return head, optimizer


def one(contestant: str, classes: int, args: argparse.Namespace) -> dict:
    """Steps of one contestant in this process."""
    torch.manual_seed(0)
    device = torch.device(args.device)
    if contestant == "plain":
        head: torch.nn.Module = PlainHead(args.dim, classes, rate=args.rate, drawn=args.drawn, device=device)
        optimizer = head.optimizer()
        state = optimizer.state[head.centres_CD]  # as AdamW makes it at its first step, resident before we measure
        state["step"] = torch.zeros((), device=device)
        for name in ("exp_avg", "exp_avg_sq"):
            state[name] = torch.empty_like(head.centres_CD, requires_grad=False).fill_(0)
    else:
        head, optimizer = make_ours(classes, args, torch.bfloat16 if contestant == "ours-bf16" else torch.float32)
    x_BD = torch.randn(args.batch, args.dim, device=device, requires_grad=True)
    labels_BL = torch.randint(0, classes, (args.batch, args.labels), device=device)
    before = resident(args.device)
    if args.device != "cpu":
        torch.cuda.reset_peak_memory_stats()
    times: list[tuple[float, float, float]] = []
    began = time.perf_counter()
    while len(times) < args.steps + 1 and not (len(times) > 2 and time.perf_counter() - began > args.seconds):
        marks = [now(args.device)]
        loss = head(x_BD, labels_BL)
        marks.append(now(args.device))
        loss.backward()
        marks.append(now(args.device))
        optimizer.step()
        optimizer.zero_grad()
        marks.append(now(args.device))
        times.append((marks[1] - marks[0], marks[2] - marks[1], marks[3] - marks[2]))
        say(f"  {contestant} {classes:,}: step {len(times)} {marks[3] - marks[0]:.3f} s, loss {loss.item():.3f}")
    stages = {
        name: statistics.median(t[i] for t in times[1:]) for i, name in enumerate(("forward", "backward", "update"))
    }
    totals = [sum(t) for t in times[1:]]
    return {
        "steps": len(totals),
        "step_s": statistics.median(totals),
        "step_s_min_max": [min(totals), max(totals)],
        "stages_s": stages,
        "state_bytes": sum(x.numel() * x.element_size() for x in tensors_of(head, optimizer)),
        "step_bytes": peak(args.device) - before,
    }


def tensors_of(head: torch.nn.Module, optimizer) -> list[torch.Tensor]:
    if isinstance(optimizer, CentreAdamW):
        return [*head.parameters(), optimizer.mean_CD, optimizer.square_CD, optimizer.steps_C]
    return [*head.parameters(), *(x for x in optimizer.state[head.centres_CD].values() if x.ndim)]


def now(device: str) -> float:
    if device != "cpu":
        torch.cuda.synchronize()
    return time.perf_counter()


def curve(dtype: torch.dtype, args: argparse.Namespace) -> dict:
    """Head and a linear encoder on 2,000 classes (of all) that occur, ten labels each, 32 numbers per sample."""
    torch.manual_seed(0)
    device = torch.device(args.device)
    classes, source = args.curve_classes, 32
    head, optimizer = make_ours(classes, args, dtype)
    encoder = torch.nn.Linear(source, args.dim, device=device)
    adam = torch.optim.AdamW(encoder.parameters(), lr=1e-3)
    kinds = min(2000, classes // args.labels)
    meanings_KS = torch.randn(kinds, source, device=device)
    labels_KL = torch.randperm(classes)[: kinds * args.labels].view(kinds, args.labels).to(device)
    generator = torch.Generator().manual_seed(1)
    losses = []
    for step in range(args.curve_steps):
        kind_B = torch.randint(0, kinds, (args.batch,), generator=generator).to(device)
        noise_BS = torch.randn(args.batch, source, generator=generator).to(device)
        loss = head(encoder(meanings_KS[kind_B] + 0.1 * noise_BS), labels_KL[kind_B])
        loss.backward()
        for each in (optimizer, adam):
            each.step()
            each.zero_grad()
        losses.append(loss.item())
        if step % 20 == 0 or step == args.curve_steps - 1:
            say(f"  curve {dtype} {classes:,}: step {step} loss {losses[-1]:.4f}")
    return {
        "losses": [round(x, 4) for x in losses],
        "accuracy": head.statistics.accuracy.item() if head.statistics else 0,
    }


def shard(rank: int, world: int, folder: str, args: argparse.Namespace) -> None:
    """One of `world` processes: equal classes per process, the same batch for all together."""
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{folder}/meeting", rank=rank, world_size=world)
    counted = {"bytes": 0, "calls": 0}
    for name, which in COLLECTIVES.items():
        if hasattr(dist, name):
            setattr(dist, name, counting(getattr(dist, name), which, counted))
    head, optimizer = make_ours(args.scaling_classes * world, args, torch.float32)
    rows = args.batch // world
    x_bD = torch.randn(rows, args.dim, requires_grad=True)
    labels_bL = torch.randint(0, head.classes, (rows, args.labels))
    times = []
    for _ in range(args.steps + 1):
        counted.update(bytes=0, calls=0)
        began = time.perf_counter()
        head(x_bD, labels_bL).backward()
        optimizer.step()
        optimizer.zero_grad()
        times.append(time.perf_counter() - began)
    if rank == 0:
        result = {"step_s": statistics.median(times[1:]), **counted}
        Path(folder, "result.json").write_text(json.dumps(result))
    dist.destroy_process_group()


def counting(function, which: int, counted: dict[str, int]):
    def wrapper(*args, **kwargs):
        counted["bytes"] += args[which].numel() * args[which].element_size()
        counted["calls"] += 1
        return function(*args, **kwargs)

    return wrapper


def scaling(args: argparse.Namespace) -> list[dict]:
    rows = []
    for world in (1, 2, 4):
        say(f"{world} gloo processes, {args.scaling_classes:,} classes each")
        with tempfile.TemporaryDirectory() as folder:
            torch.multiprocessing.spawn(shard, args=(world, folder, args), nprocs=world)
            found = json.loads(Path(folder, "result.json").read_text())
        formula = communication_bytes(
            world=world, rows=args.batch // world, dim=args.dim, labels=args.labels, drawn=args.drawn
        )
        rows.append({"processes": world, **found, "formula_bytes": sum(formula.values()), "formula": formula})
    return rows


def in_own_process(job: str, classes: int, argv: list[str]) -> dict:
    """This script again with `--job`; the last line of its output."""
    command = [sys.executable, __file__, *argv, "--job", job, "--classes", str(classes)]
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True)
    if done.returncode:
        return {"failed": f"exit status {done.returncode}"}  # killed for memory, mostly: said in the table
    return json.loads(done.stdout.splitlines()[-1])


def compare(classes: int, args: argparse.Namespace, argv: list[str]) -> dict:
    found: dict = {}
    for contestant in CONTESTANTS:
        arithmetic = by_arithmetic(contestant, classes, args)
        found[contestant] = {"arithmetic": arithmetic}
        needed, free = sum(arithmetic.values()) + RUN_BASE, free_bytes(args.device)
        if needed > free:
            say(f"{contestant} at {classes:,} classes: {needed / 1e9:.1f} GB, {free / 1e9:.1f} free: not run")
            continue
        say(f"{contestant} at {classes:,} classes")
        found[contestant] |= in_own_process(contestant, classes, argv)
    if "step_s" in found["plain"] and "step_s" in found["ours"]:
        found["times_faster"] = found["plain"]["step_s"] / found["ours"]["step_s"]
        found["times_less_memory"] = found["plain"]["step_bytes"] / found["ours"]["step_bytes"]
    return found


def show(rows: dict[str, dict]) -> None:
    print(
        f"{'classes':>10} {'head':10} {'forward':>8} {'backward':>9} {'update':>8} {'step s':>8} "
        f"{'state GB':>9} {'step GB':>8}  by arithmetic"
    )
    for classes, row in rows.items():
        for name in CONTESTANTS:
            side = row[name]
            stated = " + ".join(f"{side['arithmetic'][k] / 1e9:.2f}" for k in ("state", "step"))
            if "step_s" not in side:
                print(f"{int(classes):10,} {name:10} {side.get('failed', 'does not fit'):55}  {stated}")
                continue
            forward, backward, update = side["stages_s"].values()
            print(
                f"{int(classes):10,} {name:10} {forward:8.3f} {backward:9.3f} {update:8.3f} {side['step_s']:8.3f} "
                f"{side['state_bytes'] / 1e9:9.2f} {side['step_bytes'] / 1e9:8.2f}  {stated}"
            )
        if "times_faster" in row:
            print(
                f"{'':10} ours: {row['times_faster']:.1f} x less time, "
                f"{row['times_less_memory']:.1f} x less memory of a step"
            )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--classes", type=int, nargs="+", default=[20_000])
    parser.add_argument("--dim", type=int, default=1024)
    parser.add_argument("--batch", type=int, default=256)
    parser.add_argument("--labels", type=int, default=10)
    parser.add_argument("--drawn", type=int, default=8, help="labels per sample and step")
    parser.add_argument("--rate", type=float, default=0.1, help="share of classes sampled per step")
    parser.add_argument("--steps", type=int, default=5, help="timed steps, after one of warm-up")
    parser.add_argument(
        "--seconds", type=float, default=120, help="no new step of a contestant after so long (two at least)"
    )
    parser.add_argument("--curve-steps", type=int, default=100, help="0: no curves")
    parser.add_argument("--curve-classes", type=int, default=20_000)
    parser.add_argument("--scaling-classes", type=int, default=10_000, help="per process; 0: no weak scaling")
    parser.add_argument("--device", default="cpu", choices=["cpu", "cuda"])
    parser.add_argument("--threads", type=int, default=os.cpu_count())
    parser.add_argument("--save", type=Path, help="also write the JSON to this file")
    parser.add_argument("--job", choices=[*CONTESTANTS, "curve-float32", "curve-bfloat16"], help=argparse.SUPPRESS)
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    torch.set_float32_matmul_precision("high")  # TF32 where there is one; nothing changes on a CPU
    if args.job:
        if args.job.startswith("curve-"):
            result = curve(getattr(torch, args.job.removeprefix("curve-")), args)
        else:
            result = one(args.job, args.classes[0], args)
        print(json.dumps(result))
        return
    argv = sys.argv[1:]
    rows = {str(classes): compare(classes, args, argv) for classes in args.classes}
    curves = {}
    if args.curve_steps:
        for dtype in ("float32", "bfloat16"):
            say(f"loss curve, {dtype}, {args.curve_classes:,} classes")
            curves[dtype] = in_own_process(f"curve-{dtype}", args.curve_classes, argv)
    scaled = scaling(args) if args.scaling_classes and args.device == "cpu" else []
    show(rows)
    if curves and all("losses" in c for c in curves.values()):
        wide, narrow = (torch.tensor(curves[d]["losses"]) for d in ("float32", "bfloat16"))
        curves["largest_difference"] = round((wide - narrow).abs().max().item(), 4)
        curves["mean_difference"] = round((narrow - wide).mean().item(), 4)
        marks = sorted({0, args.curve_steps // 4, args.curve_steps // 2, args.curve_steps - 1})
        print(f"loss curves at {args.curve_classes:,} classes, float32 | bfloat16: ", end="")
        print(", ".join(f"step {i}: {wide[i]:.3f} | {narrow[i]:.3f}" for i in marks), end="; ")
        print(f"largest difference {curves['largest_difference']}, mean {curves['mean_difference']}")
    for row in scaled:
        print(
            f"{row['processes']} processes, one thread and {args.scaling_classes:,} classes each: "
            f"{row['step_s']:.3f} s, {row['bytes']:,} bytes in {row['calls']} collectives "
            f"(formula {row['formula_bytes']:,})"
        )
        assert row["bytes"] == row["formula_bytes"]
    result = {
        "benchmark": "head",
        "machine": {
            "cpu": platform.processor() or platform.machine(),
            "cores": os.cpu_count(),
            "threads": args.threads,
            "device": torch.cuda.get_device_name() if args.device == "cuda" else "cpu",
        },
        "versions": {"python": platform.python_version(), "torch": metadata.version("torch")},
        "options": {k: v for k, v in vars(args).items() if k not in ("save", "job")},
        "rows": rows,
        "curves": curves,
        "weak_scaling": scaled,
    }
    if args.save:
        args.save.write_text(json.dumps(result, indent=1) + "\n")
    print(json.dumps(result))


if __name__ == "__main__":
    main()
