"""Cutting and pasting patches are inverse, and cut exactly the pixels that positions name."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ov_encoder.patchify.cut import cut_patches, paste_patches


@given(
    grid=st.tuples(st.integers(1, 4), st.integers(1, 5), st.integers(1, 5)),
    patch=st.integers(1, 6),
    dtype=st.sampled_from([np.uint8, np.float32]),
    seed=st.integers(0, 99),
)
def test_paste_puts_back_what_cut_took_and_nothing_else(grid, patch, dtype, seed):
    rng = np.random.default_rng(seed)
    T, H, W = grid
    frames = rng.integers(1, 256, (T, H * patch, W * patch, 3)).astype(dtype)
    keep = rng.random(grid) < 0.5
    positions = np.argwhere(keep).astype(np.int32)
    patches = cut_patches(frames, positions, patch)
    assert patches.shape == (len(positions), 3 * patch * patch)
    assert patches.dtype == dtype
    assert patches.flags["C_CONTIGUOUS"]
    back = np.zeros_like(frames)
    if len(positions):
        paste_patches(patches, positions, back)
    pixels = keep.repeat(patch, axis=1).repeat(patch, axis=2)[..., None]
    assert (back == frames * pixels).all()


def test_values_lie_in_channel_row_column_order():
    frames = np.arange(2 * 4 * 6 * 3).reshape(2, 4, 6, 3)
    (patch,) = cut_patches(frames, np.array([[1, 0, 2]]), 2)
    assert (patch.reshape(3, 2, 2) == frames[1, 0:2, 4:6].transpose(2, 0, 1)).all()


def test_patches_come_in_the_order_of_positions_and_may_repeat():
    frames = np.random.default_rng(0).integers(0, 256, (2, 8, 8, 3), dtype=np.uint8)
    positions = np.array([[1, 1, 1], [0, 0, 0], [1, 1, 1]])
    patches = cut_patches(frames, positions, 4)
    assert (patches[0] == patches[2]).all()
    assert (patches[1] == frames[0, :4, :4].transpose(2, 0, 1).ravel()).all()


def test_no_positions_give_no_patches():
    assert cut_patches(np.zeros((1, 4, 4, 3), np.uint8), np.zeros((0, 3), int), 2).shape == (0, 12)


@pytest.mark.parametrize("position", [(1, 0, 0), (0, 2, 0), (0, 0, 2)])
def test_positions_outside_the_frames_are_an_index_error(position):
    with pytest.raises(IndexError):
        cut_patches(np.zeros((1, 4, 4, 3), np.uint8), np.array([position]), 2)
