"""The picture of a study: names that do not overlap, every point drawn, nothing outside."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ov_encoder.evaluate.chart import Point, plot_study, spread

levels = st.lists(st.floats(0, 1, allow_nan=False), min_size=1, max_size=15)


@given(levels, st.floats(0, 0.2))
def test_spread_keeps_order_distance_and_bounds(given_levels, gap):
    found = np.array(spread(given_levels, gap))
    gap = min(gap, 1 / max(len(found) - 1, 1))
    order = np.argsort(given_levels, kind="stable")
    assert (np.diff(found[order]) >= gap - 1e-9).all()
    assert found.min() >= -1e-9 and found.max() <= 1 + 1e-9


@given(levels)
def test_spread_leaves_alone_what_is_apart(given_levels):
    apart = sorted(set(np.round(np.array(given_levels) * 10) / 10))
    np.testing.assert_allclose(spread(apart, 0.05), apart, atol=1e-9)


def test_two_at_one_level_move_symmetrically():
    np.testing.assert_allclose(sorted(spread([0.5, 0.5], 0.1)), [0.45, 0.55])


def test_every_cell_is_drawn_in_both_panels():
    pytest.importorskip("matplotlib")
    points = [
        Point(name, tokens, tokens / 1000, 0.2 + i / 10, 0.15 + i / 10, 0.3 + i / 10)
        for i, name in enumerate(["fused", "random"])
        for tokens in (512, 1024, 2048)
    ]
    figure = plot_study(points, title="t", measure="top-1 %", chance=0.1, dashed=["random"])
    left, right = figure.axes
    for axes, x in ((left, [512, 1024, 2048]), (right, [0.512, 1.024, 2.048])):
        lines = [line for line in axes.lines if len(line.get_xdata()) == 3 and line.get_marker() in "os"]
        assert len(lines) == 2
        for line, accuracy in zip(lines, (20, 30), strict=True):
            np.testing.assert_allclose(line.get_xdata(orig=False), x, rtol=0.05)
            np.testing.assert_allclose(line.get_ydata(orig=False), accuracy)
        assert {text.get_text() for text in axes.texts} >= {"fused", "random"}
    assert [label.get_text() for label in left.get_xticklabels()] == ["512", "1,024", "2,048"]


def test_nothing_to_draw_is_said():
    pytest.importorskip("matplotlib")
    with pytest.raises(ValueError, match="no picture"):
        plot_study([], title="t", measure="top-1 %")
