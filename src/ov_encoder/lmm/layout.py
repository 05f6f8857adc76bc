"""In which order the tokens of a sample reach the language model, and how many there are in each slot.

Index arithmetic only, on the host, shared by the processor (which writes as many placeholders) and the model (which
fills them). Shapes: N = tokens of one sample, M = m * m tokens of a square, G = N / M squares.
"""

from __future__ import annotations

import numpy as np


def merge_order(positions_N3: np.ndarray, merge: int) -> np.ndarray:
    """Token numbers [G, M]: each row one square of merge x merge patches, rows and columns in raster order.

    Squares are ordered by (t, row, column), tokens within a square by (row, column): the order of the reference's
    spatial merge (reference 8.1, block order).

    Raises:
        ValueError: a square of which some patches are missing (choose patches with block=merge).
    """
    t, h, w = np.asarray(positions_N3).T
    order_N = np.lexsort((w % merge, h % merge, w // merge, h // merge, t))
    M = merge * merge
    if M > 1:
        square_N3 = np.stack((t, h // merge, w // merge), axis=1)[order_N]
        starts = np.flatnonzero(np.any(np.diff(square_N3, axis=0, prepend=square_N3[:1] - 1), axis=1))
        sizes = np.diff(starts, append=len(square_N3))
        if (sizes != M).any():
            first = int(starts[np.flatnonzero(sizes != M)[0]])
            slot, row, column = (int(x) for x in square_N3[first])
            raise ValueError(
                f"the {merge} x {merge} square at slot {slot}, rows from {row * merge}, columns from "
                f"{column * merge} is not whole; choose patches with block={merge}"
            )
    return order_N.reshape(-1, M)


def first_slots(positions_N3: np.ndarray, step: int) -> np.ndarray:
    """The rows whose slot is the first of each `step` that are there: where tokens stand that several slots share."""
    if step == 1:
        return positions_N3
    _, rank_N = np.unique(positions_N3[:, 0], return_inverse=True)
    return positions_N3[rank_N % step == 0]


def slot_counts(positions_N3: np.ndarray, merge: int) -> list[tuple[int, int]]:
    """(slot, number of merged tokens) of every slot that has any, ascending."""
    slots, counts = np.unique(np.asarray(positions_N3)[:, 0], return_counts=True)
    return [(int(t), int(n) // (merge * merge)) for t, n in zip(slots, counts, strict=True)]
