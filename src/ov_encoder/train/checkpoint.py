"""Checkpoints of a run: torch.distributed.checkpoint in folders that are whole or not there. Any number of processes.

    RUN/checkpoints/step-00000100/   *.distcp, .metadata (tensors), state.json (step, data position, files and sizes)

Rows of class centres are saved as DTensors cut like the shards of the heads, so a run with another number of processes
reads its own rows. A folder that a killed run was writing has another name; one whose files do not have the sizes of
its state.json was damaged later. Both are passed over, and that is said.
"""

from __future__ import annotations

import json
import logging
import os
import shutil
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
import torch.distributed.checkpoint as dcp
from torch import Tensor
from torch.distributed.checkpoint.metadata import TensorStorageMetadata

from ov_encoder.data.folder import PART, write_atomically
from ov_encoder.errors import OvEncoderError
from ov_encoder.train.parallel import Processes

STATE, FORMAT = "state.json", "ov-encoder.checkpoint/1"
Rows = Mapping[str, tuple[Tensor, int]]  # of this process, and how many all processes have
_log = logging.getLogger("ov_encoder")


def save(
    folder: Path, step: int, tensors: Mapping[str, Tensor], rows: Rows, facts: Mapping[str, Any], *,
    processes: Processes, keep: int,
) -> Path:  # fmt: skip
    """Write the checkpoint of `step`; the `keep` newest remain. A collective: every process calls it."""
    target, part = folder / f"step-{step:08d}", folder / f".step-{step:08d}{PART}"
    if processes.first:
        shutil.rmtree(part, ignore_errors=True)
        part.mkdir(parents=True)
    processes.barrier()
    state = {**tensors, **_as_dtensors(rows, processes), f"rng.{processes.rank}": _rng(processes)}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # it says that one process is one process
        dcp.save(state, checkpoint_id=str(part), no_dist=processes.world == 1)
    processes.barrier()
    if processes.first:
        sizes = {p.name: p.stat().st_size for p in sorted(part.iterdir())}
        about = {"format": FORMAT, "step": step, "world": processes.world, "files": sizes, **facts}
        write_atomically(part / STATE, (json.dumps(about, indent=1) + "\n").encode())
        shutil.rmtree(target, ignore_errors=True)  # of a run that was resumed from an earlier step
        part.replace(target)
        _sync(folder)
        for old in sorted(folder.glob("step-*"))[:-keep]:
            shutil.rmtree(old)
    processes.barrier()
    return target


def newest(folder: Path) -> tuple[Path, dict[str, Any]] | None:
    """The last whole checkpoint and its state.json; those passed over are named in a warning, with the reason.

    Raises:
        OvEncoderError: there are checkpoints, and none of them is whole.
    """
    found = sorted(folder.glob("step-*"), reverse=True)
    for cut in sorted(folder.glob(f".step-*{PART}")):
        _log.warning("%s: was being written when the run ended; not used", cut)
    reasons: list[str] = []
    for path in found:
        about = _whole(path)
        if isinstance(about, dict):
            if reasons:
                _log.warning("%s; going on from %s", "; ".join(reasons), path)
            return path, about
        reasons.append(about)
    if reasons:
        raise OvEncoderError(f"{'; '.join(reasons)}; no whole checkpoint is left in {folder}")
    return None


def load(path: Path, tensors: Mapping[str, Tensor], rows: Rows, *, processes: Processes, world: int) -> None:
    """Read into the given tensors, in place. `world`: processes of the run that saved (from its state.json).

    Random number generators go on only for the same number of processes; nothing but rounding depends on them.

    Raises:
        OvEncoderError: a tensor is missing or has another shape, or the files are damaged.
    """
    state: dict[str, Tensor] = {**tensors, **_as_dtensors(rows, processes)}
    random = f"rng.{processes.rank}"
    if world == processes.world:
        state[random] = torch.empty_like(_rng(processes))
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            dcp.load(state, checkpoint_id=str(path), no_dist=processes.world == 1)
    except (dcp.api.CheckpointException, RuntimeError, ValueError, OSError) as e:
        raise OvEncoderError(f"{path}: cannot be loaded: {e}") from e
    if world == processes.world:
        numbers = state[random]
        size = int(numbers[:8].view(torch.int64)[0])
        torch.set_rng_state(numbers[8 : 8 + size].clone())
        if processes.device.type == "cuda":
            torch.cuda.set_rng_state(numbers[8 + size :].clone(), processes.device)


def read_tensors(path: Path, prefix: str) -> dict[str, Tensor]:
    """The tensors of a checkpoint whose names begin with `prefix`, whole, without the prefix. One process.

    Raises:
        OvEncoderError: the files are damaged.
    """
    try:
        known = dcp.FileSystemReader(str(path)).read_metadata().state_dict_metadata
        state = {
            name: torch.empty(about.size, dtype=about.properties.dtype)
            for name, about in known.items()
            if name.startswith(prefix) and isinstance(about, TensorStorageMetadata)
        }
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            dcp.load(state, checkpoint_id=str(path), no_dist=True)
    except (dcp.api.CheckpointException, RuntimeError, ValueError, OSError) as e:
        raise OvEncoderError(f"{path}: cannot be read: {e}") from e
    return {name.removeprefix(prefix): value for name, value in state.items()}


def _as_dtensors(rows: Rows, processes: Processes) -> dict[str, Tensor]:
    """Rows of this process as their part of the whole: the cut of Shard(0) is that of `class_range`."""
    if processes.world == 1:
        return {name: mine for name, (mine, _) in rows.items()}
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.tensor import DTensor, Shard

    mesh = init_device_mesh(processes.device.type, (processes.world,))
    out: dict[str, Tensor] = {}
    for name, (mine, total) in rows.items():
        shape = torch.Size((total, *mine.shape[1:]))
        stride = torch.empty(shape, device="meta").stride()
        out[name] = DTensor.from_local(mine, mesh, [Shard(0)], run_check=False, shape=shape, stride=stride)
    return out


def _rng(processes: Processes) -> Tensor:
    """Generators of this process: size of the CPU's in 8 bytes, its state, the GPU's."""
    cpu = torch.get_rng_state()
    parts = [torch.tensor([len(cpu)]).view(torch.uint8), cpu]
    if processes.device.type == "cuda":
        parts.append(torch.cuda.get_rng_state(processes.device))
    return torch.cat(parts)


def _whole(path: Path) -> dict[str, Any] | str:
    """state.json of a whole checkpoint, or what is wrong with it."""
    try:
        about = json.loads((path / STATE).read_text())
        for name, size in about["files"].items():
            there = (path / name).stat().st_size
            if there != size:
                return f"{path / name}: {there} bytes instead of {size}"
    except (OSError, ValueError, KeyError, TypeError) as e:
        return f"{path}: is not whole ({e})"
    if about.get("format") != FORMAT:
        return f"{path}: has format {about.get('format')!r}, not {FORMAT!r}"
    return about


def _sync(folder: Path) -> None:
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
