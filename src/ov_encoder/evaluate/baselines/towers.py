"""What an adapter of a vision network says about it, and strict loading through `transformers`. One family, one file.

A tower turns the frames of one clip into tokens, at its own size. The tokens of one slice lie on a grid of rows and
columns; a slice is one frame for image networks, two for those that read frames in pairs.

Shapes: T = frames, C = 3 colours, Y, X = pixels, S = slices, L = rows * columns tokens of a slice, D = width.
"""

from __future__ import annotations

import functools
import json
import logging
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Protocol

import torch
from torch import nn

from ov_encoder.errors import OvEncoderError, missing_extra
from ov_encoder.evaluate.baselines.frames import FrameShape

HALF = (0.5, 0.5, 0.5)
CLIP = ((0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711))
IMAGENET = ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
_PREPROCESSORS = ("preprocessor_config.json", "video_preprocessor_config.json")
_log = logging.getLogger("ov_encoder")


class Tower(Protocol):
    """A network and how it takes frames. Adapters are small classes; see `clip` for a short one.

    video: whether tokens of different slices see each other (then the network knows their order by itself).
    mean, std: of RGB in [0, 1].
    """

    model: nn.Module
    shape: FrameShape
    video: bool
    mean: tuple[float, ...]
    std: tuple[float, ...]

    def __call__(self, pixels_TCYX: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor | None]:
        """Normalised frames of a clip, whole slices, to tokens [S, L, D] and the network's own pooled [D], if any."""
        ...

    def flops(self, slices: int, tokens: int) -> int:
        """Operations for a clip of `slices` slices of `tokens` tokens."""
        ...


def load(class_name: str, path: Path, *, key_mapping: dict[str, str] | None = None) -> Any:
    """A network of `transformers` from a directory, in eval mode, in the dtype of its weights. Strict.

    Whole checkpoints of two-tower models are fine: what is not the vision tower's is left out.

    Raises:
        OvEncoderError: transformers is missing, files are damaged, or the checkpoint lacks weights of this network.
    """
    try:
        import transformers
    except ImportError as e:
        raise missing_extra("transformers", "hf", f"a baseline {class_name}") from e
    with _quiet():
        try:
            model, report = getattr(transformers, class_name).from_pretrained(
                str(path), key_mapping=key_mapping, output_loading_info=True, local_files_only=True
            )
        except (OSError, ValueError, RuntimeError, KeyError) as e:
            raise OvEncoderError(f"{path}: cannot be loaded as {class_name}: {e}") from e
    if bad := sorted(report["missing_keys"]) + sorted(map(str, report["mismatched_keys"])):
        raise OvEncoderError(
            f"{path}: is no {class_name}: {len(bad)} weights are missing or of another shape, first {bad[0]}"
        )
    return model.eval()


def directory(name: str) -> Path:
    """A local directory, or the files of a hub id "owner/name".

    Raises:
        OvEncoderError: no such directory, or the hub does not give it.
    """
    path = Path(name).expanduser()
    if path.is_dir():
        return path
    if name.count("/") != 1 or name.startswith((".", "/", "~")):
        raise OvEncoderError(f"{name}: no such directory (a baseline is a directory or a hub id like 'owner/name')")
    try:
        from huggingface_hub import snapshot_download
        from huggingface_hub.errors import HfHubHTTPError, HFValidationError, LocalEntryNotFoundError
    except ImportError as e:
        raise missing_extra("huggingface_hub", "hf", f"loading {name!r} from the hub") from e
    try:
        return Path(snapshot_download(name, allow_patterns=["*.json", "*.safetensors"]))
    except (HfHubHTTPError, HFValidationError, LocalEntryNotFoundError, OSError) as e:
        raise OvEncoderError(f"{name}: cannot be loaded from the hub: {e}") from e


def model_type(path: Path) -> str:
    """What a checkpoint calls itself in config.json.

    Raises:
        OvEncoderError: no such file, or it does not say.
    """
    try:
        return str(json.loads((path / "config.json").read_text(encoding="utf-8"))["model_type"])
    except (OSError, ValueError, KeyError, TypeError) as e:
        raise OvEncoderError(f"{path}: has no config.json that names a model_type: {e!r}") from e


def mean_and_std(path: Path, otherwise: tuple[tuple[float, ...], tuple[float, ...]]) -> tuple[Any, Any]:
    """Of RGB in [0, 1], from the checkpoint's preprocessor file; `otherwise`, with a note, if it has none.

    Raises:
        OvEncoderError: the file cannot be read.
    """
    for name in _PREPROCESSORS:
        file = path / name
        if file.is_file():
            try:
                values = json.loads(file.read_text(encoding="utf-8"))
                return tuple(map(float, values["image_mean"])), tuple(map(float, values["image_std"]))
            except (OSError, ValueError, KeyError, TypeError) as e:
                raise OvEncoderError(f"{file}: cannot be read as a preprocessor's settings: {e!r}") from e
    _say_default(str(path), otherwise)
    return otherwise


def side(value: Any, what: str) -> int:
    """One side of a square size that a config gives as a number or as a pair.

    Raises:
        OvEncoderError: not square.
    """
    sides = set(value) if isinstance(value, list | tuple) else {value}
    if len(sides) != 1:
        raise OvEncoderError(f"{what} is {value!r}; must be square")
    return int(sides.pop())


def square(config: Any, path: Path, *, step: int = 1, slices: int | None = None) -> FrameShape:
    """The shape of a network with one square size, from its config.

    Raises:
        OvEncoderError: the size or the patch is not square.
    """
    patch = side(config.patch_size, f"{path}: patch_size")
    rows = side(config.image_size, f"{path}: image_size") // patch
    return FrameShape(patch=patch, rows=rows, step=step, slices=slices)


@functools.cache
def _say_default(path: str, values: tuple[tuple[float, ...], ...]) -> None:
    _log.warning("%s has no preprocessor_config.json: its family's mean %s and deviation %s are used", path, *values)


@contextmanager
def _quiet() -> Iterator[None]:
    """Without transformers' report of text towers that are left out and its progress bar: `load` checks itself."""
    from transformers.utils import logging as chatter

    before, bars = chatter.get_verbosity(), chatter.is_progress_bar_enabled()
    chatter.set_verbosity_error()
    chatter.disable_progress_bar()
    try:
        yield
    finally:
        chatter.set_verbosity(before)
        if bars:
            chatter.enable_progress_bar()
