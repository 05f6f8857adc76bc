"""pretrain and export as a person calls them; kill -9 in the middle and again to the end."""

import json
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch

import ov_encoder as ov
from ov_encoder.cli import main
from ov_encoder.cli.pretrain import _source
from ov_encoder.train import checkpoint
from ov_encoder.train.config import DataConfig
from tests.train.small import make_set

RECIPE = """
from dataclasses import replace
from pathlib import Path
from tests.train.small import small_config

def recipe():
    config = small_config(Path("."))
    optim = replace(config.optim, steps=24)
    return replace(config, data=(), cache="auto", optim=optim, loop=replace(config.loop, save_every=8, workers=WORKERS))
"""


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    place = tmp_path_factory.mktemp("pretrain")
    make_set(place / "set")
    (place / "recipe.py").write_text(RECIPE.replace("WORKERS", "0"))
    (place / "workers.py").write_text(RECIPE.replace("WORKERS", "1"))
    return place


def tensors(run: Path) -> dict[str, torch.Tensor]:
    path, about = checkpoint.newest(run / "checkpoints")
    assert about["step"] == 24
    return {prefix + name: x for prefix in ("model.", "optimizer.", "heads.", "average.")
            for name, x in checkpoint.read_tensors(path, prefix).items()}  # fmt: skip


def test_killed_in_the_middle_it_ends_the_same(place, capsys):
    """kill -9 with a worker at work after the first checkpoint; the same command goes on, to the same bits."""
    arguments = ["--data", str(place / "set"), "--device", "cpu"]
    command = [sys.executable, "-c", "import sys; from ov_encoder.cli import main; sys.exit(main())", "pretrain",
               f"{place / 'workers.py'}:recipe", *arguments, "--out", str(place / "killed")]  # fmt: skip
    env = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": os.pathsep.join([str(Path.cwd()), *sys.path])}
    process = subprocess.Popen(command, env=env, stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
    try:
        deadline = time.monotonic() + 120
        while not (place / "killed/checkpoints/step-00000008").exists():
            assert process.poll() is None, process.stdout.read().decode()
            assert time.monotonic() < deadline
            time.sleep(0.005)
    finally:
        process.send_signal(signal.SIGKILL)
        process.wait()
    assert not (place / "killed/checkpoints/step-00000024").exists()
    assert main(["pretrain", f"{place / 'workers.py'}:recipe", *arguments, "--out", str(place / "killed")]) == 0
    assert re.search(r"going on from step (8|16)\b", capsys.readouterr().out)
    assert main(["pretrain", f"{place / 'recipe.py'}:recipe", *arguments, "--out", str(place / "straight")]) == 0
    killed, straight = tensors(place / "killed"), tensors(place / "straight")
    assert killed.keys() == straight.keys()
    assert not [name for name in killed if not torch.equal(killed[name], straight[name])]
    steps = [json.loads(line)["step"] for line in (place / "killed/metrics.jsonl").read_text().splitlines()]
    assert steps == list(range(1, 25))


def test_a_run_says_what_it_does_and_exports(place, tmp_path, capsys):
    arguments = ["pretrain", f"{place / 'recipe.py'}:recipe", "--data", str(place / "set"), "-o", str(tmp_path / "run")]
    assert main([*arguments, "--steps", "4", "--set", "optim.lr=1e-4"]) == 0
    text = capsys.readouterr().out
    assert "object: 6 samples, 2 classes, seen 2.0 times" in text and "optim" in text and "lr=0.0001" in text
    assert f"wrote {tmp_path / 'run' / 'curves.png'}" in text and (tmp_path / "run/config.json").exists()
    assert main(["export", str(tmp_path / "run"), "-o", str(tmp_path / "model")]) == 0
    assert ov.load_model(tmp_path / "model").config.num_hidden_layers == 2
    assert main([*arguments, "--steps", "5"]) == 2  # another run in this folder
    assert "optim.steps: 4 there, 5 now" in capsys.readouterr().err


def test_heads_without_data_are_left_out_and_that_is_said(place, tmp_path, capsys):
    only = tmp_path / "images"
    only.mkdir()
    rows = (place / "set/manifest.csv").read_text().splitlines()
    lines = [rows[0], *(r.replace(",", f",{place / 'set'}/", 1) for r in rows[1:] if "png" in r)]
    (only / "manifest.csv").write_text("\n".join(lines) + "\n")
    arguments = [
        "pretrain",
        f"{place / 'recipe.py'}:recipe",
        "--data",
        str(only),
        "-o",
        str(tmp_path / "run"),
        "--show",
    ]
    assert main(arguments) == 0
    text = capsys.readouterr().out
    assert "left out, because there is no data for it: head video" in text and "heads.0" in text
    assert "heads.1" not in text and not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    "arguments, code, message",
    [
        (["tiny_gpu", "--data", "."], 2, "unknown recipe 'tiny_gpu' (did you mean 'tiny_cpu'?)"),
        (["tiny_cpu", "--data", "SET", "--set", "optim.leraning=1"], 2, "no such field"),
        (["tiny_cpu"], 2, "give --data DIR"),
        (["tiny_cpu", "--data", "gone"], 2, "gone"),
        (
            ["tiny_cpu", "--data", "SET", "--set", "batch.samples=7", "--set", "batch.accumulate=2"],
            2,
            "need a multiple of 2",
        ),
    ],
)
def test_mistakes_are_one_line(place, tmp_path, capsys, arguments, code, message):
    arguments = [str(place / "set") if a == "SET" else a for a in arguments]
    assert main(["pretrain", *arguments, "-o", str(tmp_path / "run")]) in (1, code)
    assert message in capsys.readouterr().err


def test_sources_are_written_in_one_word(tmp_path):
    heads = ["object", "ocr"]
    assert _source("a/b", heads) == DataConfig(path="a/b")
    assert _source("a/b:label+digit", heads) == DataConfig(path="a/b", label="label+digit")
    assert _source("ocr=a/b.csv", heads) == DataConfig(path="a/b.csv", head="ocr")
    assert _source("m.parquet@l/labels.parquet", heads) == DataConfig(path="m.parquet", labels="l/labels.parquet")
    odd = tmp_path / "x:y=z"
    odd.mkdir()
    assert _source(str(odd), heads) == DataConfig(path=str(odd))
