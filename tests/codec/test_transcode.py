"""The in-memory re-encode: reproducible, exact, and honest about what did not change.

H, W = cell rows and columns, Y, X = pixels of the coded picture.
"""

from itertools import pairwise

import numpy as np
import pytest

from ov_encoder.codec.compensate import derived_energy, exact_residual
from ov_encoder.codec.signals import KIND_INTER, KIND_INTRA, KIND_SKIP
from ov_encoder.codec.transcode import QP, transcode
from ov_encoder.codec.vectors import VECTOR
from tests.clips import cut, moving_object, pan, rotation, static

MAPS = ("motion_HW2", "residual_HW", "bits_HW", "qp_HW", "kind_HW")


def as_vectors(motion_HW2, where_HW):
    """One 8x8 block per chosen cell, as a decoder would export it."""
    i, j = np.nonzero(where_HW)
    made = np.zeros(len(i), VECTOR)
    made["source"], made["w"], made["h"], made["motion_scale"] = -1, 8, 8, 4
    made["dst_x"], made["dst_y"] = 8 * j + 4, 8 * i + 4
    made["motion_x"], made["motion_y"] = np.rint(4 * motion_HW2[i, j]).astype(int).T
    return made


def cells_of(picture_YX):
    Y, X = picture_YX.shape
    return picture_YX.reshape(Y // 8, 8, X // 8, 8).swapaxes(1, 2)


def test_the_same_pictures_give_the_same_bits():
    frames = moving_object(10, 96, 128).frames_THW3
    first, second = list(transcode(frames)), list(transcode(frames))
    for a, b in zip(first, second, strict=True):
        assert a.signals.packet_bits == b.signals.packet_bits
        assert np.array_equal(a.luma_YX, b.luma_YX)
        for name in MAPS:
            x, y = getattr(a.signals, name), getattr(b.signals, name)
            assert (x is None and y is None) or np.array_equal(x, y), name


@pytest.mark.parametrize(("dx", "dy"), [(1.25, 0.75), (2.5, -0.5), (-0.75, 0.25)])
def test_cells_without_coded_residual_are_exactly_zero(dx, dy):
    """On a sub-pixel pan x264 codes no residual for most cells. One wrong sample in the filter would show there."""
    made = list(transcode(pan(8, 96, 128, dx=dx, dy=dy, with_object=False).frames_THW3))
    fractional = exact = wrong_sign = simple_filter = 0
    for before, now in pairwise(made):
        motion, inter = now.signals.motion_HW2, now.signals.kind_HW != KIND_INTRA
        between = inter & (motion % 1 != 0).any(axis=-1)
        fractional += between.sum()
        exact += (now.signals.residual_HW[between] == 0).sum()
        same, _ = exact_residual(now.luma_YX, before.luma_YX, as_vectors(motion, inter))
        assert np.array_equal(same, now.residual_YX)  # the cells hold what the decoder's own blocks said
        turned, _ = exact_residual(now.luma_YX, before.luma_YX, as_vectors(-motion, inter))
        wrong_sign += (cells_of(turned)[between] == 0).all(axis=(1, 2)).sum()
        linear = derived_energy(now.luma_YX, before.luma_YX, motion, inter.astype(np.uint8), 1)
        simple_filter += (linear[between] == 0).sum()
    assert fractional > 1000
    assert exact > 0.7 * fractional  # 85 to 92 % measured
    assert wrong_sign < 0.01 * fractional
    assert simple_filter < 0.01 * fractional


def test_what_changed_is_coded_residual_not_a_smoothed_edge():
    """Deblocking would change the rims of cells beside coded ones: as many cells as are coded, measured."""
    rim = coded = 0
    for picture in list(transcode(rotation(8, 96, 128).frames_THW3))[1:]:
        changed = cells_of(picture.residual_YX) != 0
        middle = changed[:, :, 3:5, 3:5].any(axis=(2, 3))
        rim += (changed.any(axis=(2, 3)) & ~middle).sum()
        coded += middle.sum()
    assert coded > 200
    assert rim < 0.05 * coded


def test_energy_is_the_mean_square_of_the_residual():
    made = list(transcode(moving_object(5, 96, 128).frames_THW3))
    for picture in made[1:]:
        inter = picture.signals.kind_HW != KIND_INTRA
        means = (cells_of(picture.residual_YX).astype(float) ** 2).mean(axis=(2, 3))
        assert picture.signals.residual_HW[inter] == pytest.approx(means[inter], rel=1e-4, abs=1e-6)
        assert ((picture.signals.kind_HW == KIND_SKIP) == (inter & (means == 0))).all()
        assert (picture.signals.kind_HW == KIND_INTER).any()  # the object


def test_a_still_clip_has_no_motion_and_no_residual():
    made = list(transcode(static(5, 96, 128).frames_THW3))
    for picture in made[1:]:
        assert not picture.signals.motion_HW2.any()
        assert not picture.signals.residual_HW.any()
        assert not picture.residual_YX.any()
        assert (picture.signals.kind_HW == KIND_SKIP).all()
        assert np.array_equal(picture.luma_YX, made[0].luma_YX)


@pytest.mark.parametrize(("dx", "dy"), [(2.0, 0.75), (-3.25, 1.0), (0.0, -1.5)])
def test_a_pan_is_read_to_a_quarter_pixel(dx, dy):
    for picture in list(transcode(pan(8, 96, 128, dx=dx, dy=dy, with_object=False).frames_THW3))[1:]:
        assert np.median(picture.signals.motion_HW2, axis=(0, 1)) == pytest.approx((-dx, -dy), abs=0.25)


def test_the_object_moves_and_the_background_does_not():
    scene = moving_object(10, 96, 128, speed=2.0, radius=20)
    for picture, mask in list(zip(transcode(scene.frames_THW3), scene.masks_THW, strict=True))[1:]:
        moved = np.linalg.norm(picture.signals.motion_HW2, axis=-1)
        covered = cells_of(mask).mean(axis=(2, 3))
        assert np.median(moved[covered == 1]) == pytest.approx(2.0, abs=0.6)
        assert (moved[covered == 0] == 0).mean() > 0.8  # what is next to the object may be drawn along


@pytest.mark.parametrize(("height", "width"), [(50, 70), (16, 16), (17, 33), (2, 2), (224, 98)])
def test_sizes_need_not_be_whole_macroblocks(height, width):
    frames = pan(4, height, width, dx=1.0, dy=0.0, with_object=False).frames_THW3
    made = list(transcode(frames))
    grid = (-(-height // 8), -(-width // 8))
    assert len(made) == 4
    for i, picture in enumerate(made):
        signals = picture.signals
        assert picture.luma_YX.shape == (-(-height // 16) * 16, -(-width // 16) * 16)
        assert signals.qp_HW.shape == signals.kind_HW.shape == grid
        if i:
            assert signals.motion_HW2.shape == (*grid, 2)
            assert signals.residual_HW.shape == grid
            assert (signals.motion_HW2.dtype, signals.residual_HW.dtype) == (np.float32, np.float32)
        shown = picture.luma_YX[:height, :width].astype(float) * 255 / 219 - 16 * 255 / 219
        grey = frames[i] @ [0.299, 0.587, 0.114]
        assert np.abs(shown - grey).mean() < 8  # the picture itself, not its neighbour


def test_the_first_picture_is_intra_and_says_nothing_of_motion():
    first = next(transcode(pan(2, 48, 48).frames_THW3))
    assert (first.signals.frame_type, first.signals.index) == ("I", 0)
    assert first.residual_YX is None
    assert first.signals.motion_HW2 is None
    assert first.signals.residual_HW is None
    assert (first.signals.kind_HW == KIND_INTRA).all()


def test_no_picture_and_one_picture():
    assert list(transcode([])) == []
    only = list(transcode(static(1, 48, 64).frames_THW3))
    assert len(only) == 1
    assert only[0].signals.packet_bits > 0


def test_count_and_order_are_kept_and_every_picture_costs_bits():
    levels = np.arange(12) * 18 + 20
    made = list(transcode(np.full((32, 32, 3), level, np.uint8) for level in levels))
    assert [picture.signals.index for picture in made] == list(range(12))
    assert all(picture.signals.packet_bits > 0 for picture in made)
    assert [picture.signals.frame_type for picture in made] == ["I"] + ["P"] * 11
    means = np.array([picture.luma_YX.mean() for picture in made])
    assert means == pytest.approx(16 + levels * 219 / 255, abs=2)


def test_pictures_are_read_as_they_are_needed():
    asked = []

    def frames():
        for t, frame in enumerate(static(20, 32, 32).frames_THW3):
            asked.append(t)
            yield frame

    made = transcode(frames())
    for t in range(20):
        next(made)
        assert len(asked) <= t + 2


def test_the_quantiser_is_constant():
    for picture in transcode(moving_object(4, 64, 64).frames_THW3):
        assert len(np.unique(picture.signals.qp_HW)) == 1
        expected = QP if picture.signals.frame_type == "P" else QP - 3  # x264's ratio of I to P is 1.4
        assert picture.signals.qp_HW[0, 0] == expected


def test_a_cut_is_intra():
    made = list(transcode(cut(8, 96, 128).frames_THW3))
    intra = [float((picture.signals.kind_HW == KIND_INTRA).mean()) for picture in made[1:]]
    assert intra[3] > 0.4
    assert max(intra[:3] + intra[4:]) < 0.1
