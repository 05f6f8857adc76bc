"""A set of six images and four clips of two classes each, and a run that learns from it in milliseconds."""

import os
import signal
from dataclasses import replace
from pathlib import Path

import numpy as np
from PIL import Image

from ov_encoder.data.manifest import Sample, write_manifest
from ov_encoder.train.config import (
    BatchConfig,
    DataConfig,
    HeadConfig,
    LoopConfig,
    OptimConfig,
    PictureConfig,
    TrainConfig,
    VideoConfig,
)
from ov_encoder.train.loader import make_patches
from tests import clips

WHOLE = PictureConfig(sizes=(56,), area=(1.0, 1.0), stretch=(1.0, 1.0), flip=0.0)


def make_set(folder: Path) -> Path:
    """The folder of a manifest; images are class a or b by brightness, clips by how fast a disc moves."""
    folder.mkdir(parents=True, exist_ok=True)
    samples = []
    for i in range(6):
        noise = np.random.default_rng(i).integers(0, 90, (60, 80, 3), dtype=np.uint8) + 120 * (i % 2)
        path = folder / f"{i}.png"
        Image.fromarray(noise.astype(np.uint8)).save(path)
        samples.append(Sample(f"{i}.png", str(path), "image", ("dark", "light")[i % 2 : i % 2 + 1]))
    for i in range(4):
        scene = clips.moving_object(T=8, H=64, W=64, speed=1.0 + 3.0 * (i % 2), radius=8 + i)
        path = folder / f"{i}.mp4"
        path.write_bytes(clips.encode(scene.frames_THW3, gop=8))
        samples.append(Sample(f"{i}.mp4", str(path), "video", ("slow", "fast")[i % 2 : i % 2 + 1]))
    write_manifest(folder / "manifest.csv", samples)
    return folder


def deadly(ticket, *, config, patch):
    """Work that one sample kills, and another makes fail by a mistake of ours."""
    if ticket.sample.id == "1.mp4":
        os.kill(os.getpid(), signal.SIGKILL)
    if ticket.sample.id == "mistake":
        raise KeyError("a bug")
    return make_patches(ticket, config=config, patch=patch)


def small_config(folder: Path, **loop) -> TrainConfig:
    """Two layers, 64 wide; images of 16 tokens, clips of at most 48; six samples a step; decoded in this process."""
    return TrainConfig(
        name="small",
        size="tiny",
        encoder={"hidden_size": 64, "num_attention_heads": 2, "num_hidden_layers": 2, "intermediate_size": 128},
        data=(DataConfig(path=str(folder)),),
        heads=(
            HeadConfig(name="object", kind="image", scale=16.0),
            HeadConfig(name="video", kind="video", scale=16.0, weight=0.5),
        ),
        image=replace(WHOLE, flip=0.5, area=(0.5, 1.0)),
        video=VideoConfig(
            picture=replace(WHOLE, flip=0.5, area=(0.5, 1.0)), frames=8, budget=48, anchors=1, slot_size=63
        ),
        batch=BatchConfig(samples=6, tokens=4096),
        optim=OptimConfig(steps=6, lr=2e-3, warmup=2, ema=0.9),
        loop=LoopConfig(workers=0, save_every=3, log_every=1, **loop),
        cache=str(folder / "cache"),
    )
