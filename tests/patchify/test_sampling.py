"""Slots cover the clip, each frame once; a picture's grid keeps its shape."""

import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from ov_encoder.patchify.sampling import grid_size, rate_slots, uniform_slots

# --- slots ----------------------------------------------------------------------------------------------------


@given(count=st.integers(1, 100_000), slots=st.integers(1, 300))
def test_uniform_slots_cover_the_clip(count, slots):
    chosen = uniform_slots(count, slots)
    assert len(chosen) == min(count, slots)
    assert chosen[0] == 0
    assert (np.diff(chosen) > 0).all()
    if slots > 1:
        assert chosen[-1] == count - 1
        gaps = np.diff(chosen)
        assert count == 1 or gaps.max() - gaps.min() <= 1


def test_a_short_clip_gives_all_of_its_frames():
    assert uniform_slots(5, 64).tolist() == [0, 1, 2, 3, 4]


def test_uniform_slots_are_the_reference_s_truncated_linspace():
    assert uniform_slots(300, 64)[:6].tolist() == [0, 4, 9, 14, 18, 23]


@given(
    gaps=st.lists(st.floats(0.001, 3.0), min_size=0, max_size=80),
    start=st.floats(0, 100),
    rate=st.floats(0.1, 60),
)
def test_rate_slots_follow_every_tick(gaps, start, rate):
    times = start + np.cumsum([0.0, *gaps])
    chosen = rate_slots(times, rate)
    assert chosen[0] == 0
    assert (np.diff(chosen) > 0).all()
    assert chosen[-1] < len(times)
    for k in range(int((times[-1] - times[0]) * rate) + 1):  # the first frame at or after each tick is a slot
        due = times[0] + k / rate
        after = np.flatnonzero(times >= due - 1e-6)
        near = np.abs(times - due) < 1e-5  # too close to call
        assert near.any() or after[0] in chosen


def test_rate_slots_of_even_video():
    times = np.arange(100) / 25
    assert rate_slots(times, 5).tolist() == list(range(0, 100, 5))
    assert rate_slots(times, 25).tolist() == list(range(100))
    assert rate_slots(times, 1000).tolist() == list(range(100))  # no frame twice
    assert rate_slots(times, 0.1).tolist() == [0]
    assert rate_slots(np.array([2.0]), 1.0).tolist() == [0]


# --- grids ----------------------------------------------------------------------------------------------------

SIDES = st.integers(1, 5000)


@given(height=SIDES, width=SIDES, size=st.integers(1, 1000), patch=st.integers(1, 32), block=st.integers(1, 3))
@example(height=720, width=1280, size=224, patch=14, block=1)
def test_a_short_side_keeps_the_aspect_within_half_a_block(height, width, size, patch, block):
    unit = patch * block
    rows, columns = grid_size(height, width, size, patch=patch, block=block)
    assert rows % block == columns % block == 0
    assert min(rows, columns) >= block
    short, long = (rows, columns) if height <= width else (columns, rows)
    assert abs(short * patch - size) <= unit / 2 or short == block
    ideal = short * patch * max(height, width) / min(height, width)
    assert abs(long * patch - ideal) <= unit / 2 + 1e-6


@given(height=SIDES, width=SIDES, patch=st.integers(1, 32), block=st.integers(1, 3))
def test_native_and_given_sizes_are_rounded_to_blocks(height, width, patch, block):
    unit = patch * block
    for grid in (
        grid_size(height, width, "native", patch=patch, block=block),
        grid_size(1, 1, (height, width), patch=patch, block=block),
    ):
        for side, patches in zip((height, width), grid, strict=True):
            assert patches % block == 0
            assert abs(patches * patch - side) <= unit / 2 or patches == block


def test_known_grids():
    assert grid_size(224, 224, 224) == (16, 16)
    assert grid_size(720, 1280, 224) == (16, 28)
    assert grid_size(1280, 720, 224) == (28, 16)
    assert grid_size(480, 640, "native") == (34, 46)
    assert grid_size(480, 640, (224, 448)) == (16, 32)
    assert grid_size(480, 640, [224, 448]) == (16, 32)
    assert grid_size(480, 640, np.int64(224)) == (16, 21)
    assert grid_size(480, 640, 224, block=2) == (16, 22)
    assert grid_size(5, 5, "native") == (1, 1)


@pytest.mark.parametrize(
    "size", [0, -224, (0, 224), (224, -1), "big", 224.5, None, True, (224,), (1, 2, 3), (1.5, 2), ("a", "b")]
)
def test_other_sizes_are_refused_with_the_forms(size):
    with pytest.raises(ValueError, match=r'size=.*must be a short side in pixels, "native" or \(height, width\)'):
        grid_size(100, 200, size)
