"""Exactly K patches: the best ones, whole frames first, floors and caps kept, ties settled by place.

T = slots, H, W = patch rows and columns.
"""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ov_encoder.patchify.select import (
    MAX_SHARE,
    MIN_SHARE,
    SHOT_FLOOR,
    anchor_slots,
    select,
    token_budget,
)


@st.composite
def cases(draw, *, block=1, shots=True):
    """Scores with many ties, zeros and unknown slots; a budget; anchors that fit it; shots."""
    T = draw(st.integers(1, 10))
    H, W = (block * draw(st.integers(1, 4)) for _ in range(2))
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    levels = draw(st.sampled_from([2, 5, 1000]))
    scores = (rng.integers(0, levels, (T, H, W)) / levels).astype(np.float32)
    scores[rng.random(T) < draw(st.sampled_from([0.0, 0.3]))] = np.nan
    K = draw(st.integers(1, T * H * W // block**2)) * block**2
    anchors = sorted(rng.choice(T, draw(st.integers(0, K // (H * W))), replace=False).tolist())
    starts = [0, *np.flatnonzero(rng.random(T) < 0.3).tolist()] if shots else [0]
    return scores, K, anchors, sorted(set(starts))


# --- what always holds ------------------------------------------------------------------------------------------


@settings(max_examples=200)
@given(case=cases())
def test_exactly_k_with_anchors_whole_and_always_the_same(case):
    scores, K, anchors, shots = case
    keep, fillers = select(scores, K, anchors=anchors, shots=shots)
    assert (keep.shape, keep.dtype) == (scores.shape, bool)
    assert keep.sum() == K
    assert keep[anchors].all()
    again, same_fillers = select(scores.copy(), K, anchors=anchors, shots=shots)
    assert np.array_equal(keep, again)
    assert fillers == same_fillers
    changed = np.nan_to_num(scores) > 0
    changed[anchors] = False
    assert 0 <= fillers <= K - len(anchors) * keep[0].size
    assert (keep & changed).sum() >= K - fillers - len(anchors) * keep[0].size


@settings(max_examples=150)
@given(case=cases(shots=False))
def test_in_one_shot_the_best_are_kept_and_ties_go_to_the_earlier(case):
    scores, K, anchors, _ = case
    keep, fillers = select(scores, K, anchors=anchors, shots=[0])
    free = np.ones(len(scores), bool)
    free[anchors] = False
    rest = np.nan_to_num(scores)[free].ravel()
    wanted = K - len(anchors) * keep[0].size
    order = sorted(range(len(rest)), key=lambda n: (-rest[n], n))  # plain Python: score, then (t, h, w)
    chosen = [n for n in order if rest[n] > 0][:wanted]
    assert fillers == wanted - len(chosen)
    kept = np.flatnonzero(keep[free].ravel())
    assert set(chosen) <= set(kept.tolist())
    if not fillers:
        assert set(chosen) == set(kept.tolist())


@settings(max_examples=80)
@given(case=cases(block=2))
def test_blocks_are_kept_whole_by_their_sum(case):
    scores, K, anchors, shots = case
    keep, _ = select(scores, K, anchors=anchors, shots=shots, block=2)
    T, H, W = scores.shape
    squares = keep.reshape(T, H // 2, 2, W // 2, 2)
    assert (squares.all(axis=(2, 4)) == squares.any(axis=(2, 4))).all()
    assert keep.sum() == K
    sums = np.nan_to_num(scores).reshape(T, H // 2, 2, W // 2, 2).sum(axis=(2, 4))
    alone, _ = select(sums, K // 4, anchors=anchors, shots=shots)
    assert np.array_equal(squares.all(axis=(2, 4)), alone)


@settings(max_examples=150)
@given(case=cases(), cap=st.integers(1, 8), floor=st.integers(0, 8))
def test_floors_and_caps_of_slots(case, cap, floor):
    scores, K, anchors, shots = case
    floor = min(floor, cap)
    others = [t for t in range(len(scores)) if t not in anchors]
    known = (np.nan_to_num(scores) > 0).sum(axis=(1, 2))
    needed = sum(min(floor, int(known[t])) for t in others)
    if needed > K - len(anchors) * scores[0].size:
        with pytest.raises(ValueError, match=f"slot_floor={floor} asks for {needed} patches"):
            select(scores, K, anchors=anchors, shots=shots, slot_cap=cap, slot_floor=floor)
        return
    keep, fillers = select(scores, K, anchors=anchors, shots=shots, slot_cap=cap, slot_floor=floor)
    assert keep.sum() == K
    if not fillers:
        assert all(keep[t].sum() <= cap for t in others)
    assert all((keep[t] & (np.nan_to_num(scores[t]) > 0)).sum() >= min(floor, known[t]) for t in others)


@settings(max_examples=150)
@given(case=cases())
def test_every_shot_gets_its_floor(case):
    scores, K, anchors, shots = case
    keep, _ = select(scores, K, anchors=anchors, shots=shots)
    T, S = len(scores), scores[0].size
    shared = K - len(anchors) * S
    for start, end in zip(shots, [*shots[1:], T], strict=True):
        due = int(SHOT_FLOOR * shared * (end - start) / T)
        changed = np.nan_to_num(scores[start:end]) > 0
        changed[[a - start for a in anchors if start <= a < end]] = False
        kept = keep[start:end].sum()
        assert kept >= min(due, changed.sum())  # of patches that changed as many as are due
        if len(shots) > 1:
            assert kept >= due or keep[start:end].all(axis=(1, 2)).any()  # a still shot is shown whole instead


# --- by hand --------------------------------------------------------------------------------------------------


def test_a_quiet_shot_beside_a_violent_one():
    scores = np.full((20, 4, 4), 0.9, np.float32)
    scores[10:] = 0
    scores[10:, 1, 2] = 0.01  # one patch moves a little
    keep, fillers = select(scores, 32, anchors=[0], shots=[0, 10])
    assert keep[:10].sum() == 16 + 12  # a whole frame and the rest
    assert keep[10:, 1, 2].sum() == 4  # a quarter of 16: half of the clip, half of the budget
    assert fillers == 0
    alone, _ = select(scores, 32, anchors=[0], shots=[0])
    assert alone[10:].sum() == 0  # what plain top-K does


def test_a_still_shot_is_shown_once():
    scores = np.full((20, 4, 4), 0.9, np.float32)
    scores[10:] = 0
    keep, fillers = select(scores, 64, anchors=[], shots=[0, 10])
    assert (keep[10].sum(), keep[11:].sum(), fillers) == (16, 0, 16)
    shown, fillers = select(scores, 64, anchors=[10], shots=[0, 10])
    assert (shown[10].all(), shown[11:].sum(), fillers) == (True, 0, 0)  # it is there already


def test_a_still_clip_becomes_spread_whole_frames():
    keep, fillers = select(np.zeros((8, 2, 2), np.float32), 16, anchors=[], shots=[0])
    assert fillers == 16
    assert np.flatnonzero(keep.all(axis=(1, 2))).tolist() == [0, 2, 4, 6]
    keep, fillers = select(np.full((8, 2, 2), np.nan, np.float32), 16, anchors=[0, 4], shots=[0])
    assert fillers == 8
    assert np.flatnonzero(keep.all(axis=(1, 2))).tolist() == [0, 2, 4, 6]


def test_the_rest_of_a_frame_is_scattered_evenly():
    keep, fillers = select(np.zeros((2, 4, 4), np.float32), 16 + 4, anchors=[0], shots=[0])
    assert fillers == 4
    assert np.flatnonzero(keep[1].ravel()).tolist() == [0, 5, 10, 15]


def test_all_of_it():
    scores = np.random.default_rng(0).random((3, 4, 4)).astype(np.float32)
    keep, fillers = select(scores, 48, anchors=[0, 1, 2], shots=[0, 1])
    assert keep.all()
    assert fillers == 0


@pytest.mark.parametrize("limits", [{"slot_cap": 0}, {"slot_cap": 2, "slot_floor": 3}, {"slot_cap": 3, "block": 2}])
def test_a_cap_below_its_floor_or_inside_a_block_is_refused(limits):
    with pytest.raises(ValueError, match=r"slot_cap=\d; must be (at least slot_floor=|a whole number .* in steps of)"):
        select(np.ones((2, 2, 2), np.float32), 4, anchors=[], shots=[0], **limits)


# --- budget ---------------------------------------------------------------------------------------------------

NO_BITS = np.zeros(64), np.zeros(64)


def test_forms_of_a_budget():
    grid = (64, 16, 16)
    assert token_budget(2048, grid, *NO_BITS) == 2048
    assert token_budget(0.125, grid, *NO_BITS) == 2048
    assert token_budget(1.0, grid, *NO_BITS) == 64 * 256
    assert token_budget(1, grid, *NO_BITS) == 1
    assert token_budget(10**6, grid, *NO_BITS) == 64 * 256
    assert token_budget(0.00001, grid, *NO_BITS) == 1


@given(budget=st.one_of(st.integers(1, 40_000), st.floats(1e-6, 1.0)), block=st.integers(1, 3))
def test_a_budget_is_whole_blocks_within_the_clip(budget, block):
    grid = (7, 4 * block, 5 * block)
    K = token_budget(budget, grid, np.ones(7), np.zeros(7), block=block)
    total = 7 * 20 * block**2
    asked = round(budget * total) if isinstance(budget, float) else budget
    assert K % block**2 == 0
    assert block**2 <= K <= total
    assert min(asked, total) - block**2 < K <= max(asked, block**2)


@given(
    whole=st.lists(st.integers(0, 10**7), max_size=8),
    predicted=st.lists(st.integers(0, 10**7), min_size=1, max_size=64),
)
def test_auto_stays_within_the_paper_s_range(whole, predicted):
    bits = np.array([*whole, *predicted], float)
    intra = np.array([1.0] * len(whole) + [0.3] * len(predicted))
    grid = (len(bits), 16, 16)
    K = token_budget("auto", grid, bits, intra)
    total = len(bits) * 256
    assert round(MIN_SHARE * total) <= K <= round(MAX_SHARE * total)


def test_auto_counts_frames_worth_of_bits():
    intra = np.array([1.0] + [0.0] * 63)
    for worth in (3, 7, 11):
        bits = np.array([1000.0] + [1000 * worth / 63] * 63)
        assert token_budget("auto", (64, 16, 16), bits, intra) == (1 + worth) * 256
    assert token_budget("auto", (64, 16, 16), np.full(64, 1000.0), intra) == 64 * 256 // 4
    assert token_budget("auto", (64, 16, 16), *NO_BITS) == 64 * 256 // 32


@pytest.mark.parametrize("budget", [0, -5, 0.0, -0.1, 1.5, float("nan"), True, "much", "2048", None])
def test_wrong_budgets_are_named(budget):
    with pytest.raises(ValueError, match=r"budget=.*; must be .*token.*share.*auto"):
        token_budget(budget, (64, 16, 16), *NO_BITS)


# --- anchors --------------------------------------------------------------------------------------------------


def anchored(anchors, shots=(0,), *, T=64, keys=(), room=64):
    return anchor_slots(anchors, list(shots), np.isin(np.arange(T), keys), room=room)


def test_a_number_of_frames_is_spread():
    assert anchored(2) == [0, 32]
    assert anchored(1) == [0]
    assert anchored(0) == []
    assert anchored(4) == [0, 16, 32, 48]
    assert anchored(100, T=5) == [0, 1, 2, 3, 4]


def test_shot_starts_come_first_and_longer_shots_before_shorter_ones():
    shots = [0, 10, 14, 40]  # 10, 4, 26 and 24 slots
    assert anchored(1, shots) == [0]
    assert anchored(2, shots) == [0, 14]
    assert anchored(3, shots) == [0, 14, 40]
    assert anchored(4, shots) == [0, 10, 14, 40]
    assert anchored(5, shots) == [0, 10, 14, 27, 40]  # then the widest gap


def test_rules_by_name():
    assert anchored("none", [0, 20]) == []
    assert anchored("first", [0, 20]) == [0]
    assert anchored("scenes", [0, 20, 50]) == [0, 20, 50]
    assert anchored("keyframes", [0, 20], keys=[0, 12, 40]) == [0, 12, 40]
    assert anchored("keyframes", keys=[7]) == [0, 7]


@given(
    anchors=st.one_of(st.integers(0, 80), st.sampled_from(["scenes", "keyframes", "first", "none"])),
    T=st.integers(1, 64),
    room=st.integers(0, 10),
    data=st.data(),
)
def test_anchors_are_ascending_slots_within_the_room(anchors, T, room, data):
    inner = data.draw(st.sets(st.integers(1, T - 1))) if T > 1 else set()
    keys = data.draw(st.sets(st.integers(0, T - 1)))
    chosen = anchored(anchors, [0, *sorted(inner)], T=T, keys=sorted(keys), room=room)
    assert chosen == sorted(set(chosen))
    assert all(0 <= t < T for t in chosen)
    assert len(chosen) <= room
    if isinstance(anchors, int):
        assert len(chosen) == min(anchors, T, room)


def test_when_room_is_short_the_first_and_the_longest_stay():
    assert anchored(4, [0, 10, 14, 40], room=2) == [0, 14]
    assert anchored("scenes", [0, 10, 14, 40], room=2) == [0, 14]
    assert anchored(2, room=0) == []


@pytest.mark.parametrize("anchors", [-1, True, "all", 1.5, None])
def test_wrong_anchors_are_named(anchors):
    with pytest.raises(ValueError, match=r"anchors=.*; must be .*frames,? or: scenes, keyframes, first, none"):
        anchored(anchors)
