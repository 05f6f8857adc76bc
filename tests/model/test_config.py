"""Sizes by name, the json of released checkpoints, and errors that say what is right."""

import json

import pytest

from ov_encoder.errors import OvEncoderError
from ov_encoder.model.config import SIZES, OVEncoderConfig


@pytest.mark.parametrize(
    ("name", "width", "heads", "layers"),
    [
        ("tiny", 192, 3, 12),
        ("small", 384, 6, 12),
        ("base", 768, 12, 12),
        ("large", 1024, 16, 24),
        ("huge", 1280, 20, 32),
    ],
)
def test_sizes(name, width, heads, layers):
    c = OVEncoderConfig.from_name(name)
    assert (c.hidden_size, c.num_attention_heads, c.num_hidden_layers) == (width, heads, layers)
    assert (c.intermediate_size, c.patch_size, c.head_dim, c.patch_dim) == (4 * width, 14, 64, 588)
    assert c.rope == "rotation"


def test_json_round_trip(tmp_path):
    c = OVEncoderConfig.from_name("tiny", rope="reference", rope_temporal_size=None, use_head=False)
    c.to_json(tmp_path / "config.json")
    assert json.loads((tmp_path / "config.json").read_text())["model_type"] == "onevision_encoder"
    assert OVEncoderConfig.from_json(tmp_path / "config.json") == c


def test_config_of_the_reference_means_its_rope(tmp_path):
    values = {"model_type": "onevision_encoder", "hidden_size": 1024, "transformers_version": "4.57.3", "dtype": "x"}
    (tmp_path / "config.json").write_text(json.dumps(values))
    assert OVEncoderConfig.from_json(tmp_path / "config.json") == OVEncoderConfig(rope="reference")


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"hidden_size": 100, "num_attention_heads": 2}, "hidden_size 100 over 2 heads gives 50 .* multiple of 32"),
        ({"num_attention_heads": 3}, "1024 over 3 heads"),
        ({"rope": "none"}, "rope is 'none'; allowed: 'reference', 'rotation'"),
        ({"layer_norm_type": "batch"}, "allowed: 'layer_norm', 'rms_norm'"),
        ({"hidden_act": "relu"}, "hidden_act is 'relu'; allowed: 'gelu'"),
        ({"attention_dropout": 0.1}, "attention_dropout is 0.1; allowed: 0.0"),
        ({"num_hidden_layers": 0}, "num_hidden_layers must be a positive integer, got 0"),
        ({"patch_size": 14.0}, "patch_size must be a positive integer, got 14.0"),
        ({"rope_temporal_size": 0}, "rope_temporal_size must be positive or None"),
    ],
)
def test_wrong_values_are_named(changes, says):
    with pytest.raises(ValueError, match=says):
        OVEncoderConfig(**changes)


def test_unknown_size():
    with pytest.raises(ValueError, match="'giant'.*" + ", ".join(SIZES)):
        OVEncoderConfig.from_name("giant")


@pytest.mark.parametrize("text", ["", "[1]", "{", '{"model_type": "siglip"}', '{"hidden_size": "wide"}'])
def test_bad_json_names_the_file(tmp_path, text):
    path = tmp_path / "config.json"
    path.write_text(text)
    with pytest.raises(OvEncoderError, match=r"config\.json"):
        OVEncoderConfig.from_json(path)


def test_missing_json_names_the_file(tmp_path):
    with pytest.raises(OvEncoderError, match=r"nowhere\.json"):
        OVEncoderConfig.from_json(tmp_path / "nowhere.json")
