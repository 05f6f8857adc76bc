"""Encoders that come inside the package: a folder each, with config.json, model.safetensors and README.md (the card).

Only which there are; loading is `model.weights`. No torch: the commands name their default model from here.
"""

from __future__ import annotations

from pathlib import Path

FILES = ("config.json", "model.safetensors")


def find_bundled(root: Path) -> dict[str, Path]:
    """Name -> folder of every encoder below `root` whose files are there, sorted by name."""
    return {folder.name: folder for folder in sorted(root.iterdir()) if all((folder / f).is_file() for f in FILES)}


BUNDLED = find_bundled(Path(__file__).parent)
DEFAULT = "ov-encoder-tiny"  # what commands take if no model is named
