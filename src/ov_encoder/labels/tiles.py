"""The kernel of k-means and assignment: the nearest centres of rows, tile by tile. An N x K matrix never exists.

A tile of scores is made by one matmul and looked at while it is in cache. On CPU each thread has rows of its own and
does everything for them (numpy, one BLAS thread), so that no two threads wait for each other inside a tile: on a busy
two-core machine this kept 80 % of the matmul rate where parallel operations in turn fell to a third. Looking at a tile
costs about 3 % of a 256-wide matmul: numpy's argmax is vectorised; torch's `max(dim)` on CPU is not, and costs 17 %.
On GPU the operations themselves are parallel, and tiles are large.

Scores: x.c for cosine, x.c - |c|^2 / 2 for L2. Both are highest where the distance is lowest.
Shapes: n = rows, K = centres, D = width, T = best kept a row, t x c = a tile, r = rows that a tile improves, m = most
improvements of a row, b = all improvements of a tile.
"""

from __future__ import annotations

import itertools
import threading
from concurrent.futures import ThreadPoolExecutor
from functools import cache
from typing import Any

import numpy as np
import torch

TILE_CPU = (1024, 1024)  # 4 MB
TILE_GPU = (16_384, 16_384)  # 1 GB: enough work to hide launches
METRICS = ("cosine", "l2")


def biases(centres_KD: torch.Tensor, metric: str) -> torch.Tensor | None:
    """What is added to x.c: None for cosine (centres are unit vectors), -|c|^2 / 2 for L2, float32 [K]."""
    if metric == "cosine":
        return None
    parts = [c.double().square().sum(1) for c in centres_KD.split(16_384)]  # double, but never a double copy of all
    return torch.cat(parts).mul_(-0.5).float()


def nearest(
    x_nD: torch.Tensor,
    centres_KD: torch.Tensor,
    bias_K: torch.Tensor | None = None,
    *,
    top: int = 1,
) -> tuple[torch.Tensor, torch.Tensor]:
    """The `top` best centres of every row, best first: scores float32 [n, T] and indices int64 [n, T].

    Of equal scores at top=1 the lower index wins. Memory beyond the result: one tile of scores for each thread
    (`torch.get_num_threads()` of them on CPU).

    Raises:
        ValueError: `top` outside 1..K, or widths differ.
    """
    (n, width), (k, centre_width) = x_nD.shape, centres_KD.shape
    if width != centre_width:
        raise ValueError(f"rows of {width} numbers, centres of {centre_width}")
    if not 1 <= top <= k:
        raise ValueError(f"top must be 1..{k} (the number of centres), got {top}")
    best_nT = x_nD.new_full((n, top), -torch.inf)
    index_nT = torch.zeros((n, top), dtype=torch.int64, device=x_nD.device)
    search = nearest_numpy if x_nD.device.type == "cpu" else nearest_torch
    search(x_nD, centres_KD, bias_K, best_nT, index_nT)
    return best_nT, index_nT


