"""Encoders by name, from a directory, a file or the hub, and back to disk. Strict: every key must fit.

Names that are sizes give an encoder with seeded random weights, which says so. Trained encoders that come with the
package are those of `ov_encoder.bundled`.
"""

import difflib
import fnmatch
import functools
import hashlib
import json
import logging
from collections.abc import Mapping
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import nn

from ov_encoder.bundled import BUNDLED
from ov_encoder.errors import OvEncoderError, missing_extra
from ov_encoder.model.attention import choose_kernel
from ov_encoder.model.config import SIZES, OVEncoderConfig
from ov_encoder.model.encoder import OVEncoder
from ov_encoder.model.layers import init_weights

DTYPES = (torch.float32, torch.bfloat16)
SEED = 0
WEIGHTS, INDEX = "model.safetensors", "model.safetensors.index.json"
_log = logging.getLogger("ov_encoder")


def list_models(filter: str = "*") -> list[str]:
    """Names that `load_model` knows, those that match a shell pattern such as "ov-encoder-*"."""
    return fnmatch.filter([*BUNDLED, *SIZES], filter)


def load_model(
    name_or_path_or_hub_id: str | Path,
    *,
    device: torch.device | str | None = None,
    dtype: torch.dtype | str | None = None,
    attention: str = "auto",
) -> OVEncoder:
    """An encoder in eval mode.

    A name of `list_models()`; a directory with config.json and model.safetensors (or shards with their index); a
    .safetensors file with a config beside it (`x.config.json` for `x.safetensors` or `x.weights.safetensors`, else
    config.json); or a hub id "owner/name", through huggingface_hub. Released checkpoints load unchanged.

    `device`: the CPU if None. `dtype`: torch.float32 or torch.bfloat16, or their names; that of the file if None, but
    float32 for a bundled one: it is stored in bfloat16 only to be small, and many CPUs are slow in it.
    `attention`: see `OVEncoder`.

    Raises:
        ValueError: an unknown name, dtype or attention (the message lists what is allowed).
        OvEncoderError: files that are missing or damaged, or weights that do not fit the config.
    """
    wanted_dtype = _check_dtype(dtype)
    target = torch.device(device) if device is not None else torch.device("cpu")
    if attention != "varlen":  # whether varlen can run depends on the dtype: the first forward says
        choose_kernel(attention, "cpu", torch.float32)
    name = str(name_or_path_or_hub_id)
    if name in SIZES and not Path(name).is_dir():
        config = OVEncoderConfig.from_name(name)
        model = _empty(config, torch.device("cpu"), torch.float32, attention)
        init_weights(model, std=config.initializer_range, generator=torch.Generator().manual_seed(SEED))
        _say_random(name, SEED)
        return model.to(device=target, dtype=wanted_dtype).eval()
    config_file, weights_file = _files(_find(name))
    config, state = OVEncoderConfig.from_json(config_file), read_state(weights_file)
    kinds = {t.dtype for t in state.values()}
    own_dtype = kinds.pop() if len(kinds) == 1 and name not in BUNDLED else torch.float32
    model = _empty(config, target, wanted_dtype or own_dtype, attention)
    check_state(model.state_dict(), state, str(weights_file))
    model.load_state_dict(state)  # a copy: the file may be replaced later
    return model.eval()


def save_model(model: OVEncoder, directory: str | Path) -> None:
    """Write config.json and model.safetensors, which `load_model` and `ov_encoder.hf` read."""
    folder = Path(directory)
    folder.mkdir(parents=True, exist_ok=True)
    tensors = {name: t.detach().cpu().contiguous() for name, t in model.state_dict().items()}
    save_file(tensors, str(folder / WEIGHTS), metadata={"format": "pt"})
    model.config.to_json(folder / "config.json")


def read_state(path: str | Path) -> dict[str, torch.Tensor]:
    """All tensors of a .safetensors file, or of the shards that a .safetensors.index.json names.

    Raises:
        OvEncoderError: a file is missing or damaged, or a shard lacks a tensor that the index promises.
    """
    path = Path(path)
    if path.suffix != ".json":
        return _read_file(path)
    try:
        where: dict[str, str] = json.loads(path.read_text())["weight_map"]
        if outside := [file for file in where.values() if Path(file).name != file]:
            raise ValueError(f"shard {outside[0]!r} is not in the directory of the index")
        shards = {file: _read_file(path.parent / file) for file in sorted(set(where.values()))}
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as e:
        raise OvEncoderError(f"{path}: cannot be read as an index of shards: {e!r}") from e
    for key, file in where.items():
        if key not in shards[file]:
            raise OvEncoderError(f"{path.parent / file}: has no tensor {key!r}, which {path.name} says it holds")
    return {key: shards[file][key] for key, file in where.items()}


