"""Lloyd's iterations and mini-batches in torch, on one process or many. Options are checked in `kmeans`.

Processes (torch.distributed, as started by torchrun): every rank holds all centres and reads its own share of the
rows; sums and counts are added up over the ranks, then every rank makes the same update. Rows are what there is most
of, and each is read once in the whole group; sharding the centres instead would send every row past every rank. It
costs 12 bytes x K x D on a rank (25 GB for 2 M x 1024), which an 80 GB GPU has.

Sums are exact: values are rounded to a grid 2^-26 of their range and added as whole numbers held in float64, so that
neither the order of rows, nor tiles, nor the number of ranks changes a bit (up to 2^27 members a centre).

Shapes: N = rows, n = rows of one block, K = centres, D = width, E = empty centres.
"""

from __future__ import annotations

import heapq
import io
import json
import math
import time
import zipfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.distributed as dist

from ov_encoder.data.folder import write_atomically
from ov_encoder.errors import OvEncoderError
from ov_encoder.labels.kmeans_init import first_centres, unit
from ov_encoder.labels.shards import READ_ROWS, Vectors, blocks
from ov_encoder.labels.tiles import biases, nearest

CHECKPOINT = "checkpoint.npz"
GRID_BITS = 26
SUM_ROWS = 1024  # rows added at a time: their copies stay in cache, which is seven times as fast as a whole block
SPLIT = 0.05  # how far the halves of a split centre move apart, in standard deviations of the data about its centres


@dataclass
class State:
    """All that an iteration needs and changes; what a checkpoint holds.

    centres_KD: float32. weight_K: int64, members counted so far (mini-batch: over all iterations). idle_K: int64, rows
    looked at since the last member. scale: a power of two, cells of the grid in 1.0.
    """

    centres_KD: torch.Tensor
    weight_K: torch.Tensor
    idle_K: torch.Tensor
    scale: float
    history: list[dict[str, Any]] = field(default_factory=list)


def lloyd(
    source: Vectors,
    *,
    options: dict[str, Any],
    start_KD: np.ndarray | None,
    checkpoint: Path | None,
    device: torch.device,
    progress: Callable[[dict[str, Any]], None] | None,
) -> State:
    """Iterate until `iterations` are done or the inertia falls by less than `tolerance` of itself.

    options: k, metric, init, seed, iterations, batch (None: all rows each time), tolerance.
    start_KD: first centres, where `init` is not to be used.
    checkpoint: folder for the state after each iteration; a state there is gone on from, bit for bit.
    progress: called after each iteration with its record (iteration, inertia, empty, seconds).

    Raises:
        ValueError: the checkpoint is of a run with other options.
        OvEncoderError: the checkpoint or the features cannot be used.
    """
    state = _load(checkpoint, options, device) if checkpoint else None
    if dist.is_initialized():
        dist.barrier()  # nobody writes a checkpoint before everybody has looked for one
    if state is None:
        if start_KD is None:
            start_KD = first_centres(
                source, options["k"], init=options["init"], metric=options["metric"], seed=options["seed"]
            )
        state = _begin(start_KD, device)
    while len(state.history) < options["iterations"] and not _settled(state.history, options["tolerance"]):
        state.history.append(_iterate(source, state, options, device))
        if _rank() == 0:
            if checkpoint:
                _save(checkpoint, state, options)
            if progress:
                progress(state.history[-1])
    return state


def _begin(start_KD: np.ndarray, device: torch.device) -> State:
    centres_KD = torch.from_numpy(start_KD).to(device)
    zeros_K = torch.zeros(len(start_KD), dtype=torch.int64, device=device)
    largest = float(np.abs(start_KD).max()) or 1.0
    return State(centres_KD, zeros_K, zeros_K.clone(), 2.0 ** (GRID_BITS - math.ceil(math.log2(largest))))


def _settled(history: list[dict[str, Any]], tolerance: float) -> bool:
    if tolerance == 0 or len(history) < 2:
        return False
    before, now = history[-2]["inertia"], history[-1]["inertia"]
    return before - now < tolerance * before


def _iterate(source: Vectors, state: State, options: dict[str, Any], device: torch.device) -> dict[str, Any]:
    """One iteration: assign this rank's rows, add up over ranks, move the centres, split where some are empty."""
    began = time.perf_counter()
    number, metric, batch = len(state.history), options["metric"], options["batch"]
    bias_K = biases(state.centres_KD, metric)
    sums_KD = torch.zeros_like(state.centres_KD, dtype=torch.float64)
    counts_K = torch.zeros_like(state.weight_K)
    loss = torch.zeros((), dtype=torch.float64, device=device)
    for rows_nD in _rows_of_rank(source, metric, number, batch, options["seed"]):
        x_nD = torch.from_numpy(rows_nD).to(device)
        score_n1, label_n1 = nearest(x_nD, state.centres_KD, bias_K)
        label_n = label_n1[:, 0]
        # |x - c|^2 = |x|^2 - 2 score for both metrics, with |x| = |c| = 1 and one more 1 for cosine
        squares_n = x_nD.square().sum(1).double() + (metric == "cosine")
        loss += (squares_n - 2 * score_n1[:, 0]).clamp_min(0).sum()
        counts_K += torch.bincount(label_n, minlength=len(counts_K))
        for low in range(0, len(x_nD), SUM_ROWS):
            part = slice(low, low + SUM_ROWS)
            sums_KD.index_add_(0, label_n[part], (x_nD[part] * state.scale).round_().double())
    for total in (sums_KD, counts_K, loss):
        if dist.is_initialized():
            dist.all_reduce(total)
    seen = int(counts_K.sum())
    inertia = float(loss) / seen
    state.idle_K = torch.where(counts_K > 0, 0, state.idle_K + seen)
    state.weight_K = counts_K if batch is None else state.weight_K + counts_K
    _move(state, sums_KD, counts_K, metric, mini=batch is not None)
    empty = _split(state, len(source), inertia, metric, seed=[options["seed"], 1, number])
    return {"iteration": number, "inertia": inertia, "empty": empty, "seconds": time.perf_counter() - began}


