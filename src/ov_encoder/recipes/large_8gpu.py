"""One node of eight GPUs: the large encoder on images and videos, with what we would choose ourselves."""

from ov_encoder.train.config import (
    BatchConfig,
    HeadConfig,
    LoopConfig,
    OptimConfig,
    PictureConfig,
    TrainConfig,
    VideoConfig,
)


def large_8gpu() -> TrainConfig:
    """True rotation, native aspect, camera compensation; 512 samples a step, 100,000 steps. Dial: optim.steps."""
    return TrainConfig(
        name="large_8gpu",
        size="large",
        encoder={"image_size": 336},
        heads=(
            HeadConfig(name="object", kind="image", samples=1, sample_rate=0.1, labels_per_step=8),
            HeadConfig(name="video", kind="video", samples=1, sample_rate=0.1, labels_per_step=8),
        ),
        image=PictureConfig(sizes=(224, 280, 336), aspect="native", max_tokens=1024),
        video=VideoConfig(
            picture=PictureConfig(sizes=(224,), area=(0.5, 1.0), flip=0.5, colour=0.2), frames=64, budget=2048
        ),
        batch=BatchConfig(samples=512, tokens=65_536, accumulate=2),
        optim=OptimConfig(steps=100_000, lr=4e-4, warmup=2000, weight_decay=0.05, clip=1.0, ema=0.9998),
        loop=LoopConfig(
            dtype="bfloat16", parallel="fsdp", checkpointing=True, save_every=1000, workers=12, prefetch=256
        ),
        gaps=("Not run here for want of eight GPUs; its numbers are a start, not a result.",),
    )
