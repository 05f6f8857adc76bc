"""Baselines as featurizers: `baseline(name)` gives what the cache, the probes and the study take.

Importing this file brings no torch, because processes that read clips do.

Shapes: T = frames, S = slices, L = tokens of a slice, N = S * L, D = width.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from ov_encoder.codec.media import inspect
from ov_encoder.data.manifest import Sample
from ov_encoder.evaluate.baselines import CHECKPOINTS, FACTS, PACKAGED, open_tower, opener
from ov_encoder.evaluate.baselines.frames import Frames, FrameShape, normalised, read_frames
from ov_encoder.evaluate.featurizer import Features, Featurizer
from ov_encoder.patchify.options import Options, is_count

if TYPE_CHECKING:
    import torch

    from ov_encoder.evaluate.baselines.facts import Facts
    from ov_encoder.evaluate.baselines.towers import Tower


class BudgetError(ValueError):
    """The budget does not pay for one frame of a network."""


def baseline(
    name: str,
    *,
    options: Options | None = None,
    tokens: bool = False,
    device: torch.device | str = "cpu",
    dtype: str | None = None,
) -> Featurizer:
    """A baseline by name: "siglip2:DIRECTORY", "clip:owner/model", "mobilenet", "pixels", "meta", ...

    options: `frames` and `budget` count, as for our encoder: whole frames of the clip's slots as long as their tokens
    fit. A pair in `size` gives NaFlex networks frames of that shape; every other network has its own square. tokens:
    keep them all, not only the pooled vector. dtype: of the network; by default that of its weights.

    Raises:
        ValueError: an unknown name (the message lists all), or a budget that is no number of tokens. BudgetError,
            one of them: it does not pay for one frame.
        OvEncoderError: a checkpoint that cannot be loaded strictly, or a missing package.
    """
    options = options or Options(size=(224, 224))
    kind, _, place = name.partition(":")
    if kind in FACTS and not place:
        return FactsFeaturizer(kind, options=options, tokens=tokens)
    if bool(place) != (kind in CHECKPOINTS) or kind not in {**CHECKPOINTS, **PACKAGED}:
        raise ValueError(
            f"unknown baseline {name!r}; with a directory or hub id: "
            f"{', '.join(f'{c}:DIR' for c in CHECKPOINTS)}; alone: {', '.join([*PACKAGED, *FACTS])}"
        )
    if not is_count(options.budget, 1):
        raise ValueError(f"budget={options.budget!r}; baselines need a number of tokens")
    return FrameFeaturizer(name, options=options, tokens=tokens, device=device, dtype=dtype)


@dataclass(frozen=True, slots=True)
class ReadFrames:
    """As many whole frames as the budget pays for, at the size of a network."""

    shape: FrameShape
    options: Options

    def __call__(self, sample: Sample) -> Frames:
        """One sample.

        Raises:
            BudgetError: it does not pay for one frame. OvEncoderError: the sample cannot be read.
        """
        source, shape = sample.source(), self.shape
        if isinstance(self.options.size, tuple):
            rows, columns = shape.grid(*self.options.size)
        else:
            info = inspect(source)
            rows, columns = shape.grid(info.height, info.width)
        slices = int(self.options.budget) // (rows * columns)
        if slices == 0:
            raise BudgetError(f"budget={self.options.budget} tokens, but one frame has {rows * columns} here")
        if shape.slices is not None:
            slices = min(slices, shape.slices)
        size = rows * shape.patch, columns * shape.patch
        return read_frames(
            source, size, patch=shape.patch, most=slices * shape.step, step=shape.step, options=self.options
        )


class FrameFeaturizer:
    """A tower under our protocol. Tokens of image networks get a sin/cos embedding of their slot, as in the paper's
    probe (R 6.1): nothing else would tell a probe when they were. The pooled vector does not: it is the network's own,
    or the mean of its tokens.
    """

    batch = 1  # one clip: its frames go through an image network together

    def __init__(
        self, name: str, *, options: Options, tokens: bool, device: torch.device | str, dtype: str | None
    ) -> None:
        """See `baseline`."""
        import torch

        from ov_encoder.evaluate.baselines.towers import directory

        kind, _, place = name.partition(":")
        self.tower: Tower = open_tower(kind, directory(place) if place else None)
        self.tower.model.to(device=device, dtype=getattr(torch, dtype) if dtype else None)
        rows = self.tower.shape.rows
        if rows is not None and int(options.budget) < rows * rows:
            raise BudgetError(f"budget={options.budget} tokens, but one frame of {name} has {rows * rows}")
        self.name = f"{kind}:{place.rstrip('/').split('/')[-1]}" if place else kind
        self.reader, self.tokens = ReadFrames(self.tower.shape, options), tokens
        weight = next(self.tower.model.parameters(), None)
        self.like = torch.zeros(1, device=device) if weight is None else weight.detach()[:0]

    @property
    def read(self) -> Callable[[Sample], Frames]:
        """The reader."""
        return self.reader

    def fingerprint(self) -> str:
        """Of every weight; "" without any."""
        from ov_encoder.model.weights import fingerprint

        return fingerprint(self.tower.model) if self.tower.model.state_dict() else ""

    def options(self) -> dict[str, Any]:
        """What decides the frames and how they are scaled."""
        options, shape = self.reader.options, self.reader.shape
        return {
            "baseline": self.name.partition(":")[0],
            "shape": asdict(shape),
            "frames": options.frames,
            **self._spent(),
            "mean": self.tower.mean,
            "std": self.tower.std,
            "dtype": str(self.like.dtype).removeprefix("torch."),
            "time": "none" if self.tower.video else "sincos",
            "tokens": self.tokens,
        }

    def _spent(self) -> dict[str, Any]:
        """What the budget buys: a larger one that buys nothing more gives the same features."""
        options, shape = self.reader.options, self.reader.shape
        if shape.rows is None:
            return {"budget": options.budget, "size": options.size}
        slices = min(int(options.budget) // shape.rows**2, max(options.frames // shape.step, 1))
        return {"slices": slices if shape.slices is None else min(slices, shape.slices)}

    def encode(self, prepared: Sequence[Frames]) -> list[Features]:
        """One clip after the other."""
        import torch

        with torch.inference_mode():
            return [self._encode(frames) for frames in prepared]

    def _encode(self, frames: Frames) -> Features:
        pixels_TCYX = normalised(frames.frames_TYXC, self.tower.mean, self.tower.std, like=self.like)
        tokens_SLD, pooled_D = self.tower(pixels_TCYX)
        S, L, D = tokens_SLD.shape
        pooled_D = tokens_SLD.float().mean(dim=(0, 1)) if pooled_D is None else pooled_D
        tokens_ND = None
        if self.tokens:
            tokens_ND = tokens_SLD.float().cpu().numpy()
            if not self.tower.video:
                slots_S = frames.slots_T[:: self.tower.shape.step]
                tokens_ND = tokens_ND + time_embedding(slots_S, D)[:, None]
            tokens_ND = tokens_ND.reshape(S * L, D)
        return Features(pooled_D.float().cpu().numpy(), tokens_ND, S * L, self.tower.flops(S, L))


@dataclass(frozen=True, slots=True)
class ReadFacts:
    """What needs no network, read straight from the clip. kind: a name of FACTS."""

    kind: str
    options: Options

    def __call__(self, sample: Sample) -> Facts:
        """One sample."""
        return opener(FACTS[self.kind])(sample.source(), self.options)


class FactsFeaturizer:
    """Size and length, or motion and residual: features that no network made."""

    batch = 1

    def __init__(self, name: str, *, options: Options, tokens: bool) -> None:
        """See `baseline`."""
        self.name, self.reader, self.tokens = name, ReadFacts(name, options), tokens

    @property
    def read(self) -> Callable[[Sample], Facts]:
        """The reader."""
        return self.reader

    def fingerprint(self) -> str:
        """There are no weights."""
        return ""

    def options(self) -> dict[str, Any]:
        """Of `patchify`, as far as they matter here: the budget, the size and the choice of patches do not."""
        options = self.reader.options
        reads = {name: getattr(options, name) for name in ("frames", "signals", "camera", "accumulate")}
        return {"baseline": self.name, "tokens": self.tokens, **(reads if self.name == "codec" else {})}

    def encode(self, prepared: Sequence[Facts]) -> list[Features]:
        """They are features already."""
        return [Features(f.pooled_D, f.tokens_ND if self.tokens else None, len(f.tokens_ND)) for f in prepared]


def time_embedding(slots_S: np.ndarray, width: int) -> np.ndarray:
    """Sines, then cosines, of the slot number at width / 2 wavelengths from 2 pi to 20,000 pi: [S, width] float32."""
    half = (width + 1) // 2
    angles_SH = slots_S[:, None] / 10000 ** (np.arange(half) / half)
    return np.concatenate([np.sin(angles_SH), np.cos(angles_SH)], axis=1)[:, :width].astype(np.float32)
