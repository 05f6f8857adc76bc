"""Images and videos to the tensors that the transformers model takes. Opens no file and no address by itself.

Shapes: B = samples, T = frames, H, W = pixels, N = tokens of one sample, P = patch side.
"""

from __future__ import annotations

import io
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from PIL import Image, UnidentifiedImageError
from transformers import BatchFeature
from transformers.image_processing_utils import BaseImageProcessor

from ov_encoder.errors import OvEncoderError
from ov_encoder.model.encoder import CLIP_MEAN, CLIP_STD, normalise
from ov_encoder.patchify.batch import PatchBatch

ImageLike = bytes | Image.Image | np.ndarray


class OneVisionEncoderProcessor(BaseImageProcessor):
    """Resize the short side (bicubic), crop the centre, normalise: the same result on every run.

    `size`: pixels of the short side; `crop_size`: side of the centre crop, a multiple of `patch_size`. With
    `do_center_crop=False` the aspect is kept and both sides are rounded to a multiple of `patch_size`. `slots`:
    length of the time axis that the frames of a video are spread over. Settings that a saved config of another
    processor may hold and that would change pixels here are refused.

    Raises:
        ValueError: naming the setting, its value and what is allowed.
    """

    model_input_names = ["pixel_values", "patch_positions"]  # noqa: RUF012 - the name and type transformers reads

    def __init__(
        self,
        *,
        size: int | dict[str, int] = 448,
        crop_size: int | dict[str, int] | None = None,
        do_center_crop: bool = True,
        patch_size: int = 14,
        slots: int = 64,
        image_mean: Sequence[float] = CLIP_MEAN,
        image_std: Sequence[float] = CLIP_STD,
        **kwargs: Any,
    ) -> None:
        fixed = {"do_resize": True, "do_rescale": True, "do_normalize": True, "resample": 3}
        for name, value in fixed.items():
            if kwargs.pop(name, value) != value:
                raise ValueError(f"{name} must be {value!r}; this processor does nothing else")
        super().__init__(**kwargs)
        self.size = _side("size", size)
        self.crop_size = self.size if crop_size is None else _side("crop_size", crop_size)
        self.do_center_crop, self.patch_size, self.slots = do_center_crop, patch_size, slots
        self.image_mean, self.image_std = list(image_mean), list(image_std)
        if do_center_crop and (self.crop_size % patch_size or self.crop_size > self.size):
            raise ValueError(
                f"crop_size is {self.crop_size}; must be a multiple of {patch_size} and at most size, {self.size}"
            )

    def __call__(  # type: ignore[override]
        self, images: Any = None, videos: Any = None, **kwargs: Any
    ) -> BatchFeature:
        """See `preprocess`."""
        return self.preprocess(images, videos, **kwargs)

    def preprocess(
        self,
        images: ImageLike | Sequence[ImageLike] | None = None,
        videos: np.ndarray | Sequence[Any] | None = None,
        *,
        return_tensors: str = "pt",
    ) -> BatchFeature:
        """Images or videos, one or a list, to `pixel_values`.

        An image is the bytes of a picture file, a PIL image, or uint8 RGB [H, W, 3]; it gives float32
        [B, 3, H, W]. A video is uint8 RGB [T, H, W, 3] or a list of images; it gives [B, 3, T, H, W] and
        `patch_positions` [B, N, 3], its frames spread evenly over the time axis.

        Raises:
            ValueError: not exactly one of images and videos, another type or dtype, sizes that differ, or more
                frames than slots.
            OvEncoderError: bytes that are no picture.
        """
        if (images is None) == (videos is None):
            raise ValueError("give either images or videos")
        if images is not None:
            one = isinstance(images, bytes | Image.Image) or getattr(images, "ndim", 0) == 3
            pictures: Sequence[Any] = [images] if one else list(images)  # type: ignore[arg-type]
            pixels = _stack([self._pixels(picture) for picture in pictures], "images")
            return BatchFeature({"pixel_values": pixels}, tensor_type=return_tensors)
        assert videos is not None
        frames_B = [videos] if getattr(videos, "ndim", 0) == 4 else list(videos)
        clips = [_stack([self._pixels(frame) for frame in frames], "frames") for frames in frames_B]
        pixels = _stack(clips, "videos").transpose(0, 2, 1, 3, 4)
        B, _, T, H, W = pixels.shape
        grid = np.indices((T, H // self.patch_size, W // self.patch_size)).reshape(3, -1).T
        grid[:, 0] = _slots(T, self.slots)[grid[:, 0]]
        data = {"pixel_values": np.ascontiguousarray(pixels), "patch_positions": np.repeat(grid[None], B, axis=0)}
        return BatchFeature(data, tensor_type=return_tensors)

    def _pixels(self, image: ImageLike) -> np.ndarray:
        """One image to normalised float32 [3, H, W]."""
        picture = _open(image)
        W, H = picture.size
        scale = self.size / min(W, H)
        step = 1 if self.do_center_crop else self.patch_size
        new_W, new_H = (max(step, round(side * scale / step) * step) for side in (W, H))
        if (new_W, new_H) != (W, H):
            picture = picture.resize((new_W, new_H), Image.Resampling.BICUBIC)
        if self.do_center_crop:
            left, top = (new_W - self.crop_size) // 2, (new_H - self.crop_size) // 2
            picture = picture.crop((left, top, left + self.crop_size, top + self.crop_size))
        mean, std = np.array([self.image_mean, self.image_std], np.float32)
        x_HW3 = (np.asarray(picture, np.float32) / np.float32(255) - mean) / std
        return x_HW3.transpose(2, 0, 1)


def from_patch_batch(batch: PatchBatch) -> BatchFeature:
    """A PatchBatch of equally long samples as `pixel_values` and `patch_positions` for the transformers model.

    Patches are laid out raster-wise in fake frames of the source's grid where they fill whole ones, else one patch
    a frame; `patch_positions` [B, N, 3] carries their true (t, h, w), so the layout changes nothing.

    Raises:
        ValueError: samples of different lengths.
    """
    if len(set(batch.lengths_B)) != 1:
        raise ValueError(f"samples must have the same number of tokens, got {batch.lengths_B}")
    B, N, P = len(batch), batch.lengths_B[0], batch.patch_size
    patches_NS = torch.as_tensor(batch.patches_ND)
    patches_NS = normalise(patches_NS) if patches_NS.dtype == torch.uint8 else patches_NS
    _, h, w = batch.grids_B[0]
    if N % (h * w):
        h = w = 1
    grid = patches_NS.view(B, N // (h * w), h, w, 3, P, P)
    pixels = grid.permute(0, 4, 1, 2, 5, 3, 6).reshape(B, 3, N // (h * w), h * P, w * P)
    return BatchFeature({"pixel_values": pixels, "patch_positions": torch.as_tensor(batch.positions_N3).view(B, N, 3)})


def _open(image: ImageLike) -> Image.Image:
    if isinstance(image, bytes):
        try:
            return Image.open(io.BytesIO(image)).convert("RGB")
        except (UnidentifiedImageError, OSError, Image.DecompressionBombError) as e:
            raise OvEncoderError(f"{len(image)} bytes given as an image cannot be read as a picture: {e}") from e
    if isinstance(image, Image.Image):
        return image.convert("RGB")
    if isinstance(image, np.ndarray):
        if image.dtype != np.uint8 or image.ndim != 3 or image.shape[2] != 3:
            raise ValueError(f"an image array must be uint8 [H, W, 3], got {image.dtype} {list(image.shape)}")
        return Image.fromarray(image)
    raise ValueError(f"an image must be bytes, a PIL image or a uint8 array, got {type(image).__name__}")


def _stack(arrays: list[np.ndarray], what: str) -> np.ndarray:
    shapes = {a.shape for a in arrays}
    if len(shapes) != 1:
        raise ValueError(f"{what} of one call must have one shape after resizing, got {sorted(shapes) or 'none'}")
    return np.stack(arrays)


def _slots(T: int, slots: int) -> np.ndarray:
    """Frame i of T at round(i / (T - 1) * (slots - 1)), as released weights were evaluated."""
    if slots < T:
        raise ValueError(f"a video has {T} frames for {slots} slots; sample at most {slots}")
    return np.round(np.arange(T) / max(T - 1, 1) * (slots - 1)).astype(np.int64)


def _side(name: str, value: int | dict[str, int]) -> int:
    sides = {value} if isinstance(value, int) else set(value.values())
    side = sides.pop() if len(sides) == 1 else 0
    if side < 1:
        raise ValueError(f"{name} is {value!r}; must be one positive number of pixels")
    return side
