"""Still images and animations through Pillow: PNG, JPEG, GIF, WebP, APNG, BMP, TIFF, AVIF.

FFmpeg does not decode animated WebP, and Pillow applies frame disposal, alpha and EXIF rotation as browsers do.
Transparent pixels are shown on white.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import BinaryIO

import numpy as np
from PIL import Image, ImageOps, ImageSequence

from ov_encoder.codec.info import MediaInfo
from ov_encoder.codec.limits import Limits, check_pixels
from ov_encoder.errors import OvEncoderError

_MAGIC = (b"\x89PNG\r\n\x1a\n", b"\xff\xd8\xff", b"GIF87a", b"GIF89a", b"BM", b"II*\x00", b"MM\x00*")


def is_still(file: BinaryIO) -> bool:
    """Whether the content starts like an image format that Pillow reads. Leaves the file at its start."""
    head = file.read(16)
    file.seek(0)
    is_webp = head[:4] == b"RIFF" and head[8:12] == b"WEBP"
    is_avif = head[4:8] == b"ftyp" and head[8:12] in (b"avif", b"avis")
    return head.startswith(_MAGIC) or is_webp or is_avif


def describe(file: BinaryIO, name: str, limits: Limits) -> MediaInfo:
    """MediaInfo from the image's header.

    Raises:
        OvEncoderError: damaged, of unknown format, or beyond the limits.
    """
    with _named(name), _open(file, name, limits) as image:
        frames = getattr(image, "n_frames", 1)
        if frames > limits.frames:
            raise OvEncoderError(f"{name}: {frames} frames; the limit is {limits.frames} (raise Limits.frames)")
        turned = image.getexif().get(0x0112, 1) >= 5  # EXIF orientation: 5-8 swap the sides
        width, height = image.size[::-1] if turned else image.size
        delay_s = image.info.get("duration", 100) / 1000 if frames > 1 else 0.0
        return MediaInfo(
            name=name,
            kind="animation" if frames > 1 else "image",
            container=(image.format or "").lower(),
            codec=(image.format or "").lower(),
            profile="",
            pixel_format=image.mode,
            height=height,
            width=width,
            rotation=0,
            frames=frames,
            fps=1 / delay_s if delay_s else 0.0,
            duration_s=frames * delay_s,
            notes=["the image's EXIF orientation is applied"] if turned else [],
        )


def read_frames(file: BinaryIO, name: str, limits: Limits) -> Iterator[tuple[np.ndarray, float]]:
    """Every frame as uint8 RGB [height, width, 3] with its start in seconds.

    Raises:
        OvEncoderError: damaged pixels or beyond the limits; frames before the damage have been given.
    """
    with _named(name), _open(file, name, limits) as image:
        seconds = 0.0
        for frame in ImageSequence.Iterator(image):
            check_pixels(name, *frame.size, limits)
            rgb = _rgb(frame)  # Pillow knows a WebP frame's duration only once it is loaded
            yield rgb, seconds
            seconds += frame.info.get("duration", 100) / 1000


@contextmanager
def _named(name: str) -> Iterator[None]:
    """Whatever Pillow raises becomes an error that names the file: its plugins raise what damaged bytes lead to
    (OSError, SyntaxError, IndexError, struct.error, ...), and no list of them would be complete.
    """
    try:
        yield
    except (OvEncoderError, GeneratorExit):
        raise
    except Exception as e:
        raise OvEncoderError(f"{name}: damaged image: {e or type(e).__name__}") from e


def _open(file: BinaryIO, name: str, limits: Limits) -> Image.Image:
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", Image.DecompressionBombWarning)  # our own limit is checked below
            image = Image.open(file)
    except Image.DecompressionBombError as e:
        raise OvEncoderError(f"{name}: {e}; the limit is {limits.pixels} pixels") from e
    check_pixels(name, *image.size, limits)
    return image


def _rgb(frame: Image.Image) -> np.ndarray:
    frame = ImageOps.exif_transpose(frame)
    if frame.mode in ("I;16", "I", "F"):  # 16-bit grey: Pillow would clip at 255 instead of scaling
        values = np.asarray(frame, np.float64)
        grey = np.clip(values / (257 if values.max() > 255 else 1), 0, 255).round().astype(np.uint8)
        return np.repeat(grey[..., None], 3, axis=2)
    if frame.has_transparency_data:
        rgba = frame.convert("RGBA")
        white = Image.new("RGBA", rgba.size, "white")
        frame = Image.alpha_composite(white, rgba)
    return np.asarray(frame.convert("RGB"))
