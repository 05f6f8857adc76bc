"""Whatever a caller has (bytes, PIL images, arrays, frames) as bytes that `patchify` reads. Files are opened by name
only in `load`, which callers use themselves.

Shapes: T = frames, H, W = pixels.
"""

from __future__ import annotations

import io
from collections.abc import Sequence
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np

from ov_encoder.errors import OvEncoderError

Media = Any  # bytes | PIL image | uint8 [H, W, 3] | uint8 [T, H, W, 3] | sequence of PIL images | PatchBatch


def load(path: str | Path) -> bytes:
    """The bytes of a file. A processor never opens what a prompt names; a caller may.

    Raises:
        OvEncoderError: it cannot be read.
    """
    try:
        return Path(path).read_bytes()
    except OSError as e:
        raise OvEncoderError(f"{path}: cannot be read: {e.strerror}") from e


def as_bytes(media: Media, *, fps: float = 25.0) -> bytes:
    """An image or video as the bytes of a file, losslessly: PNG for one picture, FFV1 for frames at `fps`.

    Raises:
        ValueError: another type, dtype or shape (a path among them: see `load`).
    """
    if isinstance(media, bytes | bytearray | memoryview):
        return bytes(media)
    if isinstance(media, str | Path):
        raise ValueError(f"{str(media)!r} is a path; pass its bytes: ov_encoder.lmm.media.load(path)")
    if hasattr(media, "convert"):
        return _png(media)
    if isinstance(media, Sequence):
        media = np.stack([np.asarray(frame.convert("RGB")) for frame in media])
    media = np.asarray(media)
    if media.dtype != np.uint8 or media.ndim not in (3, 4) or media.shape[-1] != 3 or not media.size:
        raise ValueError(f"arrays must be uint8 RGB, [H, W, 3] or [T, H, W, 3]; got {media.dtype} {list(media.shape)}")
    if media.ndim == 3:
        from PIL import Image

        return _png(Image.fromarray(media))
    return _ffv1(media, fps)


def _png(image: Any) -> bytes:
    out = io.BytesIO()
    image.convert("RGB").save(out, "PNG", compress_level=1)
    return out.getvalue()


def _ffv1(frames_THW3: np.ndarray, fps: float) -> bytes:
    import av

    out = io.BytesIO()
    with av.open(out, "w", format="matroska", options={"fflags": "+bitexact"}) as container:  # no random ids
        stream = container.add_stream("ffv1", rate=Fraction(fps).limit_denominator(1001))
        assert isinstance(stream, av.VideoStream)
        stream.height, stream.width, stream.pix_fmt = frames_THW3.shape[1], frames_THW3.shape[2], "bgr0"
        for frame_HW3 in frames_THW3:
            picture = av.VideoFrame.from_ndarray(frame_HW3, format="rgb24")
            container.mux(stream.encode(picture))
        container.mux(stream.encode(None))
    return out.getvalue()
