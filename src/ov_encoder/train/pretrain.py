"""From a TrainConfig to a run: data, encoder, heads, probes and loop put together; the folder of a run.

    RUN/config.json, run.json, metrics.jsonl, skipped.jsonl, curves.png, classes.json, checkpoints/

Not here: any of the parts.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn

from ov_encoder.data.folder import write_atomically
from ov_encoder.data.manifest import Sample
from ov_encoder.data.training_set import Stream, gather, gather_held_out, open_samples
from ov_encoder.errors import OvEncoderError
from ov_encoder.model.config import OVEncoderConfig
from ov_encoder.model.encoder import OVEncoder
from ov_encoder.model.layers import init_weights
from ov_encoder.model.weights import load_model
from ov_encoder.patchify.batch import PatchBatch
from ov_encoder.train.config import ProbeConfig, TrainConfig
from ov_encoder.train.held_out import HeldOut
from ov_encoder.train.loader import Loader
from ov_encoder.train.loop import Loop
from ov_encoder.train.parallel import Processes
from ov_encoder.train.probe import Probe, spread
from ov_encoder.train.task import ClusterTask

CONFIG, CLASSES = "config.json", "classes.json"


@dataclass
class Run:
    """Everything that was put together; `fit` trains."""

    config: TrainConfig
    streams: dict[str, Stream]
    task: ClusterTask
    loader: Loader
    loop: Loop
    probes: list[Callable[[nn.Module], dict[str, float]]]
    resumed: bool

    def fit(self, on_record: Callable[[dict[str, Any]], None] | None = None) -> None:
        """Train to the end, or to a signal. See Loop.fit for errors."""
        self.loop.fit(
            accumulate=self.config.batch.accumulate, probe=self._measure if self.probes else None, on_record=on_record
        )

    def _measure(self, encoder: nn.Module) -> dict[str, float]:
        return {name: value for probe in self.probes for name, value in probe(encoder).items()}


def load_streams(config: TrainConfig) -> dict[str, Stream]:
    """Samples and labels of every head.

    Raises:
        OvEncoderError, ValueError: see `data.training_set.gather`.
    """
    if not config.data:
        raise ValueError("no data: give --data DIR (a manifest, class folders or tars)")
    kinds = {head.name: head.kind for head in config.heads}
    classes = {head.name: head.classes for head in config.heads}
    beside = {head.name: head.beside for head in config.heads if head.beside is not None}
    return gather([asdict(data) for data in config.data], kinds, classes, beside=beside)


def fresh_encoder(config: TrainConfig) -> OVEncoder:
    """The encoder that a run starts from: `init`, or weights that depend on `seed` alone."""
    if config.init is not None:
        return load_model(config.init, dtype="float32").train()
    encoder = OVEncoder(OVEncoderConfig.from_name(config.size, **config.encoder))
    init_weights(encoder, std=encoder.config.initializer_range, generator=torch.Generator().manual_seed(config.seed))
    return encoder.train()


def prepare_run(config: TrainConfig, folder: Path, processes: Processes) -> Run:
    """Put a run together and go on from its newest checkpoint, if it has one.

    Raises:
        OvEncoderError: data or checkpoints cannot be used. ValueError: settings that do not fit together.
    """
    streams = load_streams(config)
    torch.manual_seed(config.seed + processes.rank)
    encoder = fresh_encoder(config).to(processes.device)
    encoder.set_gradient_checkpointing(config.loop.checkpointing)
    patch = encoder.config.patch_size
    task = ClusterTask(
        encoder,
        config.heads,
        {name: stream.classes for name, stream in streams.items()},
        optim=config.optim,
        device=processes.device,
        seed=config.seed,
    )
    loader = Loader(config, streams, patch=patch, rank=processes.rank, world=processes.world)
    loop = Loop(
        task,
        loader,
        optim=config.optim,
        loop=config.loop,
        processes=processes,
        folder=folder,
        describe={"config": config.to_dict(), "encoder": encoder.config.to_dict()},
    )
    if processes.first:
        folder.mkdir(parents=True, exist_ok=True)
        names = {name: stream.names for name, stream in streams.items() if stream.names}
        write_atomically(folder / CLASSES, (json.dumps(names, indent=1) + "\n").encode())
        write_atomically(folder / CONFIG, (json.dumps(config.to_dict(), indent=1) + "\n").encode())
    probes: list[Callable[[nn.Module], dict[str, float]]] = []
    if config.loop.probe_every:
        if config.loop.held_out:
            probes.append(make_held_out(config, task, streams, patch=patch))
        if config.probe:
            probes.append(make_probe(config.probe, config, patch=patch))
    return Run(config, streams, task, loader, loop, probes, loop.resume())


def make_held_out(config: TrainConfig, task: ClusterTask, streams: dict[str, Stream], *, patch: int) -> HeldOut:
    """Read and prepare samples of the data's held-out splits.

    Raises:
        OvEncoderError: there are none that can be used.
    """
    kinds = {head.name: head.kind for head in config.heads}

    def read(sample: Sample, kind: str) -> PatchBatch:
        return evaluation_patches(sample.source(), kind, config, patch=patch)

    found = gather_held_out([asdict(data) for data in config.data], kinds, streams)
    return HeldOut(task.heads, found, kinds, most=config.loop.held_out, read=read)


def make_probe(probe: ProbeConfig, config: TrainConfig, *, patch: int) -> Probe:
    """Read and prepare the probe's samples, without augmentation.

    Raises:
        OvEncoderError, ValueError: the set cannot be read, or has no such split.
    """
    manifest = open_samples(probe.data.path, label=probe.data.label)
    parts: list[list[tuple[PatchBatch, str]]] = []
    for name in (probe.train, probe.test):
        chosen = [s for s in manifest.split(name) if s.labels]
        part = []
        for i in spread(len(chosen), probe.most):
            sample = chosen[i]
            part.append((evaluation_patches(sample.source(), sample.kind, config, patch=patch), sample.labels[0]))
        if not part:
            raise OvEncoderError(f"{probe.data.path}: no labelled sample in split {name!r}")
        parts.append(part)
    return Probe(parts[0], parts[1], k=probe.k)


def evaluation_patches(source: Any, kind: str, config: TrainConfig, *, patch: int) -> PatchBatch:
    """A sample as the run's encoder should see it when nothing is learned: whole, in codec mode if it is a video."""
    from ov_encoder.patchify.api import patchify

    picture = {"video": config.video.picture, "ocr": config.ocr}.get(kind, config.image)
    size = max(picture.sizes)
    shape: Any = (size, size) if picture.aspect == "square" else size
    if kind != "video":
        return patchify(source, mode="image", size=shape, patch=patch)
    video = config.video
    return patchify(
        source, mode="codec", size=shape, patch=patch, frames=video.frames, budget=video.budget,
        anchors=video.anchors, signal=video.signal, camera=video.camera,
    )  # fmt: skip
