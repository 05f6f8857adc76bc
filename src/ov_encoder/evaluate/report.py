"""What a study says: rows for the console, a Markdown page, JSON. Numbers come in as they were measured.

A result is one cell as `study` writes it: name, kind, budget, cost, and for every probe its metrics (see `metrics`).
"""

from __future__ import annotations

import io
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from ov_encoder.data.folder import RUN, write_atomically
from ov_encoder.evaluate.chart import Point, plot_study

FORMAT = "ov-encoder.study/1"
_HOW = (
    "Tokens, operations, milliseconds of reading and encoding and peak memory are those of one clip, measured alone "
    "(medians). 95 %: interval for other clips of the same source; seeds: half of the 95 % interval of the mean over "
    "seeds of the probe. To the first: difference to the first name at the same budget on the same samples, with its "
    "paired 95 % interval."
)
RIGHT = (1, 2, 3, 4, 5, 6, 7)  # columns of numbers
MEASURES = {"top1": "top-1", "top5": "top-5", "mean_class": "mean per class", "map": "mAP"}


def main_metric(results: Sequence[dict[str, Any]], probe: str) -> str:
    """mAP where samples have several labels, else top-1."""
    for result in results:
        if probe in result["probes"]:
            return "map" if "map" in result["probes"][probe]["metrics"] else "top1"
    return "top1"


def table(results: Sequence[dict[str, Any]], probe: str) -> tuple[list[str], list[list[str]]]:
    """Header and rows of one probe, in the order of the results. Cells without it are left out."""
    metric = main_metric(results, probe)
    header = ["features", "budget", "tokens", "GFLOP", "read ms", "encode ms", "peak MB", f"{MEASURES[metric]} %"]
    header += ["95 %", "seeds", "to the first"]
    rows = []
    for result in results:
        if probe in result["probes"]:
            found, cost = result["probes"][probe], result["cost"]
            estimate = found["metrics"][metric]
            rows.append(
                [
                    result["name"],
                    "" if result["budget"] is None else f"{result['budget']}",
                    f"{cost['tokens']:,.0f}",
                    f"{cost['gflop']:,.1f}",
                    f"{1e3 * cost['read_s']:,.0f}",
                    f"{1e3 * cost['encode_s']:,.0f}",
                    _peak(cost),
                    f"{100 * estimate['value']:.1f}",
                    "{:.0f}-{:.0f}".format(*(100 * end for end in estimate["samples"])),
                    "" if estimate["seeds"] is None else f"±{100 * (estimate['seeds'][1] - estimate['value']):.1f}",
                    _difference(found["difference"]),
                ]
            )
    return header, rows


def points(results: Sequence[dict[str, Any]], probe: str) -> list[Point]:
    """What the picture of one probe shows: the interval over samples, the seconds of reading and encoding."""
    metric = main_metric(results, probe)
    out = []
    for result in results:
        if probe in result["probes"]:
            estimate, cost = result["probes"][probe]["metrics"][metric], result["cost"]
            seconds = cost["read_s"] + cost["encode_s"]
            out.append(Point(result["name"], cost["tokens"], seconds, estimate["value"], *estimate["samples"]))
    return out


def markdown(results: Sequence[dict[str, Any]], heading: str, probes: Sequence[str]) -> str:
    """The page: what was compared, a table and a picture a probe, what could not be done and what was left out."""
    lines = [f"# {heading}", "", _HOW, ""]
    for probe in probes:
        header, rows = table(results, probe)
        lines += [f"## {probe}", "", "| " + " | ".join(header) + " |"]
        lines += ["|" + "|".join(" ---: " if i in RIGHT else " --- " for i in range(len(header))) + "|"]
        lines += ["| " + " | ".join(row) + " |" for row in rows] + [""]
        lines += [f"![{probe}](study-{probe}.png)", ""] if rows else []
    if troubles := trouble(results):
        lines += ["## What to know", "", *(f"- {line}" for line in troubles), ""]
    return "\n".join(lines)


def trouble(results: Sequence[dict[str, Any]]) -> list[str]:
    """A line for every cell that could not be done, for samples that failed, and what a task notes."""
    lines: list[str] = []
    for result in results:
        where = result["name"] + ("" if result["budget"] is None else f" at {result['budget']}")
        if result["impossible"]:
            lines.append(f"{where}: not possible: {result['impossible']}")
        elif result["failures"]:
            name, reason = next(iter(result["failures"].items()))
            lines.append(f"{where}: {len(result['failures'])} samples failed, first {name}: {reason}")
    notes = dict.fromkeys(note for result in results for note in result["notes"])
    return lines + list(notes)


def write(
    folder: Path,
    results: Sequence[dict[str, Any]],
    *,
    data: str,
    label: str,
    model: str,
    seeds: int,
    probes: Sequence[str],
) -> list[Path]:
    """study.json, study.md and a picture for each probe; returns their paths. data, label, model: for the headings.

    Raises:
        OvEncoderError: matplotlib is missing.
    """
    what = data if label == "label" else f"{data} ({label})"
    short = Path(model).name  # of a folder or hub id; study.json has it whole
    run = json.loads((folder / RUN).read_text())
    study = {"format": FORMAT, "data": data, "label": label, "model": model, "seeds": seeds, "probes": list(probes)}
    document = {**study, "run": run, "cells": list(results)}
    files = {"study.json": json.dumps(document, indent=1) + "\n"}
    files["study.md"] = markdown(results, f"{what}: frozen features of {short}, {seeds} seeds", probes)
    for name, text in files.items():
        write_atomically(folder / name, text.encode())
    for probe in probes:
        if shown := points(results, probe):
            metric = MEASURES[main_metric(results, probe)]
            floors = [result["name"] for result in results if result["kind"] == "baseline"]
            chance = next(result["chance"] for result in results if probe in result["probes"])
            title = f"{what}: {probe} probe on frozen features of {short}"
            picture = io.BytesIO()
            figure = plot_study(shown, title=title, measure=f"{metric} %", chance=chance, dashed=floors)
            figure.savefig(picture, format="png")
            write_atomically(folder / f"study-{probe}.png", picture.getvalue())
            files[f"study-{probe}.png"] = ""
    return [folder / name for name in files]


def _difference(found: dict[str, Any] | None) -> str:
    if found is None:
        return ""
    low, high = found["interval"]
    return f"{100 * found['value']:+.1f} ({100 * low:+.0f} to {100 * high:+.0f})"


def _peak(cost: dict[str, Any]) -> str:
    """Of the GPU where there is one: the host's is small then."""
    value = cost["peak_mb"] if cost["gpu_peak_mb"] is None else cost["gpu_peak_mb"]
    return "" if value is None else f"{value:,.0f}"
