"""load_model and save_model: every way in, and every way it must refuse."""

import json
import logging

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

import ov_encoder as ov
from ov_encoder.errors import OvEncoderError
from ov_encoder.model import weights
from ov_encoder.model.weights import list_models, load_model, save_model
from tests.model.samples import make_batch, make_encoder


@pytest.fixture
def folder(tmp_path):
    save_model(make_encoder(), tmp_path / "model")
    return tmp_path / "model"


def pooled(model):
    with torch.inference_mode():
        return model(make_batch()).pooled_BD


def same(model):
    return torch.equal(pooled(model), pooled(make_encoder()))


def change(folder, edit):
    state = dict(make_encoder().state_dict())
    edit(state)
    save_file(state, folder / "model.safetensors")


def shards(folder):
    """Split the weights into two shards with an index, as transformers writes them."""
    state = make_encoder().state_dict()
    keys = sorted(state)
    where = {k: f"model-0000{1 + (i % 2)}-of-00002.safetensors" for i, k in enumerate(keys)}
    for file in set(where.values()):
        save_file({k: state[k] for k in keys if where[k] == file}, folder / file)
    (folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": where}))
    (folder / "model.safetensors").unlink()
    return where


def test_directory_round_trip(folder):
    model = load_model(folder)
    assert same(model) and not model.training and model.config == make_encoder().config
    assert all(p.requires_grad for p in model.parameters())


def test_shards(folder):
    shards(folder)
    assert same(load_model(str(folder)))


def test_single_files(folder):
    assert same(load_model(folder / "model.safetensors"))
    (folder / "model.safetensors").rename(folder / "mine.weights.safetensors")
    (folder / "config.json").rename(folder / "mine.config.json")
    assert same(load_model(folder / "mine.weights.safetensors"))


def test_directory_with_one_file_of_another_name(folder):
    (folder / "model.safetensors").rename(folder / "anything.safetensors")
    assert same(load_model(folder))


def test_dtype(folder):
    assert load_model(folder).dtype == torch.float32
    assert load_model(folder, dtype="bfloat16").dtype == torch.bfloat16
    save_model(load_model(folder, dtype=torch.bfloat16), folder)
    assert load_model(folder).dtype == torch.bfloat16
    assert load_model(folder, dtype=torch.float32).dtype == torch.float32


def test_file_may_change_after_loading(folder):
    model = load_model(folder)
    (folder / "model.safetensors").write_bytes(b"")
    assert same(model)


def test_sizes_are_random_seeded_and_say_so_once(caplog):
    weights._say_random.cache_clear()
    before = torch.get_rng_state()
    with caplog.at_level(logging.WARNING):
        a, b = ov.load_model("tiny"), ov.load_model("tiny", dtype="bfloat16")
    assert [r.message for r in caplog.records if "untrained" in r.message] == [
        "'tiny' is an untrained encoder: random weights from seed 0, its features mean nothing"
    ]
    assert torch.equal(torch.get_rng_state(), before)
    for p, q in zip(a.parameters(), b.parameters(), strict=True):
        assert torch.equal(p.bfloat16(), q) and torch.isfinite(p).all()
    assert a.config.rope == "rotation"


def test_names():
    assert list_models() == [*weights.BUNDLED, "tiny", "small", "base", "large", "huge"]
    assert "tiny" in list_models("*t*") and "base" not in list_models("*t*")


def test_an_encoder_in_the_package_loads_by_name_and_in_float32(folder, monkeypatch):
    monkeypatch.setitem(weights.BUNDLED, "stand-in", folder)
    save_model(load_model(folder, dtype="bfloat16"), folder)
    assert "stand-in" in list_models() and list_models("stand*") == ["stand-in"]
    model = load_model("stand-in")
    assert model.dtype == torch.float32 and load_model(folder).dtype == torch.bfloat16
    assert load_model("stand-in", dtype="bfloat16").dtype == torch.bfloat16
    for p, q in zip(model.parameters(), make_encoder().parameters(), strict=True):
        assert torch.equal(p, q.bfloat16().float())


def test_unknown_name_gives_the_closest():
    with pytest.raises(ValueError, match=r"unknown model 'tinny' .*did you mean 'tiny'.*tiny, small, base"):
        load_model("tinny")


@pytest.mark.parametrize("options", [{"dtype": "float16"}, {"dtype": "int8"}, {"dtype": "nonsense"}])
def test_wrong_dtype(options):
    with pytest.raises(ValueError, match="allowed: float32, bfloat16"):
        load_model("tiny", **options)


def test_wrong_attention():
    with pytest.raises(ValueError, match="allowed: 'auto', 'sdpa', 'varlen'"):
        load_model("tiny", attention="eager")


def test_differences_are_listed(folder):
    def edit(state):
        del state["layernorm_pre.weight"]
        state["head.extra"] = torch.zeros(2)
        state["layernorm_post.bias"] = torch.zeros(64)

    change(folder, edit)
    with pytest.raises(OvEncoderError) as e:
        load_model(folder)
    first, *lines = str(e.value).splitlines()
    assert str(folder / "model.safetensors") in first
    assert [" ".join(line.split()) for line in lines] == [
        "missing layernorm_pre.weight [128]",
        "unexpected head.extra [2]",
        "shape layernorm_post.bias is [64], must be [128]",
    ]


def test_a_different_model_gives_a_short_diff(folder):
    save_model(make_encoder(hidden_size=64, num_attention_heads=1), folder / "other")
    (folder / "other" / "model.safetensors").replace(folder / "model.safetensors")
    with pytest.raises(OvEncoderError) as e:
        load_model(folder)
    assert len(str(e.value).splitlines()) == 22 and str(e.value).endswith("more")


@pytest.mark.parametrize("seed", range(8))
def test_cut_off_anywhere(folder, seed):
    file = folder / "model.safetensors"
    data = file.read_bytes()
    file.write_bytes(data[: np.random.default_rng(seed).integers(0, len(data))])
    with pytest.raises(OvEncoderError, match=r"model\.safetensors: cannot be read"):
        load_model(folder)


def test_garbage_and_missing_files(folder, tmp_path):
    (folder / "model.safetensors").write_text("this is text, and long enough to hold a header length")
    with pytest.raises(OvEncoderError, match=r"model\.safetensors"):
        load_model(folder)
    (folder / "model.safetensors").unlink()
    with pytest.raises(OvEncoderError, match=r"must hold model\.safetensors .* found no \.safetensors file"):
        load_model(folder)
    with pytest.raises(OvEncoderError, match="no such file or directory"):
        load_model(tmp_path / "nowhere")
    with pytest.raises(OvEncoderError, match="no such file or directory"):
        load_model("nowhere.safetensors")


def test_broken_shards(folder):
    where = shards(folder)
    index = folder / "model.safetensors.index.json"
    index.write_text(json.dumps({"weight_map": {**where, "head.ghost": next(iter(where.values()))}}))
    with pytest.raises(OvEncoderError, match=r"has no tensor 'head\.ghost'"):
        load_model(folder)
    index.write_text("{}")
    with pytest.raises(OvEncoderError, match=r"index\.json: cannot be read as an index"):
        load_model(folder)
    index.write_text(json.dumps({"weight_map": where}))
    (folder / "model-00002-of-00002.safetensors").unlink()
    with pytest.raises(OvEncoderError, match="model-00002-of-00002"):
        load_model(folder)


def test_a_shard_may_not_leave_its_directory(folder):
    (folder / "model.safetensors").rename(folder.parent / "outside.safetensors")
    where = dict.fromkeys(make_encoder().state_dict(), "../outside.safetensors")
    (folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": where}))
    with pytest.raises(OvEncoderError, match=r"index\.json.*\.\./outside"):
        load_model(folder)


class TestHub:
    def test_a_snapshot_is_a_directory(self, folder, monkeypatch):
        hub = pytest.importorskip("huggingface_hub")
        asked = []
        monkeypatch.setattr(hub, "snapshot_download", lambda *a, **k: asked.append(a) or str(folder))
        assert same(load_model("someone/onevision-encoder-large"))
        assert asked == [("someone/onevision-encoder-large",)]

    def test_local_paths_come_first(self, folder, monkeypatch):
        monkeypatch.chdir(folder.parent.parent)
        assert same(load_model(f"{folder.parent.name}/{folder.name}"))

    def test_failure_names_the_id(self, monkeypatch):
        hub = pytest.importorskip("huggingface_hub")

        def fail(*args, **kwargs):
            raise hub.errors.LocalEntryNotFoundError("offline")

        monkeypatch.setattr(hub, "snapshot_download", fail)
        with pytest.raises(OvEncoderError, match=r"someone/model: .*offline"):
            load_model("someone/model")

    def test_without_the_extra(self, monkeypatch):
        import sys

        monkeypatch.setitem(sys.modules, "huggingface_hub", None)
        with pytest.raises(OvEncoderError, match=r"ov-encoder\[hf\]"):
            load_model("someone/model")
