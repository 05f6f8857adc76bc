"""Saliency: one score per patch from motion, residual and bits. What is chosen from it is decided in `select`.

Shapes: T = slots, H, W = patch rows and columns.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from typing import get_args

import numpy as np

from ov_encoder.patchify.options import Fusion, Normalise, SignalKind

SIGNAL_KINDS = get_args(SignalKind)
FUSIONS = get_args(Fusion)
NORMALISE = get_args(Normalise)

# Below these a patch counts as unchanged: codec noise, not content.
STILL_PIXELS = 0.15  # motion since the last slot, pixels of the encoder's frame
STILL_LEVELS = 1.0  # residual, grey levels


def score(
    maps_THW: dict[str, np.ndarray],
    shots: Sequence[int],
    *,
    signal: str = "fused",
    normalise: str = "clip",
    fusion: str = "weighted",
    weights: dict[str, float] | None = None,
    centre_prior: float = 0.0,
) -> np.ndarray:
    """Scores [T, H, W] float32, 0 where nothing changed, NaN in slots without signals.

    maps_THW: "motion" (pixels), "residual" (grey levels), "bits"; NaN in slots without. signal: one of them, or
    "fused". normalise: divide each map by the 95th percentile of its changed patches in the whole "clip" (a quiet
    frame stays quiet) or in each "frame" (the reference's way, close to a quota per frame). fusion: of the
    normalised maps; "weighted" mean with `weights`, "max", "sum" (clipped at 1) or "geomean". centre_prior: c in
    1 + c * Gaussian around the centre, sigma 0.35 of the short side (the reference's probe uses 0.3).

    Raises:
        ValueError: an unknown option, or a signal that the clip does not have.
    """
    for name, value, allowed in (("signal", signal, SIGNAL_KINDS), ("normalise", normalise, NORMALISE)):
        if value not in allowed:
            raise ValueError(f"{name}={value!r}; allowed: {', '.join(allowed)}")
    if fusion not in FUSIONS:
        raise ValueError(f"fusion={fusion!r}; allowed: {', '.join(FUSIONS)}")
    names = [n for n in ("motion", "residual", "bits") if n in maps_THW]
    if signal != "fused":
        if signal not in names:
            raise ValueError(f"signal={signal!r} is not known for this clip; it has: {', '.join(names) or 'none'}")
        names = [signal]
    calm = {n: _calm_events(np.where(_changed(n, maps_THW), maps_THW[n], 0), shots) for n in names}
    parts = np.stack([_normalised(_keep_nan(calm[n], maps_THW[n]), normalise) for n in names])
    if len(names) == 1:
        scores_THW = parts[0]
    elif fusion == "weighted":
        w = np.array([(weights or {}).get(n, 1.0) for n in names], np.float32)
        scores_THW = np.tensordot(w / w.sum(), parts, 1)
    elif fusion == "max":
        scores_THW = parts.max(axis=0)
    elif fusion == "sum":
        scores_THW = np.minimum(parts.sum(axis=0), 1)
    else:
        scores_THW = np.prod(parts, axis=0) ** (1 / len(names))
    if centre_prior:
        scores_THW = scores_THW * (1 + centre_prior * centre_weight(*scores_THW.shape[1:]))
    return scores_THW.astype(np.float32)


def _changed(name: str, maps_THW: dict[str, np.ndarray]) -> np.ndarray:
    """Where a map is above codec noise. Bits have no floor: a block that costs bits said something."""
    floor = {"motion": STILL_PIXELS, "residual": STILL_LEVELS, "bits": 0.0}[name]
    return np.nan_to_num(maps_THW[name]) > floor


def _keep_nan(values: np.ndarray, like: np.ndarray) -> np.ndarray:
    return np.where(np.isnan(like), np.nan, values)


def _calm_events(map_THW: np.ndarray, shots: Sequence[int]) -> np.ndarray:
    """Scale down slots where everything changed at once (a flash, a cut), measured against their own shot.

    When the median patch changes far more than it usually does in the shot, nothing in the slot stands out: the
    change is the frame's, not a patch's. A shot that is violent throughout keeps its scores.
    """
    out = map_THW.astype(np.float32)
    for start, end in pairwise([*shots, len(map_THW)]):
        level_T = np.median(map_THW[start:end], axis=(1, 2))
        # The first slot of a later shot is compared with another scene: it says nothing about its own.
        inside = slice(1 if start else 0, None)
        usual = np.median(level_T[inside]) if len(level_T[inside]) else 0.0
        strongest = np.median(map_THW[start:end].max(axis=(1, 2)))
        events = level_T > np.maximum(3 * usual, 0.25 * strongest)
        if start:
            events[0] = level_T[0] > usual
        out[start:end][events] *= (usual / level_T[events])[:, None, None]
    return out


def _normalised(map_THW: np.ndarray, how: str) -> np.ndarray:
    def scale(values: np.ndarray) -> float:
        changed = values[values > 0]
        return float(np.percentile(changed, 95)) if changed.size else 1.0

    if how == "clip":
        return map_THW / np.float32(scale(map_THW))
    return np.stack([frame / np.float32(scale(frame)) for frame in map_THW])


def centre_weight(H: int, W: int) -> np.ndarray:
    """1 in the middle of the patch grid, falling off as a Gaussian of 0.35 of the short side: [H, W] float32."""
    y = (np.arange(H) - (H - 1) / 2)[:, None]
    x = (np.arange(W) - (W - 1) / 2)[None, :]
    return np.exp(-(x * x + y * y) / (2 * (0.35 * min(H, W)) ** 2)).astype(np.float32)
