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


def messages(question: Question) -> list[dict[str, str]]:
    """The question as a conversation: placeholders first unless the text has them."""
    text = question.text
    if not any(f"<{kind}>" in text for kind in KINDS):
        text = "".join(f"<{kind}>" for kind, _ in question.media) + ("\n" if question.media else "") + text
    return [{"role": "user", "content": text}]


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
                found = likelihoods(model, processor, messages(asked), question.choices, **media)
                answer = question.choices[int(np.argmax(found))]
                record |= {"answer": answer, "score": float(answer in question.right), "likelihoods": found}
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


def likelihoods(
    model: OVLanguageModel,
    processor: OVProcessor,
    conversation: Sequence[dict[str, str]],
    choices: Sequence[str],
    *,
    images: Sequence[Any] = (),
    videos: Sequence[Any] = (),
) -> list[float]:
    """Mean log probability of the tokens of each choice as the next answer (mean, so that long choices are not
    punished). The conversation and its media go through the model once."""
    images = [processor.see(image, "image") for image in images]
    videos = [processor.see(video, "video") for video in videos]
    talks = [[*conversation, {"role": "assistant", "content": choice}] for choice in choices]
    examples = [processor.example(talk, images=images, videos=videos) for talk in talks]
    start = max(i for i, label in enumerate(examples[0].labels_L) if label == IGNORE) + 1  # of the last answer
    prompt = torch.tensor([examples[0].ids_L[:start]], device=model.device)
    said = [torch.tensor(e.ids_L[start:], device=model.device) for e in examples]
    said_CS = torch.nn.utils.rnn.pad_sequence(said, batch_first=True)
    with torch.inference_mode():
        seen = model(prompt, vision=examples[0].vision, use_cache=True)
        first_C1V = seen.logits[:, -1:].expand(len(choices), -1, -1)
        cache = seen.past_key_values
        cache.batch_repeat_interleave(len(choices))
        rest_CSV = model.llm(input_ids=said_CS, past_key_values=cache, use_cache=True).logits[:, :-1]
        logits_CSV = torch.cat([first_C1V, rest_CSV], dim=1).float()
        found_CS = logits_CSV.log_softmax(-1).gather(2, said_CS.unsqueeze(2)).squeeze(2)
    return [float(row[: len(tokens)].mean()) for row, tokens in zip(found_CS, said, strict=True)]


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
