"""Training: what learns and what does not, exact resume, adapters that merge, files that cannot be used."""

import json
import re
from dataclasses import replace

import pytest
import torch
from PIL import Image

import ov_encoder as ov
from ov_encoder.lmm.evaluate import generate
from ov_encoder.lmm.media import as_bytes
from ov_encoder.lmm.model import OVLanguageModel
from ov_encoder.lmm.processor import OVProcessor
from ov_encoder.lmm.stream import ConversationStream
from ov_encoder.lmm.train_config import LMMTrainConfig, SightConfig
from ov_encoder.lmm.training import prepare_language_run
from ov_encoder.model.weights import save_model
from ov_encoder.train.config import LoopConfig, OptimConfig, override
from ov_encoder.train.parallel import Processes
from tests.lmm.conftest import make, make_llm, make_tokenizer

ENCODER = ("encoder.embeddings", "encoder.layernorm_pre", "encoder.encoder.layers.0")
ONE = Processes(0, 1, torch.device("cpu"))


def talk(number, answer, **media):
    kind = next(iter(media))
    turns = [{"from": "human", "value": f"<{kind}> which?"}, {"from": "gpt", "value": answer}]
    return {"id": number, **media, "conversations": turns}


@pytest.fixture(scope="module")
def parts(tmp_path_factory, movie):
    """Folders of a language model and an encoder, and conversations: light pictures are "a", dark ones "b"."""
    folder = tmp_path_factory.mktemp("parts")
    make_llm().save_pretrained(folder / "llm")
    make_tokenizer().save_pretrained(folder / "llm")
    save_model(make()[0].encoder, folder / "encoder")
    lines = []
    for i in range(8):
        Image.new("RGB", (56, 56), (20 + 3 * i,) * 3 if i % 2 else (250 - 3 * i,) * 3).save(folder / f"{i}.png")
        lines.append(talk(f"p{i}", "b" if i % 2 else "a", image=f"{i}.png"))
    (folder / "clip.mkv").write_bytes(as_bytes(movie))
    lines += [talk("clip", "c", video="clip.mkv"), talk("gone", "d", image="none.png")]
    (folder / "talks.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    return folder


def config(parts, **changes):
    base = LMMTrainConfig(
        data=(str(parts / "talks.jsonl"),),
        encoder=str(parts / "encoder"),
        llm=str(parts / "llm"),
        sight=SightConfig(image_size=28, video_size=56, frames=4, budget=16, anchors=1),
        samples=4,
        group=2,
        optim=OptimConfig(steps=6, lr=1e-2, warmup=1, clip=1.0, weight_decay=0.0),
        loop=LoopConfig(workers=0, save_every=0, log_every=1, keep=9),
    )
    return replace(base, **changes)


def weights(run):
    return {name: p.detach().clone() for name, p in run.task.module.named_parameters()}


@pytest.mark.parametrize("changes", [{}, {"train": "all", "pack": True}], ids=str)
def test_resumed_equals_uninterrupted_bit_for_bit(parts, tmp_path, changes):
    whole = prepare_language_run(config(parts, **changes), tmp_path / "whole", ONE)
    whole.fit()
    first = prepare_language_run(config(parts, **changes), tmp_path / "cut", ONE)
    first.loop.config = replace(first.loop.config, save_every=3)

    def stop(record):
        if record["step"] == 4:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        first.fit(stop)
    second = prepare_language_run(config(parts, **changes), tmp_path / "cut", ONE)
    assert second.resumed and second.loop.step == 3
    second.fit()
    assert all(torch.equal(a, weights(second)[name]) for name, a in weights(whole).items())


@pytest.mark.parametrize(
    ("changes", "learning"),
    [
        ({}, ("projector.",)),
        ({"train": "all"}, ("projector.", "llm.", *ENCODER)),
        ({"train": "all", "lora": 2}, ("projector.", "lora_", *ENCODER)),
        ({"train": "all", "encoder_lr": 0.0}, ("projector.", "llm.")),
        ({"train": "all", "llm_lr": 0.0}, ("projector.", *ENCODER)),
    ],
    ids=["projector", "all", "lora", "frozen encoder", "frozen llm"],
)
def test_just_these_weights_learn(parts, tmp_path, changes, learning):
    run = prepare_language_run(config(parts, **changes), tmp_path, ONE)
    before = weights(run)
    run.fit()
    changed = {name for name, p in weights(run).items() if not torch.equal(p, before[name])}
    assert changed and all(any(part in name for part in learning) for name in changed)
    assert all(any(part in name for name in changed) for part in learning)


def test_it_learns_to_tell_light_from_dark_and_the_result_answers(parts, tmp_path):
    run = prepare_language_run(
        config(parts, train="all", llm_lr=1.0, encoder_lr=1.0, samples=8,
               optim=OptimConfig(steps=40, lr=5e-3, warmup=2, clip=1.0, weight_decay=0.0)),
        tmp_path, ONE,
    )  # fmt: skip
    records = []
    run.fit(records.append)
    assert records[-1]["loss"] < 0.2 * records[0]["loss"] and records[-1]["answers/accuracy"] == 1
    folder = run.finish()
    model, processor = OVLanguageModel.load(folder), OVProcessor.from_pretrained(folder)
    prompt = processor.apply_chat_template([{"role": "user", "content": "<image> which?"}])
    for i in (0, 1):
        picture = (parts / f"{i}.png").read_bytes()
        assert generate(model, processor, prompt, images=[picture], max_new_tokens=2) == "ab"[i]


@pytest.mark.parametrize("lora", [0, 2])
def test_bfloat16_is_how_it_computes_and_not_what_it_keeps(parts, tmp_path, lora):
    """Losses stay close to those in float32, weights are float32, and tied ones stay one tensor to the end."""
    course = {}
    for dtype in ("float32", "bfloat16"):
        loop = LoopConfig(workers=0, save_every=0, log_every=1, dtype=dtype)
        run = prepare_language_run(config(parts, train="all", lora=lora, loop=loop), tmp_path / dtype, ONE)
        records = []
        run.fit(records.append)
        course[dtype] = [r["loss"] for r in records]
        assert {p.dtype for p in run.task.module.parameters()} == {torch.float32}
        llm = OVLanguageModel.load(run.finish()).llm
        assert llm.lm_head.weight is llm.model.embed_tokens.weight and llm.dtype == torch.float32
    assert course["bfloat16"] != course["float32"]
    assert course["bfloat16"] == pytest.approx(course["float32"], rel=0.05)


@pytest.mark.parametrize("pack", [False, True])
def test_the_loss_is_that_of_transformers_over_all_answers(parts, tmp_path, pack):
    """Words are scored only where answers are, which changes nothing; nor does a model that cannot leave words out."""
    run = prepare_language_run(config(parts, pack=pack), tmp_path, ONE)
    batch = next(run.stream)
    with torch.no_grad():
        found, _ = run.task.loss(run.loop.forward, batch)
        run.task._keeps = False
        all_scored, _ = run.task.loss(run.loop.forward, batch)
        theirs = run.task.module(**batch.inputs).loss
    assert found.item() == pytest.approx(theirs.item(), abs=1e-6)
    assert all_scored.item() == pytest.approx(theirs.item(), abs=1e-6)


def test_adapters_are_added_into_the_weights(parts, tmp_path, picture):
    run = prepare_language_run(config(parts, train="all", lora=2), tmp_path, ONE)
    run.fit()
    inputs = run.processor("<image> which?", images=[picture])
    merged = OVLanguageModel.load(run.finish())
    assert not any("lora" in name for name, _ in merged.named_parameters())
    with torch.inference_mode():
        assert (run.task.module.eval()(**inputs).logits - merged(**inputs).logits).abs().max() < 1e-5


def test_a_second_stage_starts_where_the_first_ended(parts, tmp_path):
    first = prepare_language_run(config(parts), tmp_path / "one", ONE)
    first.fit()
    second = prepare_language_run(config(parts, init=str(first.finish()), train="all", llm=""), tmp_path / "two", ONE)
    ours = {n: p for n, p in weights(second).items()}
    assert all(torch.equal(p, ours[name]) for name, p in weights(first).items())


def test_what_cannot_be_used_is_skipped_and_written_down(parts, tmp_path):
    run = prepare_language_run(config(parts), tmp_path, ONE)
    run.fit()
    rows = [json.loads(line) for line in (tmp_path / "skipped.jsonl").read_text().splitlines()]
    assert [row["id"] for row in rows] == ["gone"] and "none.png: no such file" in rows[0]["reason"]


def test_each_kind_of_bad_item_in_a_batch_is_skipped_with_its_reason(parts, tmp_path, movie):
    """Two good conversations among five that cannot be used: batches hold the good ones, nothing else changes."""
    whole = as_bytes(movie)
    (tmp_path / "cut.mkv").write_bytes(whole[:400])
    (tmp_path / "noise.mkv").write_bytes(bytes(range(256)) * 40)
    (tmp_path / "noise.png").write_bytes(b"\x89PNG\r\n" + bytes(100))
    (tmp_path / "clip.mkv").write_bytes(whole)
    Image.new("RGB", (56, 56)).save(tmp_path / "a.png")
    lines = [
        talk("good", "a", image="a.png"),
        talk("cut", "a", video="cut.mkv"),
        talk("noise", "a", video="noise.mkv"),
        talk("picture", "a", image="noise.png"),
        talk("two", "a", image=["a.png", "a.png"]),
        talk("long", "a" * 3000, image="a.png"),
        talk("fine", "c", video="clip.mkv"),
    ]
    (tmp_path / "talks.json").write_text(json.dumps(lines))
    run = prepare_language_run(
        config(parts, data=(str(tmp_path / "talks.json"),), samples=7, group=1), tmp_path / "run", ONE
    )
    batch = next(run.stream)
    assert sorted(batch.ids) == ["fine", "good"]
    reasons = {
        "cut": r"cut\.mkv: not a video or image that can be read",
        "noise": r"noise\.mkv: not a video or image that can be read",
        "picture": r"noise\.png: not a video or image that can be read",
        "two": "1 <image> in the text, but 2 images were given",
        "long": r"a prompt has \d+ tokens \(4 of them visual\), the language model takes 2048",
    }
    assert batch.skipped.keys() == reasons.keys()
    for name, pattern in reasons.items():
        assert re.search(pattern, batch.skipped[name]), batch.skipped[name]


def test_every_conversation_comes_once_an_epoch_in_groups_of_like_length(parts, tmp_path):
    run = prepare_language_run(config(parts, samples=5, group=2), tmp_path, ONE)
    batches = [next(run.stream) for _ in range(2)]
    assert sorted(name for b in batches for name in b.ids) == sorted([f"p{i}" for i in range(8)] + ["clip"])
    spread = sorted(sorted(b.inputs["attention_mask"].sum(1).tolist()) for b in batches)
    assert spread[0][-1] <= spread[1][0]


def test_workers_and_this_process_give_the_same_batches(parts, tmp_path):
    streams = []
    for workers in (0, 1):
        run = prepare_language_run(
            config(parts, loop=LoopConfig(workers=workers, log_every=1, save_every=0)), tmp_path / str(workers), ONE
        )
        streams.append([next(run.stream) for _ in range(3)])
        run.stream.close()
    for a, b in zip(*streams, strict=True):
        assert a.ids == b.ids and torch.equal(a.inputs["input_ids"], b.inputs["input_ids"])


def test_two_processes_share_the_conversations(parts):
    processor = make()[1]
    from ov_encoder.lmm.instructions import read_instructions

    talks = read_instructions(parts / "talks.jsonl")[:8]
    streams = [ConversationStream(talks, processor, config(parts), rank=r, world=2) for r in (0, 1)]
    seen = [name for stream in streams for _ in range(2) for name in next(stream).ids]
    assert sorted(seen) == sorted(t.id for t in talks)


def test_settings_that_do_not_fit_are_named(parts, tmp_path):
    with pytest.raises(ValueError, match="lora=4 with train='projector'"):
        LMMTrainConfig(lora=4)
    with pytest.raises(ValueError, match="samples=3; need a multiple of 2"):
        ConversationStream([None], make()[1], LMMTrainConfig(samples=3), world=2)
    with pytest.raises(ValueError, match=r"sight.budgett: no such field \(did you mean budget"):
        override(LMMTrainConfig(), ["sight.budgett=3"])
    with pytest.raises(ValueError, match="no language model"):
        prepare_language_run(config(parts, llm=""), tmp_path, ONE)
    with pytest.raises(ov.OvEncoderError, match="cannot be loaded as a causal language model"):
        prepare_language_run(config(parts, llm=str(tmp_path / "nowhere")), tmp_path, ONE)
