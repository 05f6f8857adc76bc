"""A small folder of real media, made once."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from tests import clips


@pytest.fixture(autouse=True, scope="session")
def one_thread():
    """Threads that spin for each other on a busy machine take longer than these tests do."""
    import torch

    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="session")
def clip(tmp_path_factory) -> Path:
    """A second of H.264 with a disc that moves."""
    path = tmp_path_factory.mktemp("media") / "disc.mp4"
    path.write_bytes(clips.encode(clips.moving_object(T=24, H=96, W=128, radius=16).frames_THW3, gop=12))
    return path


@pytest.fixture(scope="session")
def photo(tmp_path_factory) -> Path:
    path = tmp_path_factory.mktemp("media") / "noise.png"
    Image.fromarray(np.random.default_rng(0).integers(0, 256, (60, 80, 3), dtype=np.uint8)).save(path)
    return path


def pictures(folder: Path, count: int) -> list[Path]:
    """`count` different images of 42x42 pixels: nine tokens each."""
    folder.mkdir(parents=True, exist_ok=True)
    paths = [folder / f"{i:02d}.png" for i in range(count)]
    for i, path in enumerate(paths):
        Image.fromarray(np.random.default_rng(i).integers(0, 256, (42, 42, 3), dtype=np.uint8)).save(path)
    return paths
