"""Configs: round trips, overrides, and mistakes that are named with what would be right."""

import json

import pytest

from ov_encoder.recipes import RECIPES, find_recipe
from ov_encoder.train.config import HeadConfig, PictureConfig, TrainConfig, VideoConfig, override


@pytest.mark.parametrize("name", RECIPES)
def test_every_recipe_survives_json_and_names_its_gaps(name):
    config = find_recipe(name)
    assert TrainConfig.from_dict(json.loads(json.dumps(config.to_dict()))) == config
    assert config.name == name and config.gaps
    assert config.batch.samples % config.batch.accumulate == 0


def test_the_paper_stages_hold_the_numbers_that_are_known():
    one, two = RECIPES["paper_stage1"](), RECIPES["paper_stage2"]()
    assert [h.classes for h in one.heads] == [2_000_000] and one.optim.lr == 1e-3 and one.optim.weight_decay == 0.2
    assert [h.classes for h in two.heads] == [2_000_000, 365_187, 400_000] and two.optim.lr == 1e-4
    assert two.video.shares == (0.5, 0.375, 0.125, 0.0) and (two.video.frames, two.video.budget) == (64, 2048)
    assert all(h.sample_rate == 0.1 and h.labels_per_step == 8 and h.m == 0.3 for h in two.heads)
    assert abs(two.optim.steps * two.batch.samples - 4e9) < two.batch.samples


def test_fields_change_by_dotted_name():
    config = override(
        find_recipe("tiny_cpu"),
        ["optim.lr=3e-4", "heads.1.weight=2", "video.shares=(1, 0, 0, 0)", "init=model", "loop.watch=('wandb',)",
         "encoder.num_hidden_layers=3", "optim.ema=None", "video.picture.sizes=[98, 112]"],
    )  # fmt: skip
    assert (config.optim.lr, config.heads[1].weight, config.video.shares) == (3e-4, 2.0, (1.0, 0.0, 0.0, 0.0))
    assert config.init == "model" and config.loop.watch == ("wandb",) and config.optim.ema is None
    assert config.encoder["num_hidden_layers"] == 3 and config.video.picture.sizes == (98, 112)


@pytest.mark.parametrize(
    "change, message",
    [
        ("optim.larning_rate=1", r"optim\.larning_rate: no such field; fields here: steps, lr"),
        ("optim.warmp=1", r"did you mean warmup"),
        ("vidoe.frames=8", r"did you mean video"),
        ("optim.lr=fast", r"optim\.lr='fast' is of type str; need float"),
        ("batch.samples=1.5", r"batch\.samples=1\.5 is of type float; need int"),
        ("loop.parallel=zero", r"allowed: ddp, fsdp"),
        ("heads.7.weight=1", r"'7' is no place in a list of 2"),
        ("optim.lr.x=1", r"nothing below"),
        ("optim.lr", r"need NAME=VALUE"),
        ("video.shares=(0.5, 0.4, 0, 0)", r"four shares of \(codec, sampling, collage, chunk\) that add up to 1"),
        ("image.area=(0.9, 0.5)", r"need 0 < low <= high <= 1"),
        ("optim.warmup=5000", r"need 0 to steps - 1"),
    ],
)
def test_mistakes_are_named(change, message):
    with pytest.raises(ValueError, match=message):
        override(find_recipe("tiny_cpu"), [change])


def test_an_unknown_field_of_a_saved_config_is_named():
    values = find_recipe("tiny_cpu").to_dict()
    values["optim"]["learningrate"] = 1
    with pytest.raises(ValueError, match=r"optim\.learningrate: no such field"):
        TrainConfig.from_dict(values)


def test_values_are_checked():
    with pytest.raises(ValueError, match="need short sides"):
        PictureConfig(sizes=())
    with pytest.raises(ValueError, match="budget=0"):
        VideoConfig(budget=0)
    with pytest.raises(ValueError, match="a name of its own"):
        TrainConfig(name="x", encoder={}, heads=(HeadConfig(name="a", kind="image"),) * 2)


def test_a_recipe_can_be_a_file(tmp_path):
    path = tmp_path / "mine.py"
    path.write_text("from ov_encoder.recipes import tiny_cpu\ndef mine():\n    return tiny_cpu()\n")
    assert find_recipe(f"{path}:mine").name == "tiny_cpu"
    with pytest.raises(ValueError, match="no function 'other'"):
        find_recipe(f"{path}:other")
    with pytest.raises(ValueError, match=r"unknown recipe 'tiny_gpu' \(did you mean 'tiny_cpu'\?\)"):
        find_recipe("tiny_gpu")
