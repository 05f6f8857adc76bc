"""What the package carries: found by its files, the default of the commands, small enough to install."""

import json
import subprocess
import sys
from pathlib import Path

import torch

import ov_encoder as ov
from ov_encoder import bundled
from ov_encoder.bundled import BUNDLED, DEFAULT, find_bundled

PACKAGE = Path(ov.__file__).parent
MEGABYTE = 1_000_000


def test_only_whole_encoders_are_found(tmp_path):
    for name, files in (("whole", bundled.FILES), ("half", bundled.FILES[:1]), ("empty", ())):
        (tmp_path / name).mkdir()
        for file in files:
            (tmp_path / name / file).touch()
    (tmp_path / "__init__.py").touch()
    assert find_bundled(tmp_path) == {"whole": tmp_path / "whole"}


def test_the_default_is_the_trained_one():
    assert DEFAULT == "ov-encoder-tiny" and (PACKAGE / "bundled/ov-encoder-tiny/model.safetensors").exists()
    assert DEFAULT in ov.list_models()


def test_finding_brings_no_torch():
    code = "import sys, ov_encoder.bundled; print([m for m in ('torch', 'numpy') if m in sys.modules])"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True).stdout.strip() == "[]"


def test_the_package_stays_small():
    """What a wheel holds, without what Python or the compiler makes on this machine: below 20 MB."""
    made = {".pyc", ".so", ".nbi", ".nbc"}
    sizes = {p: p.stat().st_size for p in PACKAGE.rglob("*") if p.is_file() and p.suffix not in made}
    assert sum(sizes.values()) < 20 * MEGABYTE, sorted(sizes.items(), key=lambda item: -item[1])[:5]


def test_the_trained_encoder_is_the_one_of_its_card():
    folder = BUNDLED["ov-encoder-tiny"]
    model = ov.load_model("ov-encoder-tiny")
    config = model.config
    assert (config.hidden_size, config.num_attention_heads, config.num_hidden_layers) == (192, 3, 12)
    assert config.rope == "rotation" and config.patch_size == 14
    assert (folder / "model.safetensors").stat().st_size < 12 * MEGABYTE
    assert all(torch.isfinite(p).all() for p in model.parameters())
    assert "licence" in (folder / "README.md").read_text().lower()
    assert json.loads((folder / "config.json").read_text())["rope"] == "rotation"
