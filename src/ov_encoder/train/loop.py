"""The loop: any task on any stream of batches, in plain PyTorch, one process or many. It can be killed at any time.

Knows nothing about images, class centres or language: those are the task's (task.py) and the stream's (loader.py).
"""

from __future__ import annotations

import contextlib
import json
import logging
import math
import signal
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from ov_encoder.errors import OvEncoderError
from ov_encoder.train import checkpoint
from ov_encoder.train.config import LoopConfig, OptimConfig
from ov_encoder.train.metrics import Metrics, matmul_rate, memory_bytes
from ov_encoder.train.optim import Average, gradient_norm, make_optimizer, module_state, scale_gradients, set_rate
from ov_encoder.train.parallel import Processes, reducing, spread
from ov_encoder.train.schedule import learning_rate
from ov_encoder.train.task import Task

CHECKPOINTS, SKIPPED = "checkpoints", "skipped.jsonl"
_log = logging.getLogger("ov_encoder")


class Batch(Protocol):
    """What the loop wants to know about a batch; the rest is between the stream and the task."""

    ids: list[str]
    waited_s: float
    skipped: dict[str, str]

    @property
    def tokens(self) -> int:
        """For the speed."""


class DataStream(Protocol):
    """Endless batches whose position can be saved; `load_state_dict` takes the states of all ranks that saved."""

    def __next__(self) -> Any:
        """A Batch."""

    def state_dict(self) -> Mapping[str, Any]:
        """Plain values of this process."""

    def load_state_dict(self, states: Sequence[Any]) -> None:
        """Go on there."""

    def close(self) -> None:
        """End its workers."""


@dataclass
class Window:
    """Sums since the last record."""

    began: float = field(default_factory=time.perf_counter)
    steps: int = 0
    tokens: float = 0.0
    samples: float = 0.0
    waited: float = 0.0
    flops: float = 0.0
    metrics: dict[str, Tensor] = field(default_factory=dict)
    updates: int = 0  # steps that were not skipped

    def add(self, metrics: Mapping[str, Tensor]) -> None:
        """Those of one update."""
        self.updates += 1
        for name, value in metrics.items():
            self.metrics[name] = self.metrics[name] + value if name in self.metrics else value


