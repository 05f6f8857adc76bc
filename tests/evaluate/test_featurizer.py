"""Our encoder as a featurizer: its features are those of ov.patchify and the model, and its options say all of it."""

import pickle
import subprocess
import sys
from dataclasses import replace

import numpy as np
import pytest
import torch

import ov_encoder as ov
from ov_encoder.data.manifest import Sample
from ov_encoder.evaluate.featurizer import OVFeaturizer, ReadPatches
from ov_encoder.patchify.options import Options
from tests import clips

OPTIONS = Options(size=(56, 56), frames=4, budget=24)


@pytest.fixture(scope="module")
def sample(tmp_path_factory):
    path = tmp_path_factory.mktemp("media") / "disc.mp4"
    path.write_bytes(clips.encode(clips.moving_object(T=8, H=64, W=64, radius=12).frames_THW3))
    return Sample("disc", str(path), "video", ("disc",))


@pytest.fixture(scope="module")
def model():
    return ov.load_model("tiny")


def test_features_are_those_of_patchify_and_the_encoder(sample, model):
    featurizer = OVFeaturizer(model, reader=ReadPatches(OPTIONS), tokens=True, batch=2)
    prepared = pickle.loads(pickle.dumps(featurizer.read))(sample)
    first, second = featurizer.encode([prepared, prepared])
    with torch.inference_mode():
        out = model(ov.patchify(sample.path, size=(56, 56), frames=4, budget=24))
    np.testing.assert_allclose(first.tokens_ND, out.tokens_ND.numpy(), atol=1e-5)
    np.testing.assert_allclose(first.pooled_D, out.pooled_BD[0].numpy(), atol=1e-5)
    np.testing.assert_allclose(first.pooled_D, second.pooled_D, atol=1e-5)
    assert first.tokens == 24 and first.flops > 24 * 2 * 5e6 and first.pooled_D.dtype == np.float32
    assert OVFeaturizer(model, reader=ReadPatches(OPTIONS)).encode([prepared])[0].tokens_ND is None


def test_without_a_head_the_mean_of_the_tokens_is_pooled(sample):
    torch.manual_seed(0)
    config = ov.OVEncoderConfig.from_name("tiny", use_head=False)
    featurizer = OVFeaturizer(ov.OVEncoder(config), reader=ReadPatches(OPTIONS), tokens=True)
    (found,) = featurizer.encode([featurizer.read(sample)])
    np.testing.assert_allclose(found.pooled_D, found.tokens_ND.mean(axis=0), atol=1e-6)
    assert featurizer.options()["pooled"] == "mean" and featurizer.name == "ov-encoder"


def test_options_say_everything_but_threads(model):
    before = OVFeaturizer(model, reader=ReadPatches(OPTIONS)).options()
    for changes in ({"budget": 25}, {"camera": "none"}, {"anchors": "first"}, {"mode": "chunk"}):
        assert OVFeaturizer(model, reader=ReadPatches(replace(OPTIONS, **changes))).options() != before
    assert OVFeaturizer(model, reader=ReadPatches(replace(OPTIONS, threads=2))).options() == before
    assert OVFeaturizer(model, reader=ReadPatches(OPTIONS), tokens=True).options() != before


def test_patches_must_be_the_models(model):
    with pytest.raises(ValueError, match="patch=16, but ov-encoder takes patches of 14 pixels"):
        OVFeaturizer(model, reader=ReadPatches(Options(patch=16)))


def test_readers_bring_no_torch(sample):
    code = (
        "import pickle, sys; from ov_encoder.data.manifest import Sample; "
        "from ov_encoder.evaluate.featurizer import ReadPatches; "
        f"ReadPatches()(Sample('x', {sample.path!r}, 'video')); print('torch' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True).stdout.strip() == "False"
