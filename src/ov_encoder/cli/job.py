"""A long encoding job: worker processes read and choose patches, this process encodes and writes.

Safe to kill at any moment: what is finished is on disk whole, and the same command goes on from there. Importing
this file brings no torch, because the workers do.

Shapes: N = tokens, D = width, B = samples.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ov_encoder.cli.outputs import Embedding, Writer
from ov_encoder.data.folder import remove_parts
from ov_encoder.data.sources import Entry
from ov_encoder.data.workers import run_in_workers
from ov_encoder.patchify.batch import PatchBatch, pack

if TYPE_CHECKING:
    from ov_encoder.model.encoder import OVEncoder

FAILURES = "failures.jsonl"


@dataclass(frozen=True, slots=True)
class Step:
    """One input is through: its tokens are written, or `reason` says why not."""

    entry: Entry
    tokens: int = 0
    failure: str = ""
    reason: str = ""


def read_patches(entry: Entry, *, options: dict[str, Any], rate: float | None) -> PatchBatch:
    """What a worker does: one sample of an input, or one for each window at `rate` slots per second."""
    from ov_encoder.patchify.api import patchify, patchify_windows

    if rate is None:
        return patchify(entry.path, **options)
    return pack(list(patchify_windows(entry.path, rate=rate, **options)))


def run_job(
    todo: Sequence[Entry],
    *,
    folder: Path,
    writer: Writer,
    model: OVEncoder,
    read: Callable[[Entry], PatchBatch],
    keep_tokens: bool,
    workers: int,
    timeout_s: float,
    batch_tokens: int,
) -> Iterator[Step]:
    """Encode every entry of `todo`, yielding a Step for each, in order of completion.

    batch_tokens: encode inputs together until they have this many tokens; 0: every sample alone, so that its
    numbers do not depend on what else is in the job. Failures also go to failures.jsonl, which starts empty.
    """
    remove_parts(folder)
    group: list[tuple[Entry, PatchBatch]] = []

    def encode_and_write() -> Iterator[Step]:
        for embedding in encode_group(model, group, limit=batch_tokens, keep_tokens=keep_tokens):
            writer.write(embedding)
            yield Step(embedding.entry, embedding.batch.tokens)
        group.clear()

    with (folder / FAILURES).open("w") as failures:
        for outcome in run_in_workers(read, todo, workers=workers, timeout_s=timeout_s):
            if outcome.result is None:
                entry, reason = outcome.item, outcome.reason.removeprefix("OvEncoderError: ")
                record = {"id": entry.id, "source": entry.source, "failure": outcome.failure}
                failures.write(json.dumps(record | {"reason": reason, "trace": outcome.trace}) + "\n")
                failures.flush()
                yield Step(entry, failure=outcome.failure, reason=reason)
                continue
            group.append((outcome.item, outcome.result))
            if sum(batch.tokens for _, batch in group) >= batch_tokens:
                yield from encode_and_write()
        yield from encode_and_write()
        writer.close()


def encode_group(
    model: OVEncoder, group: Iterable[tuple[Entry, PatchBatch]], *, limit: int, keep_tokens: bool
) -> Iterator[Embedding]:
    """Encode the samples of several inputs, packed up to `limit` tokens at a time (a larger sample goes alone)."""
    import torch

    group = list(group)
    pooled, tokens = [], []
    with torch.inference_mode():
        for samples in _packs([sample for _, batch in group for sample in batch.unpack()], limit):
            out = model(pack(samples))
            if out.pooled_BD is not None:
                pooled += list(out.pooled_BD.float().cpu())
            if keep_tokens:
                tokens += [t.cpu() for t in out.split()]
    start = 0
    for entry, batch in group:
        mine = slice(start, start + len(batch))
        start += len(batch)
        yield Embedding(
            entry,
            batch,
            torch.stack(pooled[mine]) if pooled else None,
            torch.cat(tokens[mine]) if keep_tokens else None,
        )


def _packs(samples: list[PatchBatch], limit: int) -> Iterator[list[PatchBatch]]:
    now: list[PatchBatch] = []
    for sample in samples:
        if now and sum(s.tokens for s in now) + sample.tokens > limit:
            yield now
            now = []
        now.append(sample)
    if now:
        yield now
