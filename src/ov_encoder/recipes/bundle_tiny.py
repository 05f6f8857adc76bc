"""The encoder that comes with the package: tiny, trained for hours on two cores by recipes/bundle/run.py."""

from ov_encoder.train.config import (
    BatchConfig,
    HeadConfig,
    LoopConfig,
    OptimConfig,
    PictureConfig,
    TrainConfig,
    VideoConfig,
)


def bundle_tiny() -> TrainConfig:
    """192 wide, 3 heads, 12 layers, true rotation; clips of 16 slots and 72 tokens, images of 25 to 49.

    Why so:

    * Three label sets for every clip, one forward. What a teacher of single pictures sees (`video`), what moves where
      and how (`motion`), and what the render was told to show (`truth`). The teacher alone gives no concepts of
      motion, so features that should tell "open" from "close" have to learn it from the other two.
    * Videos are never mirrored: left and right are labels. Images are.
    * 84 pixels and 72 tokens: two whole frames in the sampling and collage modes, one whole frame and 36 patches out of
      16 slots in codec mode. Looks are what a CPU is short of, so tokens are few: with twice as many, 75,000 looks in
      50 minutes did not beat an untrained encoder (docs/results.md).
    * Pages 140 pixels high: at 84 their words cannot be read.
    * No margin and a small scale, because there are hundreds of classes, not millions.
    * Few pages: with an eighth of the looks their words were not learned either.
    * 60 samples are about 3,400 tokens: 0.8 s a step in two processes on two cores that decode for themselves.
    * The average of the weights is what is exported, so a run may be stopped where it no longer pays.
    """
    few = {"margin": "none", "m": 0.0, "scale": 16.0, "filter_threshold": None}
    return TrainConfig(
        name="bundle_tiny",
        size="tiny",
        encoder={"image_size": 84, "rope": "rotation"},
        heads=(
            HeadConfig(name="video", kind="video", samples=6, **few),  # type: ignore[arg-type]
            HeadConfig(name="motion", kind="video", beside="video", **few),  # type: ignore[arg-type]
            HeadConfig(name="truth", kind="video", beside="video", **few),  # type: ignore[arg-type]
            HeadConfig(name="object", kind="image", samples=8, **few),  # type: ignore[arg-type]
            HeadConfig(name="thing", kind="image", beside="object", **few),  # type: ignore[arg-type]
            HeadConfig(name="ocr", kind="ocr", samples=1, weight=0.5, **few),  # type: ignore[arg-type]
        ),
        image=PictureConfig(sizes=(70, 84, 98), area=(0.4, 1.0), stretch=(0.75, 1.33), flip=0.5, colour=0.2),
        ocr=PictureConfig(
            sizes=(140,), aspect="native", max_tokens=144, area=(1.0, 1.0), stretch=(1.0, 1.0), flip=0.0, colour=0.1
        ),
        video=VideoConfig(
            picture=PictureConfig(sizes=(84,), area=(0.7, 1.0), stretch=(0.9, 1.11), flip=0.0, colour=0.2),
            frames=16,
            budget=72,
            anchors=1,
            camera="similarity",
            shares=(0.5, 0.375, 0.125, 0.0),
            slot_size=98,
        ),
        batch=BatchConfig(samples=60, tokens=8192),
        optim=OptimConfig(steps=4000, lr=1e-3, warmup=200, weight_decay=0.05, clip=5.0, centre_lr=3.0, ema=0.998),
        loop=LoopConfig(dtype="bfloat16", save_every=200, log_every=20, workers=1, prefetch=128),
        cache="auto",
        gaps=(
            "Trained on rendered clips, games and pages: real scenes, people and faces are new to it.",
            "Videos are not mirrored, because left and right are among its labels.",
            "Small pictures: 84 pixels and 16 slots a clip; more of both can be given, and was not trained.",
        ),
    )
