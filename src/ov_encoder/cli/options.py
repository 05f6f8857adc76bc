"""The options of `ov.patchify`, as commands take them. The same names and defaults as `patchify.api.Options`.

That class is not imported to print help, because its room brings numba and av; a test keeps the two equal.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Annotated, Any, Literal

import tyro


@dataclass(frozen=True, kw_only=True)
class PatchOptions:
    """Which frames and patches are kept."""

    mode: Literal["auto", "image", "chunk", "codec", "collage"] = "auto"
    """image: every patch of one picture; chunk: whole frames; codec: patches by saliency; collage: whole frames
    stacked into one picture; auto: image for one picture, else codec."""
    frames: int = 64
    """Slots on the clip's time axis."""
    budget: int | float | Literal["auto"] = 2048
    """Tokens: a number, a share of all patches such as 0.125, or auto (from the stream's own bits)."""
    size: int | Literal["native"] | tuple[int, int] = 224
    """Short side in pixels, native, or height and width."""
    patch: int = 14
    """Side of a patch in pixels; must be the model's."""
    anchors: int | Literal["scenes", "keyframes", "first", "none"] = 2
    """Whole frames to keep, as far as the budget allows."""
    signal: Literal["fused", "motion", "residual", "bits"] = "fused"
    """What patches are ranked by."""
    signals: Literal["auto", "native", "transcode"] = "auto"
    """Where signals come from: the stream itself, a re-encode in memory, or auto (the stream where it can)."""
    camera: Literal["none", "median", "similarity", "affine"] = "similarity"
    """Camera motion to remove."""
    accumulate: Literal["interval", "frame"] = "interval"
    """Count every frame since the last slot, or only the slot's own."""
    normalise: Literal["clip", "frame"] = "clip"
    """Scale of the signals: one for the clip, or one a frame."""
    fusion: Literal["weighted", "max", "sum", "geomean"] = "weighted"
    """How motion, residual and bits become one score."""
    centre_prior: float = 0.0
    """Weight of a preference for the middle of the picture."""
    block: int = 1
    """Choose squares of this many patches a side."""
    slot_floor: int = 0
    """Patches that every slot keeps at least."""
    slot_cap: int | None = None
    """Patches that a slot keeps at most."""
    threads: int = 1
    """Threads of the decoder."""

    def arguments(self) -> dict[str, Any]:
        """Keyword arguments for `ov.patchify` and `ov.plan`."""
        return asdict(self)


Options = Annotated[PatchOptions, tyro.conf.arg(name="")]  # no prefix: --budget, as in Python
