"""What is drawn is what the plan says: kept pixels untouched, all others grey, every mark where it belongs."""

import numpy as np
import pytest

from ov_encoder.viz.overlay import (
    ANCHOR,
    MAX_TILES,
    SHOT,
    contact_sheet,
    facts,
    fit,
    font,
    kept_over_faded,
    scale_scores,
    score_colours,
    side_by_side,
)
from tests.viz.plans import image_plan, media_info, video_plan


def rgb(colour: str) -> list[int]:
    return [int(colour[i : i + 2], 16) for i in (1, 3, 5)]


def count(image, colour: str) -> int:
    return int((np.asarray(image) == rgb(colour)).all(-1).sum())


def test_kept_pixels_are_untouched_and_all_others_are_grey():
    plan = video_plan()
    shown = kept_over_faded(plan)
    P = plan.patch_size
    keep = plan.keep_THW.repeat(P, 1).repeat(P, 2)
    np.testing.assert_array_equal(shown[keep], plan.frames_THWC[keep])
    dropped = shown[~keep].astype(int)
    assert (dropped.max(-1) == dropped.min(-1)).all() and dropped.min() > 150  # grey, most of the way to paper


def test_only_the_slots_asked_for_are_drawn():
    plan = video_plan()
    np.testing.assert_array_equal(kept_over_faded(plan, np.array([4, 7])), kept_over_faded(plan)[[4, 7]])


def test_scores_are_scaled_to_the_99th_percentile_and_unscored_slots_are_low():
    scores = np.arange(1000, dtype=np.float32).reshape(10, 10, 10)
    scores[0] = np.nan
    scaled = scale_scores(scores)
    assert scaled.min() == 0 and scaled.max() == 1 and (scaled[0] == 0).all()
    assert (np.diff(scaled[1:].ravel()) >= 0).all()
    assert (scaled == 1).sum() == pytest.approx(9, abs=1)  # the top hundredth
    assert (scale_scores(np.full((1, 2, 2), np.nan)) == 0).all()
    assert (scale_scores(np.full((1, 2, 2), 3.0)) == 0).all()  # nothing stands out
    one_hot = np.zeros((1, 20, 20), np.float32)
    one_hot[0, 3, 4] = 5  # rarer than the percentile
    assert scale_scores(one_hot)[0, 3, 4] == 1


def test_score_colours_run_from_first_to_last_stop():
    colours = score_colours(np.array([[[0.0, 1.0]]]))
    assert colours.shape == (1, 1, 2, 3)
    assert colours[0, 0, 0].sum() > 700 > 110 > colours[0, 0, 1].sum()  # paper to dark


def test_sheet_frames_whole_slots_and_tags_shots():
    plan = video_plan()
    sheet = contact_sheet(plan)
    assert 700 < sheet.width < 1900
    none = contact_sheet(video_plan(anchors_T=np.zeros(12, bool), shots=[0]))
    assert count(sheet, ANCHOR) > 1000 and count(none, ANCHOR) == 0
    assert count(sheet, SHOT) > 400 and count(none, SHOT) == 0


def test_sheet_of_an_image_has_one_tile_and_no_frame_around_it():
    sheet = contact_sheet(image_plan())
    assert count(sheet, ANCHOR) == 0
    assert sheet.width < 1100


def test_sheet_of_a_long_plan_shows_a_part_and_says_so():
    long, short = video_plan(400, 5, 4), video_plan(MAX_TILES, 5, 4)
    assert contact_sheet(long).size == contact_sheet(short).size


@pytest.mark.parametrize(("H", "W"), [(1, 40), (40, 1), (1, 1)])
def test_extreme_shapes_are_drawn(H, W):
    T = 3
    plan = video_plan(T, 8, 10)
    P = plan.patch_size
    plan.frames_THWC = np.zeros((T, H * P, W * P, 3), np.uint8)
    plan.keep_THW, plan.scores_THW = np.ones((T, H, W), bool), np.ones((T, H, W), np.float32)
    assert contact_sheet(plan).height < 3200 and contact_sheet(plan, scores=True).width < 1900
    assert side_by_side(plan, height=64).shape[0] == T


def test_movie_frames_have_even_sides_and_the_original_on_the_left():
    plan = video_plan()
    frames = side_by_side(plan, height=112)
    assert frames.shape == (12, 112 + 36, 2 * 140 + 8, 3)
    np.testing.assert_array_equal(frames[3, :112, :140], plan.frames_THWC[3])  # 8x10 patches of 14: no scaling
    np.testing.assert_array_equal(frames[3, :112, 148:], kept_over_faded(plan)[3])


def test_facts_name_codec_size_and_share():
    plan = video_plan()
    assert "h264 320x180" in facts(plan) and f"{plan.tokens} of 960 patches" in facts(plan)
    plan.info = media_info(fps=0.0)
    assert "fps" not in facts(plan)


def test_long_names_are_cut_to_the_width():
    face = font(20)
    short = fit("x" * 500, face, 300)
    assert short.endswith("...") and face.getlength(short) <= 300
    assert fit("short", face, 300) == "short"


def test_movies_of_wide_frames_fit_a_screen():
    plan = video_plan(2, 8, 40)
    assert side_by_side(plan).shape[1:3] == (192 + 36, 2 * 960 + 8)
