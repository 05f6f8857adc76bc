"""The loop on the small set: resume to the bit, skipped steps, damaged checkpoints, signals, accumulation, export."""

import json
import os
import signal
from dataclasses import replace

import numpy as np
import pytest
import torch

import ov_encoder as ov
from ov_encoder.errors import OvEncoderError
from ov_encoder.train import checkpoint
from ov_encoder.train.export import export_run
from ov_encoder.train.loop import CHECKPOINTS, SKIPPED
from ov_encoder.train.metrics import draw_curves, read_metrics
from ov_encoder.train.optim import module_state, parameter_groups
from ov_encoder.train.parallel import Processes, clean_name
from ov_encoder.train.pretrain import prepare_run
from tests.train.small import small_config

ALONE = Processes(0, 1, torch.device("cpu"))


@pytest.fixture
def config(small_set):
    return small_config(small_set)


def tensors(run):
    rows, plain = run.task.side_state()
    state = module_state(run.task.module, run.loop.optimizer, run.loop.average)
    return {**state, **{name: mine for name, (mine, _) in rows.items()}}, plain


def copies(run):
    state, plain = tensors(run)
    return {name: x.clone() for name, x in state.items()}, json.dumps(plain)


def trained(config, folder, steps=None, probe=None):
    run = prepare_run(config, folder, ALONE)
    if steps is not None:  # stop there, as if told to

        def stop(record):
            if record["step"] == steps:
                os.kill(os.getpid(), signal.SIGTERM)

        run.fit(stop)
    else:
        run.fit()
    return run


def assert_equal(a, b):
    assert a[1] == b[1] and a[0].keys() == b[0].keys()
    assert not [name for name in a[0] if not torch.equal(a[0][name], b[0][name])]


@pytest.fixture(scope="module")
def straight(small_set, tmp_path_factory):
    """Six steps without a stop: the state at the end and the folder."""
    folder = tmp_path_factory.mktemp("straight")
    return copies(trained(small_config(small_set), folder)), folder


def test_resume_is_exact_to_the_bit(config, straight, tmp_path):
    """Interrupted by SIGTERM in step 2 and again in step 5: the step is finished and saved, the rest is the same."""
    first = trained(config, tmp_path, steps=1)
    assert first.loop.stopped and 1 <= first.loop.step <= 2
    second = trained(config, tmp_path, steps=4)
    assert second.resumed and second.loop.stopped and second.loop.step in (4, 5)
    third = trained(config, tmp_path)
    assert third.resumed and not third.loop.stopped
    assert_equal(copies(third), straight[0])
    curve = [[r["step"], r["loss"], r["lr"]] for r in read_metrics(tmp_path)]
    assert curve == [[r["step"], r["loss"], r["lr"]] for r in read_metrics(straight[1])]


def test_a_finished_run_does_nothing_more(config, straight, tmp_path):
    again = trained(config, straight[1])
    assert again.resumed and again.loop.step == 6
    assert_equal(copies(again), straight[0])


def test_a_checkpoint_cut_in_the_middle_is_passed_over_and_that_is_said(config, straight, tmp_path, caplog):
    trained(config, tmp_path)
    folder = tmp_path / CHECKPOINTS
    last = folder / "step-00000006"
    (folder / ".step-00000007.part").mkdir()  # what a kill in the middle of writing leaves
    file = next(last.glob("*.distcp"))
    file.write_bytes(file.read_bytes()[:1000])
    path, about = checkpoint.newest(folder)
    assert path.name == "step-00000003" and about["step"] == 3
    assert "1000 bytes instead of" in caplog.text and "going on from" in caplog.text
    assert ".step-00000007.part: was being written" in caplog.text
    assert_equal(copies(trained(config, tmp_path)), straight[0])
    for step in folder.glob("step-*"):
        (step / "state.json").unlink()
    with pytest.raises(OvEncoderError, match="no whole checkpoint is left"):
        checkpoint.newest(folder)


def poisoned(run, steps):
    """The loss is NaN in these steps."""
    original, task = run.task.loss, run.task

    def loss(forward, batch):
        value, metrics = original(forward, batch)
        return (value * float("nan") if run.loop.step in steps else value), metrics

    task.loss = loss
    return run


def test_a_step_that_is_not_finite_is_skipped_and_its_samples_are_named(config, tmp_path, caplog):
    run = poisoned(prepare_run(config, tmp_path, ALONE), {1})
    seen = []
    run.fit(lambda record: seen.append(copies(run)[0]))
    assert run.loop.bad == 1 and run.loop.step == 6
    assert torch.equal(seen[0]["model.head.probe"], seen[1]["model.head.probe"])
    assert torch.equal(seen[0]["heads.video.centres_CD"], seen[1]["heads.video.centres_CD"])
    assert not torch.equal(seen[1]["model.head.probe"], seen[2]["model.head.probe"])
    (row,) = [json.loads(line) for line in (tmp_path / SKIPPED).read_text().splitlines()]
    assert row["step"] == 1 and len(row["ids"]) == 6 and "nothing was updated" in row["reason"]
    records = read_metrics(tmp_path)
    assert [r["loss"] is None for r in records] == [False, True, False, False, False, False]
    assert all(torch.isfinite(x).all() for x in seen[-1].values())


def test_too_many_bad_steps_in_a_row_end_the_run(config, tmp_path):
    config = replace(config, loop=replace(config.loop, bad_steps=2))
    run = poisoned(prepare_run(config, tmp_path, ALONE), {1, 3, 4})
    with pytest.raises(OvEncoderError, match=r"2 steps in a row were not finite.*its samples: .*\.(png|mp4)"):
        run.fit()
    assert run.loop.step == 4 and run.loop.bad == 3


