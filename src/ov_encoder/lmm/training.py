"""From an LMMTrainConfig to a run: model, processor, conversations and loop put together, and its result written.

RUN/config.json, run.json, metrics.jsonl, skipped.jsonl, curves.png, processor/, checkpoints/, model/
"""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch

from ov_encoder.data.folder import write_atomically
from ov_encoder.errors import OvEncoderError
from ov_encoder.lmm.instructions import read_instructions
from ov_encoder.lmm.model import OVLanguageModel, load_llm, load_tokenizer
from ov_encoder.lmm.processor import OVProcessor
from ov_encoder.lmm.stream import ConversationStream
from ov_encoder.lmm.task import LanguageTask, without_lora
from ov_encoder.lmm.towers import VisionTower, is_tower
from ov_encoder.lmm.train_config import LMMTrainConfig
from ov_encoder.model.encoder import OVEncoder
from ov_encoder.model.weights import load_model
from ov_encoder.train import checkpoint
from ov_encoder.train.loop import CHECKPOINTS, Loop
from ov_encoder.train.parallel import Processes

CONFIG, MODEL = "config.json", "model"


@dataclass
class LanguageRun:
    """Everything that was put together; `fit` trains, `finish` writes RUN/model."""

    config: LMMTrainConfig
    folder: Path
    processor: OVProcessor
    task: LanguageTask
    stream: ConversationStream
    loop: Loop
    resumed: bool

    def fit(self, on_record: Callable[[dict[str, Any]], None] | None = None) -> None:
        """Train to the end, or to a signal. See Loop.fit for errors."""
        self.loop.fit(accumulate=self.config.accumulate, on_record=on_record)

    def finish(self) -> Path:
        """Write the newest checkpoint as a directory that `lmm ask`, `lmm eval` and a next stage read."""
        found = checkpoint.newest(self.folder / CHECKPOINTS)
        if found is None:
            raise OvEncoderError(f"{self.folder}: has no checkpoint")
        model, _ = build(self.config)
        LanguageTask(model, self.config)  # puts LoRA where the run had it
        missing, unknown = model.load_state_dict(checkpoint.read_tensors(found[0], "model."), strict=False)
        if wrong := [*unknown, *(dict(model.named_parameters()).keys() & missing)]:  # tied weights are saved once
            raise OvEncoderError(f"{found[0]}: does not fit the run's model: {min(wrong)} is in one of them only")
        model.llm = without_lora(model.llm)
        model.save(self.folder / MODEL)
        self.processor.save_pretrained(self.folder / MODEL)
        return self.folder / MODEL


def build(config: LMMTrainConfig) -> tuple[OVLanguageModel, OVProcessor]:
    """The model and processor that a run starts from, in float32; a fresh projector depends on the seed alone.

    Raises:
        ValueError: neither llm nor init is given. OvEncoderError: a part cannot be loaded.
    """
    sight, merge = config.sight, config.lmm.merge
    image, video = sight.image(merge), sight.video(merge, sight.modes[0])
    if config.init is not None:
        model = OVLanguageModel.load(config.init, dtype=torch.float32)
        if model.config != config.lmm:
            raise ValueError(f"init={config.init} has {model.config}, this run {config.lmm}; they must be the same")
        processor = OVProcessor.from_pretrained(config.init)
        return model, OVProcessor(
            processor.tokenizer, lmm=config.lmm, image=image, video=video, context=processor.context
        )
    if not config.llm:
        raise ValueError("no language model: give llm (a directory, hub id or .gguf file), or init")
    llm = load_llm(config.llm, dtype=torch.float32)
    context = getattr(llm.config, "max_position_embeddings", None)
    encoder: OVEncoder | VisionTower
    if is_tower(config.encoder):
        name, _, place = config.encoder.partition(":")
        encoder = VisionTower.open(name, place, layer=config.lmm.feature_layer, dtype=torch.float32)
        lmm = replace(config.lmm, tower=encoder.shape)
    else:
        encoder, lmm = load_model(config.encoder, dtype=torch.float32), config.lmm
    processor = OVProcessor(load_tokenizer(config.llm), lmm=lmm, image=image, video=video, context=context)
    torch.manual_seed(config.seed)
    return OVLanguageModel(encoder, llm, lmm, vision_id=processor.vision_id), processor


def prepare_language_run(config: LMMTrainConfig, folder: Path, processes: Processes) -> LanguageRun:
    """Put a run together and go on from its newest checkpoint, if it has one.

    Raises:
        OvEncoderError: data, model or checkpoints cannot be used. ValueError: settings that do not fit together.
    """
    if not config.data:
        raise ValueError("no data: give --data FILE.jsonl (conversations)")
    if config.init is not None:
        from ov_encoder.lmm.config import LMMConfig

        config = replace(config, lmm=LMMConfig.load(Path(config.init)))
    talks = [talk for path in config.data for talk in read_instructions(path)]
    model, processor = build(config)
    config = replace(config, lmm=model.config)
    torch.manual_seed(config.seed + processes.rank)
    model.to(processes.device).train()
    if config.loop.checkpointing:
        model.encoder.set_gradient_checkpointing()
        model.llm.gradient_checkpointing_enable()
    task = LanguageTask(model, config)
    stream = ConversationStream(talks, processor, config, rank=processes.rank, world=processes.world)
    loop = Loop(
        task,
        stream,
        optim=config.optim,
        loop=config.loop,
        processes=processes,
        folder=folder,
        describe={"config": config.to_dict()},
    )
    if processes.first:
        folder.mkdir(parents=True, exist_ok=True)
        write_atomically(folder / CONFIG, (json.dumps(config.to_dict(), indent=1) + "\n").encode())
    return LanguageRun(config, folder, processor, task, stream, loop, loop.resume())
