"""Scores: what is noise, how maps join, and that events of the whole frame make no patch stand out.

T = slots, H, W = patch rows and columns.
"""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ov_encoder.patchify.saliency import FUSIONS, NORMALISE, SIGNAL_KINDS, STILL_LEVELS, STILL_PIXELS, score

ONE_SHOT = [0]


def quiet(T=8, H=6, W=6):
    return np.zeros((T, H, W), np.float32)


def spots(value_T, *, H=6, W=6, at=(2, 3)):
    """A map whose only changed patch has this value in each slot."""
    maps = quiet(len(value_T), H, W)
    maps[:, at[0], at[1]] = value_T
    return maps


# --- noise and gaps -------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("name", "floor"), [("motion", STILL_PIXELS), ("residual", STILL_LEVELS), ("bits", 0.0)])
def test_below_the_floor_nothing_changed(name, floor):
    maps = spots([floor, floor, 8, floor + 0.01, 8, 8, 8, 8])
    scores = score({name: maps}, ONE_SHOT, signal=name)
    assert (scores[:2] == 0).all()
    assert (scores[2:, 2, 3] > 0).all()
    assert scores.sum() == pytest.approx(scores[:, 2, 3].sum())


def test_a_still_clip_scores_zero():
    scores = score({"motion": quiet() + STILL_PIXELS / 2, "residual": quiet() + STILL_LEVELS / 2}, ONE_SHOT)
    assert not scores.any()
    assert scores.dtype == np.float32


@pytest.mark.parametrize("normalise", NORMALISE)
@pytest.mark.parametrize("fusion", FUSIONS)
def test_slots_without_signals_stay_nan_and_touch_no_other(fusion, normalise):
    rng = np.random.default_rng(1)
    maps = {name: rng.random((8, 6, 6)).astype(np.float32) * 9 for name in ("motion", "residual")}
    full = score({n: m[1:] for n, m in maps.items()}, ONE_SHOT, fusion=fusion, normalise=normalise)
    for m in maps.values():
        m[0] = np.nan
    # one quiet shot before the known slots, so that both see the same usual level
    scores = score(maps, [0, 1], fusion=fusion, normalise=normalise)
    assert np.isnan(scores[0]).all()
    assert not np.isnan(scores[1:]).any()
    assert scores[2:] == pytest.approx(full[1:], rel=0.2)


# --- normalising ----------------------------------------------------------------------------------------------


def test_per_clip_a_quiet_frame_stays_quiet_and_per_frame_it_does_not():
    motion = spots([1, 10, 1, 10, 1, 10, 1, 10])
    clip = score({"motion": motion}, ONE_SHOT, signal="motion")[:, 2, 3]
    frame = score({"motion": motion}, ONE_SHOT, signal="motion", normalise="frame")[:, 2, 3]
    assert clip == pytest.approx(np.tile([0.1, 1.0], 4))
    assert frame == pytest.approx(np.ones(8))


@given(scale=st.floats(1, 1000), seed=st.integers(0, 2**32 - 1))
@settings(max_examples=20)
def test_scores_of_a_map_do_not_depend_on_its_unit(scale, seed):
    maps = np.random.default_rng(seed).exponential(5, (8, 6, 6)).astype(np.float32) + np.float32(STILL_LEVELS)
    a = score({"residual": maps}, ONE_SHOT, signal="residual")
    b = score({"residual": maps * np.float32(scale)}, ONE_SHOT, signal="residual")
    assert b == pytest.approx(a, rel=1e-4)
    assert np.percentile(a, 95) == pytest.approx(1, rel=0.35)  # calmed slots move the percentile a little


# --- joining --------------------------------------------------------------------------------------------------

PAIR = {
    "motion": spots([2, 4, 4, 4, 4, 4, 4, 4]),
    "residual": spots([8, 8, 8, 8, 8, 8, 2, 0]),
}  # normalised: motion 0.5, 1, ...; residual 1, ..., 0.25, 0


@pytest.mark.parametrize(
    ("fusion", "first", "middle", "late", "last"),
    [
        ("weighted", 0.75, 1.0, 0.625, 0.5),
        ("max", 1.0, 1.0, 1.0, 1.0),
        ("sum", 1.0, 1.0, 1.0, 1.0),
        ("geomean", 0.5**0.5, 1.0, 0.5, 0.0),
    ],
)
def test_fusions_by_hand(fusion, first, middle, late, last):
    scores = score(PAIR, ONE_SHOT, fusion=fusion)[:, 2, 3]
    assert scores[[0, 3, 6, 7]] == pytest.approx([first, middle, late, last])


