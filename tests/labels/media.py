"""A small folder of generated media: images of three kinds, two clips, broken files."""

from pathlib import Path

import numpy as np
from PIL import Image

from tests import clips


def picture(seed: int, *, size: int = 64) -> np.ndarray:
    """Smooth colour noise, uint8 [size, size, 3]."""
    coarse = np.random.default_rng(seed).integers(0, 256, (6, 6, 3), dtype=np.uint8)
    return np.asarray(Image.fromarray(coarse).resize((size, size), Image.Resampling.BICUBIC))


def make_media(folder: Path) -> Path:
    """a/0.png, a/1.jpg, b/2.png, b/3.png, clips/disc.mp4, clips/pan.mp4; b/broken.png, b/text.jpg, clips/empty.mp4."""
    for name in ("a", "b", "clips"):
        (folder / name).mkdir(parents=True)
    for seed, name in enumerate(("a/0.png", "a/1.jpg", "b/2.png", "b/3.png")):
        Image.fromarray(picture(seed)).save(folder / name)
    whole = (folder / "a/0.png").read_bytes()
    (folder / "b/broken.png").write_bytes(whole[: len(whole) // 2])
    (folder / "b/text.jpg").write_text("no picture")
    (folder / "clips/empty.mp4").touch()
    for name, scene in (
        ("disc", clips.moving_object(T=12, H=96, W=128, radius=16)),
        ("pan", clips.pan(T=5, H=96, W=96)),
    ):
        (folder / f"clips/{name}.mp4").write_bytes(clips.encode(scene.frames_THW3, gop=6))
    return folder
