"""A stored clip to the tokens of one sample, in one of the modes; every mode sees the same slots. No torch.

codec: patches by saliency, at their slot. sampling: one random frame of each equal part of the clip, at its slot.
chunk: the middle frame of each part, at its slot. collage: frames drawn as in sampling, stacked into one tall picture
at t = 0. image: every patch at t = 0. Positions are those of the patches that are cut, by construction: pixels and
positions come from one mask. Shapes: T = slots, h, w = patch rows and columns, K = tokens of the budget.
"""

from __future__ import annotations

import numpy as np

from ov_encoder.errors import OvEncoderError
from ov_encoder.patchify.batch import PatchBatch
from ov_encoder.patchify.cut import cut_patches
from ov_encoder.patchify.saliency import score
from ov_encoder.patchify.sampling import chunk_slots
from ov_encoder.patchify.select import anchor_slots, select
from ov_encoder.train.augment import View, draw_view, view_frames, view_maps
from ov_encoder.train.clip import CELL, Clip
from ov_encoder.train.config import Mode, PictureConfig, VideoConfig


def image_batch(clip: Clip, picture: PictureConfig, *, patch: int, rng: np.random.Generator) -> PatchBatch:
    """Every patch of a random view of one picture."""
    _, height, width, _ = clip.frames_THWC.shape
    view = draw_view(rng, height, width, picture, patch=patch, max_tokens=picture.max_tokens)
    return _cut(clip, view, np.ones((1, *view.grid_hw), bool), mode="image", patch=patch)


def video_batch(clip: Clip, video: VideoConfig, mode: Mode, *, patch: int, rng: np.random.Generator) -> PatchBatch:
    """A random view of a clip in one mode, at most `video.budget` tokens."""
    T, height, width, _ = clip.frames_THWC.shape
    cap = min(video.picture.max_tokens, video.budget)
    view = draw_view(rng, height, width, video.picture, patch=patch, max_tokens=cap)
    h, w = view.grid_hw
    K = min(video.budget, T * h * w)
    if mode == "codec":
        keep_Thw, scores_Thw = _by_saliency(clip, view, video, K, patch=patch)
        return _cut(clip, view, keep_Thw, mode="codec", patch=patch, scores_Thw=scores_Thw)
    frames = max(K // (h * w), 1)
    slots = chunk_slots(T, frames) if mode == "chunk" else random_slots(T, frames, rng)
    keep_Thw = np.zeros((T, h, w), bool)
    keep_Thw[slots] = True
    return _cut(clip, view, keep_Thw, mode="collage" if mode == "collage" else "chunk", patch=patch)


def random_slots(slots: int, frames: int, rng: np.random.Generator) -> np.ndarray:
    """One slot drawn from each of `frames` equal parts of the clip, ascending."""
    frames = min(frames, slots)
    edges = np.arange(frames + 1) * slots // frames
    return rng.integers(edges[:-1], edges[1:])


def _by_saliency(clip: Clip, view: View, video: VideoConfig, K: int, *, patch: int) -> tuple[np.ndarray, np.ndarray]:
    T = len(clip.frames_THWC)
    h, w = view.grid_hw
    scores_Thw = np.full((T, h, w), np.nan, np.float32)
    maps_Thw = view_maps(clip.maps_TYX, view, cell=CELL, patch=patch)
    if maps_Thw:
        if video.signal not in ("fused", *maps_Thw):
            raise OvEncoderError(f"signal {video.signal!r} is not known for this clip; it has: {', '.join(maps_Thw)}")
        scores_Thw = score(maps_Thw, clip.shots, signal=video.signal)
    room = K // (h * w) if T * h * w == K else 2 * K // (3 * h * w)
    anchors = anchor_slots(video.anchors, clip.shots, np.zeros(T, bool), room=room)
    keep_Thw, _ = select(scores_Thw, K, anchors=anchors, shots=clip.shots)
    return keep_Thw, scores_Thw


def _cut(
    clip: Clip, view: View, keep_Thw: np.ndarray, *, mode: str, patch: int, scores_Thw: np.ndarray | None = None
) -> PatchBatch:
    """Cut the kept patches of a view; only frames that keep one are resized."""
    positions_N3 = np.argwhere(keep_Thw).astype(np.int32)
    used = np.flatnonzero(keep_Thw.any(axis=(1, 2)))
    order_N = np.searchsorted(used, positions_N3[:, 0])
    frames = view_frames(clip.frames_THWC[used], view, patch=patch)
    patches_ND = cut_patches(frames, np.column_stack([order_N, positions_N3[:, 1:]]), patch)
    T, h, w = keep_Thw.shape
    grid, times_T = (T, h, w), clip.times_T
    scores_N = None if scores_Thw is None else scores_Thw[keep_Thw]
    if mode == "collage":
        positions_N3[:, 1] += order_N.astype(np.int32) * h
        positions_N3[:, 0] = 0
        grid, times_T = (1, len(used) * h, w), clip.times_T[:1]
    return PatchBatch.from_arrays(
        patches_ND=patches_ND,
        positions_N3=positions_N3,
        lengths_B=[len(positions_N3)],
        modes_B=[mode],
        grids_B=[grid],
        slot_times_B=[times_T],
        scores_N=scores_N,
        provenance_B=[clip.facts],
    )
