"""`ov-encoder probe` on pictures of two colours: table, JSON, picture, what was left out, shards, what it refuses."""

import json

import numpy as np
import pytest
from PIL import Image

from ov_encoder.bundled import DEFAULT
from ov_encoder.cli import main

QUICK = ("--size", "42", "42", "--epochs", "1", "--workers", "1", "--device", "cpu")


@pytest.fixture(scope="module")
def pictures(tmp_path_factory):
    """Twelve to train on and eight to validate on; one is cut off, one is not there."""
    folder = tmp_path_factory.mktemp("pictures")
    rows = ["path,label,split,shade"]
    for i in range(20):
        random = np.random.default_rng(i)
        pixels = random.integers(0, 60, (42, 42, 3), dtype=np.uint8)
        pixels[..., i % 2] += 150
        Image.fromarray(pixels).save(folder / f"{i:02d}.png")
        rows.append(f"{i:02d}.png,{('red', 'green')[i % 2]},{'train' if i < 12 else 'test'},{('a', 'b', 'c')[i % 3]}")
    (folder / "03.png").write_bytes((folder / "03.png").read_bytes()[:60])
    (folder / "13.png").unlink()
    (folder / "labels.csv").write_text("\n".join(rows) + "\n")
    return folder


def probe(*arguments):
    return main(["probe", *map(str, arguments)])


def test_table_json_picture_and_what_was_left_out(pictures, tmp_path, capsys):
    arguments = ("--data", pictures, "-o", tmp_path, *QUICK, "--probes", "knn", "linear", "attentive", "--seeds", 2)
    assert probe(*arguments, "--baselines", "pixels", "meta") == 1  # two pictures are left out
    text = capsys.readouterr().out
    assert "12 train, 8 validate (splits 'train' and 'test')" in text
    assert text.count("left out: 03.png: error: ") == 3 and "left out: 13.png: error: " in text
    report = json.loads((tmp_path / "probe.json").read_text())
    assert set(report["features"]) == {DEFAULT, "pixels", "meta"} and set(report["skipped"][DEFAULT]) == {
        "03.png",
        "13.png",
    }
    ours = report["features"][DEFAULT]
    assert (ours["train"], ours["validation"], ours["classes"]) == (11, 7, ["green", "red"])
    assert [p["probe"] for p in ours["probes"]] == ["knn", "linear", "attentive"]
    assert ours["probes"][0]["chosen"]["top1"]["value"] == 1  # colours are not hard
    assert [s["seed"] for s in ours["probes"][1]["seeds"]] == [0, 1]
    assert ours["cost"]["tokens"] == 9 and ours["run"]["options"]["reader"] == "ReadPatches"
    assert report["config"]["seeds"] == 2 and "torch" in report["versions"]
    with Image.open(tmp_path / "probe.png") as picture:
        assert picture.size[0] > 1000
    capsys.readouterr()
    before = {p: p.stat().st_mtime_ns for p in tmp_path.rglob("*.safetensors")}
    assert probe(*arguments[:-2], "--seeds", 1, "--label", "shade") == 1  # other labels, the same features
    assert {p: p.stat().st_mtime_ns for p in tmp_path.rglob("*.safetensors")} == before
    again = json.loads((tmp_path / "probe.json").read_text())
    assert again["features"][DEFAULT]["classes"] == ["a", "b", "c"]


def test_shards_on_several_machines(pictures, tmp_path, capsys):
    arguments = ("--data", pictures, "-o", tmp_path, *QUICK, "--probes", "knn")
    assert probe(*arguments, "--shard", "1/2") == 0  # 20 samples are one block, which is the other's
    assert "shard 1/2 is done; other shards are not" in capsys.readouterr().out
    assert not (tmp_path / "probe.json").exists()
    assert probe(*arguments, "--shard", "0/2") == 1
    assert (tmp_path / "probe.json").exists()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--seeds", 0), "seeds=0"),
        (("--shots", 0), "shots=0"),
        (("--shard", "2/2"), "shard='2/2'; must be I/N"),
        (("--shard", "x"), "shard='x'; must be I/N"),
        (("--probes", "--seeds", 1), "no probes"),
        (("--val-split", "dev"), "no samples in split 'dev'; there are test: 8, train: 12"),
        (("--label", "hue"), "no column 'hue'"),
        (("--baselines", "pixel"), "unknown baseline 'pixel'"),
        (("--baselines", "pixels", "pixels"), "have one name"),
        (("--patch", 16), f"patch=16, but {DEFAULT} takes patches of 14 pixels"),
    ],
)
def test_wrong_arguments_are_one_line(pictures, tmp_path, capsys, arguments, message):
    assert probe("--data", pictures, "-o", tmp_path, *QUICK, *arguments) in (1, 2)
    error = capsys.readouterr().err.splitlines()[-1]
    assert error.startswith("error: ") and message in error
    assert not list(tmp_path.rglob("*.safetensors"))