def test_the_sum_is_clipped_at_one_but_adds_below():
    maps = {"motion": spots([1, 8, 8, 8, 8, 8, 8, 8]), "residual": spots([2, 8, 8, 8, 8, 8, 8, 8])}
    assert score(maps, ONE_SHOT, fusion="sum")[:2, 2, 3] == pytest.approx([0.375, 1.0])


def test_weights_are_shares():
    scores = score(PAIR, ONE_SHOT, weights={"motion": 3.0})[:, 2, 3]
    assert scores[[0, 7]] == pytest.approx([(3 * 0.5 + 1) / 4, 0.75])


def test_one_signal_alone_ignores_the_others():
    for name, first in (("motion", 0.5), ("residual", 1.0)):
        alone = score({name: PAIR[name]}, ONE_SHOT, signal=name)
        assert np.array_equal(score(PAIR, ONE_SHOT, signal=name), alone)
        assert np.array_equal(score({name: PAIR[name]}, ONE_SHOT), alone)  # fused of one
        assert alone[0, 2, 3] == pytest.approx(first)


# --- events of the whole frame ----------------------------------------------------------------------------------


def scene(seed=0, T=16, H=8, W=8, level=0.0):
    """A busy patch per slot over a background of `level`."""
    maps = np.full((T, H, W), level, np.float32)
    rng = np.random.default_rng(seed)
    for t in range(T):
        maps[t, rng.integers(H), rng.integers(W)] = 12
    return maps


def test_a_flash_makes_no_patch_stand_out():
    maps = scene(level=0.5)
    busy = maps > 10
    maps[7:9] += 60  # brighter everywhere for two slots
    scores = score({"residual": maps}, ONE_SHOT, signal="residual")
    assert (
        scores[7:9].max()
        < scores[busy & (np.arange(16) != 7)[:, None, None] & (np.arange(16) != 8)[:, None, None]].min()
    )


def test_a_violent_shot_keeps_its_scores():
    maps = np.concatenate([scene(1), scene(2, level=0.0) + 9, scene(3)])
    before = score({"residual": maps}, [0, 16, 32], signal="residual")
    scale = np.percentile(maps[maps > STILL_LEVELS], 95)
    assert before[17:32] == pytest.approx(maps[17:32] / scale, rel=0.1)


def test_the_first_slot_of_a_later_shot_is_calmed_to_its_shot_s_level():
    maps = np.concatenate([scene(1), scene(2)])
    maps[16] = 40  # compared with another scene
    scores = score({"residual": maps}, [0, 16], signal="residual")
    assert scores[16].max() < 0.01
    assert (scores[17:].max(axis=(1, 2)) > 0.9).all()
    assert score({"residual": maps}, [0, 17], signal="residual")[16].max() < 0.01  # also without knowing of the cut


# --- centre prior ---------------------------------------------------------------------------------------------


def test_the_centre_prior_raises_the_centre_and_keeps_symmetry():
    flat = np.tile(np.float32([3, 0]), (4, 7, 5))[:, :, :9] + 2
    plain = score({"residual": flat}, ONE_SHOT, signal="residual")
    raised = score({"residual": flat}, ONE_SHOT, signal="residual", centre_prior=0.3)
    gain = raised / plain
    assert gain[0, 3, 4] == pytest.approx(1.3)  # the very centre
    assert gain == pytest.approx(gain[:, ::-1, ::-1])
    sigma = 0.35 * 7
    assert gain[0, 0, 4] == pytest.approx(1 + 0.3 * np.exp(-9 / (2 * sigma**2)))
    assert (np.diff(gain[0, 3, 4:]) < 0).all()


# --- errors ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("option", "message"),
    [
        ({"signal": "depth"}, f"signal='depth'; allowed: {', '.join(SIGNAL_KINDS)}"),
        ({"normalise": "batch"}, "normalise='batch'; allowed: clip, frame"),
        ({"fusion": "min"}, f"fusion='min'; allowed: {', '.join(FUSIONS)}"),
        ({"signal": "bits"}, "signal='bits' is not known for this clip; it has: motion, residual"),
    ],
)
def test_wrong_options_are_named(option, message):
    with pytest.raises(ValueError, match=message):
        score(PAIR, ONE_SHOT, **option)
