"""Baselines: other networks, and no network at all, under the protocol of our encoder. `baseline(name)` gives one.

Names only, so that commands can list them: what stands behind a name is imported when it is asked for.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

CHECKPOINTS = {  # given as NAME:DIRECTORY or NAME:OWNER/MODEL; name -> (file of this folder, what opens it)
    "siglip2": ("siglip", "open_siglip"),
    "dinov3": ("dinov3", "Dinov3"),
    "clip": ("clip", "Clip"),
    "metaclip2": ("clip", "MetaClip2"),
    "aimv2": ("aimv2", "Aimv2"),
    "qwen3vl": ("qwen3vl", "Qwen3VL"),
    "vjepa2": ("vjepa2", "Vjepa2"),
    "videomae": ("videomae", "VideoMAE"),
}
PACKAGED = {  # given as NAME: weights inside a package, or none
    "mobilenet": ("convnets", "mobilenet"),
    "efficientnet": ("convnets", "efficientnet"),
    "pixels": ("floors", "Pixels"),
    "histogram": ("floors", "Histogram"),
}
FACTS = {"meta": ("facts", "clip_facts"), "codec": ("facts", "codec_maps")}  # no frames at all


def opener(entry: tuple[str, str]) -> Callable[..., Any]:
    """What opens an entry of the tables above."""
    return getattr(importlib.import_module(f"{__name__}.{entry[0]}"), entry[1])


def open_tower(name: str, path: Path | None = None) -> Any:
    """The tower (see `towers.Tower`) of a name of CHECKPOINTS, from a directory, or of PACKAGED."""
    return opener(CHECKPOINTS[name])(path) if name in CHECKPOINTS else opener(PACKAGED[name])()
