"""Where the numbers of a run go: metrics.jsonl always, TensorBoard, wandb or trackio by option, a picture at the end.

Not here: how they are computed (loop.py).
"""

from __future__ import annotations

import json
import math
import resource
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from ov_encoder.data.folder import write_atomically
from ov_encoder.errors import missing_extra

METRICS, CURVES = "metrics.jsonl", "curves.png"
HELD_OUT = "held_out/"  # begins the names of accuracies that held_out.py measures


class Metrics:
    """Appends records with a "step" to RUN/metrics.jsonl and to every place in `watch`.

    start: first step of this run; records of later steps, from a run that was killed after its last checkpoint, are
    dropped, because those steps are done again.
    """

    def __init__(self, folder: Path, *, watch: Sequence[str] = (), start: int = 0, config: Any = None) -> None:
        self.path = folder / METRICS
        kept = [r for r in read_metrics(folder) if r["step"] <= start]
        write_atomically(self.path, "".join(json.dumps(r) + "\n" for r in kept).encode())
        self._file = self.path.open("a")
        self._board: Any = None
        self._trackers: list[Any] = []
        for name in watch:
            self._open(name, folder, config)

    def _open(self, name: str, folder: Path, config: Any) -> None:
        try:
            if name == "tensorboard":
                from torch.utils.tensorboard import SummaryWriter

                self._board = SummaryWriter(str(folder / "tensorboard"))
                return
            import importlib

            tracker = importlib.import_module(name)  # wandb and trackio have the same three calls
        except ImportError as e:
            raise missing_extra(name, "watch", f"watch={name!r}") from e
        tracker.init(project="ov-encoder", name=folder.name, config=config)
        self._trackers.append(tracker)

    def write(self, step: int, values: dict[str, Any]) -> None:
        """One record; it is on the file when this returns."""
        numbers = {k: v for k, v in values.items() if isinstance(v, int | float) and math.isfinite(v)}
        self._file.write(json.dumps({"step": step, **dict.fromkeys(values), **numbers}) + "\n")  # NaN is no JSON
        self._file.flush()
        if self._board is not None:
            for name, value in numbers.items():
                self._board.add_scalar(name, value, step)
        for tracker in self._trackers:
            tracker.log(numbers, step=step)

    def close(self) -> None:
        """Flush everything."""
        self._file.close()
        if self._board is not None:
            self._board.close()
        for tracker in self._trackers:
            tracker.finish()


def read_metrics(folder: Path) -> list[dict[str, Any]]:
    """All whole records, in order; a line that a killed run left half-written is not one."""
    path = folder / METRICS
    if not path.exists():
        return []
    whole = path.read_bytes().rpartition(b"\n")[0]
    return [json.loads(line) for line in whole.splitlines()]


def matmul_rate(device: torch.device, dtype: torch.dtype) -> float:
    """Operations per second of a matrix product on this device with its current threads, the best of three."""
    n = 8192 if device.type == "cuda" else 1024
    a, b = (torch.randn(n, n, device=device).to(dtype) for _ in range(2))
    best = math.inf
    for _ in range(4):
        began = time.perf_counter()
        a @ b
        if device.type == "cuda":
            torch.cuda.synchronize(device)
        best = min(best, time.perf_counter() - began)
    return 2 * n**3 / best


def memory_bytes(device: torch.device) -> int:
    """Largest so far: of the GPU, or of this process."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)


def draw_curves(folder: Path) -> Path | None:
    """A picture of the run: loss and accuracy of every head, learning rate and gradient norm, probe. None if empty.

    Raises:
        OvEncoderError: matplotlib is missing.
    """
    try:
        from matplotlib.figure import Figure
    except ImportError as e:
        raise missing_extra("matplotlib", "viz", "the picture of the curves") from e
    from ov_encoder.viz.overlay import INK, PAPER, SOFT

    everything = read_metrics(folder)
    records = [r for r in everything if "loss" in r]
    probes = [r for r in everything if "loss" not in r]
    if len(records) < 2:
        return None
    heads = sorted({k.partition("/")[0] for k in records[0] if k.endswith("/loss")})
    held_out = {h: curve for h in heads if (curve := _curve(probes, HELD_OUT + h))[0]}
    panels: list[tuple[str, dict[str, tuple[list[int], list[float]]]]] = [
        ("loss", {h: _curve(records, f"{h}/loss") for h in heads} or {"loss": _curve(records, "loss")}),
        ("accuracy" + "; dashed: held out" * bool(held_out), {h: _curve(records, f"{h}/accuracy") for h in heads}),
        ("gradient norm, before clipping", {"encoder": _curve(records, "grad_norm")}),
    ]
    if any("probe" in r for r in probes):
        panels.append(("nearest neighbours, held out", {"probe": _curve(probes, "probe")}))
    else:
        panels.append(("learning rate", {"lr": _curve(records, "lr")}))
    figure = Figure(figsize=(11, 7), dpi=110, layout="constrained", facecolor=PAPER)
    panes = figure.subplots(2, 2).flat
    for name, (steps, values) in held_out.items():
        panes[1].plot(steps, values, lw=1.4, ls="--", marker="o", ms=3, color=f"C{heads.index(name)}")
    for axes, (title, curves) in zip(panes, panels, strict=True):
        axes.set_facecolor(PAPER)
        for name, (steps, values) in curves.items():
            axes.plot(steps, values, lw=1.4, label=name, marker="o" if len(steps) < 12 else None, ms=3)
        axes.set_title(title, loc="left", color=INK, fontsize=11)
        axes.set_xlabel("step", color=SOFT)
        axes.tick_params(colors=SOFT, labelsize=9)
        axes.spines[:].set_visible(False)
        axes.grid(color="#e6e2d8", lw=0.8)
        if len(curves) > 1 and list(curves) != heads:
            axes.legend(frameon=False, fontsize=9, labelcolor=SOFT)
    if len(heads) > 1:  # the same colours in both panels; inside one it would cover curves
        figure.legend(
            *panes[0].get_legend_handles_labels(), loc="outside lower center", ncols=len(heads), frameon=False,
            fontsize=9, labelcolor=SOFT,
        )  # fmt: skip
    path = folder / CURVES
    figure.savefig(path)
    return path


def _curve(records: Sequence[dict[str, Any]], key: str) -> tuple[list[int], list[float]]:
    found = [(r["step"], r[key]) for r in records if r.get(key) is not None]
    return [s for s, _ in found], [v for _, v in found]
