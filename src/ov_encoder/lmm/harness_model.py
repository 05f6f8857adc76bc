"""Our language model behind lmms-eval's interface, imported by lmms-eval only.

    lmms-eval --model ov_encoder --model_args pretrained=DIR,mode=codec,budget=2048 --tasks mvbench,videomme

Requests carry a prompt, and a function that gives its media: PIL images, or paths of videos.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from lmms_eval.api.instance import Instance
from lmms_eval.api.model import lmms
from rich.progress import track

from ov_encoder.lmm.evaluate import generate, likelihoods
from ov_encoder.lmm.media import load
from ov_encoder.lmm.model import OVLanguageModel
from ov_encoder.lmm.processor import OVProcessor

_GENERATION = ("temperature", "top_p", "num_beams", "do_sample")


class OVEncoderForEval(lmms):
    """model_args: pretrained (a directory of `lmm train`), device, batch_size (1), and for videos mode and budget.

    Raises:
        ValueError: an argument that is not known; the message lists those that are.
    """

    def __init__(
        self,
        pretrained: str,
        device: str = "cuda",
        batch_size: int | str = 1,
        mode: str | None = None,
        budget: int | str | None = None,
        **others: Any,
    ) -> None:
        super().__init__()
        if others:
            raise ValueError(
                f"unknown model_args {', '.join(others)}; known: pretrained, device, batch_size, mode, budget"
            )
        if int(batch_size) != 1:
            raise ValueError(f"batch_size={batch_size}; must be 1")
        self.processor = OVProcessor.from_pretrained(pretrained)
        self.changes: dict[str, Any] = {"mode": mode} if mode else {}
        if budget is not None:
            self.changes["budget"] = int(budget)
        self.processor.options("video", **self.changes)  # what the model cannot do is said before it is loaded
        self.model = OVLanguageModel.load(pretrained, device=device if torch.cuda.is_available() else "cpu")

    def generate_until(self, requests: list[Instance]) -> list[str]:
        """The greedy answer to each request, cut at its stop words."""
        answers = []
        for context, options, get_media, doc_id, task, split in track(
            [request.args for request in requests], description="answering", disable=self.rank != 0
        ):
            if sampling := {k: options[k] for k in _GENERATION if options.get(k) not in (None, 0, 0.0, 1, False)}:
                raise ValueError(f"task {task} asks for {sampling}; this model answers greedily")
            prompt, media = self._see(context, get_media(self.task_dict[task][split][doc_id]))
            text = generate(
                self.model,
                self.processor,
                self.processor.apply_chat_template([{"role": "user", "content": prompt}]),
                max_new_tokens=int(options.get("max_new_tokens", 128)),
                **media,
            )
            stops = options.get("until") or []
            for stop in [stops] if isinstance(stops, str) else stops:
                text = text.split(stop)[0] if stop else text
            answers.append(text)
            self.cache_hook.add_partial("generate_until", (context, options), text)
        return answers

    def loglikelihood(self, requests: list[Instance]) -> list[tuple[float, bool]]:
        """For each request (mean negative log likelihood of the continuation, whether it is what greedy decoding
        would say): lmms-eval takes the choice with the smallest first value."""
        found = []
        for context, target, get_media, doc_id, task, split in track(
            [request.args for request in requests], description="weighing", disable=self.rank != 0
        ):
            document = self.task_dict[task][split][doc_id]
            answer = target if isinstance(target, str) else target(document)
            prompt, media = self._see(context, get_media(document))
            talk = [{"role": "user", "content": prompt}]
            said = generate(
                self.model,
                self.processor,
                self.processor.apply_chat_template(talk),
                max_new_tokens=len(self.processor.tokenizer(answer)["input_ids"]),
                **media,
            )
            (weight,) = likelihoods(self.model, self.processor, talk, [answer.strip()], **media)
            found.append((-weight, said.strip().startswith(answer.strip())))
        return found

    def generate_until_multi_round(self, requests: list[Instance]) -> list[str]:
        """Not offered: none of the documented tasks asks for it."""
        raise NotImplementedError("ov_encoder answers single questions; multi-round tasks are not supported")

    def _see(self, context: str, media: Sequence[Any] | None) -> tuple[str, dict[str, Any]]:
        """The prompt with placeholders for its media (first, unless the text has them), and the media."""
        images = [m for m in media or [] if not isinstance(m, str | Path)]
        videos = [m for m in media or [] if isinstance(m, str | Path)]
        for placeholder, items in (("<video>", videos), ("<image>", images)):
            if context.count(placeholder) != len(items):
                context = placeholder * len(items) + "\n" + context.replace(placeholder, "")
        seen = [self.processor.see(load(path), "video", **self.changes) for path in videos]
        return context, {"images": images, "videos": seen}
