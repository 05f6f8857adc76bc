"""k-means: one Lloyd iteration against the machine's own matmul rate and against faiss, side by side in one run.

    python benchmarks/kmeans.py [--rows 1000000] [--dim 256] [--k 10000] [--iterations 3] [--threads 2]
                                [--tree-rows 100000] [--tree-k 2000] [--folder DIR] [--plot FILE.png] [--save FILE.json]

Features lie in float32 shards on disk (4 x rows x dim bytes in --folder); ours reads them from there in a process of
its own, so that its peak memory is its own; faiss has them in memory. Both start from the same centres; "inertia" is
the mean squared distance in the last iteration. faiss.SuperKMeans draws its own start. The matmul rate is the median
of large square products (numpy and torch, the better one) before and after. The last line of stdout is JSON.
"""

from __future__ import annotations

import argparse
import itertools
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

import numpy as np
import torch

from ov_encoder.labels.kmeans import fit_kmeans
from ov_encoder.labels.kmeans_init import first_centres
from ov_encoder.labels.kmeans_tree import fit_tree
from ov_encoder.labels.shards import open_features, write_shard


def embeddings(rows: int, dim: int, seed: int, concepts: int = 3000) -> np.ndarray:
    """float32 [rows, dim]: noisy concepts in a space whose directions matter less and less, as in real embeddings."""
    base = np.random.default_rng(0)
    fade_D = np.arange(1, dim + 1, dtype=np.float32) ** -0.5
    concepts_CD = base.standard_normal((concepts, dim), np.float32) * fade_D
    rng = np.random.default_rng([1, seed])
    x_ND = rng.standard_normal((rows, dim), np.float32) * (0.8 * fade_D)
    x_ND += concepts_CD[rng.integers(0, concepts, rows)]
    return x_ND


def write_features(folder: Path, rows: int, dim: int, shard_rows: int = 65_536) -> None:
    """Shards of `embeddings`, one in memory at a time; a folder that has them is used as it is."""
    for number, low in enumerate(range(0, rows, shard_rows)):
        if not (folder / f"features-{number:05d}.parquet").exists():
            x_nD = embeddings(min(shard_rows, rows - low), dim, number)
            write_shard(folder, number, [f"s{low + i}" for i in range(len(x_nD))], x_nD)


def matmul_rate(side: int = 3072, repeats: int = 3) -> float:
    """FLOP/s of square float32 products: the better median of torch and numpy."""
    a = torch.randn(side, side)
    out = torch.empty_like(a)
    rates = []
    for product in (lambda: torch.mm(a, a, out=out), lambda: np.matmul(a.numpy(), a.numpy(), out=out.numpy())):
        product()
        times = []
        for _ in range(repeats):
            began = time.perf_counter()
            product()
            times.append(time.perf_counter() - began)
        rates.append(2 * side**3 / statistics.median(times))
    return max(rates)


def ours_alone(folder: Path, k: int, iterations: int, threads: int) -> dict:
    """What the child process does: cluster the shards, tell times and peak memory."""
    torch.set_num_threads(threads)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    found = fit_kmeans(
        open_features(folder), k=k, metric="l2", iterations=iterations, engine="torch", device="cpu",
        progress=lambda record: print(f"  ours: {record}", file=sys.stderr),
    )  # fmt: skip
    return {
        "seconds": [h["seconds"] for h in found.history],
        "inertia": [h["inertia"] for h in found.history],
        "peak_mb": round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024),
        "before_mb": round(before / 1024),
    }


def ours_in_a_child(folder: Path, k: int, iterations: int, threads: int) -> dict:
    command = [sys.executable, __file__, "--child", "--folder", folder, "--k", k, "--iterations", iterations]
    environment = {**os.environ, "OMP_NUM_THREADS": str(threads)}
    shown = subprocess.run(
        [*map(str, command), "--threads", str(threads)], check=True, env=environment, stdout=subprocess.PIPE
    )
    return json.loads(shown.stdout.splitlines()[-1])


