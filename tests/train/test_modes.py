"""The modes, on clips small enough to check by eye: what is cut is what the position says, in every mode."""

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ov_encoder.train.clip import CELL, Clip
from ov_encoder.train.config import MODES, PictureConfig, VideoConfig
from ov_encoder.train.modes import image_batch, random_slots, video_batch

PATCH = 14
WHOLE = PictureConfig(sizes=(28,), area=(1.0, 1.0), stretch=(1.0, 1.0), flip=0.0)
VIDEO = VideoConfig(picture=WHOLE, frames=4, budget=8, anchors=1, slot_size=28)


def numbered(T=4, H=2, W=2) -> Clip:
    """Every pixel of patch (t, h, w) is 50 t + 10 h + w."""
    t, h, w = np.ogrid[:T, :H, :W]
    value = (50 * t + 10 * h + w).astype(np.uint8)
    frames = np.repeat(value.repeat(PATCH, 1).repeat(PATCH, 2)[..., None], 3, -1)
    cells = PATCH // CELL
    motion = np.zeros((T, H * cells, W * cells), np.float16)
    motion[0] = np.nan
    return Clip(frames, {"motion": motion}, np.arange(T) * 0.1, [0], {"codec": "test"})


def moved(clip: Clip, *places) -> Clip:
    """With motion at patches (t, h, w)."""
    cells = PATCH // CELL
    for t, h, w in places:
        clip.maps_TYX["motion"][t, h * cells : (h + 1) * cells, w * cells : (w + 1) * cells] = 5.0
    return clip


