"""Which process owns which classes, and how saved shards are cut anew for another number of processes.

Here: arithmetic on ranges and rows. Not here: communication (exchange.py), files (checkpoint.py).
Suffixes: C = classes of one shard, D = embedding width.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

ROW_SUFFIXES = ("_C", "_CD")


def class_range(classes: int, *, rank: int, world: int) -> tuple[int, int]:
    """First class of `rank` and the one after its last: contiguous ranges, ceil(classes / world) each.

    The same cut as `torch.chunk` and DTensor's `Shard(0)`; the last ranks may own fewer classes, or none.
    """
    if not (classes >= 1 and 0 <= rank < world):
        raise ValueError(f"classes={classes}, rank={rank}, world={world}: need classes >= 1 and 0 <= rank < world")
    size = -(-classes // world)
    return min(rank * size, classes), min((rank + 1) * size, classes)


def reshard(states: Sequence[Mapping[str, Any]], *, world: int) -> list[dict[str, Any]]:
    """State dicts of all old shards, in rank order, to state dicts of `world` new ones.

    Takes what `ClusterHead.state_dict()` or `CentreAdamW.state_dict()` gave on every rank (or a nested dict of them).
    Tensors whose name ends in `_C` or `_CD` have one row per class: they are joined and cut at the new ranges.
    Everything else must be the same on every old rank and is handed to every new one.
    Raises ValueError if the shards disagree.
    """
    if not states or world < 1:
        raise ValueError(f"{len(states)} shards to {world}: need at least one of each")
    new: list[dict[str, Any]] = [{} for _ in range(world)]
    for key, first in states[0].items():
        values = [state[key] for state in states]
        if isinstance(first, Mapping):
            cut: Sequence[Any] = reshard(values, world=world)
        elif isinstance(first, Tensor) and key.endswith(ROW_SUFFIXES):
            rows = torch.cat(values)
            ranges = [class_range(len(rows), rank=r, world=world) for r in range(world)]
            cut = [rows[start:stop].clone() for start, stop in ranges]
        else:
            same = [torch.equal(first, v) if isinstance(first, Tensor) else first == v for v in values]
            if not all(same):
                raise ValueError(f"the shards disagree about {key!r}: they are not of one run and step")
            cut = [first] * world
        for target, value in zip(new, cut, strict=True):
            target[key] = value
    return new
