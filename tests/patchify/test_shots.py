"""Cuts are found where they are; flashes, violent motion and stillness are no cuts."""

import numpy as np
import pytest

import ov_encoder as ov
from ov_encoder.patchify.shots import find_shots
from ov_encoder.patchify.slots import Slot
from tests.clips import video

READERS = [("h264", "native"), ("h264", "transcode"), ("mpeg4", "native"), ("hevc", "auto"), ("vp9", "auto")]


def shots(scene, codec, signals, frames=64):
    return ov.plan(video(scene, codec), frames=frames, signals=signals).shots


@pytest.mark.parametrize(("codec", "signals"), READERS)
def test_a_cut_starts_a_shot_at_its_slot(codec, signals):
    assert shots("cut", codec, signals) == [0, 32]


@pytest.mark.parametrize("frames", [16, 23])
def test_a_cut_between_slots_starts_at_the_next_slot(frames):
    for codec, signals in (("h264", "native"), ("hevc", "auto")):
        made = ov.plan(video("cut", codec), frames=frames, signals=signals)
        assert made.shots == [0, int(np.searchsorted(made.slot_frames_T, 32))]


@pytest.mark.parametrize("scene", ["flash", "static", "moving_object", "pan"])
@pytest.mark.parametrize(("codec", "signals"), READERS)
def test_one_scene_is_one_shot(scene, codec, signals):
    assert shots(scene, codec, signals) == [0]


@pytest.mark.parametrize(("codec", "signals"), READERS)
def test_a_violent_shot_is_not_cut_to_pieces(codec, signals):
    assert shots("four_shots", codec, signals) == [0, 16, 32, 48]


# --- by hand --------------------------------------------------------------------------------------------------

SCENE_A, SCENE_B = (np.kron(np.random.default_rng(s).integers(0, 200, (12, 12, 3)), np.ones((8, 8, 1))) for s in (1, 2))


def slot(picture, *, intra=0.0, known=True):
    maps = {"motion": np.zeros((2, 2), np.float32)} if known else {}
    return Slot(0, 0.0, np.clip(picture, 0, 255).astype(np.uint8), maps, intra=intra)


def test_without_a_failed_prediction_a_new_picture_is_no_cut():
    assert find_shots([slot(SCENE_A), slot(SCENE_B), slot(SCENE_B)]) == [0]
    assert find_shots([slot(SCENE_A), slot(SCENE_B, intra=0.6), slot(SCENE_B)]) == [0, 1]


def test_without_signals_pictures_alone_decide():
    assert find_shots([slot(SCENE_A), slot(SCENE_B, known=False), slot(SCENE_B, known=False)]) == [0, 1]
    assert find_shots([slot(SCENE_A), slot(SCENE_A, known=False)]) == [0]


def test_a_key_frame_or_a_fade_in_the_same_scene_is_no_cut():
    brighter = SCENE_A * 0.6 + 80
    assert find_shots([slot(SCENE_A), slot(SCENE_A, intra=1), slot(brighter, intra=1)]) == [0]


def test_a_flash_of_one_slot_is_no_cut():
    white = np.full_like(SCENE_A, 255)
    for flash in (white, SCENE_B):
        seen = [slot(SCENE_A), slot(flash, intra=1), slot(SCENE_A, intra=1), slot(SCENE_A)]
        assert find_shots(seen) == [0]


def test_black_to_picture_is_a_cut_and_black_to_black_is_not():
    black = np.zeros_like(SCENE_A)
    assert find_shots([slot(black), slot(black, intra=1), slot(SCENE_A, intra=1), slot(SCENE_A)]) == [0, 2]


def test_a_cut_at_the_last_slot_counts():
    assert find_shots([slot(SCENE_A), slot(SCENE_A), slot(SCENE_B, intra=1)]) == [0, 2]
    assert find_shots([slot(SCENE_A)]) == [0]