def test_two_micro_batches_are_one_batch(config, tmp_path):
    """Means over half-batches with as many pairs each: the same gradients, so the same course."""
    whole = replace(config, batch=replace(config.batch, samples=8), optim=replace(config.optim, steps=4))
    halves = replace(whole, batch=replace(whole.batch, accumulate=2))
    for name, chosen in (("a", whole), ("b", halves)):
        trained(chosen, tmp_path / name)
    a, b = read_metrics(tmp_path / "a"), read_metrics(tmp_path / "b")
    for key in ("loss", "grad_norm", "side_grad_norm", "object/accuracy"):
        assert [r[key] for r in a] == pytest.approx([r[key] for r in b], rel=1e-4), key


def test_bfloat16_and_checkpointing_train_float32_weights(config, tmp_path):
    config = replace(config, loop=replace(config.loop, dtype="bfloat16", checkpointing=True))
    run = prepare_run(config, tmp_path, ALONE)
    before = copies(run)[0]
    run.fit()
    after = copies(run)[0]
    assert {x.dtype for name, x in after.items() if name.startswith("model.")} == {torch.float32}
    moved = [name for name in after if name.startswith("model.") and not torch.equal(before[name], after[name])]
    assert len(moved) == sum(name.startswith("model.") for name in after)
    model = export_run(tmp_path, tmp_path / "model")
    assert model.dtype == torch.float32
    assert_same_names(after, model)


def assert_same_names(state, model):
    assert {n.removeprefix("model.") for n in state if n.startswith("model.")} == set(model.state_dict())


def test_decay_is_on_matrices_only(config, tmp_path):
    run = prepare_run(config, tmp_path, ALONE)
    names = {p: clean_name(n) for n, p in run.task.module.named_parameters()}
    decayed, free = ({names[p] for p in g["params"]} for g in parameter_groups(run.task.module, weight_decay=0.1))
    assert "encoder.layers.0.mlp.fc1.weight" in decayed and "embeddings.patch_embedding.weight" in decayed
    assert free == {n for n in names.values() if n.endswith("bias") or "norm" in n or n == "head.probe"}


def test_export_writes_what_both_libraries_load(config, straight, tmp_path):
    state, folder = straight[0][0], straight[1]
    model = export_run(folder, tmp_path)
    loaded = ov.load_model(tmp_path)
    for name, weight in loaded.state_dict().items():
        assert torch.equal(weight, state[f"average.{name}"])
    plain = export_run(folder, tmp_path / "plain", average=False)
    assert torch.equal(plain.head.probe, state["model.head.probe"]) and not torch.equal(
        plain.head.probe, model.head.probe
    )
    card = (tmp_path / "README.md").read_text()
    assert "object (image): 2 classes" in card and "6 of 6 steps" in card and "codec 50.0%" in card
    half = export_run(folder, tmp_path / "half", dtype="bfloat16")
    assert half.dtype == torch.bfloat16 and ov.load_model(tmp_path / "half").dtype == torch.bfloat16
    assert torch.equal(half.head.probe, model.head.probe.bfloat16())
    with pytest.raises(OvEncoderError, match="has no checkpoint to export"):
        export_run(tmp_path / "nowhere", tmp_path / "x")


def test_export_loads_in_transformers(straight, tmp_path):
    pytest.importorskip("transformers")
    from transformers import AutoImageProcessor, AutoModel

    import ov_encoder.hf  # noqa: F401

    export_run(straight[1], tmp_path)
    theirs = AutoModel.from_pretrained(tmp_path)
    assert torch.equal(theirs.state_dict()["head.probe"], ov.load_model(tmp_path).head.probe)
    processor = AutoImageProcessor.from_pretrained(tmp_path)
    assert processor.size == 56 and processor.slots == 8


def test_metrics_and_curves(straight):
    _, folder = straight
    records = read_metrics(folder)
    assert [r["step"] for r in records] == [1, 2, 3, 4, 5, 6]
    for key in ("loss", "object/loss", "video/accuracy", "video/positive_cosine", "grad_norm", "side_grad_norm",
                "tokens_per_s", "mfu", "data_wait", "memory_gb", "lr"):  # fmt: skip
        assert all(np.isfinite(r[key]) for r in records), key
    total = [r["object/loss"] + 0.5 * r["video/loss"] for r in records]
    assert total == pytest.approx([r["loss"] for r in records], abs=1e-5)
    assert draw_curves(folder).stat().st_size > 10_000


def test_the_probe_is_measured_while_training(config, small_set, tmp_path):
    from ov_encoder.train.config import DataConfig, ProbeConfig

    pictures = small_set.parent / "probe"
    pictures.mkdir(exist_ok=True)
    lines = ["path,label,split"]
    lines += [
        f"{small_set}/{i}.png,{'dark' if i % 2 == 0 else 'light'},{'test' if i > 3 else 'train'}" for i in range(6)
    ]
    (pictures / "manifest.csv").write_text("\n".join(lines) + "\n")
    probe = ProbeConfig(data=DataConfig(path=str(pictures)), k=1)
    config = replace(
        config, probe=probe, loop=replace(config.loop, probe_every=3), optim=replace(config.optim, steps=3)
    )
    trained(config, tmp_path)
    assert [r["probe"] for r in read_metrics(tmp_path) if "probe" in r] == [1.0]  # bright and dark are easily told
