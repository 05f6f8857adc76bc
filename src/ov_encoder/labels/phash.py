"""What a picture looks like in 64 bits: pictures that differ by size, quality or a slight touch differ in few bits.

The lowest 8 x 8 frequencies (without the mean) of a 32 x 32 grey thumbnail, each above or below their median; the
method is known as pHash. Shapes: H, W = pixels.
"""

from __future__ import annotations

import numpy as np
from PIL import Image

SIDE, LOW = 32, 8


def phash(rgb_HW3: np.ndarray) -> int:
    """64 bits of a uint8 RGB picture [H, W, 3], most significant bit first by row; 0 for one flat colour only."""
    grey = Image.fromarray(rgb_HW3).convert("L").resize((SIDE, SIDE), Image.Resampling.BOX)
    n = np.arange(SIDE)
    cosine = np.cos(np.pi / SIDE * (n[None] + 0.5) * n[:LOW, None])  # DCT-II, its first rows
    low = (cosine @ np.asarray(grey, np.float64) @ cosine.T).round(6).ravel()
    low[0] = 0  # the mean brightness says nothing about the picture
    bits = low > np.median(low[1:])
    bits[0] = False
    return int.from_bytes(np.packbits(bits).tobytes(), "big")