def check_state(expected: Mapping[str, torch.Tensor], found: Mapping[str, torch.Tensor], source: str) -> None:
    """Compare keys and shapes of two state dicts.

    Raises:
        OvEncoderError: with one line per missing key, unexpected key and differing shape.
    """
    lines = [f"  missing     {k} {_shape(t)}" for k, t in expected.items() if k not in found]
    lines += [f"  unexpected  {k} {_shape(t)}" for k, t in found.items() if k not in expected]
    lines += [
        f"  shape       {k} is {_shape(found[k])}, must be {_shape(t)}"
        for k, t in expected.items()
        if k in found and found[k].shape != t.shape
    ]
    if lines:
        shown = lines[:20] + ([f"  ... and {len(lines) - 20} more"] if len(lines) > 20 else [])
        raise OvEncoderError("\n".join([f"{source}: weights do not fit the config:", *shown]))


def fingerprint(model: nn.Module) -> str:
    """A hash of all weights: two runs may be mixed only if they used the same ones."""
    digest = hashlib.blake2b(digest_size=16)
    for name, tensor in sorted(model.state_dict().items()):
        digest.update(f"{name} {tuple(tensor.shape)} {tensor.dtype}".encode())
        digest.update(tensor.detach().cpu().contiguous().flatten().view(torch.uint8).numpy())
    return digest.hexdigest()


def _empty(config: OVEncoderConfig, device: torch.device, dtype: torch.dtype, attention: str) -> OVEncoder:
    """An encoder whose memory is taken but not filled."""
    with torch.device("meta"):
        model = OVEncoder(config, attention=attention)
    return model.to(dtype).to_empty(device=device)


@functools.cache
def _say_random(name: str, seed: int) -> None:
    _log.warning("%r is an untrained encoder: random weights from seed %d, its features mean nothing", name, seed)


def _find(name: str) -> Path:
    """The local directory or file behind a bundled name, a path or a hub id."""
    if name in BUNDLED:
        return BUNDLED[name]
    path = Path(name).expanduser()
    if path.exists():
        return path
    if name.count("/") == 1 and not name.startswith((".", "/", "~")) and path.suffix != ".safetensors":
        return _download(name)
    if "/" in name or "\\" in name or path.suffix == ".safetensors":
        raise OvEncoderError(f"{name}: no such file or directory")
    close = difflib.get_close_matches(name, list_models(), n=1)
    hint = f" (did you mean {close[0]!r}?)" if close else ""
    raise ValueError(
        f"unknown model {name!r}{hint}; names: {', '.join(list_models())}; or give a directory, a .safetensors "
        f"file, or a hub id like 'owner/name'"
    )


def _download(hub_id: str) -> Path:
    try:
        from huggingface_hub import snapshot_download
        from huggingface_hub.errors import HfHubHTTPError, HFValidationError, LocalEntryNotFoundError
    except ImportError as e:
        raise missing_extra("huggingface_hub", "hf", f"loading {hub_id!r} from the hub") from e
    try:
        return Path(snapshot_download(hub_id, allow_patterns=["config.json", "*.safetensors", INDEX]))
    except (HfHubHTTPError, HFValidationError, LocalEntryNotFoundError, OSError) as e:
        raise OvEncoderError(f"{hub_id}: no such directory here, and the hub does not give it: {e}") from e


def _files(path: Path) -> tuple[Path, Path]:
    """(config, weights or index) of a directory or a single file."""
    if path.is_file():
        stem = path.name.removesuffix(".safetensors").removesuffix(".weights")
        beside = path.with_name(f"{stem}.config.json")
        return (beside if beside.exists() else path.with_name("config.json")), path
    for file in (WEIGHTS, INDEX):
        if (path / file).exists():
            return path / "config.json", path / file
    single = sorted(path.glob("*.safetensors"))
    if len(single) == 1:
        return path / "config.json", single[0]
    found = ", ".join(f.name for f in single) or "no .safetensors file"
    raise OvEncoderError(f"{path}: must hold {WEIGHTS} or {INDEX}; found {found}")


def _read_file(path: Path) -> dict[str, torch.Tensor]:
    try:
        with safe_open(str(path), "pt") as f:
            return {key: f.get_tensor(key) for key in f.keys()}  # noqa: SIM118
    except (OSError, SafetensorError) as e:
        raise OvEncoderError(f"{path}: cannot be read as safetensors (empty, cut off or damaged?): {e}") from e


def _check_dtype(dtype: torch.dtype | str | None) -> torch.dtype | None:
    found = getattr(torch, dtype, None) if isinstance(dtype, str) else dtype
    if dtype is not None and found not in DTYPES:
        raise ValueError(f"dtype is {dtype!r}; allowed: float32, bfloat16")
    return found


def _shape(tensor: torch.Tensor) -> str:
    return "[" + ", ".join(map(str, tensor.shape)) + "]"
