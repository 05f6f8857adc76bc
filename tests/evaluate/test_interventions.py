"""Interventions change contents or places, never the token count or the set of positions."""

from collections import Counter

import numpy as np
import pytest

from ov_encoder.evaluate.interventions import INTERVENTIONS, intervene
from ov_encoder.patchify.api import plan
from tests import clips

OPTIONS = {"frames": 16, "size": (112, 112), "budget": 128, "mode": "codec"}


@pytest.fixture(scope="module")
def made():
    return plan(clips.encode(clips.pan(T=20, H=112, W=112).frames_THW3, gop=20), **OPTIONS)


@pytest.fixture(scope="module")
def donor():
    return plan(clips.encode(clips.rotation(T=20, H=112, W=112).frames_THW3, gop=20), **OPTIONS)


@pytest.mark.parametrize("how", INTERVENTIONS)
def test_positions_and_counts_stay(made, donor, how):
    batch, before = intervene(made, how, key="a", donor=donor), made.to_batch()
    assert np.array_equal(batch.positions_N3, before.positions_N3)
    assert batch.lengths_B == before.lengths_B and batch.grids_B == before.grids_B
    assert batch.provenance_B[0]["intervention"] == how
    assert "intervention" not in made.provenance  # the plan is not touched
    assert np.array_equal(made.to_batch().patches_ND, before.patches_ND)


def rows(patches_ND: np.ndarray) -> list[bytes]:
    return [row.tobytes() for row in patches_ND]


def test_shuffle_keeps_every_content_once(made):
    before, after = rows(made.to_batch().patches_ND), rows(intervene(made, "shuffle", key="a").patches_ND)
    assert Counter(before) == Counter(after)
    assert np.mean([a != b for a, b in zip(before, after, strict=True)]) > 0.9


def test_still_shows_patches_of_low_score_that_were_not_kept(made):
    before, after = rows(made.to_batch().patches_ND), rows(intervene(made, "still", key="a").patches_ND)
    changed = {i for i in range(128) if before[i] != after[i]}
    assert len(changed) == 64
    everything = made.frames_THWC.reshape(16, 8, 14, 8, 14, 3).transpose(0, 1, 3, 5, 2, 4).reshape(1024, -1)
    scores = np.nan_to_num(made.scores_THW).ravel()
    left = ~made.keep_THW.ravel()
    middle = np.median(scores[left])
    allowed = set(rows(everything[left & (scores <= middle)]))
    assert all(after[i] in allowed for i in changed)


def test_other_shows_what_moved_in_the_donor(made, donor):
    before, after = rows(made.to_batch().patches_ND), rows(intervene(made, "other", key="a", donor=donor).patches_ND)
    kept = donor.to_batch()
    moving = ~donor.anchors_T[kept.positions_N3[:, 0]]
    allowed = set(rows(kept.patches_ND[moving]))
    changed = [after[i] for i in range(128) if before[i] != after[i]]
    assert len(changed) == 64 and set(changed) <= allowed


@pytest.mark.parametrize("how", INTERVENTIONS)
def test_they_are_functions_of_seed_and_sample(made, donor, how):
    def pixels(**by):
        return intervene(made, how, donor=donor, **by).patches_ND

    assert np.array_equal(pixels(seed=1, key="a"), pixels(seed=1, key="a"))
    assert not np.array_equal(pixels(seed=1, key="a"), pixels(seed=2, key="a"))
    assert not np.array_equal(pixels(seed=1, key="a"), pixels(seed=1, key="b"))


def test_what_cannot_be_done_is_said(made, donor):
    with pytest.raises(ValueError, match="allowed: still, other, shuffle"):
        intervene(made, "blur")
    with pytest.raises(ValueError, match="needs a donor clip with patches of 14 pixels"):
        intervene(made, "other")


def test_a_clip_kept_whole_can_still_be_disturbed():
    made = plan(clips.encode(clips.static(T=2, H=28, W=28).frames_THW3), **{**OPTIONS, "size": (28, 28)})
    assert made.keep_THW.all()
    assert intervene(made, "still").tokens == 8
    assert intervene(made, "other", donor=made).tokens == 8
