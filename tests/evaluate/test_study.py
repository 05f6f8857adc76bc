"""The study: every cell once, resumable, honest about what it could not do; its table, page and picture."""

import json
import re
from collections import Counter
from contextlib import contextmanager

import numpy as np
import pytest
import torch

from ov_encoder.data.manifest import Manifest, Sample
from ov_encoder.data.workers import Outcome
from ov_encoder.errors import OvEncoderError
from ov_encoder.evaluate import extract as extraction
from ov_encoder.evaluate import study as studies
from ov_encoder.evaluate.protocol import run_probe
from ov_encoder.evaluate.report import main_metric, points, table, trouble, write
from ov_encoder.evaluate.study import Cell, plan_cells, run_study
from ov_encoder.model.config import OVEncoderConfig
from ov_encoder.model.encoder import OVEncoder
from ov_encoder.patchify.options import Options
from tests import clips

OPTIONS = Options(frames=8, size=(56, 56))
WANTED = {"policies": ["fused", "random", "fused+shuffle", "dense"], "baselines": ["histogram", "meta"]}


@pytest.fixture(autouse=True)
def quick(monkeypatch):
    """Readers without processes of their own: the same calls, in order. Heads trained for one epoch."""

    def inline(work, items, *, workers, timeout_s):
        for item in items:
            try:
                yield Outcome(item, work(item))
            except Exception as e:
                yield Outcome(item, failure="error", reason=f"{type(e).__name__}: {e}")

    def short(probe, *args, **how):
        return run_probe(probe, *args, epochs=None if probe == "knn" else 1, **how)

    monkeypatch.setattr(extraction, "run_in_workers", inline)
    monkeypatch.setattr(studies, "run_probe", short)


@pytest.fixture(scope="module")
def manifest(tmp_path_factory) -> Manifest:
    """Two classes of motion, 6 + 3 clips each, and one that is broken."""
    folder = tmp_path_factory.mktemp("set")
    samples = []
    for label, step in (("right", 2.0), ("left", -2.0)):
        for i in range(9):
            scene = clips.render(8, 56, 56, seed=i, step_23=np.array([[1, 0, step], [0, 1, 0]], float))
            path = folder / f"{label}{i}.mp4"
            path.write_bytes(clips.encode(scene.frames_THW3))
            samples.append(Sample(f"{label}{i}", str(path), "video", (label,), "train" if i < 6 else "test"))
    broken = folder / "broken.mp4"
    broken.write_bytes(b"no video")
    samples.append(Sample("broken", str(broken), "video", ("left",), "test"))
    return Manifest(folder / "labels.csv", samples)


@pytest.fixture(scope="module")
def encoder() -> OVEncoder:
    torch.manual_seed(0)
    config = OVEncoderConfig(hidden_size=32, intermediate_size=32, num_hidden_layers=1, num_attention_heads=1)
    return OVEncoder(config).eval()


def run(folder, manifest, encoder, **changes):
    wanted = {**WANTED, "budgets": [24, 40], "probes": ["knn"], "seeds": 2, "options": OPTIONS, **changes}
    return run_study(folder, manifest, encoder, **wanted)


def places(results) -> list[tuple]:
    return [(r["name"], r["budget"]) for r in results]


def test_cells_are_names_times_budgets():
    assert plan_cells(["fused", "dense"], ["pixels", "codec"], [64, 32]) == [
        Cell("fused", "policy", 32),
        Cell("fused", "policy", 64),
        Cell("dense", "policy", None),
        Cell("pixels", "baseline", 32),
        Cell("pixels", "baseline", 64),
        Cell("codec", "baseline", None),
    ]
    files = [Cell(n, "baseline", b).file for n in ("clip:a/b", "clip:a%2Fb", "clip:a") for b in (1, 11, None)]
    assert len(set(files)) == 9 and not any("/" in name for name in files)


@pytest.mark.parametrize(
    ("policies", "baselines", "budgets", "message"),
    [
        (["fussed"], [], [8], r"unknown policy 'fussed' \(did you mean 'fused'"),
        (["fused+blur"], [], [8], "interventions: still, other, shuffle"),
        (["fused", "fused"], [], [8], "policies=fused,fused: one stands twice"),
        (["fused"], [], [8, 8], "budgets=8,8: one stands twice"),
        (["fused"], [], [], "at least one budget"),
        ([], [], [8], "a policy or a baseline"),
        (["fused"], [], [0, 8], "budgets=0; must be at least 1 token"),
    ],
)
def test_plans_that_cannot_be(policies, baselines, budgets, message):
    with pytest.raises(ValueError, match=message):
        plan_cells(policies, baselines, budgets)


