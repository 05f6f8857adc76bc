"""Curves about a stream, drawn with matplotlib (extra `viz`). Pictures of frames are in `overlay`.

K = packets of a stream, in the order of their times.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from ov_encoder.codec.info import MediaInfo
from ov_encoder.errors import OvEncoderError, missing_extra
from ov_encoder.viz.overlay import ANCHOR, INK, PAPER, SHOT, SOFT

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_BARS = 1200  # more packets than this are drawn as the largest of each group


def curve(info: MediaInfo) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Seconds, bits and key flags of every packet, in order of time (of arrival where the stream has no times)."""
    times_K = info.packet_time_K
    if not np.isfinite(times_K).all():
        times_K = np.arange(len(times_K)) / (info.fps or 1.0)
    order = np.argsort(times_K, kind="stable")
    return times_K[order], info.packet_bits_K[order], info.packet_key_K[order]


def plot_bits(info: MediaInfo) -> Figure:
    """Bits of every frame over time with key frames marked, and the bit rate as a line of one-second means.

    Raises:
        OvEncoderError: matplotlib is missing, or the source has fewer than two packets to draw.
    """
    try:
        from matplotlib.figure import Figure  # not pyplot: no global state, no display
    except ImportError as e:
        raise missing_extra("matplotlib", "viz", "a plot") from e
    times_K, bits_K, key_K = curve(info)
    if len(bits_K) < 2:
        raise OvEncoderError(f"{info.name}: {len(bits_K)} packet(s), there is no curve to draw; give a video")
    figure = Figure(figsize=(11, 3.6), dpi=130, layout="constrained", facecolor=PAPER)
    axes = figure.add_subplot(facecolor=PAPER)
    group = -(-len(bits_K) // _BARS)
    starts = np.arange(0, len(bits_K), group)
    top_K = np.maximum.reduceat(bits_K, starts) / 1e3
    has_key_K = np.logical_or.reduceat(key_K, starts)
    every_key = bool(key_K.all())
    few = len(starts) < 400
    for chosen, colour, label in ((~has_key_K, SHOT, "other frames"), (has_key_K, ANCHOR, "key frames")):
        if chosen.any():
            axes.vlines(times_K[starts][chosen], 0, top_K[chosen], color=colour, label=label, lw=2.0 if few else 1.0)
    if not every_key:
        axes.plot(times_K[starts][has_key_K], top_K[has_key_K], "o", color=ANCHOR, ms=4)
    axes.set_xlabel("seconds")
    axes.set_ylabel("kbit per frame" if group == 1 else f"kbit, largest of {group} frames")
    axes.set_ylim(0)
    axes.margins(x=0.01)
    rate, at = bit_rate(times_K, bits_K)
    right = axes.twinx()
    right.step(at, rate, where="post", color=INK, lw=1.2, label="bit rate")
    right.set_ylabel("kbit/s")
    right.set_ylim(0, float(rate.max()) * 1.35)
    for side in (axes, right):
        side.spines[:].set_visible(False)
        side.tick_params(colors=SOFT, labelsize=9)
        side.xaxis.label.set_color(SOFT)
        side.yaxis.label.set_color(SOFT)
    axes.grid(axis="y", color="#e6e2d8", lw=0.8)
    axes.set_axisbelow(True)
    name = Path(info.name).name or info.name
    axes.set_title(f"{name}   {info.codec} {info.width}x{info.height}", loc="left", color=INK, fontsize=12, pad=26)
    lines, labels = axes.get_legend_handles_labels()
    more, more_labels = right.get_legend_handles_labels()
    axes.legend(
        lines + more, labels + more_labels, loc="lower left", bbox_to_anchor=(-0.01, 1.0), ncols=3,
        frameon=False, fontsize=9, labelcolor=SOFT,
    )  # fmt: skip
    return figure


def bit_rate(times_K: np.ndarray, bits_K: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Mean kbit/s in equal spans of about a second (at most 200), and where each span starts, in seconds.

    The last entry repeats, so that a step plot reaches the end.
    """
    step = (times_K[-1] - times_K[0]) / max(len(times_K) - 1, 1) or 1.0
    length = times_K[-1] - times_K[0] + step  # the last frame lasts as long as the others
    spans = int(np.clip(round(length), 1, 200))
    edges = times_K[0] + np.linspace(0, length, spans + 1)
    sums, _ = np.histogram(times_K, bins=edges, weights=bits_K)
    rate = sums / (length / spans) / 1e3
    return np.append(rate, rate[-1]), edges
