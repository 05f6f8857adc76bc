"""k-means of feature shards: `fit_kmeans`, and the file its centres are kept in. Engines live in files of their own.

Shapes: N = rows, K = centres, D = width.
"""

from __future__ import annotations

import hashlib
import io
import json
import math
import zipfile
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from ov_encoder.data.folder import write_atomically
from ov_encoder.errors import OvEncoderError
from ov_encoder.labels.kmeans_init import INITS, unit
from ov_encoder.labels.shards import Vectors, as_vectors

ENGINES = ("auto", "torch", "faiss")
METRICS = ("cosine", "l2")
Progress = Callable[[dict[str, Any]], None]


@dataclass(frozen=True)
class Centres:
    """What k-means found.

    centres_KD: float32; unit vectors for cosine. metric: "cosine" or "l2". sizes_K: int64, members of each centre when
    the rows were last looked at. history: one record an iteration (iteration, inertia = mean squared distance of a row
    to its centre before the centres moved, empty, seconds). parents_K: int32, the coarse centre of each (hierarchical
    mode only).
    """

    centres_KD: np.ndarray
    metric: str
    sizes_K: np.ndarray
    history: list[dict[str, Any]] = field(default_factory=list)
    parents_K: np.ndarray | None = None

    def __len__(self) -> int:
        return len(self.centres_KD)

    @cached_property
    def fingerprint(self) -> str:
        """16 hex digits of metric and centres: files of labels carry it, so that two runs are never mixed."""
        digest = hashlib.sha256(f"{self.metric} {self.centres_KD.shape}".encode())
        digest.update(np.ascontiguousarray(self.centres_KD).data)
        return digest.hexdigest()[:16]

    def save(self, path: str | Path) -> None:
        """Write one .npz file, whole or not at all. The same centres give the same bytes if the history is the same."""
        out = io.BytesIO()
        facts = np.array(json.dumps({"metric": self.metric, "history": self.history, "fingerprint": self.fingerprint}))
        arrays = {"facts": facts, "centres_KD": self.centres_KD, "sizes_K": self.sizes_K}
        if self.parents_K is not None:
            arrays["parents_K"] = self.parents_K
        np.savez(out, allow_pickle=False, **arrays)
        Path(path).parent.mkdir(parents=True, exist_ok=True)
        write_atomically(Path(path), out.getvalue())


def load_centres(path: str | Path) -> Centres:
    """Read what `Centres.save` wrote.

    Raises:
        OvEncoderError: missing, cut off, not such a file, or the centres are not those it was written with.
    """
    try:
        with np.load(path, allow_pickle=False) as held:
            facts = json.loads(str(held["facts"]))
            parents_K = held.get("parents_K")
            centres = Centres(held["centres_KD"], facts["metric"], held["sizes_K"], facts["history"], parents_K)
    except (OSError, ValueError, KeyError, EOFError, TypeError, zipfile.BadZipFile) as e:
        raise OvEncoderError(f"{path}: cannot be read as k-means centres: {e!r}") from e
    if centres.fingerprint != facts["fingerprint"]:
        raise OvEncoderError(f"{path}: centres {centres.fingerprint}, written as {facts['fingerprint']}: damaged")
    return centres