@pytest.fixture(scope="module", autouse=True)
def one_thread():
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def test_a_study_from_start_to_picture(manifest, encoder, tmp_path):
    results = run(tmp_path / "out", manifest, encoder, probes=["knn", "linear"])
    # a histogram has one token a frame, eight frames: the larger budget buys nothing
    cells = [(name, b) for name in ("fused", "random", "fused+shuffle") for b in (24, 40)]
    assert places(results) == [*cells, ("dense", None), ("histogram", 24), ("meta", None)]
    for result in results:
        tokens = {"dense": 128, "histogram": 8, "meta": 1}.get(result["name"], result["budget"])
        cost, found = result["cost"], result["probes"]["linear"]
        assert cost["tokens"] == tokens and cost["read_s"] > 0 and cost["encode_s"] > 0
        assert (cost["gflop"] > 0) == (result["kind"] == "policy")
        assert (result["train"], result["validation"], result["chance"]) == (12, 6, 0.5)
        assert list(result["failures"]) == ["broken"]
        assert len(found["right"]) == 6 and set(found["right"].values()) <= {0.0, 0.5, 1.0}
        assert found["metrics"]["top1"]["value"] == pytest.approx(np.mean(list(found["right"].values())))
        first = next((r for r in results if (r["name"], r["budget"]) == ("fused", result["budget"])), None)
        if first in (None, result):
            assert found["difference"] is None
        else:
            value = found["metrics"]["top1"]["value"] - first["probes"]["linear"]["metrics"]["top1"]["value"]
            assert found["difference"]["value"] == pytest.approx(value) and found["difference"]["samples"] == 6
    pytest.importorskip("matplotlib")
    written = write(tmp_path / "out", results, data="set", label="label", model="m", seeds=2, probes=["knn", "linear"])
    assert [p.name for p in written] == ["study.json", "study.md", "study-knn.png", "study-linear.png"]
    document = json.loads(written[0].read_text())
    assert document["cells"] == results and document["run"]["options"]["patchify"]["frames"] == 8
    page = written[1].read_text()
    assert page.count("\n| fused |") == 4 and "broken" in page and "study-linear.png" in page
    assert all(p.read_bytes().startswith(b"\x89PNG") for p in written[2:])


def count_work(monkeypatch) -> Counter:
    counted: Counter = Counter()
    extract, probe = studies.extract, studies.run_probe

    def counting_extract(featurizer, *args, **kwargs):
        counted[f"extract {featurizer.name}"] += 1
        return extract(featurizer, *args, **kwargs)

    def counting_probe(name, *args, **kwargs):
        counted[f"probe {name}"] += 1
        return probe(name, *args, **kwargs)

    monkeypatch.setattr(studies, "extract", counting_extract)
    monkeypatch.setattr(studies, "run_probe", counting_probe)
    return counted


def test_it_goes_on_where_it_stopped(manifest, encoder, tmp_path, monkeypatch):
    """Stopped in the middle of the third cell; the second run does what is missing, the third nothing."""
    wanted = {"policies": ["fused", "random"], "baselines": []}

    @contextmanager
    def stop_at_third(what):
        if what == "random at 24":
            raise KeyboardInterrupt
        yield lambda progress: None

    with pytest.raises(KeyboardInterrupt):
        run(tmp_path, manifest, encoder, watch=stop_at_third, **wanted)
    counted = count_work(monkeypatch)
    second = run(tmp_path, manifest, encoder, **wanted)
    assert counted == {"extract random": 2, "probe knn": 2}
    counted.clear()
    assert run(tmp_path, manifest, encoder, **wanted) == second and not counted
    more = run(tmp_path, manifest, encoder, probes=["knn", "linear"], **wanted)  # features are there already
    assert counted == {"extract fused": 2, "extract random": 2, "probe linear": 4}
    assert [r["probes"]["knn"] for r in more] == [r["probes"]["knn"] for r in second]


def test_other_weights_or_options_are_never_mixed(manifest, encoder, tmp_path):
    wanted = {"policies": ["uniform"], "baselines": [], "budgets": [32]}
    run(tmp_path, manifest, encoder, **wanted)
    with pytest.raises(ValueError, match=r"patchify.frames: 8 there, 4 now"):
        run(tmp_path, manifest, encoder, options=Options(frames=4, size=(56, 56)), **wanted)
    torch.manual_seed(1)
    with pytest.raises(ValueError, match="weights: "):
        run(tmp_path, manifest, OVEncoder(encoder.config).eval(), **wanted)
    with pytest.raises(ValueError, match=r"budget=7; a study sets it for each cell"):
        run(tmp_path, manifest, encoder, options=Options(budget=7), **wanted)


def test_a_cell_of_another_checkpoint_is_done_again(manifest, encoder, tmp_path, monkeypatch):
    """A baseline whose files have changed since: its name is the same, its features are not."""
    from tests.evaluate.towers import save_tower

    folder = tmp_path / "clip"
    save_tower("clip", folder)
    wanted = {"policies": [], "baselines": [f"clip:{folder}"], "budgets": [32]}
    (before,) = run(tmp_path / "out", manifest, encoder, **wanted)
    counted = count_work(monkeypatch)
    run(tmp_path / "out", manifest, encoder, **wanted)
    assert not counted
    from safetensors.torch import load_file, save_file

    state = load_file(folder / "model.safetensors")
    key = "vision_model.post_layernorm.weight"
    save_file({**state, key: state[key] * 2}, folder / "model.safetensors", metadata={"format": "pt"})
    (after,) = run(tmp_path / "out", manifest, encoder, **wanted)
    assert counted["probe knn"] == 1 and before["features"]["weights"] != after["features"]["weights"]


