"""Baselines see the frames that `patchify` would show, and pixels as their networks expect them."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from ov_encoder.evaluate.baselines.facts import clip_facts, codec_maps
from ov_encoder.evaluate.baselines.frames import normalised, read_frames
from ov_encoder.patchify.api import plan
from ov_encoder.patchify.options import Options
from tests import clips

OPTIONS = Options(frames=16)


@pytest.fixture(scope="module")
def source() -> bytes:
    return clips.encode(clips.pan(T=40, H=96, W=128).frames_THW3, gop=20)


@pytest.mark.parametrize("most", [1, 2, 5, 16, 40])
def test_the_same_frames_as_whole_frames_of_patchify(source, most):
    """The frames that mode "chunk" keeps at the same budget: same slots, same pixels."""
    made = plan(source, mode="chunk", frames=16, size=(56, 56), patch=14, budget=most * 16)
    found = read_frames(source, (56, 56), patch=14, most=most, options=OPTIONS)
    chosen = np.flatnonzero(made.anchors_T)
    assert found.slots_T.tolist() == chosen.tolist() and len(chosen) == min(most, 16)
    assert np.array_equal(found.frames_TYXC, made.frames_THWC[chosen])
    assert found.slots == 16


@pytest.mark.parametrize(("frames", "most", "slots"), [(40, 5, [2, 6, 10, 14]), (3, 8, [0, 2]), (1, 8, [0, 0])])
def test_pairs_come_in_pairs(frames, most, slots):
    """Four of at most five; two of three; a picture twice, because a pair needs two."""
    source = clips.encode(clips.pan(T=frames, H=56, W=56).frames_THW3)
    found = read_frames(source, (56, 56), patch=14, most=most, step=2, options=OPTIONS)
    assert found.slots_T.tolist() == slots
    assert len(found.frames_TYXC) == len(slots)


@settings(max_examples=20)
@given(st.integers(0, 2**32 - 1))
def test_normalised_is_the_formula(seed):
    frames = np.random.default_rng(seed).integers(0, 256, (2, 3, 4, 3), dtype=np.uint8)
    mean, std = (0.1, 0.2, 0.3), (0.5, 0.25, 2.0)
    found = normalised(frames, mean, std, like=torch.zeros(1))
    expected = (frames.astype(np.float64) / 255 - mean) / std
    assert found.shape == (2, 3, 3, 4) and found.dtype == torch.float32
    np.testing.assert_allclose(found.numpy(), expected.transpose(0, 3, 1, 2), rtol=1e-5, atol=1e-6)


def test_facts_know_size_and_length_and_nothing_else(source):
    facts = clip_facts(source, OPTIONS)
    expected = np.log1p([96, 128, 0.75, 40, 1.6, 25])
    np.testing.assert_allclose(facts.pooled_D, expected, rtol=1e-3)
    assert facts.tokens_ND.shape == (1, 6)
    other = clips.encode(clips.rotation(T=40, H=96, W=128).frames_THW3)
    assert np.array_equal(clip_facts(other, OPTIONS).pooled_D, facts.pooled_D)


def test_codec_maps_see_where_things_move():
    """A disc that moves in the right half: motion there, next to none in the left half."""
    path = np.stack([80 + 12 * np.cos(np.arange(20) / 2), 48 + 12 * np.sin(np.arange(20) / 2)], axis=-1)
    scene = clips.render(20, 96, 112, seed=1, movers=[clips.Mover(path, 14, 2)])
    facts = codec_maps(clips.encode(scene.frames_THW3), OPTIONS)
    assert facts.tokens_ND.shape == (16, 3 * 64) and facts.tokens_ND.dtype == np.float32
    assert facts.pooled_D.shape == (2 * 3 * 64,)
    motion_GG = facts.pooled_D[:64].reshape(8, 8)
    assert motion_GG[:, 4:].mean() > 10 * motion_GG[:, :3].mean()
    assert facts.positions_N3[:, 0].tolist() == list(range(16))