def shown(batch):
    """(t, h, w) of the patch that each token's pixels came from."""
    values = batch.patches_ND[:, 0].astype(int)
    assert (batch.patches_ND == values[:, None]).all()
    return [(v // 50, v % 50 // 10, v % 10) for v in values]


def made(mode, clip=None, seed=0, **changes):
    clip = clip or numbered()
    return video_batch(clip, replace(VIDEO, **changes), mode, patch=PATCH, rng=np.random.default_rng(seed))


def test_codec_keeps_one_whole_frame_and_what_moved_at_its_own_place():
    clip = moved(numbered(W=3), (1, 0, 1), (2, 1, 0), (3, 0, 0), (3, 1, 2))
    batch = made("codec", clip, budget=10, picture=replace(WHOLE, aspect="native"))
    first = [(0, h, w) for h in (0, 1) for w in (0, 1, 2)]
    wanted = [*first, (1, 0, 1), (2, 1, 0), (3, 0, 0), (3, 1, 2)]
    assert batch.positions_N3.tolist() == [list(p) for p in wanted] and shown(batch) == wanted
    assert batch.modes_B == ["codec"] and batch.grids_B == [(4, 2, 3)]


def test_chunk_takes_the_middle_frame_of_each_part():
    batch = made("chunk")
    wanted = [(t, h, w) for t in (1, 3) for h in (0, 1) for w in (0, 1)]
    assert batch.positions_N3.tolist() == [list(p) for p in wanted] and shown(batch) == wanted


def test_sampling_takes_one_random_frame_of_each_part_at_its_true_slot():
    seen = set()
    for seed in range(20):
        batch = made("sampling", seed=seed)
        assert shown(batch) == [tuple(p) for p in batch.positions_N3.tolist()]
        slots = sorted(set(batch.positions_N3[:, 0].tolist()))
        assert len(slots) == 2 and slots[0] in (0, 1) and slots[1] in (2, 3) and batch.tokens == 8
        seen.add(tuple(slots))
    assert seen == {(0, 2), (0, 3), (1, 2), (1, 3)}


def test_collage_stacks_the_same_kind_of_draw_at_time_zero():
    batch = made("collage", seed=1)
    slots = sorted({t for t, *_ in shown(batch)})
    assert len(slots) == 2 and slots[0] in (0, 1) and slots[1] in (2, 3)
    assert batch.positions_N3.tolist() == [[0, h, w] for h in range(4) for w in (0, 1)]
    assert shown(batch) == [(slots[h // 2], h % 2, w) for h in range(4) for w in (0, 1)]
    assert batch.grids_B == [(1, 4, 2)] and batch.modes_B == ["collage"]


def test_an_image_is_every_patch_at_time_zero():
    batch = image_batch(numbered(T=1), WHOLE, patch=PATCH, rng=np.random.default_rng(0))
    assert batch.positions_N3.tolist() == [[0, 0, 0], [0, 0, 1], [0, 1, 0], [0, 1, 1]]
    assert shown(batch) == [(0, 0, 0), (0, 0, 1), (0, 1, 0), (0, 1, 1)] and batch.modes_B == ["image"]


def test_a_mirrored_clip_is_mirrored_in_pixels_and_signals():
    flipped = replace(WHOLE, flip=1.0)
    batch = made("codec", moved(numbered(), (1, 0, 1)), picture=flipped, budget=5, anchors=0)
    by_position = dict(zip(map(tuple, batch.positions_N3.tolist()), shown(batch), strict=True))
    assert by_position[1, 0, 0] == (1, 0, 1)  # what moved on the right is now on the left
    assert all(t == t0 and h == h0 and w == 1 - w0 for (t, h, w), (t0, h0, w0) in by_position.items())


def test_a_clip_without_signals_and_a_short_clip_still_fill_the_budget():
    clip = numbered(T=2)
    assert made("codec", replace_maps(clip, {})).tokens == 8
    for mode in MODES:
        assert made(mode, clip, budget=100).tokens == 8  # all there is, nothing twice


def replace_maps(clip, maps):
    return Clip(clip.frames_THWC, maps, clip.times_T, clip.shots, clip.facts)


@settings(max_examples=40)
@given(st.integers(0, 10_000), st.sampled_from(MODES), st.integers(1, 40))
def test_the_budget_holds_and_all_modes_see_the_same_slots(seed, mode, budget):
    picture = PictureConfig(sizes=(28, 42), area=(0.3, 1.0), aspect="native", colour=0.2)
    clip = moved(numbered(T=4, H=4, W=5), (2, 1, 1), (3, 2, 2))
    batch = made(mode, clip, seed=seed, budget=budget, picture=picture)
    assert 1 <= batch.tokens <= max(budget, 1)
    t = batch.positions_N3[:, 0]
    assert t.min() >= 0 and t.max() <= (0 if mode == "collage" else 3)
    assert len({tuple(p) for p in batch.positions_N3.tolist()}) == batch.tokens


@settings(max_examples=40)
@given(st.integers(0, 10_000))
def test_frames_and_signals_are_cropped_alike(seed):
    """One white patch moves: after any crop and mirror, the patches with motion are those with white in them."""
    clip = numbered(T=2, H=6, W=6)
    frames = np.zeros_like(clip.frames_THWC)
    frames[1, 28:42, 42:56] = 255
    clip = moved(Clip(frames, clip.maps_TYX, clip.times_T, [0], {}), (1, 2, 3))
    picture = PictureConfig(sizes=(42,), area=(0.3, 0.9), flip=0.5)
    batch = made("codec", clip, seed=seed, budget=18, anchors=0, picture=picture)
    white = batch.patches_ND.reshape(batch.tokens, -1).astype(float).mean(1) / 255
    motion = np.nan_to_num(batch.scores_N)
    assert (white[(motion > 0.3)] > 0.02).all()
    assert (motion[white > 0.3] > 0).all()


@pytest.mark.parametrize("slots, frames", [(4, 2), (5, 2), (64, 8), (3, 9)])
def test_random_slots_are_one_of_each_part(slots, frames):
    edges = np.arange(min(frames, slots) + 1) * slots // min(frames, slots)
    for seed in range(10):
        found = random_slots(slots, frames, np.random.default_rng(seed))
        assert ((found >= edges[:-1]) & (found < edges[1:])).all()
