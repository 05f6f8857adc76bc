"""The page holds what the plan says, needs nothing from outside, and its ranks reproduce the plan's choice."""

import base64
import io
import json
import re

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from ov_encoder.viz.report import figure_section, page, provenance_section, ranking, table_section, viewer_section
from tests.viz.plans import image_plan, media_info, video_plan


def embedded(section: str) -> dict:
    return json.loads(re.search(r'<script type="application/json">(.*?)</script>', section, re.S)[1])


@settings(max_examples=40)
@given(seed=st.integers(0, 2**32 - 1), unscored=st.booleans())
def test_the_first_ranks_are_the_choice_and_the_rest_follow_by_score(seed, unscored):
    rng = np.random.default_rng(seed)
    T, H, W = rng.integers(1, 6, 3)
    plan = video_plan(6, 8, 10)
    plan.scores_THW = rng.integers(0, 4, (T, H, W)).astype(np.float32)  # many ties
    plan.keep_THW = rng.random((T, H, W)) < 0.4
    plan.anchors_T = np.arange(T) == 0
    if unscored:
        plan.scores_THW[0] = np.nan
    rank = ranking(plan)
    assert sorted(rank) == list(range(T * H * W))
    np.testing.assert_array_equal(rank < plan.tokens, plan.keep_THW.ravel())
    rest = np.argsort(rank)[plan.tokens :]
    scores = np.nan_to_num(plan.scores_THW.ravel(), nan=-1)[rest]
    assert (np.diff(scores) <= 0).all()
    for level in np.unique(scores):  # ties stay in order
        assert (np.diff(rest[scores == level]) > 0).all()


def test_the_viewer_embeds_ranks_scores_and_frames():
    plan = video_plan()
    data = embedded(viewer_section(plan))
    assert (data["T"], data["H"], data["W"], data["kept"]) == (12, 8, 10, plan.tokens)
    rank = np.frombuffer(base64.b64decode(data["rank"]), "<u4")
    np.testing.assert_array_equal(rank, ranking(plan))
    assert len(base64.b64decode(data["score"])) == 960
    frame = np.asarray(Image.open(io.BytesIO(base64.b64decode(data["frames"][3]))))
    assert frame.shape == plan.frames_THWC[3].shape
    assert np.abs(frame.astype(int) - plan.frames_THWC[3]).mean() < 5
    assert data["anchors"] == [0, 6] and data["shots"] == [0, 6]
    assert data["first"] not in data["anchors"]  # opens on a slot where something was chosen


def test_an_image_is_shown_once_without_a_slider():
    section = viewer_section(image_plan())
    assert embedded(section)["single"] and 'class="slider"' not in section and 'class="kept"' not in section


def test_a_page_asks_nothing_of_the_network_and_escapes_names():
    plan = video_plan(info=media_info(name="</script><b>&.mp4"), notes=["<i>"])
    text = page("a < b", "intro", [viewer_section(plan), provenance_section(plan)])
    assert not re.search(r"https?://|src=\"(?!data:)|href=|@import|url\(", text)
    assert "<b>&" not in text and "<i>" not in text and "a &lt; b" in text
    assert embedded(text)["T"] == 12


def test_provenance_and_tables_show_every_row():
    text = provenance_section(video_plan(notes=["fell back"]))
    for word in ("motion: native", "residual: derived", "fell back"):
        assert word in text
    assert "<th>row</th><td>12 &lt; 13</td>" in table_section("t", [("row", "12 < 13")])


def test_figures_are_embedded():
    assert base64.b64encode(b"png bytes").decode() in figure_section("f", b"png bytes")


@pytest.mark.parametrize("grid", [(64, 32, 32), (1, 160, 200)])
def test_pages_stay_under_ten_megabytes_even_for_noise(grid):
    T, H, W = grid
    plan = video_plan(T, 8, 10)
    P = plan.patch_size
    noise = np.random.default_rng(0).integers(0, 256, (1, H * P, W * P, 3), dtype=np.uint8)
    plan.frames_THWC = np.broadcast_to(noise, (T, H * P, W * P, 3))
    plan.keep_THW, plan.scores_THW = np.ones(grid, bool), np.ones(grid, np.float32)
    assert len(page("noise", "", [viewer_section(plan)])) < 10_000_000
