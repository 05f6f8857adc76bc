"""How an encoder is put into a language model, as one small JSON. No tensors and no text here."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, fields, replace
from pathlib import Path
from typing import Literal, get_args, get_origin, get_type_hints

from ov_encoder.errors import OvEncoderError
from ov_encoder.lmm.frames import TowerShape
from ov_encoder.patchify.options import Options

FILE = "lmm.json"


@dataclass(frozen=True, kw_only=True)
class LMMConfig:
    """The choices that fix how pictures become tokens of the language model.

    Raises:
        ValueError: naming the field, its value and what is allowed.
    """

    projector: Literal["mlp", "resampler"] = "mlp"
    """mlp: two layers with GELU over squares of `merge` x `merge` tokens; resampler: a fixed number of queries."""
    merge: int = 1
    """Side of the squares of patches that become one token (1, 2 or 3); patches are then chosen in such squares."""
    queries: int = 64
    """Tokens that the resampler gives for each image or video."""
    feature_layer: int = -2
    """Which state of the encoder is used: -1 the output of the last block, -2 that of the block before."""
    stamps: bool = True
    """Write the time before the tokens of each slot of a video, as `<t=3.2s>`."""
    tower: TowerShape | None = None
    """A tower of another family in the place of our encoder (`towers.VisionTower.shape`); None: our encoder."""

    def __post_init__(self) -> None:
        for name, hint in get_type_hints(LMMConfig).items():
            value = getattr(self, name)
            if get_origin(hint) is Literal and value not in get_args(hint):
                raise ValueError(f"{name}={value!r}; allowed: {', '.join(get_args(hint))}")
            if hint is int and (not isinstance(value, int) or isinstance(value, bool)):
                raise ValueError(f"{name}={value!r}; must be a whole number")
        if self.merge not in (1, 2, 3):
            raise ValueError(f"merge={self.merge}; allowed: 1, 2, 3")
        if self.projector == "resampler" and self.merge != 1:
            raise ValueError(f"merge={self.merge} with projector='resampler'; a resampler takes single tokens: merge=1")
        if self.queries < 1:
            raise ValueError(f"queries={self.queries}; must be at least 1")
        if self.tower is not None and self.tower.rows is not None and self.tower.rows % self.merge:
            rows = self.tower.rows
            raise ValueError(f"merge={self.merge}; {self.tower.name} has {rows} x {rows} patches, not in whole squares")

    @property
    def step(self) -> int:
        """Frames of a video that become one slot of tokens."""
        return self.tower.step if self.tower is not None else 1

    def options(self, asked: Options, kind: str) -> Options:
        """Options of `patchify` for an "image" or "video" of which `asked` is wanted: in whole squares of patches, and
        for a tower of another family as whole frames (see `frames`).

        Raises:
            ValueError: a tower was asked for what it cannot take.
        """
        if self.tower is None:
            return replace(asked, block=self.merge)
        return (self.tower.image if kind == "image" else self.tower.video)(asked, merge=self.merge)

    def save(self, folder: Path) -> None:
        """Write lmm.json into `folder`."""
        (folder / FILE).write_text(json.dumps(asdict(self), indent=1) + "\n")

    @classmethod
    def load(cls, folder: Path) -> LMMConfig:
        """Read lmm.json.

        Raises:
            OvEncoderError: it is missing, damaged, or holds a value that is not allowed.
        """
        path = folder / FILE
        try:
            values = json.loads(path.read_text())
            known = {f.name for f in fields(cls)}
            if unknown := set(values) - known:
                raise ValueError(f"unknown field {sorted(unknown)[0]!r}; fields: {', '.join(sorted(known))}")
            if values.get("tower") is not None:
                values["tower"] = TowerShape(**values["tower"])
            return cls(**values)
        except (OSError, ValueError, TypeError) as e:
            raise OvEncoderError(f"{path}: cannot be read as the config of a vision language model: {e}") from e
