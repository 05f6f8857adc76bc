"""Processes and how a module is spread over them: DDP, FSDP2 (`fully_shard`), or one process. bf16 over fp32 weights.

Not here: what is trained. Started by torchrun, or alone. Heads shard themselves (cluster_head.py).
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.fsdp import FSDPModule, MixedPrecisionPolicy, fully_shard
from torch.nn.parallel import DistributedDataParallel
from torch.nn.utils import parametrize


@dataclass(frozen=True)
class Processes:
    """This process among all of them."""

    rank: int
    world: int
    device: torch.device

    @property
    def first(self) -> bool:
        """Whether this one prints and writes."""
        return self.rank == 0

    def sum(self, values: Sequence[float]) -> list[float]:
        """Added over processes, in float64."""
        if self.world == 1:
            return list(values)
        wide = torch.float32 if self.device.type == "mps" else torch.float64
        total = torch.tensor(values, dtype=wide, device=self.device)
        dist.all_reduce(total)
        return total.tolist()

    def gather(self, value: Any) -> list[Any]:
        """A plain value of every process, in order of ranks."""
        if self.world == 1:
            return [value]
        found: list[Any] = [None] * self.world
        dist.all_gather_object(found, value)
        return found

    def barrier(self) -> None:
        """Wait for all."""
        if self.world > 1:
            dist.barrier()


def start_processes(device: str = "auto") -> Processes:
    """Join the group that torchrun's environment describes; alone without one. `device`: "auto" takes a GPU."""
    rank, world, local = (
        int(os.environ.get(name, d)) for name, d in (("RANK", 0), ("WORLD_SIZE", 1), ("LOCAL_RANK", 0))
    )
    if device == "auto":
        device = "cuda" if torch.cuda.is_available() else "cpu"
    where = torch.device(f"cuda:{local}" if device == "cuda" else device)
    if where.type == "cuda":
        torch.cuda.set_device(where)
    if world > 1 and not dist.is_initialized():
        dist.init_process_group("nccl" if where.type == "cuda" else "gloo")
    return Processes(rank, world, where)


class _Cast(nn.Module):
    def __init__(self, dtype: torch.dtype) -> None:
        super().__init__()
        self.dtype = dtype

    def forward(self, x: Tensor) -> Tensor:
        return x.to(self.dtype)


def compute_in(module: nn.Module, dtype: torch.dtype) -> None:
    """Every parameter is seen by the forward in `dtype`, while the one that is trained stays float32.

    Also in recomputed activations. Names in state dicts change; `clean_name` gives the old ones. Under FSDP its own
    mixed precision does this.
    """
    for part in list(module.modules()):
        for name, parameter in list(part.named_parameters(recurse=False)):
            if parameter.dtype != dtype:
                parametrize.register_parametrization(part, name, _Cast(dtype), unsafe=True)


def clean_name(name: str) -> str:
    """A parameter's name without what DDP, torch.compile and `compute_in` put into it."""
    parts = [p for p in name.split(".") if p not in ("_orig_mod", "parametrizations", "original")]
    return ".".join(parts[1:] if parts[0] == "module" else parts)


def spread(
    module: nn.Module, processes: Processes, *, how: str, dtype: torch.dtype, blocks: Iterable[nn.Module] = ()
) -> nn.Module:
    """What to call instead of `module` in the forward. fsdp: `blocks` are gathered one at a time."""
    if how == "fsdp" and processes.world > 1:
        policy = MixedPrecisionPolicy(param_dtype=dtype, reduce_dtype=torch.float32)
        for block in blocks:
            fully_shard(block, mp_policy=policy)
        fully_shard(module, mp_policy=policy)
        return module
    if dtype != torch.float32:
        compute_in(module, dtype)
    if processes.world == 1:
        return module
    ids = [processes.device] if processes.device.type == "cuda" else None
    return DistributedDataParallel(module, device_ids=ids, gradient_as_bucket_view=True)


@contextlib.contextmanager
def reducing(module: nn.Module, last: bool):
    """Around forward *and* backward of a micro-batch: gradients are reduced over processes only in the last one."""
    if isinstance(module, FSDPModule):
        module.set_requires_gradient_sync(last)
        yield
    elif isinstance(module, DistributedDataParallel) and not last:
        with module.no_sync():
            yield
    else:
        yield


def local(x: Tensor) -> Tensor:
    """The part of a parameter, gradient or moment that lies in this process."""
    return x.to_local() if hasattr(x, "to_local") else x


def full(x: Tensor) -> Tensor:
    """The whole of it: a collective where it is sharded."""
    return x.full_tensor() if hasattr(x, "full_tensor") else x
