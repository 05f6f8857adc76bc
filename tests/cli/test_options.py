"""The commands' options are the library's: names, defaults and allowed values."""

from dataclasses import asdict, fields
from typing import Literal, get_args, get_origin, get_type_hints

import pytest

from ov_encoder.cli.options import PatchOptions
from ov_encoder.patchify import api
from ov_encoder.patchify.select import ANCHOR_RULES


def test_names_and_defaults_are_those_of_patchify():
    assert [f.name for f in fields(PatchOptions)] == [f.name for f in fields(api.Options)]
    assert asdict(PatchOptions()) == asdict(api.Options())


@pytest.mark.parametrize(
    ("name", "allowed"),
    [
        ("mode", api.PLAN_MODES),
        ("signal", api.SIGNAL_KINDS),
        ("signals", [s for s in api.SIGNAL_SOURCES if s != "none"]),
        ("camera", api.CAMERAS),
        ("accumulate", api.ACCUMULATE),
        ("normalise", api.NORMALISE),
        ("fusion", api.FUSIONS),
        ("anchors", ANCHOR_RULES),
    ],
)
def test_allowed_values_are_those_of_patchify(name, allowed):
    hint = get_type_hints(PatchOptions)[name]
    literals = [hint] if get_origin(hint) is Literal else [h for h in get_args(hint) if get_origin(h) is Literal]
    assert {value for literal in literals for value in get_args(literal)} == set(allowed)
