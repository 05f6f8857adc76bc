"""Sizes and slots: how large a frame becomes, and which frames stand on the clip's time axis. No pixels here."""

from __future__ import annotations

import numpy as np

from ov_encoder.patchify.options import check_size


def grid_size(
    height: int, width: int, size: int | str | tuple[int, int], *, patch: int = 14, block: int = 1
) -> tuple[int, int]:
    """Patch rows and columns of a frame of height x width pixels.

    size: pixels of the short side, "native", or (height, width) to stretch to. Both sides are rounded to the
    nearest multiple of patch * block (at least one), so the aspect ratio moves by less than half a block.

    Raises:
        ValueError: a size that is not positive, not a number of pixels, or not one of the forms above.
    """
    check_size(size)
    unit = patch * block
    if isinstance(size, int | np.integer):  # the short side is asked for: round it first, then the aspect
        short = max(round(size / unit), 1)
        long = max(round(max(height, width) / min(height, width) * short), 1)
        return (short * block, long * block) if height <= width else (long * block, short * block)
    sides = (height, width) if isinstance(size, str) else size
    rows, columns = (max(round(side / unit), 1) * block for side in sides)
    return rows, columns


def uniform_slots(count: int, slots: int) -> np.ndarray:
    """Frame numbers of `slots` slots spread over `count` frames, first and last included; each frame at most once.

    The reference's linspace truncated to integers. A shorter clip gives all of its frames.
    """
    return np.linspace(0, count - 1, min(count, slots)).astype(np.int64)


def chunk_slots(slots: int, frames: int) -> np.ndarray:
    """The middle slot of each of `frames` equal chunks (the reference draws a random one when it trains)."""
    frames = min(frames, slots)
    return ((np.arange(frames) + 0.5) * slots / frames).astype(np.int64)


def rate_slots(times_T: np.ndarray, rate: float) -> np.ndarray:
    """Numbers of the first frame at or after every multiple of 1 / rate seconds; each frame at most once.

    times_T: display time of every frame in seconds, ascending.
    """
    due_T = np.floor((times_T - times_T[0]) * rate + 1e-6)  # multiples passed by the time of each frame
    return np.flatnonzero(np.diff(due_T, prepend=-1) > 0)