def faiss_kmeans(x_ND: np.ndarray, start_KD: np.ndarray, iterations: int) -> dict:
    import faiss

    clustering = faiss.Kmeans(
        x_ND.shape[1], len(start_KD), niter=iterations, max_points_per_centroid=len(x_ND), min_points_per_centroid=1
    )
    clustering.train(x_ND, init_centroids=start_KD)
    stats = clustering.iteration_stats
    times = [0.0, *(s["time"] for s in stats)]  # since the start
    return {
        "seconds": [b - a for a, b in itertools.pairwise(times)],
        "inertia": [s["obj"] / len(x_ND) for s in stats],
    }


def faiss_super(x_ND: np.ndarray, k: int, iterations: int) -> dict:
    import faiss

    parameters = faiss.SuperKMeansParameters()
    parameters.niter, parameters.max_points_per_centroid, parameters.min_points_per_centroid = iterations, len(x_ND), 1
    clustering = faiss.SuperKMeans(x_ND.shape[1], k, parameters)
    began = time.perf_counter()
    clustering.train(x_ND)
    total = time.perf_counter() - began
    stats = [clustering.iteration_stats.at(i) for i in range(iterations)]
    return {
        "seconds": [s.time for s in stats],  # of each iteration, unlike those of Kmeans
        "inertia": [s.obj / len(x_ND) for s in stats],
        "total_s": round(total, 3),
    }


def compare_tree(rows: int, dim: int, k: int, iterations: int = 10) -> dict:
    """Inertia and time of two levels against flat."""
    x_ND = embeddings(rows, dim, 99)
    result: dict = {"rows": rows, "k": k, "iterations": iterations}
    for name, fit in (("flat", fit_kmeans), ("tree", fit_tree)):
        began = time.perf_counter()
        found = fit(x_ND, k=k, metric="l2", iterations=iterations, engine="torch", device="cpu")
        seconds = time.perf_counter() - began
        again = fit_kmeans(x_ND, k=k, metric="l2", init=found.centres_KD, iterations=1, engine="torch", device="cpu")
        result[name] = {"seconds": round(seconds, 3), "inertia": again.history[0]["inertia"]}
    result["inertia_ratio"] = round(result["tree"]["inertia"] / result["flat"]["inertia"], 4)
    result["speed_up"] = round(result["flat"]["seconds"] / result["tree"]["seconds"], 1)
    return result


def scaling(dim: int, rows: list[int], ks: list[int]) -> list[dict]:
    """Seconds of one iteration over a grid of N and k (the better of two)."""
    x_ND = embeddings(max(rows), dim, 7)
    points = []
    for n in rows:
        for k in ks:
            found = fit_kmeans(x_ND[:n], k=k, metric="l2", iterations=2, engine="torch", device="cpu")
            seconds = min(h["seconds"] for h in found.history)
            points.append({"rows": n, "k": k, "seconds": seconds, "gflops": 2e-9 * n * k * dim / seconds})
    return points


def plot_scaling(points: list[dict], path: Path) -> None:
    from matplotlib.figure import Figure

    figure = Figure(figsize=(6, 3.6), dpi=130, layout="constrained")
    axes = figure.add_subplot()
    for n in sorted({p["rows"] for p in points}):
        line = [p for p in points if p["rows"] == n]
        axes.loglog([p["k"] for p in line], [p["seconds"] for p in line], "o-", label=f"N = {n:,}")
    ticks = sorted({p["k"] for p in points})
    axes.set_xticks(ticks, [f"{k:,}" for k in ticks])
    axes.set_xticks([], minor=True)
    axes.set_xlabel("k")
    axes.set_ylabel("seconds an iteration")
    axes.legend(frameon=False)
    axes.grid(alpha=0.3)
    figure.savefig(path)


