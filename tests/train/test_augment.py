"""Views: drawn within their ranges, the same for frames and signals, units kept."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ov_encoder.train.augment import View, draw_view, view_frames, view_maps
from ov_encoder.train.config import PictureConfig


def draw(seed, height, width, **picture):
    rng = np.random.default_rng(seed)
    return draw_view(rng, height, width, PictureConfig(**picture), patch=14, max_tokens=picture.get("max_tokens", 1024))


@settings(max_examples=60)
@given(st.integers(0, 10**6), st.integers(20, 500), st.integers(20, 500), st.sampled_from(["square", "native"]))
def test_a_view_lies_in_its_frame_and_within_its_tokens(seed, height, width, aspect):
    view = draw(seed, height, width, sizes=(56, 112), aspect=aspect, area=(0.3, 1.0), max_tokens=50)
    assert view.top >= 0 and view.left >= 0
    assert view.top + view.height <= height + 1e-6 and view.left + view.width <= width + 1e-6
    assert 1 <= view.grid_hw[0] * view.grid_hw[1] <= 50
    assert 0 < view.height * view.width <= height * width + 1e-6


def test_native_aspect_is_kept_up_to_half_a_patch_and_square_is_square():
    wide = dict(sizes=(112,), area=(1.0, 1.0), stretch=(1.0, 1.0), flip=0.0)
    assert draw(0, 100, 200, aspect="native", **wide).grid_hw == (8, 16)
    assert draw(0, 200, 100, aspect="native", **wide).grid_hw == (16, 8)
    assert draw(0, 100, 200, aspect="square", **wide).grid_hw == (8, 8)


def test_the_whole_frame_at_its_own_size_is_the_frame():
    frames = np.random.default_rng(0).integers(0, 256, (2, 28, 42, 3), dtype=np.uint8)
    view = View(0, 0, 28, 42, (2, 3))
    assert np.array_equal(view_frames(frames, view, patch=14), frames)
    mirrored = View(0, 0, 28, 42, (2, 3), mirror=True)
    assert np.array_equal(view_frames(frames, mirrored, patch=14), frames[:, :, ::-1])


def test_motion_is_in_pixels_of_the_new_frame_and_residual_in_its_own_unit():
    maps = {"motion": np.full((1, 8, 8), 3.0, np.float16), "residual": np.full((1, 8, 8), 7.0, np.float16)}
    view = View(top=10.5, left=3.0, height=28.0, width=28.0, grid_hw=(4, 4))  # 28 stored pixels become 56
    found = view_maps(maps, view, cell=7, patch=14)
    assert found["motion"] == pytest.approx(6.0, rel=1e-5) and found["residual"] == pytest.approx(7.0, rel=1e-5)
    assert found["motion"].shape == (1, 4, 4)


def test_maps_are_area_means_of_what_the_box_covers():
    map_TYX = np.arange(4, dtype=np.float16).reshape(1, 1, 4)  # cells of 7 pixels in a row
    view = View(top=0, left=3.5, height=7, width=14, grid_hw=(1, 2))
    found = view_maps({"bits": map_TYX}, view, cell=7, patch=14)["bits"]
    assert found[0, 0].tolist() == [0.5, 1.5]
    mirrored = View(top=0, left=3.5, height=7, width=14, grid_hw=(1, 2), mirror=True)
    assert view_maps({"bits": map_TYX}, mirrored, cell=7, patch=14)["bits"][0, 0].tolist() == [1.5, 0.5]


def test_a_slot_without_signals_stays_without():
    maps = {"motion": np.stack([np.full((4, 4), np.nan), np.ones((4, 4))]).astype(np.float16)}
    found = view_maps(maps, View(0, 0, 28, 28, (2, 2)), cell=7, patch=14)["motion"]
    assert np.isnan(found[0]).all() and not np.isnan(found[1]).any()


def test_colour_changes_every_frame_alike():
    frames = np.stack([np.full((14, 14, 3), 100, np.uint8)] * 2)
    bright = view_frames(frames, View(0, 0, 14, 14, (1, 1), colour_3=(1.2, 1.0, 1.0)), patch=14)
    assert (bright == 120).all()
    red = frames.copy()
    red[..., 0] = 200
    grey = view_frames(red, View(0, 0, 14, 14, (1, 1), colour_3=(1.0, 1.0, 0.0)), patch=14)
    assert np.ptp(grey) == 0
