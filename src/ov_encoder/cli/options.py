"""The options of `ov.patchify`, as commands take them: the library's own class, names, defaults and allowed values."""

from __future__ import annotations

from typing import Annotated

import tyro

from ov_encoder.patchify.options import Options

PatchOptions = Annotated[Options, tyro.conf.arg(name="")]  # no prefix: --budget, as in Python
