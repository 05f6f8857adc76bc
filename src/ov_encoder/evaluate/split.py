"""Splits: which samples train, which are held out, how many shots. Everything is stratified by class and a function of
its seed alone. Names and indices only; nothing is read.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence

import numpy as np

from ov_encoder.data.manifest import Manifest, Sample

TRAIN, VALIDATION = ("train", "training"), ("val", "valid", "validation", "test", "testing")
HELD_OUT = 0.2  # of the training samples, to choose on


def held_out(strata: Sequence[object], *, share: float = HELD_OUT, seed: int = 0) -> np.ndarray:
    """bool [N]: about `share` of each stratum, at least one sample where it has two, none where it has one."""
    random = np.random.default_rng([seed, 1])
    out_N = np.zeros(len(strata), bool)
    for members in _groups(strata):
        count = min(max(round(share * len(members)), 1), len(members) - 1)
        out_N[random.permutation(members)[:count]] = True
    return out_N


def shots(strata: Sequence[object], k: int, *, seed: int = 0) -> np.ndarray:
    """Indices of k samples of each stratum (all of a smaller one), ascending.

    Raises:
        ValueError: k below 1.
    """
    if k < 1:
        raise ValueError(f"shots={k}; must be at least 1")
    random = np.random.default_rng([seed, 2])
    return np.sort(np.concatenate([random.permutation(members)[:k] for members in _groups(strata)]))


def train_and_validation(
    manifest: Manifest, *, train: str | None = None, validation: str | None = None, seed: int = 0
) -> tuple[list[Sample], list[Sample], str]:
    """Samples to train and to validate on, and a sentence that says how they were told apart.

    Splits are found by name (train; val, validation, test, in this order) or given. A manifest without any split is
    split here: 20 % of each class validates.

    Raises:
        ValueError: a split is empty or cannot be told by name; the message lists what there is.
    """
    there = manifest.splits
    if train is None and validation is None and not any(name for name in there):
        samples = manifest.samples
        val_N = held_out([s.labels for s in samples], seed=seed)
        parts: tuple[list[Sample], list[Sample]] = ([], [])
        for sample, chosen in zip(samples, val_N, strict=True):
            parts[int(chosen)].append(sample)
        if not parts[1]:
            raise ValueError(f"{manifest.path}: {len(samples)} samples cannot be split: no class has two")
        return *parts, f"no split column: {HELD_OUT:.0%} of each class (seed {seed}) validate, the others train"
    chosen_train = train or _by_name(manifest, TRAIN)
    chosen_val = validation or _by_name(manifest, VALIDATION)
    if chosen_train == chosen_val:
        raise ValueError(f"split {chosen_train!r} cannot both train and validate")
    return manifest.split(chosen_train), manifest.split(chosen_val), f"splits {chosen_train!r} and {chosen_val!r}"


def _by_name(manifest: Manifest, names: Sequence[str]) -> str:
    for name in names:
        for split in manifest.splits:
            if split.lower() == name:
                return split
    found = ", ".join(f"{name or '(none)'}: {n}" for name, n in sorted(manifest.splits.items()))
    option = f"--{'val' if names == VALIDATION else 'train'}-split"
    raise ValueError(
        f"{manifest.path}: no split is called {' or '.join(names)}; there are {found}; name one with {option}"
    )


def _groups(strata: Sequence[object]) -> list[list[int]]:
    members: dict[object, list[int]] = defaultdict(list)
    for i, stratum in enumerate(strata):
        members[stratum].append(i)
    return list(members.values())
