"""From streams of samples to packed batches: tickets, decoding workers, order, packing, exact position. No torch.

Every sample has a ticket that says everything about it (which, which epoch, which mode, which random numbers), a pure
function of its place in the mixed stream. Workers turn tickets into packed patches in any order; batches are built in
order. The position is one number.
"""

from __future__ import annotations

import queue
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any

import numpy as np

from ov_encoder.data.manifest import Sample
from ov_encoder.data.sampler import sample_at
from ov_encoder.data.training_set import Stream
from ov_encoder.data.workers import Outcome, run_in_workers
from ov_encoder.errors import OvEncoderError
from ov_encoder.patchify.batch import PatchBatch, pack
from ov_encoder.train.clip import read_clip
from ov_encoder.train.config import Mode, TrainConfig
from ov_encoder.train.mixture import Mixture, mode_at
from ov_encoder.train.modes import image_batch, video_batch

HOPELESS = 200


@dataclass(frozen=True, slots=True)
class Ticket:
    """One sample to come. place: in the mixed stream. row: of its head's data. mode: of a video."""

    place: int
    head: int
    row: int
    epoch: int
    sample: Sample
    mode: Mode | None = None


@dataclass(slots=True)
class TrainBatch:
    """What a forward takes. rows: head -> samples of the batch that it learns from; labels: head -> int64 [rows, L],
    -1 for none. waited_s: how long the step stood still for it."""

    patches: PatchBatch
    ids: list[str]
    rows: dict[str, np.ndarray]
    labels: dict[str, np.ndarray]
    waited_s: float = 0.0
    skipped: dict[str, str] = field(default_factory=dict)  # id -> reason, of samples that could not be used

    @property
    def tokens(self) -> int:
        """Of all samples together."""
        return self.patches.tokens


def make_patches(ticket: Ticket, *, config: TrainConfig, patch: int) -> PatchBatch:
    """What a worker does: read (or take from the cache), augment, choose, cut.

    Raises:
        OvEncoderError: the sample cannot be read.
    """
    head = config.heads[ticket.head]
    rng = np.random.default_rng((config.seed, ticket.epoch, ticket.head, ticket.row))
    if head.kind == "video":
        video = config.video
        options = {
            "mode": "codec", "frames": video.frames, "budget": 1.0, "size": video.slot_size, "camera": video.camera,
        }  # fmt: skip
        clip = read_clip(ticket.sample, options=options, cache=config.cache)
        assert ticket.mode is not None
        return video_batch(clip, video, ticket.mode, patch=patch, rng=rng)
    picture = config.ocr if head.kind == "ocr" else config.image
    size = max(round(max(picture.sizes) / min(picture.area[0], 1.0) ** 0.5), 1)  # no crop is enlarged
    clip = read_clip(ticket.sample, options={"mode": "image", "size": size}, cache=config.cache)
    return image_batch(clip, picture, patch=patch, rng=rng)


