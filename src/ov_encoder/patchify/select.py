"""Selection: exactly K patches of a clip from their scores. Whole frames first, then shots' floors, then top-K.

Shapes: T = slots, H, W = patch rows and columns, S = H * W patches of a frame.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

import numpy as np

from ov_encoder.patchify.options import check_anchors, check_budget, check_slots

MIN_SHARE, MAX_SHARE = 1 / 32, 1 / 4  # of all patches, for budget "auto": the paper's range
SHOT_FLOOR = 0.5  # of the budget after whole frames, shared among shots by their length


def token_budget(
    budget: int | float | str,
    grid: tuple[int, int, int],
    bits_T: np.ndarray,
    intra_T: np.ndarray,
    *,
    block: int = 1,
) -> int:
    """K for a clip of T x H x W patches.

    budget: tokens (int), a share of T*H*W (float in (0, 1]), or "auto": as many frames' worth of patches as the
    stream holds frames' worth of bits (bits of predicted frames / bits of an intra frame), within 1/32 and 1/4.
    More than there is means everything. Rounded down to a multiple of block^2.

    Raises:
        ValueError: not positive, a share above 1, or an unknown word.
    """
    T, H, W = grid
    total, unit = T * H * W, block * block
    check_budget(budget)
    if isinstance(budget, str):
        whole = bits_T[intra_T >= 1]
        predicted = bits_T[intra_T < 1].sum()
        frames_worth = 1 + predicted / whole.mean() if len(whole) and whole.mean() > 0 else 0.0
        K = round(float(np.clip(frames_worth / T, MIN_SHARE, MAX_SHARE)) * total)
    else:
        K = round(budget * total) if isinstance(budget, float) else int(budget)
    K = min(max(K, unit), total)
    return K // unit * unit


def anchor_slots(anchors: int | str, shots: Sequence[int], keys_T: np.ndarray, *, room: int) -> list[int]:
    """Slots to keep whole, at most `room`, ascending.

    anchors: a number of frames (shot starts first, longest shots before shorter ones, the rest spread evenly),
    "scenes" (every shot start), "keyframes" (slots after the stream's key frames), "first" or "none".
    Raises:
        ValueError: a negative number or an unknown word.
    """
    check_anchors(anchors)
    T = len(keys_T)
    bounds = [*shots, T]
    by_length = sorted(range(len(shots)), key=lambda i: (i != 0, bounds[i] - bounds[i + 1], i))
    starts = [shots[i] for i in by_length]
    if isinstance(anchors, str):
        chosen = {
            "scenes": starts,
            "keyframes": [0, *np.flatnonzero(keys_T).tolist()],
            "first": [0],
            "none": [],
        }[anchors]
        chosen = list(dict.fromkeys(chosen))
    else:
        chosen = starts[:anchors]
        while len(chosen) < min(anchors, T):
            chosen.append(_widest_gap(chosen, T))
    return sorted(chosen[:room])


def select(
    scores_THW: np.ndarray,
    K: int,
    *,
    anchors: Sequence[int],
    shots: Sequence[int],
    block: int = 1,
    slot_floor: int = 0,
    slot_cap: int | None = None,
) -> tuple[np.ndarray, int]:
    """Choose exactly K patches (or all, if there are fewer): bool [T, H, W], and how many were fillers.

    Anchored slots are kept whole. Then every shot gets its floor, every slot `slot_floor`, and the best of the
    rest follow, at most `slot_cap` per slot; ties go to the earlier (t, h, w). Patches with score 0 or NaN
    changed nothing and are never chosen for their score: what is left of the budget goes to further whole
    frames, spread over the clip (fillers). block: choose squares of block x block patches (for spatial merging).

    Raises:
        ValueError: a floor or cap that cannot be met.
    """
    T, H, W = scores_THW.shape
    assert H % block == 0 and W % block == 0 and K % (block * block) == 0, (H, W, block, K)
    unit = block * block
    check_slots(slot_floor, slot_cap, block)
    blocks = np.nan_to_num(scores_THW).reshape(T, H // block, block, W // block, block).sum(axis=(2, 4)).reshape(T, -1)
    B = blocks.shape[1]  # blocks of a slot
    keep = np.zeros((T, B), bool)
    keep[list(anchors)] = True
    left = K // unit - int(keep.sum())
    assert left >= 0, (K, len(anchors), unit * B)
    open_TB = (blocks > 0) & ~keep
    cap = B if slot_cap is None else slot_cap // unit
    floor = slot_floor // unit
    due = int(np.minimum((blocks > 0)[~keep.all(axis=1)].sum(axis=1), floor).sum())
    if due > left:
        raise ValueError(
            f"slot_floor={slot_floor} asks for {due * unit} patches, {left * unit} tokens are left beside whole "
            "frames; a smaller floor, fewer anchors or a larger budget"
        )

    rank_TB = np.empty_like(keep, dtype=np.int64)  # place of each block within its slot, best first
    order_TB = np.argsort(-blocks, axis=1, kind="stable")
    np.put_along_axis(rank_TB, order_TB, np.arange(B)[None, :].repeat(T, 0), axis=1)
    open_TB &= rank_TB < cap

    def take(mask_TB: np.ndarray, count: int) -> int:
        """Keep the best `count` open blocks within a mask; returns how many were kept."""
        candidates = np.flatnonzero((open_TB & mask_TB).ravel())
        best = candidates[np.argsort(-blocks.ravel()[candidates], kind="stable")[: max(count, 0)]]
        keep.ravel()[best] = True
        open_TB.ravel()[best] = False
        return len(best)

    if floor:
        left -= take(rank_TB < floor, left)
    shared, fillers = left, 0
    for start, end in pairwise([*shots, T]):
        if len(shots) > 1:
            mask_TB = np.zeros_like(keep)
            mask_TB[start:end] = True
            due = min(int(SHOT_FLOOR * shared * (end - start) / T), left)
            taken = take(mask_TB, due)
            if taken < due and not keep[start:end].all(axis=1).any():  # a still shot: show it once
                fillers += _fill(keep[start:end], due - taken)
                taken = due
                open_TB &= ~keep
            left -= taken
    left -= take(np.ones_like(keep), left)
    fillers += _fill(keep, left)
    mask = keep.reshape(T, H // block, 1, W // block, 1)
    return np.broadcast_to(mask, (T, H // block, block, W // block, block)).reshape(T, H, W).copy(), fillers * unit


def _fill(keep_TB: np.ndarray, count: int) -> int:
    """Spend `count` blocks on whole frames far from other whole frames; the last one in an even scatter."""
    left = count
    while left > 0:
        whole = np.flatnonzero(keep_TB.all(axis=1)).tolist()
        slot = _widest_gap(whole, len(keep_TB))
        missing = np.flatnonzero(~keep_TB[slot])
        if len(missing) > left:
            missing = missing[np.linspace(0, len(missing) - 1, left).round().astype(int)]
        keep_TB[slot, missing] = True
        left -= len(missing)
    return count


def _widest_gap(chosen: Sequence[int], T: int) -> int:
    """The middle of the longest stretch of slots between chosen ones (or to the clip's end); slot 0 comes first."""
    if 0 not in chosen:
        return 0
    bounds = [*sorted(chosen), T]
    start, end = max(pairwise(bounds), key=lambda gap: (gap[1] - gap[0], -gap[0]))
    return (start + end) // 2
