"""What `probe` says: rows for the console, a JSON document, a picture. Numbers come in as they were measured.

Shapes: N = validation samples, C = classes.
"""

from __future__ import annotations

import platform
from collections.abc import Mapping, Sequence
from importlib.metadata import version
from typing import TYPE_CHECKING, Any

import numpy as np

from ov_encoder.errors import missing_extra
from ov_encoder.evaluate.metrics import confusion
from ov_encoder.evaluate.protocol import ProbeResult, Task
from ov_encoder.viz.overlay import ANCHOR, INK, PAPER, SHOT, SOFT

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

FORMAT = "ov-encoder.probe/1"
NAMES = {"top1": "top-1", "top5": "top-5", "mean_class": "class", "map": "mAP"}
LEGEND = "percent; samples, seeds: 95 % intervals; class: mean per class; last, chosen: at these stopping points"
_MATRIX = 20  # classes whose confusion can be read

Results = Mapping[str, Sequence[ProbeResult]]  # name of a featurizer -> its probes


def table(results: Results) -> tuple[list[str], list[list[str]]]:
    """Header and rows: what is quoted with both intervals, and the other stopping point beside it."""
    some = next(iter(results.values()))[0]
    main, *others = some.best
    header = ["features", "probe", NAMES[main], "samples", "seeds", *(NAMES[name] for name in others), "last", "chosen"]
    rows = []
    for name, probes in results.items():
        for r in probes:
            quoted = r.best[main]
            rest = [_percent(r.best[other].value) for other in others]
            both = [_percent(r.last[main].value), _percent(r.chosen[main].value)]
            row = [name, r.probe, _percent(quoted.value), _interval(quoted.samples), _interval(quoted.seeds)]
            rows.append([*row, *rest, *both])
    return header, rows


def document(
    results: Results,
    tasks: Mapping[str, Task],
    *,
    config: Mapping[str, Any],
    runs: Mapping[str, Any],
    costs: Mapping[str, Any],
) -> dict[str, Any]:
    """Everything needed to quote or repeat the numbers, JSON-able. runs: run.json of each cache."""
    packages = ("ov-encoder", "torch", "numpy", "av")
    out: dict[str, Any] = {
        "format": FORMAT,
        "config": dict(config),
        "versions": {"python": platform.python_version()} | {package: version(package) for package in packages},
        "machine": platform.platform(),
        "features": {},
    }
    for name, probes in results.items():
        task = tasks[name]
        out["features"][name] = {
            "run": runs[name],
            "cost": costs[name],
            "train": len(task.train_ids),
            "validation": len(task.val_ids),
            "classes": task.classes,
            "chance": task.chance,
            "notes": task.notes,
            "skipped": task.skipped,
            "probes": [result.to_dict() for result in probes],
        }
    return out


def plot_probes(results: Results, tasks: Mapping[str, Task], *, title: str) -> Figure:
    """The quoted metric of every probe with its intervals; for up to 20 classes a confusion matrix beside it.

    The matrix is of the first features' best probe, all seeds. Thin line: 95 % over samples, thick: over seeds.

    Raises:
        OvEncoderError: matplotlib is missing.
    """
    try:
        from matplotlib.figure import Figure  # not pyplot: no global state, no display
    except ImportError as e:
        raise missing_extra("matplotlib", "viz", "the picture of a probe") from e
    first = next(iter(results))
    task = tasks[first]
    matrix = len(task.classes) <= _MATRIX and not task.multi
    bars = sum(map(len, results.values()))
    height = max(3.2, 1.6 + 0.42 * bars, 5.2 if matrix else 0)
    figure = Figure(figsize=(12.5 if matrix else 8, height), dpi=130, facecolor=PAPER, layout="constrained")
    axes = figure.subplots(1, 2 if matrix else 1, squeeze=False, width_ratios=[1.15, 1] if matrix else None)[0]
    _draw_bars(axes[0], results, task.chance)
    if matrix:
        best = max(results[first], key=lambda r: next(iter(r.best.values())).value)
        y_N = task.val_targets_NC.numpy().argmax(axis=1)
        counts_CC = np.sum([confusion(scores_NC, y_N) for scores_NC in best.scores_SNC], axis=0)
        _draw_matrix(axes[1], counts_CC, task.classes)
        axes[1].set_title(f"{first}, {best.probe}: share of each true class, %", loc="left", color=INK, fontsize=10)
    figure.suptitle(title, x=0.01, ha="left", color=INK, fontsize=12)
    return figure


def _draw_bars(axes: Axes, results: Results, chance: float) -> None:
    axes.set_facecolor(PAPER)
    labels, y, metric = [], 0.0, ""
    for name, probes in results.items():
        for r in probes:
            metric, estimate = next(iter(r.best.items()))
            low, high = (100 * v for v in estimate.samples)
            axes.plot([low, high], [y, y], color=SHOT, lw=1.6, solid_capstyle="butt")
            if estimate.seeds:
                low, high = (100 * v for v in estimate.seeds)
                axes.plot([low, high], [y, y], color=ANCHOR, lw=5, alpha=0.5, solid_capstyle="butt")
            axes.plot(100 * estimate.value, y, "o", color=INK, ms=6)
            axes.annotate(
                _percent(estimate.value), (100 * estimate.value, y), xytext=(0, 7), textcoords="offset points",
                color=INK, fontsize=8, ha="center",
            )  # fmt: skip
            labels.append((y, f"{name}  {r.probe}"))
            y += 1
        y += 0.5
    axes.axvline(100 * chance, color=SOFT, lw=1, ls=":")
    axes.annotate(
        " chance", (100 * chance, 0.01), xycoords=("data", "axes fraction"), color=SOFT, fontsize=8, va="bottom"
    )
    axes.set_yticks([at for at, _ in labels], [text for _, text in labels])
    axes.set_ylim(y - 0.6, -0.9)
    axes.set_xlabel(f"{NAMES[metric]} %   (thin: 95 % over samples, thick: over seeds)", color=SOFT)
    low, high = axes.get_xlim()
    axes.set_xlim(max(low, -2), min(high, 102))
    axes.spines[:].set_visible(False)
    axes.tick_params(colors=SOFT, labelsize=9, length=0)
    axes.grid(axis="x", color="#e6e2d8", lw=0.8)
    axes.set_axisbelow(True)


def _draw_matrix(axes: Axes, counts_CC: np.ndarray, classes: Sequence[str]) -> None:
    shares_CC = counts_CC / np.maximum(counts_CC.sum(axis=1, keepdims=True), 1)
    axes.imshow(shares_CC, cmap="Greys", vmin=0, vmax=1.15)
    C = len(classes)
    for row in range(C):
        for column in range(C):
            if C <= 12 and counts_CC[row, column]:
                share = shares_CC[row, column]
                axes.text(
                    column, row, f"{100 * share:.0f}", ha="center", va="center", fontsize=8,
                    color=PAPER if share > 0.55 else INK,
                )  # fmt: skip
    short = [name if len(name) <= 18 else name[:17] + "…" for name in classes]
    axes.set_xticks(range(C), short, rotation=45 if C > 4 else 0, ha="right" if C > 4 else "center")
    axes.set_yticks(range(C), short)
    axes.set_xlabel("said", color=SOFT)
    axes.set_ylabel("true", color=SOFT)
    axes.tick_params(colors=SOFT, labelsize=8, length=0)
    axes.spines[:].set_visible(False)


def _percent(share: float) -> str:
    return f"{100 * share:.1f}"


def _interval(interval: Sequence[float] | None) -> str:
    return "" if interval is None else "-".join(_percent(v) for v in interval)