class Loader:
    """Endless batches for one process. `state_dict` holds the number of places that went into batches so far.

    streams: of each head, by name. workers=0: decode in this process.
    """

    def __init__(
        self,
        config: TrainConfig,
        streams: Mapping[str, Stream],
        *,
        patch: int,
        rank: int = 0,
        world: int = 1,
    ) -> None:
        each, left = divmod(config.batch.samples, world * config.batch.accumulate)
        if left or not each:
            raise ValueError(
                f"batch.samples={config.batch.samples}; need a multiple of {world * config.batch.accumulate} "
                f"({world} processes x batch.accumulate={config.batch.accumulate})"
            )
        self.config, self.streams, self.patch, self.rank, self.world = config, streams, patch, rank, world
        self.each = each  # samples of a forward
        self.mixture = Mixture(config.heads)
        self.used = 0  # of this process's places
        self._source: Iterator[tuple[Ticket, PatchBatch | str]] | None = None
        self._next: tuple[Ticket, PatchBatch | str] | None = None
        self._stop = threading.Event()

    def ticket(self, number: int) -> Ticket:
        """Of the number-th place of this process: processes take turns, `each` places at a time."""
        turn, inside = divmod(number, self.each)
        place = (turn * self.world + self.rank) * self.each + inside
        head, own = self.mixture.at(place)
        about = self.config.heads[head]
        stream = self.streams[about.name]
        epoch, row = sample_at(own, len(stream.samples), seed=self.config.seed, stream=about.name)
        mode = mode_at(own, self.config.video.shares) if about.kind == "video" else None
        return Ticket(place, head, row, epoch, stream.samples[row], mode)

    def __iter__(self) -> Iterator[TrainBatch]:
        return self

    def __next__(self) -> TrainBatch:
        """The next batch: `each` places in order, or fewer if their tokens would exceed `batch.tokens`.

        Raises:
            OvEncoderError: HOPELESS samples in a row could not be read.
        """
        began = time.perf_counter()
        taken: list[tuple[Ticket, PatchBatch]] = []
        skipped: dict[str, str] = {}
        tokens = places = 0
        while places < self.each or not taken:
            ticket, made = self._peek()
            if isinstance(made, str):
                skipped[ticket.sample.id] = made
                if places >= HOPELESS and not taken:
                    raise OvEncoderError(
                        f"{places} samples in a row cannot be read; the last: {ticket.sample.id}: {made}"
                    )
            elif taken and tokens + made.tokens > self.config.batch.tokens:
                break
            else:
                taken.append((ticket, made))
                tokens += made.tokens
            self._next, places, self.used = None, places + 1, self.used + 1
        batch = self._pack(taken)
        batch.waited_s, batch.skipped = time.perf_counter() - began, skipped
        return batch

    def _pack(self, taken: list[tuple[Ticket, PatchBatch]]) -> TrainBatch:
        taken = sorted(taken, key=lambda item: item[1].tokens)  # equal lengths together: one attention call a run
        rows: dict[str, np.ndarray] = {}
        labels: dict[str, np.ndarray] = {}
        for head in self.config.heads:
            giver = self.config.heads[[h.name for h in self.config.heads].index(head.beside or head.name)]
            mine = [n for n, (ticket, _) in enumerate(taken) if self.config.heads[ticket.head] is giver]
            labels_SL = self.streams[head.name].labels_SL[[taken[n][0].row for n in mine]]
            known = (labels_SL >= 0).any(1)  # a head beside another knows some of its samples
            rows[head.name] = np.array(mine, np.int64)[known]
            labels[head.name] = labels_SL[known].astype(np.int64)
        return TrainBatch(pack([p for _, p in taken]), [t.sample.id for t, _ in taken], rows, labels)

    def _peek(self) -> tuple[Ticket, PatchBatch | str]:
        if self._source is None:
            self._source = self._prefetched() if self.config.loop.workers else self._decoded_here()
        if self._next is None:
            self._next = next(self._source)
        return self._next

    def _tickets(self) -> Iterator[Ticket]:
        number = self.used
        while not self._stop.is_set():
            yield self.ticket(number)
            number += 1

    def _work(self) -> partial[PatchBatch]:
        # Workers need neither the data nor the heads' other settings, but the whole config is small.
        return partial(make_patches, config=replace(self.config, data=()), patch=self.patch)

    def _decoded_here(self) -> Iterator[tuple[Ticket, PatchBatch | str]]:
        work = self._work()
        for ticket in self._tickets():
            try:
                yield ticket, work(ticket)
            except OvEncoderError as e:
                yield ticket, str(e)

    def _prefetched(self) -> Iterator[tuple[Ticket, PatchBatch | str]]:
        """Workers' results in the order of their tickets, from a thread that keeps `prefetch` of them ready."""
        ready: queue.Queue[Any] = queue.Queue(self.config.loop.prefetch)
        stop = self._stop

        def put(item: Any) -> None:
            while not stop.is_set():
                try:
                    return ready.put(item, timeout=0.2)
                except queue.Full:
                    continue

        def collect() -> None:
            waiting: dict[int, Outcome[Ticket, PatchBatch]] = {}
            order = (t.place for t in self._tickets())
            wanted = next(order)
            loop = self.config.loop
            try:
                outcomes = run_in_workers(self._work(), self._tickets(), workers=loop.workers, timeout_s=loop.timeout)
                for outcome in outcomes:
                    waiting[outcome.item.place] = outcome
                    while wanted in waiting:
                        found = waiting.pop(wanted)
                        put((found.item, _result(found)))
                        wanted = next(order, -1)
                    if stop.is_set():
                        outcomes.close()  # type: ignore[attr-defined]
                        return
            except BaseException as e:
                put(e)

        thread = threading.Thread(target=collect, daemon=True, name="loader")
        thread.start()
        self._thread = thread
        while True:
            item = ready.get()
            if isinstance(item, BaseException):
                raise item
            yield item

    def close(self) -> None:
        """End the workers."""
        self._stop.set()
        thread = getattr(self, "_thread", None)
        if thread is not None:
            thread.join(timeout=10)
        self._source, self._next, self._stop = None, None, threading.Event()

    def state_dict(self) -> dict[str, int]:
        """How many places of this process went into batches, out of how many a forward and processes."""
        return {"used": self.used, "each": self.each, "world": self.world}

    def load_state_dict(self, states: Sequence[Mapping[str, int]]) -> None:
        """Go on where the processes of a run stood: their state_dicts, in order of their ranks.

        The same number of processes and samples: exactly there. Another: at the first place that some process had
        not used, so no sample is left out (a few may come twice where forwards were short of samples).
        """
        self.close()
        first = states[0]
        if (len(states), first["each"]) == (self.world, self.each):
            self.used = states[self.rank]["used"]
            return
        turns = min(state["used"] // state["each"] for state in states)
        done = turns * first["each"] * len(states)
        self.used = done // (self.each * self.world) * self.each


def epochs(config: TrainConfig, streams: Mapping[str, Stream], steps: int) -> dict[str, float]:
    """How often each head's data are seen in `steps` steps."""
    own = {head.name: head.samples for head in config.heads if head.beside is None}
    places = steps * config.batch.samples / sum(own.values())
    return {h.name: places * own[h.beside or h.name] / len(streams[h.name].samples) for h in config.heads}


def _result(outcome: Outcome[Ticket, PatchBatch]) -> PatchBatch | str:
    """The patches, or why there are none: the sample's fault (unreadable, killed its worker, too slow).

    Raises:
        RuntimeError: anything else is a mistake in the program, and no reason to leave samples out.
    """
    if outcome.result is not None:
        return outcome.result
    name = "OvEncoderError: "
    if outcome.failure == "error" and not outcome.reason.startswith(name):
        raise RuntimeError(f"preparing {outcome.item.sample.id} failed:\n{outcome.trace}")
    return outcome.reason.removeprefix(name)
