"""Featurizers: what turns a sample into features, our encoder or a rival. The cache, the probes and the study see
only this interface. Nothing is stored or trained here.

A featurizer works in two halves, so that many processes can read while one encodes: `read` decodes and selects in a
worker process, `encode` runs the network in the main one. Importing this file brings no torch, because workers do.

Shapes: N = tokens of one sample, D = width.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np

from ov_encoder.data.manifest import Sample
from ov_encoder.patchify.batch import PatchBatch, pack
from ov_encoder.patchify.options import Options

if TYPE_CHECKING:
    import torch

    from ov_encoder.model.encoder import OVEncoder

_GPU_SAMPLES = 32  # encoded together on a GPU: 65,536 tokens at the default budget


@dataclass(frozen=True, slots=True)
class Features:
    """What is known about one sample.

    pooled_D: float32, one vector. tokens_ND: float32, or None if tokens are not kept. tokens: how many went through
    the network, kept or not. flops: operations of the network (`evaluate.cost`). Seconds are measured by `extract`.
    """

    pooled_D: np.ndarray
    tokens_ND: np.ndarray | None
    tokens: int
    flops: int = 0


class Featurizer(Protocol):
    """The interface. Everything that changes the features must show in `fingerprint` or `options`.

    name: for tables and folders. batch: samples that `encode` takes at a time (1: the features of a sample never
    depend on its neighbours).
    """

    name: str
    batch: int

    def fingerprint(self) -> str:
        """A hash of the weights ("" without any)."""
        ...

    def options(self) -> dict[str, Any]:
        """Everything else that changes the features, JSON-able."""
        ...

    @property
    def read(self) -> Callable[[Sample], Any]:
        """Decode and select. It is pickled and called in worker processes, so it must not hold the network.

        It raises OvEncoderError for media that cannot be used: such a sample is listed with that reason.
        """
        ...

    def encode(self, prepared: Sequence[Any]) -> list[Features]:
        """Features of what `read` gave for at most `batch` samples, in order, on the host when it returns."""
        ...


@dataclass(frozen=True, slots=True)
class ReadPatches:
    """What `ov.patchify` chooses: the default reader of `OVFeaturizer`."""

    options: Options = field(default_factory=Options)

    def __call__(self, sample: Sample) -> PatchBatch:
        """One sample, whole clip."""
        from ov_encoder.patchify.api import plan, to_batch

        return to_batch(plan(sample.source(), **asdict(self.options)))


class OVFeaturizer:
    """Our encoder. The pooled vector is that of its head; without a head, the mean of its tokens."""

    def __init__(
        self,
        model: str | Path | OVEncoder,
        *,
        reader: Callable[[Sample], PatchBatch] | None = None,
        tokens: bool = False,
        name: str | None = None,
        device: torch.device | str | None = None,
        dtype: str | None = None,
        batch: int | None = None,
    ) -> None:
        """Load `model` (a name, directory or hub id; an encoder is taken as it is).

        reader: `ReadPatches(Options(...))`, or another picklable frozen dataclass with `options: Options`, whose fields
        say all that it does and which gives one sample's PatchBatch. tokens: keep them all. batch: see `Featurizer`; by
        default 1 on a CPU and 32 on a GPU.

        Raises:
            ValueError: patches of another size than the model's. OvEncoderError: weights that cannot be read.
        """
        from ov_encoder.model.weights import load_model

        loaded = load_model(model, device=device, dtype=dtype) if isinstance(model, str | Path) else model
        self.encoder = loaded.eval()
        self.name = name or (Path(model).name if isinstance(model, str | Path) else "ov-encoder")
        self.reader = reader or ReadPatches()
        self.tokens = tokens
        self.batch = batch or (1 if self.encoder.device.type == "cpu" else _GPU_SAMPLES)
        patch = self.reader.options.patch  # type: ignore[attr-defined]
        if patch != self.encoder.config.patch_size:
            raise ValueError(f"patch={patch}, but {self.name} takes patches of {self.encoder.config.patch_size} pixels")

    @property
    def read(self) -> Callable[[Sample], PatchBatch]:
        """The reader."""
        return self.reader

    def fingerprint(self) -> str:
        """Of every weight."""
        from ov_encoder.model.weights import fingerprint

        return fingerprint(self.encoder)

    def options(self) -> dict[str, Any]:
        """The config (position rule included), dtype, and all that the reader does; `threads` changes nothing."""
        reads = asdict(self.reader)  # type: ignore[call-overload]
        reads["options"].pop("threads")
        return {
            "config": self.encoder.config.to_dict(),
            "dtype": str(self.encoder.dtype).removeprefix("torch."),
            "pooled": "mean" if self.encoder.head is None else "head",
            "tokens": self.tokens,
            "batch": self.batch,
            "reader": type(self.reader).__name__,
            **reads,
        }

    def encode(self, prepared: Sequence[PatchBatch]) -> list[Features]:
        """Packed into one batch."""
        import torch

        from ov_encoder.evaluate.cost import encoder_flops

        with torch.inference_mode():
            out = self.encoder(pack(prepared))
            parts = out.split()
            pooled = torch.stack([p.float().mean(dim=0) for p in parts]) if out.pooled_BD is None else out.pooled_BD
            pooled_BD = pooled.float().cpu().numpy()
            kept = [part.float().cpu().numpy() if self.tokens else None for part in parts]
        flops = [encoder_flops(self.encoder.config, [length]) for length in out.lengths_B]
        return [Features(*four) for four in zip(pooled_BD, kept, out.lengths_B, flops, strict=True)]
