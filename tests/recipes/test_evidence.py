"""Tables of evidence.py from studies that are there: which cells are compared, and what their differences are."""

import json

import pytest


def cell(right):
    probe = {"right": right, "metrics": {"top1": {"value": sum(right.values()) / len(right), "samples": [0.0, 1.0]}}}
    return {"probes": {"knn": probe, "linear": probe}}


def test_differences_are_of_the_same_clips(tmp_path):
    import evidence

    ours = {str(i): 1.0 for i in range(8)}
    found = {
        "ours": {"fused@72": cell(ours)},
        "untrained": {"fused@72": cell({name: 0.0 for name in ours})},
        "networks": {
            "pixels@648": cell({name: float(int(name) % 2) for name in ours}),
            "codec@all": cell(ours),
            "efficientnet@648": cell(ours),
        },
    }
    asked = []

    def run(name, folder, *arguments):
        asked.append((name, folder, arguments[arguments.index("--budgets") + 1]))
        place = tmp_path / folder / "cells"
        place.mkdir(parents=True)
        for file, content in found[folder].items():
            (place / f"{file}.json").write_text(json.dumps(content))
        return evidence.cells(place.parent)

    row = evidence.floors({"signs": "unused"}, "model", run)[-2].strip("| ").split(" | ")
    assert asked == [("signs", "ours", "72"), ("signs", "untrained", "72"), ("signs", "networks", "648")]
    assert row[:6] == ["signs", "100.0 / 100.0", "0.0 / 0.0", "50.0 / 50.0", "100.0 / 100.0", "100.0 / 100.0"]
    assert row[6] == "+100.0 [+100.0, +100.0] / +100.0 [+100.0, +100.0]"
    low, high = (float(v) for v in row[7].split("[")[1].split("]")[0].split(", "))
    assert row[7].startswith("+50.0 [") and 0 < low < 50 < high < 100
    assert row[8] == "+0.0 [+0.0, +0.0] / +0.0 [+0.0, +0.0]"


def test_every_figure_is_written_down(tmp_path):
    import evidence

    for study, file in (("ours", "fused@72"), ("option1", "fused@72")):
        (tmp_path / "signs" / study / "cells").mkdir(parents=True)
        (tmp_path / "signs" / study / "run.json").write_text('{"machine": "this one", "versions": {"av": "18"}}')
        (tmp_path / "signs" / study / f"cells/{file}.json").write_text(json.dumps(cell({"a": 1.0, "b": 0.0})))
    figures = {"knn": [0.5, 0.0, 1.0], "linear": [0.5, 0.0, 1.0]}
    assert evidence.record(tmp_path, ["signs"]) == {
        "machine": "this one",
        "versions": {"av": "18"},
        "sets": {"signs": {"no whole frame": {"fused@72": figures}, "ours": {"fused@72": figures}}},
    }


def test_a_set_that_is_not_there_is_named(tmp_path):
    import evidence

    with pytest.raises(ValueError, match="signs; not among the sets: robots"):
        evidence.main(tmp_path, model=tmp_path, sets=(f"robots:{tmp_path}",), study=("signs",))
