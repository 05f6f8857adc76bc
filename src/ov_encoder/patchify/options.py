"""Options: every choice of `ov.patchify`, with its default and its check. The commands take the same ones.

Light on purpose (no numpy): the commands import it to print their help. What the options do is in `api` and below.
"""

from __future__ import annotations

import inspect
import math
from collections.abc import Callable
from dataclasses import dataclass, fields
from numbers import Integral, Real
from typing import Any, Literal, TypeVar, get_args, get_origin, get_type_hints

AnchorRule = Literal["scenes", "keyframes", "first", "none"]
SignalKind = Literal["fused", "motion", "residual", "bits"]
Normalise = Literal["clip", "frame"]
Fusion = Literal["weighted", "max", "sum", "geomean"]

_Function = TypeVar("_Function", bound=Callable[..., Any])


@dataclass(frozen=True, kw_only=True)
class Options:
    """Which frames and patches are kept. Saved beside artefacts, so that a run can be repeated from it."""

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
    anchors: int | AnchorRule = 2
    """Whole frames to keep, in at most two thirds of the budget."""
    signal: SignalKind = "fused"
    """What patches are ranked by."""
    signals: Literal["auto", "bitstream", "native", "transcode"] = "auto"
    """Where signals come from: the stream itself, a re-encode in memory, or auto (the stream where it can)."""
    camera: Literal["none", "median", "similarity", "affine"] = "similarity"
    """Camera motion to remove."""
    accumulate: Literal["interval", "frame"] = "interval"
    """Count every frame since the last slot, or only the slot's own."""
    normalise: Normalise = "clip"
    """Scale of the signals: one for the clip, or one a frame."""
    fusion: Fusion = "weighted"
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
    """With more than 1 (0: all cores), decode ahead in a thread of its own."""

    def __post_init__(self) -> None:
        """Check every option.

        Raises:
            ValueError: naming the option, its value and what is allowed.
        """
        for name, hint in get_type_hints(Options).items():
            value = getattr(self, name)
            if get_origin(hint) is Literal and value not in get_args(hint):
                raise ValueError(f"{name}={value!r}; allowed: {', '.join(get_args(hint))}")
        for name, least in (("frames", 1), ("patch", 1), ("block", 1), ("threads", 0)):
            if not is_count(getattr(self, name), least):
                raise ValueError(f"{name}={getattr(self, name)!r}; must be a whole number of at least {least}")
        check_slots(self.slot_floor, self.slot_cap, self.block)
        prior = self.centre_prior
        if not isinstance(prior, Real) or isinstance(prior, bool) or not 0 <= prior < math.inf:
            raise ValueError(f"centre_prior={prior!r}; must be 0 or a positive number")
        check_budget(self.budget)
        check_anchors(self.anchors)
        check_size(self.size)


def is_count(value: object, least: int) -> bool:
    """A whole number (Python's or numpy's, no bool) of at least `least`."""
    return isinstance(value, Integral) and not isinstance(value, bool) and int(value) >= least


def check_budget(budget: object) -> None:
    """Raises ValueError unless budget is tokens, a share in (0, 1], or "auto"."""
    share = isinstance(budget, float) and 0 < budget <= 1
    if budget != "auto" and not share and not is_count(budget, 1):
        raise ValueError(
            f'budget={budget!r}; must be at least 1 token (int), a share in (0, 1] (float) or "auto" (3.1-25 %)'
        )


def check_anchors(anchors: object) -> None:
    """Raises ValueError unless anchors is a number of frames or a rule."""
    rules = get_args(AnchorRule)
    if anchors not in rules and not is_count(anchors, 0):
        raise ValueError(f"anchors={anchors!r}; must be 0 or more frames, or: {', '.join(rules)}")


def check_slots(slot_floor: object, slot_cap: object, block: int) -> None:
    """Raises ValueError unless both are patches per slot, in whole blocks, and the cap is not below the floor."""
    unit = block * block
    for name, value, least in (("slot_floor", slot_floor, 0), ("slot_cap", slot_cap, 1)):
        if name == "slot_cap" and value is None:
            continue
        if not is_count(value, least) or int(value) % unit:  # type: ignore[call-overload]
            raise ValueError(f"{name}={value!r}; must be a whole number of at least {least}, in steps of {unit}")
    if slot_cap is not None and slot_cap < slot_floor:  # type: ignore[operator]
        raise ValueError(f"slot_cap={slot_cap!r}; must be at least slot_floor={slot_floor!r}")


def check_size(size: object) -> None:
    """Raises ValueError unless size is a short side, "native" or (height, width)."""
    pair = isinstance(size, tuple | list) and len(size) == 2 and all(is_count(side, 1) for side in size)
    if size != "native" and not pair and not is_count(size, 1):
        raise ValueError(f'size={size!r}; must be a short side in pixels, "native" or (height, width), all positive')


def takes_options(function: _Function) -> _Function:
    """Show the options in the signature of a function that takes them as **options (help, IDEs, tests)."""
    signature = inspect.signature(function)
    own = [p for p in signature.parameters.values() if p.kind is not p.VAR_KEYWORD]
    options = [
        inspect.Parameter(f.name, inspect.Parameter.KEYWORD_ONLY, default=f.default, annotation=f.type)
        for f in fields(Options)
    ]
    function.__signature__ = signature.replace(parameters=[*own, *options])  # type: ignore[attr-defined]
    return function