def compare(args: argparse.Namespace, folder: Path) -> dict:
    """Ours and faiss on the same features, threads and first centres."""
    write_features(folder, args.rows, args.dim)
    features = open_features(folder)
    rates = [matmul_rate()]
    rows = {"ours": ours_in_a_child(folder, args.k, args.iterations, args.threads)}
    x_ND = features.read(0, len(features))
    start_KD = first_centres(features, args.k, init="sample", metric="l2", seed=0)
    rows["faiss.Kmeans"] = faiss_kmeans(x_ND, start_KD, args.iterations)
    rows["faiss.SuperKMeans"] = faiss_super(x_ND, args.k, args.iterations)
    rates.append(matmul_rate())
    rate = statistics.mean(rates)
    flops = 2 * args.rows * args.k * args.dim
    for row in rows.values():
        row["median_s"] = round(statistics.median(row["seconds"]), 3)
        row["gflops"] = round(flops / row["median_s"] / 1e9, 1)
        row["of_matmul_rate"] = round(flops / row["median_s"] / rate, 3)
    return {"matmul_gflops": [round(r / 1e9, 1) for r in rates], "engines": rows}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, default=1_000_000)
    parser.add_argument("--dim", type=int, default=256)
    parser.add_argument("--k", type=int, default=10_000)
    parser.add_argument("--iterations", type=int, default=3, help="of each engine")
    parser.add_argument("--threads", type=int, default=os.cpu_count() or 1)
    parser.add_argument("--tree-rows", type=int, default=100_000)
    parser.add_argument("--tree-k", type=int, default=2000)
    parser.add_argument("--folder", type=Path, help="where the shards are written, or lie from an earlier run")
    parser.add_argument("--plot", type=Path, help="scaling, as a picture")
    parser.add_argument("--save", type=Path, help="also write the JSON to this file")
    parser.add_argument("--child", action="store_true", help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.child:
        print(json.dumps(ours_alone(args.folder, args.k, args.iterations, args.threads)))
        return
    import faiss

    torch.set_num_threads(args.threads)
    faiss.omp_set_num_threads(args.threads)
    with tempfile.TemporaryDirectory() as temporary:
        result = compare(args, args.folder or Path(temporary))
    tree = compare_tree(args.tree_rows, args.dim, args.tree_k)
    grid = scaling(args.dim, [args.tree_rows // i for i in (4, 2, 1)], [args.tree_k * i // 4 for i in (1, 2, 4, 8)])
    if args.plot:
        plot_scaling(grid, args.plot)
    print(f"{args.rows:,} x {args.dim}, k = {args.k:,}, {args.threads} threads, L2, full Lloyd; ", end="")
    print(f"matmul rate {result['matmul_gflops']} GFLOP/s before and after")
    print(f"{'engine':18} {'s/iteration':>11} {'GFLOP/s':>8} {'of matmul':>9} {'inertia':>12}  peak MB")
    for name, row in result["engines"].items():
        shown = f"{name:18} {row['median_s']:11.2f} {row['gflops']:8.1f} {row['of_matmul_rate']:9.0%}"
        print(f"{shown} {row['inertia'][-1]:12.6f}  {row.get('peak_mb', 'all rows in memory')}")
    print(
        f"two levels, {tree['rows']:,} rows, k = {tree['k']:,}: {tree['speed_up']} x faster than flat, "
        f"inertia x {tree['inertia_ratio']}"
    )
    for p in grid:
        print(f"N = {p['rows']:>8,}  k = {p['k']:>6,}  {p['seconds']:8.3f} s  {p['gflops']:6.1f} GFLOP/s")
    result = {
        "benchmark": "kmeans",
        "machine": {
            "cpu": platform.processor() or platform.machine(),
            "cores": os.cpu_count(),
            "threads": args.threads,
        },
        "versions": {
            "python": platform.python_version(),
            **{p: metadata.version(p) for p in ("numpy", "torch", "faiss-cpu")},
        },
        "sizes": {"rows": args.rows, "dim": args.dim, "k": args.k, "iterations": args.iterations},
        **result,
        "tree": tree,
        "scaling": grid,
    }
    if args.save:
        args.save.write_text(json.dumps(result, indent=1) + "\n")
    print(json.dumps(result))


if __name__ == "__main__":
    main()
