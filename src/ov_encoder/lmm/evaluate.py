"""Question files: read, answer, score. One JSON object a line:

    {"id": "3", "video": "a.mp4", "question": "What is said?", "answer": "bin blue at f two now"}
    {"id": "4", "image": "b.png", "question": "Which?", "choices": ["ants", "bees"], "answer": "bees"}

`answer` may be a list of right answers; `metric` is exact (default without choices), anls, bleu, cider or choice
(by likelihood; default with choices); `task` names what is scored together. Media are read relative to the file.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from ov_encoder.errors import OvEncoderError
from ov_encoder.lmm.collate import pad_examples
from ov_encoder.lmm.metrics import ITEM_METRICS, METRICS, bleu, bootstrap, cider
from ov_encoder.lmm.model import OVLanguageModel
from ov_encoder.lmm.processor import IGNORE, OVProcessor
from ov_encoder.patchify.api import patchify

KINDS = ("image", "video")


@dataclass(frozen=True, slots=True)
class Question:
    """One line of a question file. media: (kind, path) in the order of the placeholders."""

    id: str
    text: str
    right: list[str]
    media: list[tuple[str, Path]]
    choices: list[str]
    metric: str
    task: str  # questions of one task are scored together; by default those of one metric


def read_questions(path: str | Path) -> list[Question]:
    """All questions of a JSON-lines file.

    Raises:
        OvEncoderError: a line is damaged; the message names the line and the field.
    """
    path = Path(path)
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as e:
        raise OvEncoderError(f"{path}: cannot be read: {e}") from e
    questions = []
    for number, line in enumerate(lines, start=1):
        if line.strip():
            try:
                questions.append(_question(json.loads(line), number, path.parent))
            except (ValueError, KeyError, TypeError, AttributeError) as e:
                what = f"has no field {e}" if isinstance(e, KeyError) else e
                raise OvEncoderError(f"{path}: line {number}: {what}") from e
    if not questions:
        raise OvEncoderError(f"{path}: holds no question")
    return questions


def _question(item: dict[str, Any], number: int, base: Path) -> Question:
    answer = item["answer"]
    right = [str(a) for a in (answer if isinstance(answer, list) else [answer])]
    choices = [str(c) for c in item.get("choices", [])]
    metric = item.get("metric", "choice" if choices else "exact")
    if not right or not all(a.strip() for a in right):
        raise ValueError("the field 'answer' is empty")
    if metric not in METRICS:
        raise ValueError(f"metric {metric!r}; allowed: {', '.join(METRICS)}")
    if metric == "choice" and not set(right) <= set(choices):
        raise ValueError(f"answer {right[0]!r} is none of the choices: {', '.join(choices) or '(none)'}")
    media = [(k, base / p) for k in KINDS for p in ([item[k]] if isinstance(item.get(k), str) else item.get(k) or [])]
    text = str(item["question"])
    for kind in KINDS:
        given, found = sum(k == kind for k, _ in media), text.count(f"<{kind}>")
        if any(f"<{k}>" in text for k in KINDS) and given != found:
            raise ValueError(f"{found} <{kind}> in the question, but {given} {kind}s are given")
    return Question(str(item.get("id", number)), text, right, media, choices, metric, str(item.get("task", metric)))


def messages(question: Question, answer: str | None = None) -> list[dict[str, str]]:
    """The question as a conversation: placeholders first unless the text has them, then the answer if one is given."""
    text = question.text
    if not any(f"<{kind}>" in text for kind in KINDS):
        text = "".join(f"<{kind}>" for kind, _ in question.media) + ("\n" if question.media else "") + text
    return [{"role": "user", "content": text}] + ([{"role": "assistant", "content": answer}] if answer else [])


def answer_all(
    model: OVLanguageModel,
    processor: OVProcessor,
    questions: Sequence[Question],
    *,
    blind: bool = False,
    max_new_tokens: int = 64,
    **changes: Any,
) -> Iterator[dict[str, Any]]:
    """One record for each question: the answer, its score where it has one of its own, or why there is none.

    blind: leave the media out (the text-only baseline). changes: options of `patchify` for videos. Media that cannot
    be read, and a prompt that is longer than the context, are a record with `reason` and no score.

    Raises:
        ValueError: changes that the model cannot take.
    """
    processor.options("video", **changes)
    for question in questions:
        record: dict[str, Any] = {
            "id": question.id,
            "task": question.task,
            "metric": question.metric,
            "right": question.right,
        }
        try:
            media: dict[str, Any] = {} if blind else _see(processor, question, changes)
            asked = _blind(question) if blind else question
            if question.metric == "choice":
                likelihoods = [likelihood(model, processor, messages(asked, c), **media) for c in question.choices]
                answer = question.choices[int(np.argmax(likelihoods))]
                record |= {"answer": answer, "score": float(answer in question.right), "likelihoods": likelihoods}
            else:
                prompt = processor.apply_chat_template(messages(asked))
                answer = generate(model, processor, prompt, max_new_tokens=max_new_tokens, **media)
                record["answer"] = answer
                if question.metric in ITEM_METRICS:
                    record["score"] = ITEM_METRICS[question.metric](answer, question.right)
        except (OvEncoderError, ValueError) as e:
            record["reason"] = str(e)
        yield record


def summarise(records: Sequence[dict[str, Any]]) -> dict[str, dict[str, Any]]:
    """Per task: metric, mean score, 95 % interval over items, how many were scored, how many could not be answered."""
    out: dict[str, dict[str, Any]] = {}
    for task, metric in dict.fromkeys((r["task"], r["metric"]) for r in records):
        mine = [r for r in records if (r["task"], r["metric"]) == (task, metric)]
        done = [r for r in mine if "answer" in r]
        entry: dict[str, Any] = {"metric": metric, "items": len(done), "failed": len(mine) - len(done)}
        if done:
            answers, right = [r["answer"] for r in done], [r["right"] for r in done]
            if metric == "bleu":
                entry["score"] = bleu(answers, right)
            else:
                scores_N = cider(answers, right) if metric == "cider" else np.array([r["score"] for r in done])
                entry |= {"score": float(scores_N.mean()), "interval": bootstrap(scores_N)}
        out[task if task not in out else f"{task} ({metric})"] = entry
    return out


def generate(
    model: OVLanguageModel,
    processor: OVProcessor,
    prompt: str,
    *,
    max_new_tokens: int = 64,
    on_text: Callable[[str], None] | None = None,
    images: Sequence[Any] = (),
    videos: Sequence[Any] = (),
) -> str:
    """The greedy answer to one prompt. on_text: called with each piece of text as it comes."""
    from transformers import TextStreamer

    class Pieces(TextStreamer):
        def on_finalized_text(self, text: str, stream_end: bool = False) -> None:
            assert on_text is not None
            on_text(text)

    inputs = processor(prompt, images=images, videos=videos).to(model.device)
    tokenizer: Any = processor.tokenizer
    new = model.generate(
        **inputs,
        max_new_tokens=max_new_tokens,
        do_sample=False,
        pad_token_id=tokenizer.pad_token_id,
        streamer=Pieces(tokenizer, skip_special_tokens=True) if on_text else None,
    )
    return tokenizer.decode(new[0], skip_special_tokens=True).strip()


def likelihood(
    model: OVLanguageModel,
    processor: OVProcessor,
    conversation: Sequence[dict[str, str]],
    *,
    images: Sequence[Any] = (),
    videos: Sequence[Any] = (),
) -> float:
    """Mean log probability of the tokens of the last answer (mean, so that long choices are not punished)."""
    example = processor.example(conversation, images=images, videos=videos)
    batch = pad_examples([example], 0)
    labels_L = batch.pop("labels")[0, 1:].to(model.device)
    with torch.inference_mode():
        moved = {k: v.to(model.device) if isinstance(v, torch.Tensor) else v for k, v in batch.items()}
        logits_LV = model(**moved).logits[0, :-1].float()
    mine = labels_L != IGNORE
    return float(logits_LV[mine].log_softmax(-1).gather(1, labels_L[mine, None]).mean())


def _blind(question: Question) -> Question:
    """The same question without its media."""
    text = question.text.replace("<image>", "").replace("<video>", "").strip()
    return replace(question, text=text, media=[])


def _see(processor: OVProcessor, question: Question, changes: dict[str, Any]) -> dict[str, list[Any]]:
    """Each file read and its patches chosen once, however many choices are tried on them."""
    seen: dict[str, list[Any]] = {"images": [], "videos": []}
    for kind, path in question.media:
        seen[f"{kind}s"].append(patchify(path, **asdict(processor.options(kind, **changes))))
    return seen
