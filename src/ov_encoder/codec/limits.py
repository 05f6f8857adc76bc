"""Limits: how much a source may ask for before it is refused. Checked before memory is taken."""

from __future__ import annotations

from dataclasses import dataclass

from ov_encoder.errors import OvEncoderError


@dataclass(frozen=True, slots=True)
class Limits:
    """Bounds that every reader enforces; raise them for sources you trust.

    pixels: per frame. frames: decoded frames of one source. seconds: of the stream's own time.
    bytes: memory that decoded frames and signal maps of one call may take together, and the size of a source
    that has to be read into memory (a file object, or bytes).
    """

    pixels: int = 8192 * 8192
    frames: int = 1_000_000
    seconds: float = 24 * 3600.0
    bytes: int = 4 << 30

    def __post_init__(self) -> None:
        for name in ("pixels", "frames", "seconds", "bytes"):
            if not getattr(self, name) > 0:
                raise ValueError(f"Limits.{name} must be positive, got {getattr(self, name)}")


def check_pixels(name: str, width: int, height: int, limits: Limits) -> None:
    """Refuse an empty picture, and one of more than `limits.pixels`, before its memory is taken."""
    if width <= 0 or height <= 0:
        raise OvEncoderError(f"{name}: picture of {width}x{height} pixels; the header is damaged")
    if width * height > limits.pixels:
        raise OvEncoderError(
            f"{name}: picture of {width}x{height} = {width * height} pixels; the limit is {limits.pixels} "
            "(raise Limits.pixels if that is right)"
        )
