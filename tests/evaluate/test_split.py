"""Splits: stratified, disjoint, seeded; what cannot be split is said."""

from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ov_encoder.data.manifest import Manifest, Sample
from ov_encoder.evaluate.split import held_out, shots, train_and_validation

strata = st.lists(st.integers(0, 4), min_size=1, max_size=60)


def manifest(*splits, labels="ab"):
    samples = [Sample(str(i), f"{i}.mp4", "video", (labels[i % 2],), s) for i, s in enumerate(splits)]
    return Manifest(Path("m.csv"), samples)


@given(strata, st.integers(0, 5))
def test_a_fifth_of_each_class_is_held_out_and_some_of_each_stay(classes, seed):
    out = held_out(classes, seed=seed)
    held, all_of = Counter(np.array(classes)[out].tolist()), Counter(classes)
    for c, n in all_of.items():
        assert held[c] == (0 if n == 1 else min(max(round(0.2 * n), 1), n - 1))
    assert (out == held_out(classes, seed=seed)).all()


def test_seeds_hold_out_different_samples():
    assert any((held_out([0] * 50, seed=0) != held_out([0] * 50, seed=s)).any() for s in (1, 2))


@given(strata, st.integers(1, 7), st.integers(0, 5))
def test_shots_are_k_of_each_class(classes, k, seed):
    chosen = shots(classes, k, seed=seed)
    assert sorted(set(chosen)) == chosen.tolist()
    counts = Counter(np.array(classes)[chosen].tolist())
    assert counts == {c: min(k, n) for c, n in Counter(classes).items()}


def test_splits_by_name_and_by_hand():
    train, val, how = train_and_validation(manifest("Train", "val", "test", "Train"))
    assert [s.id for s in train] == ["0", "3"] and [s.id for s in val] == ["1"] and how == "splits 'Train' and 'val'"
    train, val, _ = train_and_validation(manifest("all", "extra", "test"), train="extra")
    assert [s.id for s in train] == ["1"] and [s.id for s in val] == ["2"]


def test_without_splits_a_fifth_validates_and_that_is_said():
    train, val, how = train_and_validation(manifest(*[""] * 20))
    assert len(train) == 16 and Counter(s.labels for s in val) == {("a",): 2, ("b",): 2}
    assert {s.id for s in train} | {s.id for s in val} == set(map(str, range(20)))
    assert how == "no split column: 20% of each class (seed 0) validate, the others train"


def test_what_cannot_be_split():
    with pytest.raises(ValueError, match=r"no split is called val or .*; there are train: 2; name one with --val"):
        train_and_validation(manifest("train", "train"))
    with pytest.raises(ValueError, match=r"no samples in split 'gone'; there are train: 1, val: 1"):
        train_and_validation(manifest("train", "val"), validation="gone")
    with pytest.raises(ValueError, match="cannot both train and validate"):
        train_and_validation(manifest("train", "val"), train="val")
    with pytest.raises(ValueError, match="cannot be split: no class has two"):
        train_and_validation(manifest("", ""))
    with pytest.raises(ValueError, match="shots=0"):
        shots([0], 0)
