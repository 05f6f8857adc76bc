"""Minutes on two cores: a small encoder, 112-pixel clips of 16 slots, an object and a video head."""

from ov_encoder.train.config import (
    BatchConfig,
    HeadConfig,
    LoopConfig,
    OptimConfig,
    PictureConfig,
    TrainConfig,
    VideoConfig,
)


def tiny_cpu() -> TrainConfig:
    """About ten minutes: 64 tokens an image, at most 192 a clip; decoded slots are kept, so later epochs are quick."""
    picture = PictureConfig(sizes=(112,), area=(0.35, 1.0), stretch=(0.8, 1.25), flip=0.5, colour=0.3)
    return TrainConfig(
        name="tiny_cpu",
        size="tiny",
        encoder={"num_hidden_layers": 6, "image_size": 112},
        heads=(
            HeadConfig(name="object", kind="image", samples=1, scale=32.0, m=0.2),
            HeadConfig(name="video", kind="video", samples=1, scale=32.0, m=0.2),
        ),
        image=picture,
        video=VideoConfig(
            picture=PictureConfig(sizes=(112,), area=(0.5, 1.0), stretch=(0.8, 1.25), flip=0.0, colour=0.3),
            frames=16,
            budget=192,
            anchors=1,
            slot_size=126,
        ),
        batch=BatchConfig(samples=64, tokens=16_384),
        optim=OptimConfig(steps=800, lr=1e-3, warmup=40, weight_decay=0.05, clip=5.0, centre_lr=3.0, ema=0.995),
        loop=LoopConfig(dtype="bfloat16", save_every=100, log_every=10, workers=1, prefetch=128),
        cache="auto",
        gaps=(
            "Trained for minutes on small sets: its features are an example, not a general encoder.",
            "Videos are not mirrored, because in sign and action data left and right mean something.",
        ),
    )
