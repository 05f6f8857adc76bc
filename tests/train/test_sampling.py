"""Draws of classes and labels: what is kept, that all others are equally likely, that seeds are apart."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from ov_encoder.train.sampling import distinct, draw_first, generator_for, sample_rows


@settings(max_examples=100)
@given(
    classes=st.integers(1, 50),
    rate=st.floats(0.01, 1.0),
    positives=st.lists(st.integers(-3, 60), max_size=80),
    seed=st.integers(0, 100),
)
def test_rows_hold_all_positives_and_the_asked_number(classes, rate, positives, seed):
    generator = torch.Generator().manual_seed(seed)
    rows = sample_rows(
        torch.tensor(positives, dtype=torch.int64), classes=classes, rate=rate, generator=generator
    ).tolist()
    inside = {p for p in positives if 0 <= p < classes}
    assert rows == sorted(set(rows)) and rows[0] >= 0 and rows[-1] < classes
    assert inside <= set(rows)
    assert len(rows) == max(1, int(rate * classes), len(inside))


def test_every_other_class_is_equally_likely():
    """40 classes, 2 positives, 10 sampled: 8 of 38 others. 4,000 draws: each within 5 standard deviations."""
    generator = torch.Generator().manual_seed(0)
    positives = torch.tensor([3, 17, 3])
    counts = torch.zeros(40)
    for _ in range(4000):
        counts[sample_rows(positives, classes=40, rate=0.25, generator=generator)] += 1
    chance = 8 / 38
    spread = (4000 * chance * (1 - chance)) ** 0.5
    assert counts[3] == counts[17] == 4000
    others = torch.cat([counts[:3], counts[4:17], counts[18:]])
    assert ((others - 4000 * chance).abs() < 5 * spread).all()
    assert others.std() > 0.5 * spread  # draws are independent, not taken in turn


@settings(max_examples=50)
@given(rows=st.lists(st.lists(st.integers(-1, 6), min_size=5, max_size=5), min_size=1, max_size=5))
def test_distinct_keeps_each_label_once(rows):
    found = distinct(torch.tensor(rows)).tolist()
    for before, after in zip(rows, found, strict=True):
        labels = [j for j in after if j >= 0]
        assert len(labels) == len(set(labels)) and set(labels) == {j for j in before if j >= 0}
        assert len(after) == 5


def test_drawn_labels_come_first_and_are_equally_likely():
    labels_BL = torch.tensor([[4, -1, 7, 9, -1]]).expand(6000, -1)
    drawn_BL = draw_first(labels_BL, torch.Generator().manual_seed(0))
    assert (drawn_BL[:, :3] >= 0).all() and (drawn_BL[:, 3:] == -1).all()
    counts = torch.tensor([(drawn_BL[:, :2] == j).sum() for j in (4, 7, 9)])
    assert ((counts - 4000).abs() < 5 * (6000 * 2 / 9) ** 0.5).all()


def test_generators_differ_by_every_argument():
    base = {"seed": 1, "step": 2, "rank": 3}
    keys = [("negatives", base), ("labels", base), *(("negatives", base | {name: 9}) for name in base)]
    numbers = [float(torch.rand((), generator=generator_for(purpose, **key))) for purpose, key in keys]
    assert len(set(numbers)) == 5
    assert numbers[0] == float(torch.rand((), generator=generator_for("negatives", **base)))


def test_first_draw_of_consecutive_steps_is_uniform():
    numbers = torch.tensor(
        [float(torch.rand((), generator=generator_for("labels", seed=0, step=s))) for s in range(2000)]
    )
    assert numbers.mean() == pytest.approx(0.5, abs=5 * 0.289 / 2000**0.5)
    assert torch.corrcoef(torch.stack([numbers[1:], numbers[:-1]]))[0, 1].abs() < 5 / 2000**0.5
