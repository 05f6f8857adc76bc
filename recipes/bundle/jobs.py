"""What a renderer is asked for, and what it gives back. Every picture follows from the job alone."""

from __future__ import annotations

import random
from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class Job:
    """One clip or picture to render. source: name of the module that does it; what: its subject; number: which one.

    labels: true facts about it (game, room, task, motion, camera), written as the manifest's label, joined by `|`.
    """

    source: str
    what: str
    number: int
    labels: tuple[str, ...]

    @property
    def id(self) -> str:
        """Name of its file, without suffix."""
        return f"{self.source}/{self.what}_{self.number:04d}"

    @property
    def chance(self) -> random.Random:
        """Its own source of chance: the same job is the same clip, whatever ran before."""
        return random.Random(f"{self.source}/{self.what}/{self.number}")

    @property
    def noise(self) -> np.random.Generator:
        """The same for arrays."""
        return np.random.default_rng(self.chance.getrandbits(64))


def shares(count: int, subjects: list[str]) -> list[tuple[str, int]]:
    """(subject, number) of `count` jobs, spread evenly over the subjects."""
    return [(subjects[i % len(subjects)], i // len(subjects)) for i in range(count)]
