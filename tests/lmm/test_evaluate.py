"""Scores against what one would count by hand; questions answered, refused or recorded as failed."""

import json
import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from PIL import Image

import ov_encoder as ov
from ov_encoder.lmm.evaluate import answer_all, generate, likelihoods, messages, read_questions, summarise
from ov_encoder.lmm.metrics import anls, bleu, bootstrap, cider, exact, normalise
from tests.lmm.conftest import make


def test_exact_ignores_case_punctuation_and_width_but_not_words():
    assert normalise("  “The  Cat!” ") == "the cat"
    assert exact("Ｂｅｅｓ.", ["ants", "bees"]) == 1 and exact("bee", ["bees"]) == 0
    assert exact("$5.00", ["$5.00"]) == 1 and exact("5.00", ["$5.00"]) == 0


def test_anls_is_one_minus_the_distance_and_zero_when_far():
    assert anls("60.30", ["60.30"]) == 1
    assert anls("60.31", ["60.30"]) == pytest.approx(0.8)
    assert anls("abcd", ["wxyz", "abcx"]) == pytest.approx(0.75)
    assert anls("ab", ["abcd"]) == 0  # a distance of exactly one half


def test_bleu_and_cider_know_right_from_wrong():
    right = [["a cat sits on the mat"], ["two dogs run in the park", "dogs are running"], ["rain falls on the town"]]
    good = [r[0] for r in right]
    assert bleu(good, right) == pytest.approx(1.0)
    assert bleu(["no", "nothing", "never"], right) < 0.01
    assert (cider(good, right) > 5).all() and cider(good[::-1], right)[0] < 1


def test_the_interval_covers_the_mean_of_coins():
    covered = 0
    for seed in range(100):
        low, high = bootstrap((np.random.default_rng(seed).random(200) < 0.3).astype(float), rounds=400)
        covered += low <= 0.3 <= high
    assert 88 <= covered <= 100


@pytest.fixture
def questions(tmp_path, picture):
    Image.fromarray(picture).save(tmp_path / "a.png")
    lines = [
        {"id": "c", "image": "a.png", "question": "Which?", "choices": ["ants", "bees"], "answer": "bees"},
        {"id": "e", "image": ["a.png"], "question": "Say <image> what", "answer": ["x", "y"]},
        {"id": "gone", "image": "none.png", "question": "What?", "answer": "x", "metric": "anls"},
    ]
    (tmp_path / "q.jsonl").write_text("\n".join(map(json.dumps, lines)) + "\n")
    return read_questions(tmp_path / "q.jsonl")


def test_questions_are_answered_scored_and_failures_recorded(questions):
    model, processor = make()
    records = list(answer_all(model, processor, questions, max_new_tokens=4))
    assert [r["id"] for r in records] == ["c", "e", "gone"]
    assert records[0]["answer"] in ("ants", "bees") and records[0]["score"] in (0.0, 1.0)
    assert "none.png: no such file" in records[2]["reason"] and "score" not in records[2]
    summary = summarise(records)
    assert summary["choice"]["items"] == 1 and summary["anls"] == {"metric": "anls", "items": 0, "failed": 1}
    blind = list(answer_all(model, processor, questions, blind=True, max_new_tokens=4))
    assert "answer" in blind[2]  # nothing is opened


def test_a_question_longer_than_the_context_fails_alone(questions):
    model, processor = make()
    processor.context = 80
    long = replace(questions[1], id="long", text="<image>" + "why " * 20)
    records = list(answer_all(model, processor, [long, questions[1]], max_new_tokens=2))
    assert "a prompt has" in records[0]["reason"] and "the language model takes 80" in records[0]["reason"]
    assert "answer" not in records[0] and records[1]["id"] == "e"
    with pytest.raises(ValueError, match="mode='flipped'"):
        next(answer_all(model, processor, questions, mode="flipped"))


def test_placeholders_come_first_unless_the_text_has_them(questions):
    assert messages(questions[0]) == [{"role": "user", "content": "<image>\nWhich?"}]
    assert messages(questions[1])[0]["content"] == "Say <image> what"


def test_the_choice_taken_is_the_likeliest_by_hand(questions):
    model, processor = make()
    choices = ["ants", "bees", "no", "a colony of leafcutters"]
    (record,) = answer_all(model, processor, [replace(questions[0], choices=choices)])
    assert record["answer"] == choices[int(np.argmax(record["likelihoods"]))]
    for choice, mine in zip(choices, record["likelihoods"], strict=True):
        media = [questions[0].media[0][1].read_bytes()]
        prompt = processor.apply_chat_template(messages(questions[0]))
        ids = processor(prompt, images=media)["input_ids"]
        new = processor.tokenizer(f" {choice}\n", add_special_tokens=False, return_tensors="pt")["input_ids"]
        whole = torch.cat([ids, new], dim=1)
        with torch.inference_mode():
            logits = model(whole, vision=processor(prompt, images=media)["vision"]).logits[0]
        by_hand = [
            logits[i].log_softmax(-1)[whole[0, i + 1]].item() for i in range(ids.shape[1] - 1, whole.shape[1] - 1)
        ]
        assert math.isclose(np.mean(by_hand), mine, abs_tol=1e-4)


def test_likelihoods_after_an_earlier_answer_are_those_of_the_last_one(picture):
    model, processor = make()
    talk = [{"role": "user", "content": "<image> a"}, {"role": "assistant", "content": "long before"}]
    talk.append({"role": "user", "content": "b"})
    both = likelihoods(model, processor, talk, ["x", "yz"], images=[picture])
    example = processor.example([*talk, {"role": "assistant", "content": "yz"}], images=[picture])
    with torch.inference_mode():
        logits = model(torch.tensor([example.ids_L]), vision=example.vision).logits[0].log_softmax(-1)
    by_hand = [logits[i - 1, example.ids_L[i]].item() for i in range(len(example.ids_L) - 4, len(example.ids_L))]
    assert example.labels_L[-5] == -100 and math.isclose(np.mean(by_hand), both[1], abs_tol=1e-4)


def test_text_comes_piece_by_piece_and_adds_up(picture):
    model, processor = make()
    pieces: list[str] = []
    text = generate(model, processor, "<image> a", images=[picture], max_new_tokens=6, on_text=pieces.append)
    assert "".join(pieces).strip() == text


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ('{"question": "a"}', r"line 1: has no field 'answer'"),
        ('{"question": "a", "answer": " "}', "the field 'answer' is empty"),
        ('{"question": "a", "answer": []}', "the field 'answer' is empty"),
        ('{"question": "<video> a", "answer": "x"}', "1 <video> in the question, but 0 videos are given"),
        ('{"question": "<image> a", "answer": "x", "image": ["a", "b"]}', "1 <image> .*, but 2 images are given"),
        ('{"question": "a", "answer": "x", "metric": "rouge"}', "metric 'rouge'; allowed: exact, anls"),
        ('{"question": "a", "answer": "x", "choices": ["y"]}', "answer 'x' is none of the choices: y"),
        ("[]", "line 1"),
        ("", "holds no question"),
    ],
)
def test_mistakes_are_named_with_their_line(tmp_path, line, message):
    (tmp_path / "q.jsonl").write_text(line + "\n")
    with pytest.raises(ov.OvEncoderError, match=message):
        read_questions(tmp_path / "q.jsonl")
