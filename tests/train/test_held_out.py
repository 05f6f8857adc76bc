"""Accuracy on what training leaves out: a brute-force count, unknown classes, broken files, the same run without it."""

import logging
from dataclasses import replace

import numpy as np
import pytest
import torch

from ov_encoder.data.manifest import read_manifest, write_manifest
from ov_encoder.errors import OvEncoderError
from ov_encoder.train.config import DataConfig, HeadConfig
from ov_encoder.train.held_out import HeldOut
from ov_encoder.train.metrics import draw_curves, read_metrics
from ov_encoder.train.parallel import Processes
from ov_encoder.train.pretrain import make_held_out, prepare_run
from ov_encoder.train.probe import spread
from tests.train.small import small_config

ALONE = Processes(0, 1, torch.device("cpu"))


@pytest.fixture
def config(small_set, tmp_path):
    """Images 4 and 5 and clips 2 and 3 are held out; image 5 has a class of its own besides, which nobody trains."""
    samples = read_manifest(small_set).samples
    path = tmp_path / "split.csv"
    write_manifest(path, [
        replace(s, split="test" if s.id in ("4.png", "5.png", "2.mp4", "3.mp4") else "train",
                labels=(*s.labels, *(("unheard",) * (s.id == "5.png"))))
        for s in samples
    ])  # fmt: skip
    return replace(small_config(small_set, probe_every=2, held_out=50), data=(DataConfig(path=str(path)),))


def test_it_counts_pairs_whose_centre_is_nearer_than_all_others(config, tmp_path):
    run = prepare_run(config, tmp_path / "run", ALONE)
    held_out = make_held_out(config, run.task, run.streams, patch=14)
    assert len(held_out.batches) == 4
    assert [labels.tolist() for _, labels in held_out.parts.values()] == [[[0], [1]], [[1], [0]]]  # "unheard" is gone
    seen = set()
    for seed in range(8):
        torch.manual_seed(seed)
        for head in run.task.heads.values():
            torch.nn.init.normal_(head.centres_CD)
        found = held_out(run.task.module)
        with torch.no_grad():
            for name, part in (("object", slice(0, 2)), ("video", slice(2, 4))):
                vectors = [run.task.module.eval()(b).pooled_BD[0] for b in held_out.batches[part]]
                near = torch.stack(vectors) @ torch.nn.functional.normalize(run.task.heads[name].centres_CD).T
                right = near.argmax(1) == held_out.parts[name][1][:, 0]
                assert found[f"held_out/{name}"] == right.float().mean()
                seen.add(float(right.float().mean()))
    assert seen == {0.0, 0.5, 1.0}


def test_heads_that_share_files_read_them_once_and_broken_files_are_left_out(config, tmp_path, caplog):
    samples = read_manifest(config.data[0].path).samples
    broken = tmp_path / "broken.mp4"
    broken.write_bytes(b"no video")
    rows = [replace(s, path=str(broken)) if s.id == "3.mp4" else s for s in samples]
    write_manifest(tmp_path / "videos.csv", [s for s in rows if s.kind == "video"])
    data = tuple(DataConfig(path=str(tmp_path / "videos.csv"), head=name) for name in ("video", "again"))
    again = HeadConfig(name="again", kind="video", scale=16.0, beside="video")
    config = replace(config, heads=(config.heads[1], again), data=data)
    with caplog.at_level(logging.WARNING, "ov_encoder"):
        run = prepare_run(config, tmp_path / "run", ALONE)
    assert isinstance(run.probes[0], HeldOut) and len(run.probes[0].batches) == 1
    assert run.probes[0](run.task.module).keys() == {"held_out/video", "held_out/again"}
    assert [m for m in caplog.messages if "3.mp4" in m and "held-out" in m]


def test_measuring_changes_nothing_and_is_recorded_and_drawn(config, tmp_path):
    without = replace(config, loop=replace(config.loop, held_out=0, probe_every=0))
    states = []
    for name, one in (("with", config), ("without", without)):
        run = prepare_run(one, tmp_path / name, ALONE)
        run.fit()
        states.append([run.task.module.state_dict(), {n: h.centres_CD for n, h in run.task.heads.items()}])
    for a, b in zip(*states, strict=True):
        assert a.keys() == b.keys() and not [k for k in a if not torch.equal(a[k], b[k])]
    records = [r for r in read_metrics(tmp_path / "with") if "loss" not in r]
    assert [r["step"] for r in records] == [2, 4, 6]
    assert all(r.keys() == {"step", "held_out/object", "held_out/video"} for r in records)
    assert draw_curves(tmp_path / "with")


def test_no_held_out_sample_is_an_error(small_set, tmp_path):
    with pytest.raises(OvEncoderError, match=r"no held-out sample.*loop\.held_out=0"):
        prepare_run(small_config(small_set, probe_every=2, held_out=9), tmp_path, ALONE)


def test_spread():
    assert list(spread(10, 3)) == [0, 3, 6] and list(spread(3, 10)) == [0, 1, 2] and list(spread(0, 5)) == []
    assert np.diff(spread(1000, 7)).min() >= 142