def _rows_of_rank(source: Vectors, metric: str, number: int, batch: int | None, seed: int) -> Iterator[np.ndarray]:
    """This rank's share of all rows, or of the mini-batch of iteration `number`, in blocks."""
    rank, ranks = _rank(), dist.get_world_size() if dist.is_initialized() else 1
    if batch is None:
        low, high = (len(source) * r // ranks for r in (rank, rank + 1))
        for first, x_nD in blocks(source, start=low, stop=high):
            yield _prepared(x_nD, source, np.arange(first, first + len(x_nD)), metric)
        return
    rows_B = np.sort(np.random.default_rng([seed, 2, number]).integers(0, len(source), batch))
    mine = rows_B[batch * rank // ranks : batch * (rank + 1) // ranks]
    for low in range(0, len(mine), READ_ROWS):
        rows_n = mine[low : low + READ_ROWS]
        yield _prepared(source.take(rows_n), source, rows_n, metric)


def _prepared(x_nD: np.ndarray, source: Vectors, rows_n: np.ndarray, metric: str) -> np.ndarray:
    return unit(x_nD, lambda i: source.name(int(rows_n[i]))) if metric == "cosine" else x_nD


def _move(state: State, sums_KD: torch.Tensor, counts_K: torch.Tensor, metric: str, *, mini: bool) -> None:
    """Centres to the mean of their members; mini-batch: each by its members' share of all it has had (Sculley 2010)."""
    has_K1 = (counts_K > 0)[:, None]
    sums_KD /= state.scale
    if mini:
        old_KD = state.centres_KD.double()
        mean_KD = old_KD + (sums_KD - counts_K[:, None] * old_KD) / state.weight_K.clamp_min(1)[:, None]
    else:
        mean_KD = sums_KD.div_(counts_K.clamp_min(1)[:, None])
    if metric == "cosine":
        length_K1 = mean_KD.norm(dim=1, keepdim=True)
        has_K1 &= length_K1 > 0  # members that cancel out leave the centre where it was
        mean_KD /= length_K1.clamp_min(torch.finfo(torch.float64).tiny)
    state.centres_KD = torch.where(has_K1, mean_KD.float(), state.centres_KD)


def _split(state: State, n: int, inertia: float, metric: str, *, seed: list[int]) -> int:
    """Give every empty centre half of the largest one; returns how many were empty.

    Empty: no member among as many rows as there are. The two halves start a little apart, to either side of where the
    large centre was, in a direction drawn from the seed. Splitting needs no second look at the data, and unlike the
    farthest rows it does not make centres of outliers.
    """
    empty_E = (state.idle_K >= n).nonzero().view(-1).tolist()
    if not empty_E:
        return 0
    sizes, idle = state.weight_K.tolist(), state.idle_K.tolist()
    dim = state.centres_KD.shape[1]
    heap = [(-size, index) for index, size in enumerate(sizes) if idle[index] < n]
    heapq.heapify(heap)
    signs_ED = np.random.default_rng(seed).choice(np.array([-1, 1], np.float32), (len(empty_E), dim))
    steps_ED = torch.from_numpy(signs_ED).to(state.centres_KD.device) * (SPLIT * math.sqrt(inertia / dim))
    for index, step_D in zip(empty_E, steps_ED, strict=True):
        size, largest = heapq.heappop(heap)
        centre_D = state.centres_KD[largest].clone()
        for half, moved_D in ((largest, centre_D - step_D), (index, centre_D + step_D)):
            state.centres_KD[half] = moved_D / moved_D.norm() if metric == "cosine" else moved_D
            state.weight_K[half] = -size // 2
            heapq.heappush(heap, (size // 2, half))
        state.idle_K[index] = 0
    return len(empty_E)


def _rank() -> int:
    return dist.get_rank() if dist.is_initialized() else 0


def _save(folder: Path, state: State, options: dict[str, Any]) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    out = io.BytesIO()
    arrays = {name: getattr(state, name).cpu().numpy() for name in ("centres_KD", "weight_K", "idle_K")}
    facts = {"options": options, "scale": state.scale, "history": state.history}
    np.savez(out, facts=np.array(json.dumps(facts)), **arrays)
    write_atomically(folder / CHECKPOINT, out.getvalue())


def _load(folder: Path, options: dict[str, Any], device: torch.device) -> State | None:
    path = folder / CHECKPOINT
    if not path.exists():
        return None
    try:
        with np.load(path, allow_pickle=False) as held:
            facts = json.loads(str(held["facts"]))
            arrays = {name: torch.from_numpy(held[name]).to(device) for name in ("centres_KD", "weight_K", "idle_K")}
        then, scale, history = facts["options"], facts["scale"], facts["history"]
    except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile) as e:
        raise OvEncoderError(f"{path}: cannot be read as a k-means checkpoint; delete it to start again: {e}") from e
    now = json.loads(json.dumps(options))
    free = ("iterations", "tolerance")  # a run may be told to go on for longer
    changed = [name for name in {**then, **now} if name not in free and then.get(name) != now.get(name)]
    if changed:
        lines = "; ".join(f"{name}: {then.get(name)!r} there, {now.get(name)!r} now" for name in changed)
        raise ValueError(f"{path}: a run with other options ({lines}); use those, or another folder")
    return State(scale=scale, history=history, **arrays)
