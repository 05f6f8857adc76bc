"""The commands: one file each, thin: parse, call, print. Nothing heavy is imported to print help."""

from __future__ import annotations

import logging
import os
import sys
from collections.abc import Sequence

DESCRIPTION = """From any image or video to tokens, by what its codec knows.

Start with `ov-encoder demo`; `ov-encoder COMMAND --help` explains each command with an example."""


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command. Returns the exit code: 0, 1 for media that cannot be used, 2 for wrong arguments.

    OV_ENCODER_DEBUG=1 in the environment shows tracebacks instead of one-line errors.
    """
    import tyro

    from ov_encoder.cli.bench import bench
    from ov_encoder.cli.demo import demo
    from ov_encoder.cli.encode import encode
    from ov_encoder.cli.inspect import inspect
    from ov_encoder.cli.models import models
    from ov_encoder.cli.view import view
    from ov_encoder.errors import OvEncoderError

    logging.basicConfig(format="note: %(message)s", level=logging.WARNING)
    commands = {f.__name__: f for f in (demo, inspect, encode, view, models, bench)}
    try:
        return tyro.extras.subcommand_cli_from_dict(
            commands,
            prog="ov-encoder",
            description=DESCRIPTION,
            args=argv,
            sort_subcommands=False,
            config=(tyro.conf.FlagCreatePairsOff,),
        )
    except (ValueError, OvEncoderError) as e:
        if os.environ.get("OV_ENCODER_DEBUG"):
            raise
        print(f"error: {e}", file=sys.stderr)
        return 1 if isinstance(e, OvEncoderError) else 2
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        return 130
