"""The public Python names and their parameters, frozen. Adding is fine (extend the table); changing breaks users.

The commands' options are frozen in tests/cli/test_main.py.
"""

import inspect

import pytest

import ov_encoder as ov

# of ov.patchify, ov.plan and ov.patchify_windows: name and default
OPTIONS = {
    "mode": "auto", "frames": 64, "budget": 2048, "size": 224, "patch": 14, "anchors": 2, "signal": "fused",
    "signals": "auto", "camera": "similarity", "accumulate": "interval", "normalise": "clip", "fusion": "weighted",
    "centre_prior": 0.0, "block": 1, "slot_floor": 0, "slot_cap": None, "threads": 1,
}  # fmt: skip
_OPTIONS = " ".join(OPTIONS)
PARAMETERS = {
    "read_signals": "source signals frames residual size threads limits",
    "iter_signals": "source signals frames residual size threads limits",
    "patchify": "source windows limits " + _OPTIONS,
    "patchify_windows": "source rate limits " + _OPTIONS,
    "plan": "source limits " + _OPTIONS,
    "pack": "batches",
    "list_models": "filter",
    "load_model": "name_or_path_or_hub_id device dtype attention",
    "Limits": "pixels frames seconds bytes",
    "FrameSignals": "index time_s frame_type packet_bits motion_HW2 residual_HW bits_HW qp_HW kind_HW",
    "ClipSignals": "frames codec provider cell height width provenance notes",
    "PatchBatch": "patches_ND positions_N3 lengths_B modes_B grids_B slot_times_B scores_N provenance_B",
    "EncoderOutput": "tokens_ND pooled_BD lengths_B hidden_states",
    "OVEncoder": "config attention",
    "OVEncoderConfig": "hidden_size intermediate_size num_hidden_layers num_attention_heads num_channels image_size "
    "patch_size hidden_act layer_norm_eps layer_norm_type attention_dropout initializer_range rope_theta "
    "rope_temporal_size use_head rope",
    "OvEncoderError": "*args",
}
METHODS = {
    "PatchBatch.from_arrays": "patches_ND positions_N3 lengths_B modes_B grids_B slot_times_B scores_N provenance_B",
    "PatchBatch.to": "self device",
    "PatchBatch.numpy": "self",
    "PatchBatch.unpack": "self",
    "PatchBatch.save": "self path",
    "PatchBatch.load": "path",
    "EncoderOutput.split": "self",
    "OVEncoder.forward": "self batch hidden_states",
}
POSITIONAL = {  # how many arguments may come without a name; the others are keyword-only
    "read_signals": 1, "patchify": 1, "patchify_windows": 1, "plan": 1, "pack": 1, "list_models": 1, "load_model": 1,
    "OVEncoder": 1,
}  # fmt: skip


def parameters(thing) -> list[inspect.Parameter]:
    return list(inspect.signature(thing).parameters.values())


def names(thing) -> str:
    stars = {inspect.Parameter.VAR_POSITIONAL: "*", inspect.Parameter.VAR_KEYWORD: "**"}
    return " ".join(stars.get(p.kind, "") + p.name for p in parameters(thing))


def test_the_public_names_are_these():
    assert sorted(ov.__all__) == sorted(PARAMETERS)
    assert all(getattr(ov, name) is not None and name in dir(ov) for name in ov.__all__)


@pytest.mark.parametrize("name", [n for n in PARAMETERS if n != "OvEncoderError"])
def test_their_parameters_are_these(name):
    assert names(getattr(ov, name)) == PARAMETERS[name]


@pytest.mark.parametrize("name", METHODS)
def test_the_methods_are_these(name):
    owner, method = name.split(".")
    assert names(getattr(getattr(ov, owner), method)) == METHODS[name]


@pytest.mark.parametrize("name", POSITIONAL)
def test_options_are_given_by_name(name):
    free = [p for p in parameters(getattr(ov, name)) if p.kind is inspect.Parameter.POSITIONAL_OR_KEYWORD]
    assert len(free) == POSITIONAL[name]


def test_the_options_of_patchify_are_these():
    from dataclasses import asdict

    from ov_encoder.patchify.options import Options

    assert asdict(Options()) == OPTIONS


def test_unknown_names_say_what_there_is():
    with pytest.raises(AttributeError, match=r"no attribute 'patchfy'.*public names: patchify"):
        ov.patchfy  # noqa: B018


def test_patchify_is_a_function_and_a_room(tmp_path):
    import pickle

    from ov_encoder.patchify.batch import PatchBatch

    assert callable(ov.patchify) and ov.patchify.batch.PatchBatch is PatchBatch is ov.PatchBatch
    assert pickle.loads(pickle.dumps(ov.patchify)) is ov.patchify
    with pytest.raises(ov.OvEncoderError, match="no such file"):
        ov.patchify(str(tmp_path / "missing.mp4"))
