"""What the bundled model can do on sets that training never saw: floors, ceilings, policies and options.

    python recipes/bundle/evidence.py OUT --model DIR --sets signs:DIR robots:DIR ants:DIR ... [--study signs robots]

Three tables, printed and written to OUT/evidence.md, and all figures in OUT/evidence.json; all cells by `ov-encoder
study`, which goes on where it stopped:

floors     our encoder beside an untrained one, pixels, codec statistics and EfficientNet, with paired differences
policies   selection policies x budgets on the sets of --study (their plots lie in OUT/SET/policies)
options    one change of how patches are chosen at a time, beside the default, on the sets of --study

Accuracies are top-1 in percent, nearest neighbours / linear probe (mean of 3 seeds). A difference is of the same clips,
with its paired 95 % interval, in points.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import tyro

from ov_encoder.cli import main as ov_encoder
from ov_encoder.data.folder import write_atomically
from ov_encoder.errors import OvEncoderError
from ov_encoder.evaluate.paired import paired_difference

PROBES = ("knn", "linear")
SLOTS, SIDE = 16, 84  # as in training: 36 patches a slot, 576 a clip
BUDGET = 72  # as in training: 12.5 %
FRAMES_OF_NETWORKS = 648  # tokens: 8 frames of EfficientNet-Lite2
BUDGETS = "18,36,72,144"  # 3.1, 6.25, 12.5 and 25 %
POLICIES = "fused,motion,residual,bits,uniform,random,difference"
OPTIONS = {
    "default": (),
    "no whole frame": ("--anchors", "0"),
    "two whole frames": ("--anchors", "2"),
    "signals of the slot's own frame": ("--accumulate", "frame"),
    "one scale a frame": ("--normalise", "frame"),
    "camera not removed": ("--camera", "none"),
}
Row = dict[str, dict]  # probe -> what the study found


def main(
    out: tyro.conf.Positional[Path],
    *,
    model: Path,
    sets: tuple[str, ...],
    study: tuple[str, ...] = (),
    seeds: int = 3,
    workers: int = 1,
) -> int:
    """Fill the tables. Give the same command again after a kill.

    Args:
        out: Folder for everything.
        model: Directory of the encoder.
        sets: As NAME:DIR, DIR with a manifest whose splits are train and test.
        study: Names of the sets for the tables of policies and options.
        seeds: Of the probes that are trained.
        workers: Processes that read.
    """
    places = dict(text.split(":", 1) for text in sets)
    if unknown := set(study) - set(places):
        raise ValueError(f"study={min(unknown)}; not among the sets: {', '.join(places)}")

    def run(name: str, folder: str, *arguments: str) -> dict[str, Row]:
        place = out / name / folder
        common = ["--data", places[name], "-o", str(place), "--probes", *PROBES, "--seeds", str(seeds)]
        common += ["--frames", str(SLOTS), "--size", str(SIDE), str(SIDE), "--workers", str(workers)]
        if "--anchors" not in arguments:
            common += ["--anchors", "1"]
        if code := ov_encoder(("study", *common, *arguments)):
            raise OvEncoderError(f"{place}: the study ended with {code}")
        return cells(place)

    text = [f"Model: {model.name}. {__doc__.split(chr(10) * 2)[-1].strip()}", ""]
    text += floors(places, str(model), run)
    for name in study:
        run(name, "policies", "--model", str(model), "--policies", POLICIES + ",dense", "--budgets", BUDGETS)
        text += [f"### {name}: policies x budgets", "", (out / name / "policies/study.md").read_text(), ""]
    if study:
        text += options(study, str(model), run)
    write_atomically(out / "evidence.md", "\n".join(text).encode())
    write_atomically(out / "evidence.json", (json.dumps(record(out, places), indent=1) + "\n").encode())
    print("\n".join(text))
    return 0


def cells(study: Path) -> dict[str, Row]:
    """What a finished study found: "NAME@BUDGET" -> probe -> metrics and which samples were right."""
    found = {p.stem: json.loads(p.read_text()) for p in sorted((study / "cells").glob("*.json"))}
    return {name: cell["probes"] for name, cell in found.items()}


def record(out: Path, names: Iterable[str]) -> dict[str, Any]:
    """Set -> study -> "NAME@TOKENS" -> probe -> [top-1, its 95 % interval], and where that was measured."""
    changed = {f"option{number}": option for number, option in enumerate(OPTIONS)}
    sets: dict[str, Any] = {}
    about: dict[str, Any] = {}
    for name in names:
        for study in sorted(path.parent for path in (out / name).glob("*/cells")):
            label = changed.get(study.name, study.name)
            sets.setdefault(name, {})[label] = {cell: _figures(row) for cell, row in cells(study).items() if row}
            about = json.loads((study / "run.json").read_text())
    return {"machine": about["machine"], "versions": about["versions"], "sets": sets}


def _figures(row: Row) -> dict[str, list[float]]:
    top = {probe: found["metrics"]["top1"] for probe, found in row.items()}
    return {probe: [round(x, 4) for x in (t["value"], *t["samples"])] for probe, t in top.items()}


def floors(places: dict[str, str], model: str, run) -> list[str]:
    """Ours beside what it has to beat, and beside what it would like to."""
    lines = ["### Floors", "", "| set | ours | untrained | pixels | codec | EfficientNet | ours - untrained | "
             "ours - pixels | ours - EfficientNet |", "|" + "---|" * 9]  # fmt: skip
    for name in places:
        ours = run(name, "ours", "--model", model, "--policies", "fused", "--budgets", str(BUDGET))
        untrained = run(name, "untrained", "--model", "tiny", "--policies", "fused", "--budgets", str(BUDGET))
        others = run(name, "networks", "--model", "tiny", "--policies", "--baselines", "pixels,codec,efficientnet",
                     "--budgets", str(FRAMES_OF_NETWORKS))  # fmt: skip
        us, un = next(iter(ours.values())), next(iter(untrained.values()))
        pixels, codec, net = (next((v for k, v in others.items() if k.startswith(n)), None) for n in
                              ("pixels", "codec", "efficientnet"))  # fmt: skip
        row = [name, *map(accuracy, (us, un, pixels, codec, net)), *(minus(us, o) for o in (un, pixels, net))]
        lines.append("| " + " | ".join(row) + " |")
    return [*lines, ""]


def options(names: tuple[str, ...], model: str, run) -> list[str]:
    """One option changed at a time."""
    lines = ["### Options", "", "| set | " + " | ".join(OPTIONS) + " |", "|" + "---|" * (1 + len(OPTIONS))]
    for name in names:
        rows = []
        for number, arguments in enumerate(OPTIONS.values()):
            found = run(name, f"option{number}", "--model", model, "--policies", "fused", "--budgets", str(BUDGET),
                        *arguments)  # fmt: skip
            rows.append(next(iter(found.values())))
        first, *rest = rows
        cells = [accuracy(first), *(f"{accuracy(row)} ({minus(row, first)})" for row in rest)]
        lines.append("| " + " | ".join([name, *cells]) + " |")
    return [*lines, ""]


def accuracy(row: Row | None) -> str:
    """Nearest neighbours / linear, in percent."""
    if row is None:
        return "-"
    return " / ".join(f"{100 * row[p]['metrics']['top1']['value']:.1f}" for p in PROBES)


def minus(row: Row, other: Row | None) -> str:
    """Differences with intervals, in points."""
    if other is None:
        return "-"
    found = [paired_difference(row[p]["right"], other[p]["right"]) for p in PROBES]
    return " / ".join(
        "-" if d is None else f"{100 * d.value:+.1f} [{100 * d.interval[0]:+.1f}, {100 * d.interval[1]:+.1f}]"
        for d in found
    )


if __name__ == "__main__":
    try:
        sys.exit(tyro.cli(main))
    except (ValueError, OvEncoderError) as e:
        sys.exit(f"error: {e}")
