"""The complete description of a run that trains a vision language model. Plain values; no tensors, no files."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from typing import Any, Literal

from ov_encoder.bundled import DEFAULT
from ov_encoder.lmm.config import LMMConfig
from ov_encoder.patchify.options import Options
from ov_encoder.train.config import LoopConfig, OptimConfig

VideoMode = Literal["codec", "chunk"]


@dataclass(frozen=True, kw_only=True)
class SightConfig:
    """How images and videos are seen. modes: of videos, taken in turn; budget: patches of a video in every mode."""

    image_size: int = 224
    video_size: int = 224
    frames: int = 32
    budget: int = 1024
    anchors: int = 2
    modes: tuple[VideoMode, ...] = ("codec",)

    def __post_init__(self) -> None:
        if not self.modes:
            raise ValueError("modes=(); need codec, chunk or both")
        self.image(1)
        self.video(1, self.modes[0])

    def image(self, merge: int) -> Options:
        """Options of `patchify` for images."""
        return Options(mode="image", size=self.image_size, block=merge)

    def video(self, merge: int, mode: VideoMode) -> Options:
        """Options of `patchify` for videos; whole squares of frames, so that modes differ in nothing else."""
        size = (self.video_size, self.video_size)
        return Options(
            mode=mode, size=size, frames=self.frames, budget=self.budget, anchors=self.anchors, block=merge
        )  # fmt: skip


@dataclass(frozen=True, kw_only=True)
class LMMTrainConfig:
    """Everything about a run.

    data: LLaVA-style JSON or JSONL files. encoder, llm: a name, directory or hub id each, or `init`: a directory that
    an earlier stage wrote (its own encoder, llm and lmm count then). encoder may be a tower of another family,
    siglip2:PLACE or qwen3vl:PLACE, which wants sight.modes=("chunk",). train: "projector" (stage 1) or "all" (stage 2).
    encoder_lr, llm_lr: relative to optim.lr, which is the projector's; 0 freezes the part. lora: rank of LoRA on the
    language model's linear layers, 0 trains its weights. samples: conversations of a step over all processes and
    micro-batches. pack: conversations of a forward share one row without padding. group: conversations of so many
    steps are read together and sorted by length, so that a forward holds equals.
    """

    data: tuple[str, ...] = ()
    encoder: str = DEFAULT
    llm: str = ""
    init: str | None = None
    lmm: LMMConfig = field(default_factory=LMMConfig)
    sight: SightConfig = field(default_factory=SightConfig)
    train: Literal["projector", "all"] = "projector"
    encoder_lr: float = 0.1
    llm_lr: float = 0.1
    lora: int = 0
    samples: int = 16
    accumulate: int = 1
    pack: bool = False
    group: int = 8
    seed: int = 0
    optim: OptimConfig = field(
        default_factory=lambda: OptimConfig(steps=200, lr=1e-3, warmup=10, weight_decay=0.0, clip=1.0)
    )
    loop: LoopConfig = field(default_factory=lambda: LoopConfig(workers=1, save_every=100))

    def __post_init__(self) -> None:
        for name in ("samples", "accumulate", "group"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name}={getattr(self, name)}; need at least 1")
        if self.lora < 0 or (self.lora and self.train == "projector"):
            raise ValueError(f"lora={self.lora} with train={self.train!r}; LoRA needs a rank above 0 and train='all'")

    def to_dict(self) -> dict[str, Any]:
        """Plain values, ready for JSON."""
        return asdict(self)