class Loop:
    """Train `task` on `data` for `optim.steps` steps; goes on from the newest whole checkpoint in `folder`.

        loop = Loop(task, data, optim=..., loop=..., processes=start_processes(), folder=Path("run"))
        loop.fit()

    describe: plain values that are saved with every checkpoint (the config). Every process makes the same calls.
    """

    def __init__(
        self,
        task: Task,
        data: DataStream,
        *,
        optim: OptimConfig,
        loop: LoopConfig,
        processes: Processes,
        folder: Path,
        describe: Mapping[str, Any] | None = None,
    ) -> None:
        self.task, self.data, self.optim, self.config = task, data, optim, loop
        self.processes, self.folder, self.describe = processes, folder, dict(describe or {})
        self.step = 0  # finished steps
        self.bad = self.bad_in_a_row = 0
        self.stopped = False
        if loop.compile:
            for block in task.blocks():
                block.compile(dynamic=True)
        self.forward = spread(
            task.module, processes, how=loop.parallel, dtype=getattr(torch, loop.dtype), blocks=task.blocks()
        )
        self.optimizer = make_optimizer(task.groups(), optim)
        self.average = Average(task.module, optim.ema) if optim.ema else None
        self._saved = -1
        self._seen_skipped: set[str] = set()

    # --- checkpoints --------------------------------------------------------------------------------------------

    def resume(self) -> bool:
        """Go on from the newest whole checkpoint. False if there is none."""
        found = checkpoint.newest(self.folder / CHECKPOINTS)
        if found is None:
            return False
        path, about = found
        tensors = module_state(self.task.module, self.optimizer, self.average)
        rows, _ = self.task.side_state()
        checkpoint.load(path, tensors, rows, processes=self.processes, world=about["world"])
        self.task.load_side_state(about["side"])
        self.data.load_state_dict(about["data"])
        self.step, self.bad = about["step"], about["bad_steps"]
        self._saved = self.step
        return True

    def save(self) -> None:
        """Write a checkpoint of the current step."""
        if self._saved == self.step:
            return
        rows, plain = self.task.side_state()
        facts = {
            "data": self.processes.gather(dict(self.data.state_dict())),
            "side": plain,
            "bad_steps": self.bad,
            **self.describe,
        }
        tensors = module_state(self.task.module, self.optimizer, self.average)
        checkpoint.save(
            self.folder / CHECKPOINTS, self.step, tensors, rows, facts, processes=self.processes, keep=self.config.keep
        )
        self._saved = self.step

    # --- training -----------------------------------------------------------------------------------------------

    def fit(
        self,
        *,
        accumulate: int = 1,
        probe: Callable[[nn.Module], dict[str, float]] | None = None,
        on_record: Callable[[dict[str, Any]], None] | None = None,
    ) -> None:
        """Train until `optim.steps`, or SIGTERM: then a checkpoint is written and `stopped` is set.

        probe: measures the module every `loop.probe_every` steps, in every process (they must agree).

        Raises:
            OvEncoderError: `loop.bad_steps` steps in a row had a loss or gradient that is not finite.
        """
        metrics = None
        if self.processes.first:
            watch, start = self.config.watch, self.step
            metrics = Metrics(self.folder, watch=watch, start=start, config=self.describe.get("config"))
        rate = matmul_rate(self.processes.device, getattr(torch, self.config.dtype))
        window = Window()
        try:
            with _on_sigterm() as asked:
                while self.step < self.optim.steps and not self.stopped:
                    values = self._one_step(accumulate, window, asked)
                    if self.step % self.config.log_every == 0 or self.step == self.optim.steps:
                        record = self._record(window, values, rate)
                        window = Window()
                        if metrics:
                            metrics.write(self.step, record)
                        if on_record:
                            on_record({"step": self.step, **record})
                    if probe and self.config.probe_every and self.step % self.config.probe_every == 0:
                        found = probe(self.task.module)
                        if metrics:
                            metrics.write(self.step, found)
                        if on_record:
                            on_record({"step": self.step, **found})
                        window.began = time.perf_counter()
                    due = self.config.save_every and self.step % self.config.save_every == 0
                    if due or self.stopped or self.step == self.optim.steps:
                        self.save()
        finally:
            self.data.close()
            if metrics:
                metrics.close()

    def _one_step(self, accumulate: int, window: Window, asked: list[int]) -> dict[str, float]:
        """Forward and backward of every micro-batch, then one update, or none if something is not finite."""
        lr = learning_rate(self.step, self.optim)
        total: Any = 0.0
        ids: list[str] = []
        skipped: dict[str, str] = {}
        metrics: dict[str, Any] = {}
        sums = [0.0, 0.0, 0.0, 0.0]
        for micro in range(accumulate):
            batch = next(self.data)
            ids += batch.ids
            skipped |= batch.skipped
            with reducing(self.forward, micro == accumulate - 1):
                loss, found = self.task.loss(self.forward, batch)
                (loss / accumulate).backward()
            total = total + loss.detach() / accumulate
            for name, value in found.items():
                metrics[name] = metrics.get(name, 0) + value / accumulate
            for i, value in enumerate((batch.tokens, len(batch.ids), batch.waited_s, self.task.flops(batch))):
                sums[i] += value
        norm = gradient_norm(self.optimizer)
        squares = sum(float(side.square_sum()) for _, side in self.task.sides)
        mine = [float(bool(asked)), float(not math.isfinite(float(total))), squares, *sums]
        stop, infinite, squares, *sums = self.processes.sum(mine)
        if infinite or not math.isfinite(float(norm)) or not math.isfinite(squares):
            self._skip_step(ids, float(total), float(norm))
        else:
            self.bad_in_a_row = 0
            window.add(metrics)
            self.update(lr, norm)
        self.forget_gradients()
        self.step += 1
        self.stopped = bool(stop)
        self._note_skipped(skipped)
        window.steps += 1
        window.tokens, window.samples, window.waited, window.flops = (
            a + b for a, b in zip((window.tokens, window.samples, window.waited, window.flops), sums, strict=True)
        )
        return {"loss": float(total), "lr": lr, "grad_norm": float(norm), "side_grad_norm": squares**0.5}

    def update(self, lr: float, norm: Tensor) -> None:
        """Clip by the norm, then one step of every optimizer and of the average."""
        if self.optim.clip is not None and norm > self.optim.clip:
            scale_gradients(self.optimizer, self.optim.clip / norm)
        set_rate(self.optimizer, lr)
        self.optimizer.step()
        for scale, side in self.task.sides:
            side.lr = lr * scale
            side.step()
        if self.average:
            self.average.update(self.step + 1)

    def forget_gradients(self) -> None:
        """Of the module and beside it."""
        self.optimizer.zero_grad(set_to_none=True)
        for _, side in self.task.sides:
            side.zero_grad()

    def _skip_step(self, ids: list[str], loss: float, norm: float) -> None:
        """Count, write down which samples were in it, and stop after too many in a row."""
        self.bad, self.bad_in_a_row = self.bad + 1, self.bad_in_a_row + 1
        everyone = [name for names in self.processes.gather(ids) for name in names]
        reason = f"step {self.step}: loss {loss}, gradient norm {norm}; nothing was updated"
        if self.processes.first:
            _log.warning("%s", reason)
            with (self.folder / SKIPPED).open("a") as f:
                f.write(json.dumps({"step": self.step, "reason": reason, "ids": everyone}) + "\n")
        if self.bad_in_a_row >= self.config.bad_steps:
            shown = ", ".join(everyone[:10]) + (f" and {len(everyone) - 10} more" if len(everyone) > 10 else "")
            raise OvEncoderError(
                f"{self.bad_in_a_row} steps in a row were not finite, the last: {reason}; its samples: {shown} "
                f"(all of them in {self.folder / SKIPPED}); a smaller optim.lr or optim.clip may help"
            )

    def _note_skipped(self, skipped: Mapping[str, str]) -> None:
        """Samples that could not be used, each once, in a file of this process."""
        new = {name: reason for name, reason in skipped.items() if name not in self._seen_skipped}
        if new:
            self._seen_skipped |= set(new)
            rank = f".{self.processes.rank}" if self.processes.rank else ""
            with (self.folder / f"{SKIPPED}{rank}").open("a") as f:
                for name, reason in new.items():
                    f.write(json.dumps({"id": name, "reason": reason}) + "\n")

    def _record(self, window: Window, values: dict[str, float], rate: float) -> dict[str, Any]:
        """Means over the window. Sums over processes were taken step by step."""
        spent = time.perf_counter() - window.began
        world = self.processes.world
        names = sorted(window.metrics)
        means = {name: round(float(window.metrics[name]) / window.updates, 6) for name in names}
        return {
            **{name: round(value, 9) for name, value in values.items()},
            **means,
            "tokens_per_s": round(window.tokens / spent, 1),
            "samples_per_s": round(window.samples / spent, 2),
            "step_s": round(spent / window.steps, 4),
            "data_wait": round(window.waited / world / spent, 4),
            "mfu": round(window.flops / world / spent / rate, 4),
            "memory_gb": round(memory_bytes(self.processes.device) / 1e9, 3),
            "bad_steps": self.bad,
        }


@contextlib.contextmanager
def _on_sigterm() -> Iterator[list[int]]:
    """A list that is no longer empty after SIGTERM (or SIGINT): the step is finished and saved, then the loop ends."""
    asked: list[int] = []
    before = {}
    for number in (signal.SIGTERM, signal.SIGINT):
        with contextlib.suppress(ValueError):  # not in the main thread: then it is not ours to handle
            before[number] = signal.signal(number, lambda found, frame: asked.append(found))
    try:
        yield asked
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
