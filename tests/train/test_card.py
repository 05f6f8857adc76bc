"""The card: data with licences, cost summed over the records, results quoted as measured, no folder of this machine."""

import json
from dataclasses import replace

import pytest

from ov_encoder.errors import OvEncoderError
from ov_encoder.train.card import Facts, card, read_results
from ov_encoder.train.config import DataConfig, HeadConfig, ProbeConfig
from tests.train.small import small_config


@pytest.fixture
def about(tmp_path):
    """A run on one manifest with a card, twice, and on class folders."""
    (tmp_path / "sets").mkdir()
    (tmp_path / "sets/clips.csv").write_text("path,label\na.mp4,x\nb.mp4,y\n")
    sources = {"games": {"samples": 1200, "licence": "CC BY 4.0"}, "rooms": {"samples": 3, "licence": ""}}
    (tmp_path / "sets/clips.json").write_text(json.dumps({"sources": sources}))
    (tmp_path / "photos").mkdir()
    config = small_config(tmp_path)
    video, motion = config.heads[1], HeadConfig(name="motion", kind="video", beside="video")
    clips, labels = str(tmp_path / "sets/clips.csv"), str(tmp_path / "motion/labels.parquet")
    data = (
        DataConfig(path=clips, head="video"),
        DataConfig(path=clips, labels=labels, head="motion"),
        DataConfig(path=str(tmp_path / "photos")),
    )
    config = replace(config, heads=(config.heads[0], video, motion), data=data, probe=ProbeConfig(data=data[0]))
    encoder = {"num_hidden_layers": 2, "hidden_size": 64, "patch_size": 14, "rope": "rotation"}
    side = {name: {"classes": 1234} for name in ("object", "video", "motion")}
    return {"config": config.to_dict(), "encoder": encoder, "side": side, "step": 30, "bad_steps": 2}


RECORDS = [
    {"step": 20, "loss": 3.0, "step_s": 90.0, "tokens_per_s": 1000.0, "memory_gb": 1.5},
    {"step": 20, "probe": 0.25},
    {"step": 30, "loss": 2.0, "step_s": 180.0, "tokens_per_s": 500.0, "memory_gb": 1.6, "video/accuracy": 0.5},
]


def test_data_licences_cost_and_limits(about, tmp_path):
    run = {"machine": "a machine", "versions": {"torch": "9.9"}}
    text = card(Facts(about=about, records=RECORDS, run=run, averaged=True, picture="curves.png"), title="mine")
    assert "# mine\n" in text and 'ov.load_model("mine")' in text and "](curves.png)" in text
    assert text.count("| clips | games | 1,200 | CC BY 4.0 |") == 1  # one line, though two heads use it
    assert "| clips | rooms | 3 | not stated |" in text and "| photos | all | not counted |" in text
    assert "* motion (video): 1,234 classes, of the samples of video, labels: motion/labels.parquet" in text
    assert "2.7 million tokens, 1.00 hours" in text  # 20 x 90 s + 10 x 180 s
    assert "a machine, torch 9.9" in text and "| kNN probe while training, last | 0.25 |" in text
    assert "2 steps were skipped" in text and "## Results" not in text
    assert str(tmp_path) not in text and '"path": "sets/clips.csv"' in text


def test_results_are_quoted_with_their_intervals(about, tmp_path):
    estimate = {"value": 0.5, "per_seed": [0.4, 0.6], "seeds": [0.3, 0.7], "samples": [0.41, 0.59]}
    probe = {"probe": "linear", "headline": "last", "last": {"top1": estimate}, "chosen": {"top1": {"value": 0.9}}}
    several = {"probe": "knn", "headline": "chosen", "chosen": {"top1": estimate, "map": {**estimate, "value": 0.125}}}
    document = {
        "format": "ov-encoder.probe/1",
        "config": {"data": "/data/signs/labels.csv", "card": {}, "label": "word"},
        "features": {"mine": {"probes": [probe, several]}},
    }
    (tmp_path / "probe.json").write_text(json.dumps(document))
    results = read_results([tmp_path / "probe.json"])
    text = card(Facts(about=about, records=RECORDS, run={}, averaged=False, results=results))
    assert "| signs | word | mine | linear | 50.0 | 41.0-59.0 | 2 |" in text
    assert "| signs | word | mine | knn | 12.5 | 41.0-59.0 | 2 |" in text
    for wrong in ("{}", "[1]", '{"format": "ov-encoder.study/1"}'):
        (tmp_path / "other.json").write_text(wrong)
        with pytest.raises(OvEncoderError, match=r"other\.json: is no probe\.json"):
            read_results([tmp_path / "other.json"])
