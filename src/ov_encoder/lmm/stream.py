"""Conversations to batches, endlessly and in an order that follows from the seed alone; its position is one number.

Files are read and patches chosen in worker processes; text is written here. A sample that cannot be used is left out
of its step, with the reason.
"""

from __future__ import annotations

import itertools
import random
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from functools import partial
from typing import Any

from ov_encoder.data.ordered import Ordered
from ov_encoder.data.sampler import sample_at
from ov_encoder.errors import OvEncoderError
from ov_encoder.lmm.collate import pack_examples, pad_examples
from ov_encoder.lmm.instructions import Conversation
from ov_encoder.lmm.processor import Example, OVProcessor
from ov_encoder.lmm.train_config import LMMTrainConfig
from ov_encoder.patchify.api import patchify
from ov_encoder.patchify.batch import PatchBatch
from ov_encoder.patchify.options import Options

Seen = dict[str, list[PatchBatch]]  # "images" and "videos" of one conversation


@dataclass(frozen=True, slots=True)
class Ticket:
    """One conversation to come, and how its videos are seen."""

    place: int
    talk: Conversation
    image: Options
    video: Options


@dataclass(slots=True)
class LanguageBatch:
    """What a forward takes: `inputs` of OVLanguageModel."""

    inputs: dict[str, Any]
    ids: list[str]
    tokens: int  # of the language model, without padding
    waited_s: float = 0.0
    skipped: dict[str, str] = field(default_factory=dict)


def look(ticket: Ticket) -> Seen:
    """What a worker does: open the files of a conversation and choose their patches.

    Raises:
        OvEncoderError: a file cannot be read.
    """
    talk = ticket.talk
    if talk.positions is not None:
        seen: Seen = {"images": [], "videos": []}
        return seen | talk.media(patch=ticket.image.patch)
    return {  # from their files, so that what is wrong with one is said with its name
        "images": [patchify(path, **asdict(ticket.image)) for path in talk.images],
        "videos": [patchify(path, **asdict(ticket.video)) for path in talk.videos],
    }


class ConversationStream:
    """Batches for one process of `world`. Steps are grouped: `config.group` steps' conversations are sorted by length,
    cut into forwards, and the forwards come in a shuffled order."""

    def __init__(
        self,
        talks: Sequence[Conversation],
        processor: OVProcessor,
        config: LMMTrainConfig,
        *,
        rank: int = 0,
        world: int = 1,
    ) -> None:
        each, left = divmod(config.samples, world * config.accumulate)
        if left or not each:
            raise ValueError(
                f"samples={config.samples}; need a multiple of {world * config.accumulate} ({world} processes x "
                f"accumulate={config.accumulate})"
            )
        if not talks:
            raise ValueError("no conversations to learn from")
        self.talks, self.processor, self.config = list(talks), processor, config
        self.each, self.rank, self.world = each, rank, world
        self.forwards = config.group * config.accumulate  # of a group, in this process
        self.done = 0  # forwards so far, in this process
        self._source: Ordered[Ticket, Seen] | None = None
        self._group: list[list[Example]] = []
        self._ids: list[list[str]] = []
        self._skipped: dict[str, str] = {}

    def ticket(self, place: int) -> Ticket:
        """Of a place in the stream of all processes."""
        _, row = sample_at(place, len(self.talks), seed=self.config.seed, stream="conversations")
        sight, lmm = self.config.sight, self.config.lmm
        mode = sight.modes[place % len(sight.modes)]
        image, video = lmm.options(sight.image(lmm.merge), "image"), lmm.options(sight.video(lmm.merge, mode), "video")
        return Ticket(place, self.talks[row], image, video)

    def __next__(self) -> LanguageBatch:
        """The next forward's batch.

        Raises:
            OvEncoderError: a whole group of conversations could not be used.
        """
        began = time.perf_counter()
        number = self.done % self.forwards
        if not self._group:
            self._read_group(self.done // self.forwards)
        examples = self._group[number]
        ids = self._ids[number]
        self.done += 1
        if self.done % self.forwards == 0:
            self._group = []
        collate = pack_examples if self.config.pack else partial(pad_examples, pad_id=self._pad_id)
        skipped, self._skipped = self._skipped, {}
        tokens = sum(len(e.ids_L) for e in examples)
        return LanguageBatch(collate(examples), ids, tokens, time.perf_counter() - began, skipped)

    @property
    def _pad_id(self) -> int:
        return int(self.processor.tokenizer.pad_token_id)

    def _read_group(self, group: int) -> None:
        if self._source is None:
            loop = self.config.loop
            self._source = Ordered(
                look, self._tickets(group), workers=loop.workers, prefetch=loop.prefetch, timeout_s=loop.timeout
            )
        found: list[tuple[str, Example]] = []
        for _ in range(self.forwards * self.each):
            ticket, seen = next(self._source)
            name = ticket.talk.id
            if isinstance(seen, str):
                self._skipped[name] = seen
                continue
            try:
                images, videos = seen["images"], seen["videos"]
                found.append((name, self.processor.example(ticket.talk.messages, images=images, videos=videos)))
            except ValueError as e:
                self._skipped[name] = str(e)
        if len(found) < self.forwards:
            name, reason = next(iter(self._skipped.items()))
            raise OvEncoderError(
                f"only {len(found)} of {self.forwards * self.each} conversations can be used; {name}: {reason}"
            )
        found.sort(key=lambda item: len(item[1].ids_L))
        bounds = [i * len(found) // self.forwards for i in range(self.forwards + 1)]
        parts = [found[a:b] for a, b in itertools.pairwise(bounds)]
        random.Random(f"{self.config.seed}/{group}").shuffle(parts)
        self._group = [[example for _, example in part] for part in parts]
        self._ids = [[name for name, _ in part] for part in parts]

    def _tickets(self, group: int) -> Iterator[Ticket]:
        size = self.forwards * self.each
        while True:
            first = (group * self.world + self.rank) * size
            for place in range(first, first + size):
                yield self.ticket(place)
            group += 1

    def state_dict(self) -> dict[str, int]:
        """How many forwards of this process were taken, and how groups are cut."""
        return {"done": self.done, "forwards": self.forwards, "each": self.each, "world": self.world}

    def load_state_dict(self, states: Sequence[Mapping[str, int]]) -> None:
        """Go on exactly there with the same number of processes; with another, at the start of the group."""
        self.close()
        first = states[0]
        same = (len(states), first["forwards"], first["each"]) == (self.world, self.forwards, self.each)
        if same:
            self.done = first["done"]
            return
        used = first["done"] // first["forwards"] * first["forwards"] * first["each"] * len(states)
        self.done = used // (self.forwards * self.each * self.world) * self.forwards

    def close(self) -> None:
        """End the workers; the next batch starts them again."""
        if self._source is not None:
            self._source.close()
        self._source, self._group = None, []
