"""The commands take the library's own options; its lists of allowed values agree with those of the rooms below."""

from typing import get_args, get_type_hints

import pytest

from ov_encoder.cli.options import Options
from ov_encoder.codec.read import SIGNAL_SOURCES
from ov_encoder.patchify import camera


@pytest.mark.parametrize(("name", "allowed"), [("signals", set(SIGNAL_SOURCES) - {"none"}), ("camera", camera.MODELS)])
def test_allowed_values_agree(name, allowed):
    assert set(get_args(get_type_hints(Options)[name])) == set(allowed)