def test_what_cannot_be_done_is_said(manifest, encoder, tmp_path):
    wanted = {"policies": ["bits:native", "uniform"], "baselines": ["pixels"], "budgets": [32]}
    results = run(tmp_path, manifest, encoder, **wanted)
    bits, uniform, pixels = results
    assert "signal='bits' is not known for this clip" in bits["impossible"] and not bits["probes"]
    assert uniform["probes"] and not uniform["impossible"]
    assert pixels["impossible"] == "budget=32 tokens, but one frame of pixels has 256"
    lines = trouble(results)
    assert lines[0].startswith("bits:native at 32: not possible: 19 of 19 samples failed")
    assert re.match(r"uniform at 32: 1 samples failed, first broken: ", lines[1])
    _, rows = table(results, "knn")
    assert [row[0] for row in rows] == ["uniform"]
    with pytest.raises(OvEncoderError, match="no such directory"):
        run(tmp_path, manifest, encoder, policies=["uniform"], baselines=[f"clip:{tmp_path}/nowhere"], budgets=[32])
    with pytest.raises(ValueError, match="probe 'forest'; allowed: knn, linear, attentive, reference"):
        run(tmp_path, manifest, encoder, probes=["forest"])


def test_the_attentive_probe_gets_tokens(manifest, encoder, tmp_path, monkeypatch):
    asked, probe = {}, studies.run_probe

    def asking(name, cache, task, **how):
        asked[name] = cache.has_tokens
        return probe(name, cache, task, **how)

    monkeypatch.setattr(studies, "run_probe", asking)
    wanted = {"policies": ["uniform"], "baselines": ["histogram"], "budgets": [32], "probes": ["attentive"]}
    results = run(tmp_path, manifest, encoder, **wanted)
    assert asked == {"attentive": True} and all(r["probes"]["attentive"]["metrics"] for r in results)


def cell(name="fused", budget=512, value=0.5, **cost) -> dict:
    costs = {"tokens": 512.0, "gflop": 8.0, "read_s": 0.1, "encode_s": 0.2, "peak_mb": 30.4, "gpu_peak_mb": None}
    estimate = {"value": value, "per_seed": [value], "seeds": (value - 0.01, value + 0.01), "samples": (0.4, 0.6)}
    difference = {"value": -0.021, "interval": (-0.05, 0.004), "samples": 9}
    return {
        "name": name, "kind": "policy", "budget": budget, "cost": {**costs, **cost}, "impossible": "", "failures": {},
        "notes": [], "chance": 0.1, "probes": {"knn": {"metrics": {"top1": estimate}, "difference": difference}},
    }  # fmt: skip


def test_the_table_in_words():
    header, (row,) = table([cell()], "knn")
    shown = dict(zip(header, row, strict=True))
    assert shown == {
        "features": "fused", "budget": "512", "tokens": "512", "GFLOP": "8.0", "read ms": "100", "encode ms": "200",
        "peak MB": "30", "top-1 %": "50.0", "95 %": "40-60", "seeds": "±1.0", "to the first": "-2.1 (-5 to +0)",
    }  # fmt: skip
    assert table([cell(peak_mb=None)], "knn")[1][0][6] == ""
    assert table([cell(gpu_peak_mb=512.0)], "knn")[1][0][6] == "512"
    assert table([cell()], "linear")[1] == [] and main_metric([cell()], "knn") == "top1"


def test_points_count_reading():
    (point,) = points([cell()], "knn")
    assert (point.tokens, point.accuracy, point.low, point.high) == (512, 0.5, 0.4, 0.6)
    assert point.seconds == pytest.approx(0.3)


def test_the_command(manifest, tmp_path, monkeypatch, capsys):
    """From a manifest on disk, with readers in processes of their own; names with commas or spaces."""
    pytest.importorskip("matplotlib")
    from ov_encoder.cli import main
    from ov_encoder.data.manifest import write_manifest
    from ov_encoder.data.workers import run_in_workers

    monkeypatch.setattr(extraction, "run_in_workers", run_in_workers)
    write_manifest(tmp_path / "labels.csv", [s for s in manifest.samples if s.id[-1] in "0178"])
    out = tmp_path / "study"
    asked = ["study", "--data", str(tmp_path / "labels.csv"), "-o", str(out), "--policies", "uniform,random"]
    asked += ["--baselines", "meta", "--budgets", "32", "--probes", "knn", "--frames", "8", "--size", "56", "56"]
    assert main(asked) == 0
    text = capsys.readouterr().out
    assert re.search(r"^uniform +32 +32 ", text, re.M) and re.search(r"^meta +1 ", text, re.M)
    assert str(out / "study-knn.png") in text and (out / "study.md").read_text().startswith(f"# {tmp_path.name}: ")
    assert main([*asked, "--budgets", "many"]) == 2
    assert "budgets='many'; must be whole numbers of tokens" in capsys.readouterr().err
