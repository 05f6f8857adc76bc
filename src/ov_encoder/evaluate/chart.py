"""The picture of a study: accuracy against tokens and against seconds, drawn with matplotlib (extra `viz`).

Two panels with one vertical axis; every line is named where it ends. Colours are those of Okabe and Ito, which people
with any colour vision tell apart, and markers repeat what they say.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from ov_encoder.errors import missing_extra
from ov_encoder.viz.overlay import INK, PAPER, SOFT

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

COLOURS = ("#D55E00", "#0072B2", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000", "#8a8a8a")
MARKERS = "osD^vPX<>"
_GRID = "#e6e2d8"
_LABEL_GAP = 0.052  # of the panel's height, between neighbouring names


@dataclass(frozen=True, slots=True)
class Point:
    """One cell of a study. accuracy, low, high: shares in 0..1, the interval is of 95 %. seconds: reading included."""

    name: str
    tokens: float
    seconds: float
    accuracy: float
    low: float
    high: float


def plot_study(
    points: Sequence[Point], *, title: str, measure: str, chance: float | None = None, dashed: Sequence[str] = ()
) -> Figure:
    """Accuracy against tokens (left) and seconds (right) per clip, one line a name, with intervals.

    measure: name of the vertical axis. chance: a share, drawn as a line. dashed: names that are no policies.

    Raises:
        OvEncoderError: matplotlib is missing. ValueError: no points.
    """
    try:
        from matplotlib.figure import Figure  # not pyplot: no global state, no display
    except ImportError as e:
        raise missing_extra("matplotlib", "viz", "the picture of a study") from e
    if not points:
        raise ValueError("a study without a single result has no picture")
    names = list(dict.fromkeys(point.name for point in points))
    figure = Figure(figsize=(13.5, 5.6), dpi=130, facecolor=PAPER)
    left, right = figure.subplots(1, 2, sharey=True)
    aside = 2 ** (0.03 * (np.arange(len(names)) - (len(names) - 1) / 2))  # intervals at one budget side by side
    figure.subplots_adjust(left=0.06, right=0.905, top=0.9, bottom=0.12, wspace=0.34)
    ends: dict[str, list[tuple[float, float]]] = {"tokens": [], "seconds": []}
    for axes, what in ((left, "tokens"), (right, "seconds")):
        axes.set_facecolor(PAPER)
        axes.set_xscale("log", base=2 if what == "tokens" else 10)
        for number, name in enumerate(names):
            line = sorted((p for p in points if p.name == name), key=lambda p: (p.tokens, p.seconds))
            x = [getattr(p, what) * (aside[number] if what == "tokens" else 1) for p in line]
            y = np.array([[p.accuracy, p.low, p.high] for p in line]).T * 100
            axes.errorbar(
                x, y[0], yerr=np.abs(y[1:] - y[0]), color=COLOURS[number % len(COLOURS)],
                marker=MARKERS[number % len(MARKERS)], ms=5.5, lw=1.7, elinewidth=0.9, capsize=2.5,
                ls="--" if name in dashed else "-",
            )  # fmt: skip
            ends[what].append((x[-1], y[0][-1]))
        if chance is not None:
            axes.axhline(100 * chance, color=SOFT, lw=1, ls=":")
        axes.set_xlabel("tokens a clip" if what == "tokens" else "seconds a clip, reading and encoding")
        _bare(axes)
    for axes, what in ((left, "tokens"), (right, "seconds")):
        _widen(axes, [getattr(p, what) for p in points])
    ticks = _token_ticks([round(p.tokens) for p in points])
    left.set_xticks(ticks, [f"{t:,}" for t in ticks])
    left.minorticks_off()
    _seconds_ticks(right)
    left.set_ylabel(measure)
    low, high = left.get_ylim()
    left.set_ylim(max(low, 0 if low > -5 else low), high + 0.03 * (high - low))
    colours = [COLOURS[number % len(COLOURS)] for number in range(len(names))]
    for axes, what in ((left, "tokens"), (right, "seconds")):
        shown = [*zip(names, ends[what], colours, strict=True)]
        if chance is not None:
            shown.append(("chance", (axes.get_xlim()[1], 100 * chance), SOFT))
        _name_lines(axes, shown)
    figure.suptitle(title, x=0.06, ha="left", color=INK, fontsize=13)
    return figure


def spread(levels: Sequence[float], gap: float) -> list[float]:
    """Positions in 0..1, in the order of `levels` and `gap` apart (less if they cannot fit), moved least."""
    gap = min(gap, 1 / max(len(levels) - 1, 1))
    order = np.argsort(np.asarray(levels, float), kind="stable")
    groups: list[list[float]] = []  # what touches moves as one: [mean of level - rank * gap, how many]
    for rank, i in enumerate(order):
        groups.append([levels[i] - rank * gap, 1])
        while len(groups) > 1 and groups[-2][0] >= groups[-1][0]:
            (high, more), (low, count) = groups.pop(), groups.pop()
            groups.append([(low * count + high * more) / (count + more), count + more])
    flat = [mean for mean, count in groups for _ in range(int(count))]
    top = 1 - (len(levels) - 1) * gap
    out = [0.0] * len(levels)
    for rank, i in enumerate(order):
        out[i] = min(max(flat[rank], 0.0), top) + rank * gap
    return out


def _name_lines(axes: Axes, shown: Sequence[tuple[str, tuple[float, float], str]]) -> None:
    """(name, end of its line, colour): each name right of the panel near that height, with a thin leader to the end."""
    low, high = axes.get_ylim()
    heights = spread([(y - low) / (high - low) for _, (_, y), _ in shown], _LABEL_GAP)
    for (name, end, colour), height in zip(shown, heights, strict=True):
        axes.annotate(
            name, end, xytext=(1.03, height), textcoords="axes fraction", color=colour, fontsize=9, va="center",
            arrowprops={"arrowstyle": "-", "color": colour, "lw": 0.6, "alpha": 0.55, "shrinkA": 0, "shrinkB": 4},
            annotation_clip=False,
        )  # fmt: skip


def _bare(axes: Axes) -> None:
    axes.spines[:].set_visible(False)
    axes.tick_params(colors=SOFT, labelsize=9, length=0, which="both", labelleft=True)
    axes.xaxis.label.set_color(SOFT)
    axes.yaxis.label.set_color(SOFT)
    axes.grid(axis="both", color=_GRID, lw=0.8)
    axes.set_axisbelow(True)


def _widen(axes: Axes, values: Sequence[float]) -> None:
    """At least a factor of two on either side of the middle: one budget is no reason to magnify."""
    low, high = min(values), max(values)
    if high < 4 * low:
        middle = (low * high) ** 0.5
        axes.set_xlim(middle / 2, middle * 2)


def _token_ticks(tokens: Sequence[int]) -> list[int]:
    """Counts that occur, the commonest first, as long as their labels stay half an octave apart."""
    kept: list[int] = []
    for count, _ in sorted(Counter(tokens).items(), key=lambda item: (-item[1], item[0])):
        if all(max(count, other) >= 2**0.5 * min(count, other) for other in kept):
            kept.append(count)
    return sorted(kept)


def _seconds_ticks(axes: Axes) -> None:
    """1, 2 and 5 of every decade that the data touch, in plain numbers."""
    low, high = axes.get_xlim()
    steps = [m * 10.0**k for k in range(-5, 5) for m in (1, 2, 5)]
    shown = [s for s in steps if low <= s <= high]
    axes.set_xticks(shown, [f"{s:g}" for s in shown])
    axes.minorticks_off()