def nearest_numpy(
    x_nD: torch.Tensor,
    centres_KD: torch.Tensor,
    bias_K: torch.Tensor | None,
    best_nT: torch.Tensor,
    index_nT: torch.Tensor,
    tile: tuple[int, int] = TILE_CPU,
) -> None:
    """The search on CPU, in threads; fills `best_nT` (given as -inf) and `index_nT`.

    The bias is one more column of the centres, against ones: a copy of the centres for the length of the call, and no
    pass over each tile (4 % of the time).
    """
    x, centres, best, index = x_nD.numpy(), centres_KD.numpy(), best_nT.numpy(), index_nT.numpy()
    if bias_K is not None:
        x, centres = np.pad(x, ((0, 0), (0, 1)), constant_values=1), np.column_stack([centres, bias_K.numpy()])
    threads = torch.get_num_threads()
    rows = max(1, min(tile[0], -(-len(x) // threads)))
    starts = iter(range(0, len(x), rows))
    lock = threading.Lock()

    def work(_: int) -> None:
        memory = np.empty(rows * min(tile[1], len(centres)), np.float32)
        while True:
            with lock:
                low = next(starts, None)
            if low is None:
                return
            x_tD, best_tT, index_tT = (a[low : low + rows] for a in (x, best, index))
            for first in range(0, len(centres), tile[1]):
                centres_cD = centres[first : first + tile[1]]
                scores_tc = memory[: len(x_tD) * len(centres_cD)].reshape(len(x_tD), len(centres_cD))
                np.matmul(x_tD, centres_cD.T, out=scores_tc)
                _merge_numpy(scores_tc, first, best_tT, index_tT)

    with _blas().limit(limits=1, user_api="blas"):
        if threads == 1:
            work(0)
            return
        with ThreadPoolExecutor(threads) as pool:
            list(pool.map(work, range(threads)))


def _merge_numpy(scores_tc: np.ndarray, first: int, best_tT: np.ndarray, index_tT: np.ndarray) -> None:
    """Take what a tile of scores has better than the best so far, in place. `first`: number of its first centre."""
    top = best_tT.shape[1]
    if top == 1:
        at_t = scores_tc.argmax(1)
        value_t = np.take_along_axis(scores_tc, at_t[:, None], 1)[:, 0]
        rows_r = np.flatnonzero(value_t > best_tT[:, 0])
        best_tT[rows_r, 0] = value_t[rows_r]
        index_tT[rows_r, 0] = at_t[rows_r] + first
        return
    if first == 0:  # everything is better than nothing: thin out before sorting
        keep = min(top, scores_tc.shape[1])
        at_rm = np.sort(np.argpartition(scores_tc, -keep, axis=1)[:, -keep:], axis=1)
        rows_r, values_rm = np.arange(len(scores_tc)), np.take_along_axis(scores_tc, at_rm, 1)
    else:  # few are better than the last of the best: side by side in columns, the rest -inf
        row_b, at_b = np.divmod(np.flatnonzero(scores_tc > best_tT[:, -1:]), scores_tc.shape[1])
        rows_r, start_r, count_r = np.unique(row_b, return_index=True, return_counts=True)
        if not len(rows_r):
            return
        line_b = np.repeat(np.arange(len(rows_r)), count_r)
        column_b = np.arange(len(row_b)) - start_r[line_b]
        values_rm = np.full((len(rows_r), count_r.max()), -np.inf, np.float32)
        at_rm = np.zeros(values_rm.shape, np.int64)
        values_rm[line_b, column_b] = scores_tc[row_b, at_b]
        at_rm[line_b, column_b] = at_b
    values_rC = np.concatenate([best_tT[rows_r], values_rm], 1)
    index_rC = np.concatenate([index_tT[rows_r], at_rm + first], 1)
    order_rT = np.argsort(-values_rC, axis=1, kind="stable")[:, :top]
    best_tT[rows_r] = np.take_along_axis(values_rC, order_rT, 1)
    index_tT[rows_r] = np.take_along_axis(index_rC, order_rT, 1)


def nearest_torch(
    x_nD: torch.Tensor,
    centres_KD: torch.Tensor,
    bias_K: torch.Tensor | None,
    best_nT: torch.Tensor,
    index_nT: torch.Tensor,
    tile: tuple[int, int] = TILE_GPU,
) -> None:
    """The search on GPU (or any device); fills `best_nT` (given as -inf) and `index_nT`."""
    (n, _), (k, _), top = x_nD.shape, centres_KD.shape, best_nT.shape[1]
    memory = x_nD.new_empty(min(tile[0], n) * min(tile[1], k))
    for low, first in itertools.product(range(0, n, tile[0]), range(0, k, tile[1])):
        x_tD, best_tT, index_tT = (a[low : low + tile[0]] for a in (x_nD, best_nT, index_nT))
        centres_cD = centres_KD[first : first + tile[1]]
        scores_tc = memory[: len(x_tD) * len(centres_cD)].view(len(x_tD), len(centres_cD))
        if bias_K is None:
            torch.mm(x_tD, centres_cD.T, out=scores_tc)
        else:
            torch.addmm(bias_K[first : first + tile[1]], x_tD, centres_cD.T, out=scores_tc)
        if top == 1:
            value_t1, at_t1 = scores_tc.max(1, keepdim=True)
            better_t1 = value_t1 > best_tT
            index_tT.copy_(torch.where(better_t1, at_t1 + first, index_tT))
            best_tT.copy_(torch.where(better_t1, value_t1, best_tT))
            continue
        values_tT, at_tT = scores_tc.topk(min(top, scores_tc.shape[1]), dim=1)
        values_tC, index_tC = torch.cat([best_tT, values_tT], 1), torch.cat([index_tT, at_tT + first], 1)
        values_tT, order_tT = values_tC.topk(top, dim=1)
        best_tT.copy_(values_tT)
        index_tT.copy_(index_tC.gather(1, order_tT))


@cache
def _blas() -> Any:
    from threadpoolctl import ThreadpoolController

    return ThreadpoolController()
