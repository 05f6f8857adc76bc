"""Assignment: the ten nearest of a million centres, exact by tiles and through faiss indices, in one run.

    python benchmarks/assign.py [--k 1000000] [--dim 256] [--rows 10000] [--threads 2] [--methods exact ivf hnsw]
                                [--save FILE.json]

Cosine. Rate: rows a second once the index stands (the first call builds it and is timed apart). Recall@10 against the
exact result of all rows. Memory: growth of resident memory by building (the centres themselves are in it for none;
4 x k x dim bytes). The last line of stdout is JSON.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import time
from importlib import metadata
from pathlib import Path

import numpy as np
import torch

from kmeans import embeddings, matmul_rate
from ov_encoder.labels.assign import Searcher
from ov_encoder.labels.kmeans import Centres
from ov_encoder.labels.kmeans_init import unit


def resident_mb() -> float:
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE") / (1 << 20)


def unit_embeddings(rows: int, dim: int, seed: int, concepts: int) -> np.ndarray:
    """Unit rows, made in blocks so that the peak is that of the result."""
    x_ND = np.empty((rows, dim), np.float32)
    for number, low in enumerate(range(0, rows, 65_536)):
        block = embeddings(min(65_536, rows - low), dim, seed + number, concepts)
        x_ND[low : low + len(block)] = unit(block, str)
    return x_ND


def measure(centres: Centres, x_ND: np.ndarray, method: str, exact_NT: np.ndarray | None) -> tuple[dict, np.ndarray]:
    before = resident_mb()
    searcher = Searcher(centres, method=method, device="cpu")
    began = time.perf_counter()
    searcher.search(x_ND[:10])
    build_s = time.perf_counter() - began
    memory = resident_mb() - before
    began = time.perf_counter()
    label_NT, _ = searcher.search(x_ND)
    seconds = time.perf_counter() - began
    hits = 1.0 if exact_NT is None else (label_NT[:, :, None] == exact_NT[:, None, :]).any(2).mean()
    row = {"build_s": round(build_s, 2), "search_s": round(seconds, 3), "rows_per_s": round(len(x_ND) / seconds, 1)}
    return row | {"recall_at_10": round(float(hits), 4), "memory_mb": round(memory)}, label_NT


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--k", type=int, default=1_000_000)
    parser.add_argument("--dim", type=int, default=256)
    parser.add_argument("--rows", type=int, default=10_000)
    parser.add_argument("--threads", type=int, default=os.cpu_count() or 1)
    parser.add_argument("--methods", nargs="+", default=["exact", "ivf", "hnsw"], choices=["exact", "ivf", "hnsw"])
    parser.add_argument("--save", type=Path, help="also write the JSON to this file")
    args = parser.parse_args()
    import faiss

    torch.set_num_threads(args.threads)
    faiss.omp_set_num_threads(args.threads)
    concepts = max(1, args.k // 10)
    centres_KD = unit_embeddings(args.k, args.dim, 10_000, concepts)
    x_ND = unit_embeddings(args.rows, args.dim, 50_000, concepts)
    centres = Centres(centres_KD, "cosine", np.zeros(args.k, np.int64))
    rate = matmul_rate()
    rows: dict[str, dict] = {}
    exact_NT = None
    for method in ["exact", *(m for m in args.methods if m != "exact")]:  # recall needs the exact one
        rows[method], label_NT = measure(centres, x_ND, method, exact_NT)
        exact_NT = label_NT if exact_NT is None else exact_NT
    rows["exact"]["of_matmul_rate"] = round(2 * args.rows * args.k * args.dim / rows["exact"]["search_s"] / rate, 3)
    print(f"{args.rows:,} rows against k = {args.k:,} x {args.dim}, top 10, {args.threads} threads; ", end="")
    print(f"matmul rate {rate / 1e9:.0f} GFLOP/s, centres {args.k * args.dim * 4 / (1 << 20):.0f} MB")
    print(f"{'method':8} {'build s':>8} {'rows/s':>10} {'recall@10':>9} {'memory MB':>10}")
    for name, row in rows.items():
        print(
            f"{name:8} {row['build_s']:8.1f} {row['rows_per_s']:10.1f} {row['recall_at_10']:9.4f} {row['memory_mb']:10}"
        )
    result = {
        "benchmark": "assign",
        "machine": {
            "cpu": platform.processor() or platform.machine(),
            "cores": os.cpu_count(),
            "threads": args.threads,
        },
        "versions": {
            "python": platform.python_version(),
            **{p: metadata.version(p) for p in ("numpy", "torch", "faiss-cpu")},
        },
        "sizes": {"k": args.k, "dim": args.dim, "rows": args.rows},
        "matmul_gflops": round(rate / 1e9, 1),
        "methods": rows,
    }
    if args.save:
        args.save.write_text(json.dumps(result, indent=1) + "\n")
    print(json.dumps(result))


if __name__ == "__main__":
    main()
