"""k-means of a folder of features into one file: in this process, under torchrun, or by starting torchrun.
What is computed is in `kmeans` and `kmeans_tree`.
"""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from ov_encoder.errors import OvEncoderError
from ov_encoder.labels.stage import Progress


def write_centres(
    features: Path,
    out: Path,
    *,
    k: int,
    metric: str = "cosine",
    init: str = "sample",
    iterations: int = 20,
    batch: int = 0,
    seed: int = 0,
    hierarchical: bool = False,
    device: str | None = None,
    processes: int = 1,
    progress: Progress = lambda done, total: None,
) -> None:
    """k-means of a folder of features into one file; the state of a killed run lies in a folder `kmeans/` beside it.

    Under torchrun every process calls this; `processes` above 1, in a single process, starts torchrun with as many.
    Arguments as `fit_kmeans` (batch 0: all rows) and `fit_tree` (hierarchical, in one process).

    Raises:
        ValueError: hierarchical in several processes or with mini-batches.
        OvEncoderError: a process of torchrun failed.
    """
    if hierarchical and (batch or processes > 1):
        raise ValueError("hierarchical k-means runs in one process, without mini-batches")
    if processes > 1 and "WORLD_SIZE" not in os.environ:
        flags = {"k": k, "metric": metric, "init": init, "iterations": iterations, "batch": batch, "seed": seed}
        return _in_processes(features, out, processes, flags | ({"device": device} if device else {}))
    from ov_encoder.labels.kmeans import fit_kmeans
    from ov_encoder.labels.kmeans_tree import fit_tree
    from ov_encoder.labels.shards import open_features

    source = open_features(features)
    common: dict[str, Any] = {"k": k, "metric": metric, "init": init, "iterations": iterations, "seed": seed}
    common["checkpoint"] = out.parent / "kmeans"
    if hierarchical:
        return fit_tree(source, device=device, progress=progress, **common).save(out)

    def each(record: dict[str, Any]) -> None:
        progress(record["iteration"], iterations)

    with _group(device) as (rank, own_device):
        centres = fit_kmeans(source, batch=batch or None, device=own_device, progress=each, **common)
        if rank == 0:
            centres.save(out)


@contextmanager
def _group(device: str | None) -> Iterator[tuple[int, str | None]]:
    """This process's rank and device; under torchrun the group is joined, and left when all have come to the end."""
    if int(os.environ.get("WORLD_SIZE", "1")) == 1:
        yield 0, device
        return
    import torch
    import torch.distributed as dist

    cuda = torch.cuda.is_available() and device != "cpu"
    dist.init_process_group("nccl" if cuda else "gloo")
    yield dist.get_rank(), f"cuda:{os.environ['LOCAL_RANK']}" if cuda else "cpu"
    dist.barrier()
    dist.destroy_process_group()


def torchrun(processes: int, *arguments: str) -> int:
    """Run `ov-encoder ARGUMENTS` in so many processes of this machine; the exit code of torchrun."""
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={processes}"]
    return subprocess.run([*command, "-m", "ov_encoder", *arguments], check=False).returncode


def _in_processes(features: Path, out: Path, processes: int, flags: dict[str, Any]) -> None:
    given = [f"--out={out}", *(f"--{n}={v}" for n, v in flags.items())]
    if torchrun(processes, "label", "kmeans", str(features), *given):
        raise OvEncoderError(f"k-means in {processes} processes failed; its messages stand above")
