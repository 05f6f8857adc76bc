"""The camera fit against known fields: exact where it can be, blind to objects, still when the camera is still."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ov_encoder.patchify.camera import FEW, MODELS, camera_field, fit_camera

H, W = 45, 80
CAMERAS = {
    "pan": dict(tx=3.0, ty=-1.0),
    "sub-pixel pan": dict(tx=0.37, ty=0.11),
    "zoom": dict(zoom=0.03),
    "rotation": dict(turn=0.04),
    "all": dict(tx=-6.0, ty=2.0, zoom=-0.02, turn=0.03),
}


def grid(h=H, w=W):
    y, x = np.mgrid[0:h, 0:w].astype(float)
    return x - (w - 1) / 2, y - (h - 1) / 2


def field(tx=0.0, ty=0.0, zoom=0.0, turn=0.0, h=H, w=W):
    x, y = grid(h, w)
    return np.stack([tx + zoom * x - turn * y, ty + turn * x + zoom * y], axis=-1)


def with_objects(motion, seed, *, share=0.35, noise=0.2):
    """Rectangles of `share` of the cells move on their own by 4 to 10 pixels; quarter-pel rounding and noise."""
    rng = np.random.default_rng(seed)
    h, w = motion.shape[:2]
    foreground = np.zeros((h, w), bool)
    moved = motion.copy()
    while foreground.mean() < share:
        a, b = rng.integers(0, h - 8), rng.integers(0, w - 8)
        box = np.s_[a : a + rng.integers(6, 16), b : b + rng.integers(6, 24)]
        angle = rng.uniform(0, 2 * np.pi)
        moved[box] = motion[box] + rng.uniform(4, 10) * np.array([np.cos(angle), np.sin(angle)])
        foreground[box] = True
    moved += rng.normal(0, noise, moved.shape)
    return (np.round(moved * 4) / 4).astype(np.float32), foreground


@pytest.mark.parametrize("model", ["similarity", "affine"])
@pytest.mark.parametrize("camera", CAMERAS)
def test_recovers_the_camera_exactly_and_under_objects_and_noise(camera, model):
    true = field(**CAMERAS[camera])
    assert np.abs(camera_field(true.astype(np.float32), model=model) - true).max() < 1e-4
    for seed in range(5):
        motion, _ = with_objects(true, seed)
        fit = fit_camera(motion, model=model)
        assert fit.model == model
        assert np.abs(fit.field(H, W) - true).max() < 0.3
        assert 0.55 < fit.explained < 0.9


def test_affine_recovers_shear_that_similarity_cannot():
    x, y = grid()
    true = np.stack([1 + 0.05 * y, -2 + 0.02 * x - 0.03 * y], axis=-1)
    assert np.abs(camera_field(true.astype(np.float32), model="affine") - true).max() < 1e-4
    assert np.abs(camera_field(true.astype(np.float32), model="similarity") - true).max() > 0.5


@pytest.mark.parametrize("model", ["median", "similarity", "affine"])
def test_a_still_camera_gives_zero_however_objects_move(model):
    for seed in range(5):
        motion, foreground = with_objects(field(), seed, share=0.4, noise=0.0)
        predicted = camera_field(motion, model=model)
        assert np.abs(predicted).max() < 1e-6
        assert (np.abs(motion - predicted).max(axis=-1) > 0).sum() == (motion != 0).any(-1).sum()
        assert fit_camera(motion, model=model).explained == pytest.approx(1 - foreground.mean(), abs=0.05)


def test_one_object_that_moves_while_little_else_has_texture_stays():
    motion = field()
    motion[10:20, 10:30] = (5, 1)  # an excluded zero would leave only these cells to fit
    assert not camera_field(motion.astype(np.float32), model="similarity").any()


@given(tx=st.integers(-40, 40), ty=st.integers(-40, 40), seed=st.integers(0, 9), model=st.sampled_from(MODELS[1:]))
def test_a_constant_pan_shifts_the_prediction_by_itself(tx, ty, seed, model):
    motion, _ = with_objects(field(zoom=0.01), seed)
    pan = np.array([tx, ty], np.float32)
    shifted = camera_field(motion + pan, model=model) - camera_field(motion, model=model)
    assert np.abs(shifted - pan).max() < 1e-3


@given(seed=st.integers(0, 9), angle=st.sampled_from([90, 180, 270]))
def test_turning_the_picture_turns_the_prediction(seed, angle):
    """x and y are in one unit: the reference normalises each by its own side and breaks this."""
    true = field(tx=1.5, ty=-0.5, zoom=0.02, turn=-0.03)
    motion, _ = with_objects(true, seed)
    turns = angle // 90
    a = np.deg2rad(-angle)
    rotate = np.array([[np.cos(a), -np.sin(a)], [np.sin(a), np.cos(a)]])
    turned = np.rot90(motion @ rotate.T.astype(np.float32), turns)
    expected = np.rot90(true @ rotate.T, turns)
    assert np.abs(camera_field(turned, model="similarity") - expected).max() < 0.3


def test_cells_that_are_not_valid_or_not_finite_do_not_count():
    motion = field(tx=2.0, zoom=0.02).astype(np.float32)
    true = motion.copy()
    valid = np.random.default_rng(0).random((H, W)) < 0.3
    motion[~valid] = 50
    motion[valid & (np.arange(W) % 7 == 0)] = np.nan
    assert np.abs(camera_field(motion, valid, model="similarity") - true).max() < 1e-3


@pytest.mark.parametrize("model", ["median", "similarity", "affine"])
def test_degenerate_fields_fall_back_to_the_median(model):
    motion = field(zoom=0.05).astype(np.float32)
    nothing = np.zeros((H, W), bool)
    assert not camera_field(motion, nothing, model=model).any()
    few = nothing.copy()
    few.flat[: FEW - 1] = True
    median = np.median(motion[few], axis=0)
    assert np.allclose(camera_field(motion, few, model=model), median, atol=1e-6)
    assert fit_camera(motion, few, model=model).model == "median"
    equal = np.full((H, W, 2), (1.25, -3.5), np.float32)
    assert np.allclose(camera_field(equal, model=model), equal, atol=1e-6)
    column = nothing.copy()
    column[:, 3] = True
    assert np.isfinite(camera_field(motion, column, model=model)).all()
    assert camera_field(np.zeros((1, 1, 2), np.float32), model=model).shape == (1, 1, 2)
    assert camera_field(np.zeros((0, 0, 2), np.float32), model=model).shape == (0, 0, 2)


def test_incoherent_motion_is_not_taken_for_a_camera():
    motion = np.random.default_rng(0).uniform(-30, 30, (H, W, 2)).astype(np.float32)
    fit = fit_camera(motion, model="affine")
    assert fit.model == "median"
    assert fit.explained < 0.1


def test_none_is_zero_and_every_answer_is_float32_and_repeatable():
    motion, _ = with_objects(field(tx=2, zoom=0.02), 1)
    assert not camera_field(motion, model="none").any()
    for model in MODELS:
        first = camera_field(motion, model=model)
        assert first.dtype == np.float32
        assert (first == camera_field(motion.copy(), model=model)).all()


def test_wrong_arguments_are_named():
    with pytest.raises(ValueError, match=r"unknown camera model 'homography'; allowed: none, median"):
        camera_field(np.zeros((4, 4, 2)), model="homography")
    with pytest.raises(ValueError, match=r"motion_HW2 must have shape"):
        camera_field(np.zeros((4, 4)))
    with pytest.raises(ValueError, match=r"valid_HW must have shape \(4, 4\)"):
        camera_field(np.zeros((4, 4, 2)), np.ones((4, 5), bool))
