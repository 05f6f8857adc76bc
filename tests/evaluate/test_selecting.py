"""Our encoder under a policy: the reader's batches are those of the policy, its options say all that it does."""

import pickle
from dataclasses import replace

import numpy as np
import pytest
import torch

from ov_encoder.data.manifest import Sample, write_manifest
from ov_encoder.errors import OvEncoderError
from ov_encoder.evaluate.featurizer import OVFeaturizer, ReadPatches
from ov_encoder.evaluate.policies import choose
from ov_encoder.evaluate.selecting import ReadPolicy, parse_policy
from ov_encoder.model.config import OVEncoderConfig
from ov_encoder.model.encoder import OVEncoder
from ov_encoder.patchify.options import Options
from tests import clips

OPTIONS = Options(frames=8, size=(56, 56), budget=40)


@pytest.fixture(scope="module")
def samples(tmp_path_factory) -> list[Sample]:
    folder = tmp_path_factory.mktemp("clips")
    found = []
    for i, scene in enumerate(("pan", "zoom", "rotation")):
        path = folder / f"{scene}.mp4"
        path.write_bytes(clips.encode(clips.SCENES[scene](12, 64, 64).frames_THW3))
        found.append(Sample(scene, str(path), "video", ("a",), "train" if i < 2 else "test"))
    return found


@pytest.fixture(scope="module")
def encoder() -> OVEncoder:
    torch.manual_seed(0)
    return OVEncoder(OVEncoderConfig(hidden_size=32, intermediate_size=32, num_hidden_layers=1, num_attention_heads=1))


def test_the_codec_policy_is_the_default_reader(samples):
    a = ReadPolicy("fused", OPTIONS)(samples[0])
    b = ReadPatches(replace(OPTIONS, mode="codec"))(samples[0])
    assert np.array_equal(a.patches_ND, b.patches_ND) and np.array_equal(a.positions_N3, b.positions_N3)


def test_a_policy_goes_through_the_encoder(samples, encoder):
    featurizer = OVFeaturizer(encoder, reader=ReadPolicy("random", OPTIONS, seed=3), tokens=True)
    prepared = pickle.loads(pickle.dumps(featurizer.read))(samples[0])
    (found,) = featurizer.encode([prepared])
    expected = choose(samples[0].path, "random", options=OPTIONS, seed=3, key="pan").to_batch()
    assert np.array_equal(prepared.positions_N3, expected.positions_N3)
    assert found.tokens == 40 and found.tokens_ND.shape == (40, 32)
    options = featurizer.options()
    assert (options["reader"], options["policy"], options["seed"]) == ("ReadPolicy", "random", 3)


def test_other_takes_patches_of_its_own_split(samples, tmp_path):
    write_manifest(tmp_path / "samples.csv", samples)
    reader = ReadPolicy("fused", OPTIONS, intervention="other", donors=str(tmp_path / "samples.csv"))
    plain = ReadPolicy("fused", OPTIONS)
    disturbed, whole, donor = reader(samples[0]), plain(samples[0]), plain(samples[1])
    assert np.array_equal(disturbed.positions_N3, whole.positions_N3)
    changed = (disturbed.patches_ND != whole.patches_ND).any(axis=1)
    assert changed.sum() == 20
    allowed = {row.tobytes() for row in donor.patches_ND}
    assert all(row.tobytes() in allowed for row in disturbed.patches_ND[changed])
    with pytest.raises(OvEncoderError, match="rotation: no other video in its split"):
        reader(samples[2])


def test_names():
    assert parse_policy("fused") == ("fused", "")
    assert parse_policy("motion:native+shuffle") == ("motion:native", "shuffle")
    with pytest.raises(ValueError, match="unknown policy 'fusedd'"):
        parse_policy("fusedd+still")
    with pytest.raises(ValueError, match=r"unknown intervention '' in 'fused\+'"):
        parse_policy("fused+")
