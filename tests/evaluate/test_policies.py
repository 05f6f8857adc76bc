"""Policies differ in which patches they keep, and in nothing else."""

import numpy as np
import pytest

from ov_encoder.evaluate.policies import POLICIES, choose, random_of
from ov_encoder.patchify.api import plan
from ov_encoder.patchify.options import Options
from tests import clips

OPTIONS = Options(frames=16, size=(112, 112), budget=128)  # 8 x 8 patches a frame: two frames' worth of 16
AT_BUDGET = ("fused", "motion", "residual", "fused:transcode", "motion:native", "uniform", "random", "difference")


@pytest.fixture(scope="module")
def source() -> bytes:
    return clips.encode(clips.pan(T=40, H=128, W=160).frames_THW3, gop=20)


@pytest.fixture(scope="module")
def reference(source):
    return plan(source, frames=16, size=(112, 112), budget=128, mode="codec")


@pytest.mark.parametrize("policy", [*AT_BUDGET, "centre"])
def test_only_the_choice_differs(source, reference, policy):
    made = choose(source, policy, options=OPTIONS, seed=1, key="a")
    assert np.array_equal(made.frames_THWC, reference.frames_THWC)
    assert np.array_equal(made.slot_frames_T, reference.slot_frames_T)
    assert np.array_equal(made.slot_times_T, reference.slot_times_T)
    assert made.grid == reference.grid and made.patch_size == reference.patch_size
    assert made.tokens == OPTIONS.budget
    batch, full = made.to_batch(), choose(source, "dense", options=OPTIONS).to_batch()
    t, h, w = batch.positions_N3.T
    place = (t * 8 + h) * 8 + w
    assert np.all(np.diff(place) > 0)  # ascending, none twice
    assert np.array_equal(batch.patches_ND, full.patches_ND[place])  # the same pixels at the same positions


def test_the_codec_policies_are_those_of_patchify(source, reference):
    assert np.array_equal(choose(source, "fused", options=OPTIONS).keep_THW, reference.keep_THW)


@pytest.mark.parametrize("policy", ["random", "difference", "centre"])
def test_rivals_keep_the_same_whole_frames_as_the_codec(source, reference, policy):
    made = choose(source, policy, options=OPTIONS)
    assert np.array_equal(np.flatnonzero(made.anchors_T), np.flatnonzero(reference.anchors_T))
    assert made.keep_THW[made.anchors_T].all()
    assert made.provenance["signal"] == policy


def test_dense_keeps_everything_and_uniform_whole_frames(source):
    assert choose(source, "dense", options=OPTIONS).tokens == 16 * 64
    made = choose(source, "uniform", options=OPTIONS)
    assert np.flatnonzero(made.keep_THW.any(axis=(1, 2))).tolist() == [4, 12]
    assert made.keep_THW[[4, 12]].all()


def test_whole_frames_never_exceed_the_budget(source):
    with pytest.raises(ValueError, match="budget=63 tokens does not pay for one whole frame of 64 patches"):
        choose(source, "uniform", options=Options(frames=16, size=(112, 112), budget=63))


def test_rivals_do_not_read_signals(source):
    for policy in ("uniform", "random", "difference", "centre", "dense"):
        assert set(choose(source, policy, options=OPTIONS).provenance["signals"].values()) == {"absent"}, policy


def test_random_patches_are_a_function_of_seed_and_sample(source):
    def kept(**by):
        return choose(source, "random", options=OPTIONS, **by).keep_THW

    assert np.array_equal(kept(seed=1, key="a"), kept(seed=1, key="a"))
    assert not np.array_equal(kept(seed=1, key="a"), kept(seed=2, key="a"))
    assert not np.array_equal(kept(seed=1, key="a"), kept(seed=1, key="b"))
    assert random_of(3, "x").integers(1 << 40) == random_of(3, "x").integers(1 << 40)


def test_random_patches_are_spread_evenly(source):
    """Without whole frames every patch is kept with the same chance, 128 / 1024: within 5 sigma of binomial."""
    options = Options(frames=16, size=(112, 112), budget=128, anchors="none")
    made = [choose(source, "random", options=options, seed=s).keep_THW for s in range(40)]
    share_t = np.mean(made, axis=(0, 2, 3))
    assert np.abs(share_t - 1 / 8).max() < 5 * (1 / 8 * 7 / 8 / (40 * 64)) ** 0.5


def test_centre_is_nearer_to_the_middle_than_random(source):
    def distance(policy):
        options = Options(frames=16, size=(112, 112), budget=128, anchors="none")
        _, h, w = np.nonzero(choose(source, policy, options=options).keep_THW)
        return np.hypot(h - 3.5, w - 3.5).mean()

    assert distance("centre") < 0.6 * distance("random")


def test_difference_finds_what_changed():
    """A disc on a still background: frame difference keeps patches that touch it (before or after its step)."""
    scene = clips.moving_object(T=16, H=112, W=112, radius=16)
    options = Options(frames=16, size=(112, 112), budget=60, anchors="none")
    made = choose(clips.encode(scene.frames_THW3), "difference", options=options)
    masks = scene.masks_THW | np.roll(scene.masks_THW, 1, axis=0)
    touched = masks.reshape(16, 8, 14, 8, 14).any(axis=(2, 4))
    assert touched[made.keep_THW].mean() > 0.95


def test_unknown_policies_list_what_there_is(source):
    with pytest.raises(ValueError, match=r"unknown policy 'motoin' \(did you mean 'motion'\?\).*dense"):
        choose(source, "motoin", options=OPTIONS)
    assert len(set(POLICIES)) == len(POLICIES) and "bits:native" in POLICIES


def test_bits_that_nobody_knows_are_an_error(source):
    with pytest.raises(ValueError, match="signal='bits' is not known for this clip"):
        choose(source, "bits:native", options=OPTIONS)
