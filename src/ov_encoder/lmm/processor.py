"""Prompts with `<image>` and `<video>`, and their media, to what `OVLanguageModel` takes. No file is opened here.

Shapes: B = prompts, L = text and visual tokens of a prompt (padded to the longest in a batch).
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from ov_encoder.errors import OvEncoderError, missing_extra
from ov_encoder.lmm.config import LMMConfig
from ov_encoder.lmm.layout import first_slots, slot_counts
from ov_encoder.lmm.media import Media, as_bytes
from ov_encoder.patchify.api import patchify
from ov_encoder.patchify.batch import PatchBatch, pack
from ov_encoder.patchify.options import Options

try:
    from transformers import AutoTokenizer, BatchFeature, PreTrainedTokenizerBase, ProcessorMixin
except ImportError as e:
    raise missing_extra("transformers", "lmm", "a processor of prompts") from e

VISION = "<|vision|>"  # stands once for every visual token; the model puts features where it is
FILE = "ov_processor.json"
_PLACEHOLDER = re.compile(r"<image>|<video>")
IGNORE = -100  # label of a token that no loss falls on


@dataclass(frozen=True, slots=True)
class Example:
    """One conversation as tokens: `labels_L` are the next tokens to learn, IGNORE elsewhere."""

    ids_L: list[int]
    labels_L: list[int]
    vision: PatchBatch | None


class OVProcessor(ProcessorMixin):
    """Text and media to `input_ids`, `attention_mask` and `vision` (a PatchBatch of all media, in prompt order).

    tokenizer: the language model's. lmm: must be the model's config. image, video: options of `patchify` for each
    kind; `video.mode` "codec" (patches that carry surprise) or "chunk" (whole frames) at one budget. context: the
    longest prompt the language model takes, in tokens.

    Raises:
        ValueError: options that do not fit `lmm` (their `block` must be its `merge`), or a tokenizer without an id
            for padding.
    """

    attributes = ["tokenizer"]  # noqa: RUF012 - the name and type transformers reads
    tokenizer_class = "AutoTokenizer"

    def __init__(
        self,
        tokenizer: PreTrainedTokenizerBase,
        *,
        lmm: LMMConfig | None = None,
        image: Options | None = None,
        video: Options | None = None,
        context: int | None = None,
    ) -> None:
        lmm = lmm or LMMConfig()
        if tokenizer.pad_token_id is None:
            tokenizer.pad_token = tokenizer.eos_token
        if tokenizer.pad_token_id is None:
            raise ValueError("the tokenizer has neither a padding token nor an end token; set tokenizer.pad_token")
        tokenizer.add_special_tokens({"additional_special_tokens": [VISION]})
        super().__init__(tokenizer)
        self.lmm = lmm
        self.image = replace(image or Options(mode="image"), block=lmm.merge)
        default = Options(mode="codec" if lmm.tower is None else "chunk", budget=1024, frames=32)
        self.video = replace(video or default, block=lmm.merge)
        self.options("video")
        self.context = context
        self.vision_id: int = tokenizer.convert_tokens_to_ids(VISION)  # type: ignore[assignment]

    def __repr__(self) -> str:
        return f"OVProcessor({self.lmm}, image={self.image}, video={self.video}, context={self.context})"

    def __call__(
        self,
        text: str | Sequence[str],
        *,
        images: Sequence[Media] | None = None,
        videos: Sequence[Media] | None = None,
        padding_side: str = "left",
        fit: bool = False,
        **changes: Any,
    ) -> BatchFeature:
        """Prompts, each with any number of `<image>` and `<video>`; media in the order of their placeholders.

        An item of `images` or `videos` is bytes, a PIL image, a uint8 array, a list of PIL images, or a PatchBatch
        of one sample. padding_side: "left" to generate, "right" to train. fit: when a prompt is longer than the
        context, give its media fewer tokens instead of an error. changes: options of `patchify` for this call's
        videos, such as budget=512 or mode="chunk".

        Raises:
            ValueError: counts of placeholders and media differ, a prompt is longer than the context, or text holds
                the reserved token. OvEncoderError: media that cannot be read.
        """
        texts = [text] if isinstance(text, str) else list(text)
        queue = {"<image>": list(images or ()), "<video>": list(videos or ())}
        self._check_counts(texts, queue)
        prompts, media = [], []
        for one in texts:
            ids, _, batches = self._prompt([(one, False)], queue, changes, fit)
            prompts.append(ids)
            media += batches
        padded = self.tokenizer.pad({"input_ids": prompts}, padding_side=padding_side, return_tensors="pt")
        data: dict[str, Any] = dict(padded)
        if media:
            data["vision"] = pack(media)
        return BatchFeature(data)

    def example(
        self,
        conversation: Sequence[Mapping[str, Any]],
        *,
        images: Sequence[Media] | None = None,
        videos: Sequence[Media] | None = None,
        fit: bool = False,
        **changes: Any,
    ) -> Example:
        """A conversation to learn from: its loss falls on the assistant's answers (and what ends them) only.

        Raises:
            ValueError: no answer, an empty one, or as in `__call__`. OvEncoderError: media that cannot be read.
        """
        pieces: list[tuple[str, bool]] = []
        written = ""
        for i, message in enumerate(conversation):
            if message["role"] != "assistant":
                continue
            if not _flatten(message["content"]).strip():
                raise ValueError(f"the answer in message {i} is empty")
            prompt = self.apply_chat_template(conversation[:i])
            whole = self.apply_chat_template(conversation[: i + 1], add_generation_prompt=False)
            if not prompt.startswith(written) or not whole.startswith(prompt):
                raise ValueError("the chat template rewrites earlier turns; their answers cannot be told apart")
            pieces += [(prompt[len(written) :], False), (whole[len(prompt) :], True)]
            written = whole
        if not pieces:
            raise ValueError("the conversation has no message of the assistant to learn from")
        queue = {"<image>": list(images or ()), "<video>": list(videos or ())}
        self._check_counts(["".join(text for text, _ in pieces)], queue)
        ids, answers, batches = self._prompt(pieces, queue, changes, fit)
        labels = [token if mine else IGNORE for token, mine in zip(ids, answers, strict=True)]
        return Example(ids, labels, pack(batches) if batches else None)

    def options(self, kind: str, **changes: Any) -> Options:
        """What `patchify` is asked for an "image" or a "video" (for which `changes` count).

        Raises:
            ValueError: the model's tower cannot take it; the message names what it takes.
        """
        return self.lmm.options(self.image if kind == "image" else replace(self.video, **changes), kind)

    def see(self, media: Media, kind: str, **changes: Any) -> PatchBatch:
        """The patches of one image or video, as a prompt would hold them. kind: "image" or "video"."""
        options = self.options(kind, **changes)
        batch = media if isinstance(media, PatchBatch) else patchify(as_bytes(media), **asdict(options))
        if len(batch) != 1:
            raise ValueError(f"a {kind} must be one sample; this PatchBatch holds {len(batch)}")
        if self.lmm.tower is not None:
            self.lmm.tower.check(batch.numpy())
        return batch

    def write_vision(self, batch: PatchBatch) -> str:
        """What stands in the prompt for one image or video: placeholders, and before each slot of a video its time,
        where that is known."""
        if self.lmm.projector == "resampler":
            return VISION * self.lmm.queries
        step = self.lmm.step
        counts = slot_counts(first_slots(batch.numpy().positions_N3, step), self.lmm.merge)
        if not self.lmm.stamps or batch.modes_B[0] == "image":
            return VISION * sum(n for _, n in counts)
        times_T = batch.slot_times_B[0][np.unique(batch.numpy().positions_N3[:, 0]).astype(int)]
        times = [times_T[i : i + step].mean() for i in range(0, len(times_T), step)]
        stamps = ["" if np.isnan(time) else f"<t={time:.1f}s>" for time in times]
        return "".join(stamp + VISION * n for stamp, (_, n) in zip(stamps, counts, strict=True))

    def apply_chat_template(  # type: ignore[override]
        self, conversation: Sequence[Mapping[str, Any]], *, add_generation_prompt: bool = True, **kwargs: Any
    ) -> str:
        """Messages to one prompt, by the language model's own template.

        A message's content is text, or a list of {"type": "text", "text": ...}, {"type": "image"} and
        {"type": "video"}; those become `<image>` and `<video>`. A tokenizer without a template gets
        "User: ...", "Assistant: ..." lines.
        """
        plain = [{"role": str(m["role"]), "content": _flatten(m["content"])} for m in conversation]
        if self.tokenizer.chat_template is None:
            lines = [f"{m['role'].capitalize()}: {m['content']}\n" for m in plain]
            return "".join(lines) + ("Assistant:" if add_generation_prompt else "")
        return self.tokenizer.apply_chat_template(
            plain, tokenize=False, add_generation_prompt=add_generation_prompt, **kwargs
        )

    def save_pretrained(self, save_directory: str | Path, **kwargs: Any) -> None:  # type: ignore[override]
        """Write the tokenizer and our options into a directory."""
        folder = Path(save_directory)
        folder.mkdir(parents=True, exist_ok=True)
        self.tokenizer.save_pretrained(folder)
        self.lmm.save(folder)
        ours = {"image": asdict(self.image), "video": asdict(self.video), "context": self.context}
        (folder / FILE).write_text(json.dumps(ours, indent=1) + "\n")

    @classmethod
    def from_pretrained(cls, pretrained_model_name_or_path: str | Path, **kwargs: Any) -> OVProcessor:  # type: ignore[override]
        """Read what `save_pretrained` wrote.

        Raises:
            OvEncoderError: a file is missing or damaged.
        """
        folder = Path(pretrained_model_name_or_path)
        lmm = LMMConfig.load(folder)
        try:
            ours = json.loads((folder / FILE).read_text())
            image, video = Options(**ours["image"]), Options(**ours["video"])
        except (OSError, ValueError, TypeError, KeyError) as e:
            raise OvEncoderError(f"{folder / FILE}: cannot be read as the options of a processor: {e}") from e
        return cls(AutoTokenizer.from_pretrained(folder), lmm=lmm, image=image, video=video, context=ours["context"])

    def _check_counts(self, texts: list[str], queue: Mapping[str, list[Media]]) -> None:
        for placeholder, items in queue.items():
            found = [one.count(placeholder) for one in texts]
            if sum(found) != len(items):
                where = f" ({', '.join(map(str, found))} in the {len(texts)} prompts)" if len(texts) > 1 else ""
                name = placeholder.strip("<>")
                raise ValueError(f"{sum(found)} {placeholder} in the text{where}, but {len(items)} {name}s were given")
        if any(VISION in one for one in texts):
            raise ValueError(f"the text holds {VISION!r}, which is reserved for visual tokens")

    def _prompt(
        self, pieces: Sequence[tuple[str, bool]], queue: dict[str, list[Media]], changes: dict[str, Any], fit: bool
    ) -> tuple[list[int], list[bool], list[PatchBatch]]:
        kinds = [kind for text, _ in pieces for kind in _PLACEHOLDER.findall(text)]
        media = [(kind.strip("<>"), queue[kind].pop(0)) for kind in kinds]
        batches = [self.see(item, kind, **(changes if kind == "video" else {})) for kind, item in media]
        ids, answers = self._ids(pieces, batches)
        if self.context is None or len(ids) <= self.context:
            return ids, answers, batches
        visual = sum(token == self.vision_id for token in ids)
        if not fit or not visual:
            raise ValueError(
                f"a prompt has {len(ids)} tokens ({visual} of them visual), the language model takes {self.context}: "
                f"use a smaller budget, a larger merge, or fit=True"
            )
        share = 1.0
        while len(ids) > self.context:
            share *= min(0.9, self.context / len(ids))
            batches = [self._fewer(item, kind, changes, share) for kind, item in media]
            ids, answers = self._ids(pieces, batches)
            if sum(batch.tokens for batch in batches) <= len(batches) * self.lmm.merge**2 and len(ids) > self.context:
                raise ValueError(f"the text alone leaves no room for media: {len(ids)} tokens for {self.context}")
        return ids, answers, batches

    def _fewer(self, item: Media, kind: str, changes: dict[str, Any], share: float) -> PatchBatch:
        """The same media with a smaller budget; a picture is made smaller."""
        if isinstance(item, PatchBatch):
            raise ValueError("fit=True cannot shrink a PatchBatch; give the media itself, or choose fewer patches")
        full = self.see(item, kind, **changes if kind == "video" else {})
        unit = self.lmm.merge**2
        if kind == "video":
            tokens = int(full.tokens / self.lmm.step * share)
            return self.see(item, kind, **changes | {"budget": max(tokens // unit, 1) * unit})
        if self.lmm.tower is not None and self.lmm.tower.rows is not None:
            raise ValueError(
                f"an image is always {full.tokens} patches for {self.lmm.tower.name}; fit cannot shrink it"
            )
        _, rows, columns = full.grids_B[0]
        options, side = self.options("image"), np.sqrt(share)
        height, width = (
            max(int(n * side) // options.block, 1) * options.block * options.patch for n in (rows, columns)
        )
        return patchify(as_bytes(item), **asdict(replace(options, size=(height, width))))

    def _ids(self, pieces: Sequence[tuple[str, bool]], batches: Sequence[PatchBatch]) -> tuple[list[int], list[bool]]:
        """Token ids of all pieces, and whether each belongs to an answer. Pieces are tokenised one by one, as they
        are when an answer is generated after its prompt."""
        parts = iter(batches)
        ids: list[int] = []
        answers: list[bool] = []
        for text, is_answer in pieces:
            first, *others = _PLACEHOLDER.split(text)
            written = first + "".join(self.write_vision(next(parts)) + other for other in others)
            new = self.tokenizer(written, add_special_tokens=not ids)["input_ids"]
            ids += new
            answers += [is_answer] * len(new)
        return ids, answers


def _flatten(content: str | Sequence[Mapping[str, Any]]) -> str:
    if isinstance(content, str):
        return content
    out = []
    for part in content:
        kind = part.get("type")
        if kind not in ("text", "image", "video"):
            raise ValueError(f"a message holds a part of type {kind!r}; allowed: text, image, video")
        out.append(str(part["text"]) if kind == "text" else f"<{kind}>")
    return "".join(out)
