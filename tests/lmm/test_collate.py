"""What is learnt: answers only, and the same losses and gradients whether examples are padded or packed."""

import pytest
import torch

from ov_encoder.lmm.collate import pack_examples, pad_examples
from ov_encoder.lmm.processor import IGNORE
from tests.lmm.conftest import make


def talk(*turns):
    return [{"role": ("user", "assistant")[i % 2], "content": text} for i, text in enumerate(turns)]


@pytest.fixture(scope="module")
def model_processor():
    return make(merge=2)


@pytest.fixture(scope="module")
def examples(model_processor, picture, movie):
    processor = model_processor[1]
    return [
        processor.example(talk("<image> what?", "a cat", "sure?", "yes"), images=[picture]),
        processor.example(talk("two and two", " four")),
        processor.example(talk("<video> and <image>", " both"), images=[picture], videos=[movie]),
    ]


def test_only_answers_are_learnt(model_processor, examples):
    tokenizer = model_processor[1].tokenizer
    learnt = tokenizer.decode([t for t in examples[0].labels_L if t != IGNORE])
    assert learnt == " a cat\n yes\n"
    ids, labels = examples[0].ids_L, examples[0].labels_L
    assert all(label in (IGNORE, token) for token, label in zip(ids, labels, strict=True))


def test_the_prompt_of_an_example_is_the_prompt_of_a_question(model_processor, picture):
    processor = model_processor[1]
    example = processor.example(talk("<image> what?", " a cat"), images=[picture])
    asked = processor(processor.apply_chat_template(talk("<image> what?")), images=[picture])
    prompt = [token for token, label in zip(example.ids_L, example.labels_L, strict=True) if label == IGNORE]
    assert prompt == asked["input_ids"][0].tolist()


def test_packed_equals_padded_in_loss_and_gradients(model_processor, examples):
    model, processor = model_processor
    results = []
    for batch in (pad_examples(examples, processor.tokenizer.pad_token_id), pack_examples(examples)):
        model.zero_grad()
        loss = model(**batch).loss
        loss.backward()
        results.append((loss.item(), [p.grad.clone() for p in model.parameters() if p.grad is not None]))
    assert abs(results[0][0] - results[1][0]) < 1e-5
    assert len(results[0][1]) == len(results[1][1]) > 20
    assert all(torch.allclose(a, b, atol=1e-5) for a, b in zip(results[0][1], results[1][1], strict=True))


def test_packed_logits_are_those_of_each_example_alone(model_processor, examples):
    model, processor = model_processor
    with torch.inference_mode():
        together = model(**pack_examples(examples)).logits[0].split([len(e.ids_L) for e in examples])
        for example, mine in zip(examples, together, strict=True):
            alone = model(**pad_examples([example], processor.tokenizer.pad_token_id)).logits[0]
            assert (alone - mine).abs().max() < 1e-4


@pytest.mark.parametrize(
    ("turns", "message"),
    [
        (("what?", "  "), "the answer in message 1 is empty"),
        (("what?",), "no message of the assistant"),
        (("<image>", "a"), "1 <image> in the text, but 0 images"),
    ],
)
def test_conversations_that_teach_nothing_are_refused(model_processor, turns, message):
    with pytest.raises(ValueError, match=message):
        model_processor[1].example(talk(*turns))