def fit_kmeans(
    features: Vectors | np.ndarray,
    *,
    k: int,
    metric: str = "cosine",
    init: str | np.ndarray = "sample",
    iterations: int = 20,
    batch: int | None = None,
    tolerance: float = 0.0,
    seed: int = 0,
    engine: str = "auto",
    device: str | None = None,
    checkpoint: str | Path | None = None,
    progress: Progress | None = None,
) -> Centres:
    """Cluster N rows into k centres (Lloyd 1982; spherical: Dhillon and Modha 2001; mini-batch: Sculley 2010).

    The result depends on data, options and seed only: not on tiles, on when a run was killed, or (to the rounding of
    one matmul) on threads and ranks. Under torch.distributed (torchrun, process group made by the caller) each rank
    calls this with the same arguments and gets the same result; rank 0 writes the checkpoint.

    Args:
        features: `open_features(folder)`, or a float array [N, D]. Shards are read in blocks: memory is 12 bytes x
            k x D, plus some 100 MB.
        k: number of centres, 1..N.
        metric: "cosine" (spherical: rows and centres are unit vectors) or "l2".
        init: "sample" (k rows), "k-means++" (on a sample of 16 k rows), or centres float [k, D].
        iterations: over all rows, or over `batch` rows each.
        batch: rows of a mini-batch, drawn anew each iteration; None: full Lloyd.
        tolerance: stop when the inertia falls by less than this share of itself; 0: never.
        seed: of init, batches and splits.
        engine: "torch" (this package, all options), "faiss" (rows in memory, CPU, full Lloyd, no checkpoint, one
            process; L2 through its SuperKMeans where that applies), or "auto": torch, which was measured to be as
            fast and can be killed (docs/labels.md).
        device: "cpu", "cuda", "cuda:1", ...; None: a GPU if there is one.
        checkpoint: folder for the state after every iteration. The same call goes on from there, bit for bit.
        progress: called with the record of each iteration.

    Raises:
        ValueError: a wrong argument, k above N, or a checkpoint of other options.
        OvEncoderError: a row is not finite, or all zeros for cosine (names file and row); a damaged checkpoint.
    """
    source = as_vectors(features)
    _check(source, k, metric, init, iterations, batch, tolerance, engine)
    start_KD = _given_start(init, k, source.dim, metric) if isinstance(init, np.ndarray) else None
    if engine == "faiss":
        if limits := _beyond_faiss(batch, tolerance, device, checkpoint):
            raise ValueError(f"engine 'faiss' cannot do {limits}; use engine 'torch'")
        from ov_encoder.labels.kmeans_faiss import fit_faiss

        return fit_faiss(source, k=k, metric=metric, init=init, iterations=iterations, seed=seed, progress=progress)

    import torch

    from ov_encoder.labels.kmeans_lloyd import lloyd

    options = {
        "n": len(source),
        "dim": source.dim,
        "k": k,
        "metric": metric,
        "init": hashlib.sha256(start_KD.data).hexdigest()[:16] if start_KD is not None else init,
        "iterations": iterations,
        "batch": batch,
        "tolerance": tolerance,
        "seed": seed,
    }
    where = torch.device(device or ("cuda" if torch.cuda.is_available() else "cpu"))
    folder = Path(checkpoint) if checkpoint else None
    state = lloyd(source, options=options, start_KD=start_KD, checkpoint=folder, device=where, progress=progress)
    return Centres(state.centres_KD.cpu().numpy(), metric, state.weight_K.cpu().numpy(), state.history)


def _beyond_faiss(batch: int | None, tolerance: float, device: str | None, checkpoint: str | Path | None) -> str:
    """What of these options faiss does not do, in words; "" if it does all."""
    import torch.distributed as dist

    asked = {
        "mini-batches": batch,
        "a tolerance": tolerance,
        "checkpoints": checkpoint,
        f"device {device!r}": device not in (None, "cpu"),
        "several processes": dist.is_initialized(),
    }
    return ", ".join(name for name, wanted in asked.items() if wanted)


def _check(
    source: Vectors,
    k: int,
    metric: str,
    init: str | np.ndarray,
    iterations: int,
    batch: int | None,
    tolerance: float,
    engine: str,
) -> None:
    for name, value, allowed in (("metric", metric, METRICS), ("engine", engine, ENGINES)):
        if value not in allowed:
            raise ValueError(f"{name} must be one of {', '.join(allowed)}, got {value!r}")
    if isinstance(init, str) and init not in INITS:
        raise ValueError(f"init must be {', '.join(INITS)} or an array of centres, got {init!r}")
    if not 1 <= k <= len(source):
        raise ValueError(f"k must be 1..{len(source)} (the number of rows), got {k}")
    if iterations < 1:
        raise ValueError(f"iterations must be at least 1, got {iterations}")
    if batch is not None and not 1 <= batch <= len(source):
        raise ValueError(f"batch must be 1..{len(source)} (the number of rows) or None, got {batch}")
    if not (math.isfinite(tolerance) and 0 <= tolerance < 1):
        raise ValueError(f"tolerance must be in [0, 1), got {tolerance}")


def _given_start(init: np.ndarray, k: int, dim: int, metric: str) -> np.ndarray:
    if init.shape != (k, dim) or init.dtype.kind != "f":
        raise ValueError(f"init must be a float array ({k}, {dim}), got {init.dtype} {init.shape}")
    start_KD = np.array(init, np.float32, order="C")
    if not np.isfinite(start_KD).all():
        raise ValueError("init holds values that are not finite")
    return unit(start_KD, lambda i: f"row {i} of init") if metric == "cosine" else start_KD
