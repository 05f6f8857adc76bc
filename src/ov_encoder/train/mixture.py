"""Which head and which mode the sample at a place of the stream belongs to: even, fixed proportions, no randomness.

A forward that takes neighbouring places gets every head and every mode in its share. What is shuffled is which sample
stands there (data/sampler.py).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from ov_encoder.train.config import MODES, HeadConfig, Mode


@dataclass(frozen=True)
class Mixture:
    """Heads in turn, in proportion to `samples`: pattern of one period, repeated. Heads beside another have no turn."""

    heads: tuple[HeadConfig, ...]
    pattern: tuple[int, ...] = field(init=False)  # head of each place in a period
    rank: tuple[int, ...] = field(init=False)  # how many of the same head came before it in the period

    def __post_init__(self) -> None:
        counts = [head.samples if head.beside is None else 0 for head in self.heads]
        owed, seen = [0] * len(counts), [0] * len(counts)
        pattern, rank = [], []
        for _ in range(sum(counts)):  # smooth round robin: always the head that is owed most
            owed = [o + c for o, c in zip(owed, counts, strict=True)]
            head = max(range(len(counts)), key=lambda i: owed[i])
            owed[head] -= sum(counts)
            pattern.append(head)
            rank.append(seen[head])
            seen[head] += 1
        object.__setattr__(self, "pattern", tuple(pattern))
        object.__setattr__(self, "rank", tuple(rank))

    def at(self, place: int) -> tuple[int, int]:
        """(head, place within the head's own stream) of a place of the mixed stream."""
        period, inside = divmod(place, len(self.pattern))
        head = self.pattern[inside]
        return head, period * self.heads[head].samples + self.rank[inside]


def mode_at(place: int, shares: Sequence[float]) -> Mode:
    """Mode of a place in a stream of videos: bit-reversed places are spread evenly over the shares.

    Any eight neighbours from a multiple of eight with shares (0.5, 0.375, 0.125, 0) are exactly four, three and one.
    """
    bits = place & 0xFFFFF
    turned = int(f"{bits:020b}"[::-1], 2) / (1 << 20)
    reached = 0.0
    for mode, share in zip(MODES, shares, strict=True):
        reached += share
        if turned < reached - 1e-9:
            return mode
    return MODES[max(i for i, share in enumerate(shares) if share)]
