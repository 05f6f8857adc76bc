"""Minutes on two cores: a small encoder, 84-pixel clips of 16 slots, an object and a video head."""

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
    """About ten minutes: 36 tokens an image, at most 108 a clip; decoded slots are kept, so later epochs are quick.

    What counts in ten minutes is how many samples and updates fit: hence few tokens, four layers of 128 and small
    batches (9,600 CIFAR images in batches of 16 trained to 32 %, in batches of 32 to 27 %; one run each). No margin and
    a small scale, because there are few classes. Crops are mild: after 160 steps of 16 robot clips, accuracy was 22 %
    without augmentation and 2 % with crops down to 0.7 of the picture and colour changes of 0.2.
    """
    return TrainConfig(
        name="tiny_cpu",
        size="tiny",
        encoder={
            "hidden_size": 128,
            "intermediate_size": 512,
            "num_hidden_layers": 4,
            "num_attention_heads": 2,
            "image_size": 84,
        },
        heads=(
            HeadConfig(name="object", kind="image", margin="none", m=0.0, scale=16.0, filter_threshold=None),
            HeadConfig(name="video", kind="video", margin="none", m=0.0, scale=16.0, filter_threshold=None),
        ),
        image=PictureConfig(sizes=(84,), area=(0.75, 1.0), stretch=(0.8, 1.25), flip=0.5),
        video=VideoConfig(
            picture=PictureConfig(sizes=(84,), area=(0.85, 1.0), stretch=(1.0, 1.0), flip=0.0),
            frames=16,
            budget=108,
            anchors=1,
            slot_size=98,
        ),
        batch=BatchConfig(samples=32, tokens=8192),
        optim=OptimConfig(steps=2400, lr=1e-3, warmup=100, weight_decay=0.05, clip=5.0, centre_lr=3.0, ema=0.998),
        loop=LoopConfig(dtype="bfloat16", save_every=200, log_every=20, workers=1, prefetch=128),
        cache="auto",
        gaps=(
            "Trained for minutes on small sets: its features are an example, not a general encoder.",
            "Videos are not mirrored, because in sign and action data left and right mean something.",
        ),
    )
