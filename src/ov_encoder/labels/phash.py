"""What a picture or a video looks like in few bits: those that differ by size, quality or a slight touch differ little.

A picture has 64 bits: the lowest 8 x 8 frequencies (without the mean) of a 32 x 32 grey thumbnail, each above or below
their median; the method is known as pHash. A video has 9 such words: of the mean of 8 frames, and of what each of
them differs from it. Still backgrounds cancel, so two people who say different words before the same wall are apart.

Shapes: T = frames, H, W = pixels (of thumbnails: 32), F = rows of low frequencies.
"""

from __future__ import annotations

import numpy as np
from PIL import Image

from ov_encoder.codec.decode import Resizer, decode
from ov_encoder.codec.info import MediaInfo
from ov_encoder.codec.limits import Limits
from ov_encoder.codec.media import Source, binary

SIDE, LOW = 32, 8
FRAMES = 8
WORDS = FRAMES + 1  # 64 bits each
LONGEST = 10_000  # frames; what is longer has no hash: decoding a film to compare it costs more than its copy
_N = np.arange(SIDE)
_COSINE_FW = np.cos(np.pi / SIDE * (_N[None] + 0.5) * _N[:LOW, None])  # DCT-II, its first rows
_LUMA_3 = np.array([0.299, 0.587, 0.114])


def phash(rgb_HW3: np.ndarray) -> int:
    """64 bits of a uint8 RGB picture [H, W, 3], most significant bit first by row; 0 for one flat colour only."""
    grey = Image.fromarray(rgb_HW3).convert("L").resize((SIDE, SIDE), Image.Resampling.BOX)
    return int.from_bytes(_word(np.asarray(grey, np.float64)), "big")


def video_hash(source: Source, info: MediaInfo, *, limits: Limits) -> bytes | None:
    """72 bytes of a video: 9 words of 64 bits, the mean frame's first, then those of 8 frames from equal parts.

    None where there is nothing to compare: a video in which nothing moves or that is of one flat colour, one of more
    than 10,000 frames (it is not decoded), or one that has fewer frames than its container promises.

    Raises:
        OvEncoderError: no frame can be decoded.
    """
    if not 1 < info.frames <= LONGEST:
        return None
    wanted = ((np.arange(FRAMES) + 0.5) * info.frames / FRAMES).astype(int).tolist()
    resize = Resizer(SIDE, SIDE)
    found: dict[int, np.ndarray] = {}
    with binary(source, limits) as file:
        pictures = decode(file, info, limits=limits)
        for picture in pictures:
            if picture.index in wanted:
                found[picture.index] = resize(picture) @ _LUMA_3
                if picture.index == wanted[-1]:
                    break
        pictures.close()
    if wanted[-1] not in found:
        return None
    grey_THW = np.stack([found[index] for index in wanted])
    mean_HW = grey_THW.mean(axis=0)
    words = [_word(grey_HW) for grey_HW in (mean_HW, *(grey_THW - mean_HW))]
    return b"".join(words) if any(words[0]) and all(any(word) for word in words[1:]) else None


def _word(grey_HW: np.ndarray) -> bytes:
    """64 bits of a thumbnail, as 8 bytes; all zeros where it is flat."""
    low_FF = (_COSINE_FW @ grey_HW @ _COSINE_FW.T).round(6).ravel()
    low_FF[0] = 0  # the mean brightness says nothing about the picture
    bits = low_FF > np.median(low_FF[1:])
    bits[0] = False
    return np.packbits(bits).tobytes()
