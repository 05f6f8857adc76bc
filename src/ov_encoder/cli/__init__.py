"""The commands: one file each, thin: parse, call, print. Nothing heavy is imported to print help."""

from __future__ import annotations

import logging
import os
import sys
from collections.abc import Callable, Sequence
from importlib import import_module
from typing import Any

# Each is a function of its name in a file of its name; a group is a file whose COMMANDS are its functions.
COMMANDS = ("demo", "inspect", "encode", "view", "models", "bench", "pretrain", "export", "probe", "study")
GROUPS = ("label", "lmm")
DESCRIPTION = """From any image or video to tokens, by what its codec knows.

Start with `ov-encoder demo`; `ov-encoder COMMAND --help` explains each command with an example."""


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command. Returns the exit code: 0, 1 for media that cannot be used, 2 for wrong arguments.

    OV_ENCODER_DEBUG=1 in the environment shows tracebacks instead of one-line errors.
    """
    import tyro

    from ov_encoder.errors import OvEncoderError

    logging.basicConfig(format="note: %(message)s", level=logging.WARNING)
    arguments = list(sys.argv[1:] if argv is None else argv)
    group = arguments.pop(0) if arguments and arguments[0] in GROUPS else None
    members = _members(group) if group else {name: getattr(_room(name), name) for name in COMMANDS}
    if not group:
        members |= {name: _room(name) for name in GROUPS}
    chosen = arguments[0] if arguments else None
    try:
        return tyro.extras.subcommand_cli_from_dict(
            {name: f if name == chosen else _in_short(f) for name, f in members.items()},
            prog=f"ov-encoder {group}" if group else "ov-encoder",
            description=_room(group).__doc__ if group else DESCRIPTION,
            args=arguments,
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


def _room(name: str) -> Any:
    return import_module(f"ov_encoder.cli.{name}")


def _members(group: str) -> dict[str, Callable]:
    return {f.__name__.rstrip("_"): f for f in _room(group).COMMANDS}


def _in_short(described: Any) -> Callable[[], int]:
    """What stands in a list of commands for a command or a group: the first line of its description."""

    def listed() -> int:
        raise AssertionError("only the chosen command is called")

    listed.__doc__ = (described.__doc__ or "").splitlines()[0]
    return listed
