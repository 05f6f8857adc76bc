"""Shots: where an edited video cuts. Found from the signals, confirmed on thumbnails; flashes are no cuts.

Shapes: T = slots.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from ov_encoder.patchify.slots import Slot

INTRA = 0.4  # share of intra cells in one frame from which it may be a cut; an I-frame counts as 1
ALIKE = 0.5  # correlation of neighbouring thumbnails from which they show the same scene
CHANGED = 0.65  # share of a thumbnail that must change: a car that fills half of the picture is no cut
_SIDE = 12  # thumbnails are about 12 x 12 means


def find_shots(slots: Sequence[Slot]) -> list[int]:
    """First slot of every shot, ascending; the first is 0.

    A slot starts a shot when prediction failed somewhere in its interval (intra cells, an I-frame, or no signals
    to tell), its thumbnail does not correlate with the one before, and most of it changed. Brightness and contrast
    do not count, and a slot that looks unlike its neighbours while those look alike (a flash) starts nothing.
    """
    thumbs = [_thumbnail(slot.rgb_YX3) for slot in slots]
    starts = [0]
    for t in range(1, len(slots)):
        suspect = slots[t].intra >= INTRA or not slots[t].maps_HW
        pair = thumbs[t - 1], thumbs[t]
        if not suspect or _correlation(*pair) >= ALIKE or _changed(*pair) < CHANGED:
            continue
        before = t - 2 if t >= 2 else None
        flash_now = t + 1 < len(slots) and _correlation(thumbs[t - 1], thumbs[t + 1]) >= ALIKE
        flash_over = before is not None and _correlation(thumbs[before], thumbs[t]) >= ALIKE
        if not (flash_now or flash_over):
            starts.append(t)
    return starts


def _thumbnail(rgb_YX3: np.ndarray) -> np.ndarray:
    green_YX = rgb_YX3[::4, ::4, 1].astype(np.float32)  # close to luma, and cheap
    rows, columns = (np.linspace(0, n, min(_SIDE, n), endpoint=False).astype(int) for n in green_YX.shape)
    sums = np.add.reduceat(np.add.reduceat(green_YX, rows, axis=0), columns, axis=1)
    sizes = np.outer(np.diff([*rows, green_YX.shape[0]]), np.diff([*columns, green_YX.shape[1]]))
    small = sums / sizes
    return small - small.mean()


def _changed(before: np.ndarray, after: np.ndarray) -> float:
    """Share of cells that changed by more than noise, a common change of brightness aside."""
    difference = after - before
    difference = np.abs(difference - np.median(difference))
    return float((difference > 6 + 0.25 * before.std()).mean())


def _correlation(a: np.ndarray, b: np.ndarray) -> float:
    """Of two thumbnails without their means. Two flat pictures are alike; a flat and a structured one are not."""
    norm_a, norm_b = float(np.linalg.norm(a)), float(np.linalg.norm(b))
    flat = 1e-3 * a.size
    if norm_a < flat or norm_b < flat:
        return 1.0 if norm_a < flat and norm_b < flat else 0.0
    return float((a * b).sum() / (norm_a * norm_b))
