"""Cost accounting: operations by formula, seconds and memory as measured, per clip. Nothing is evaluated here.

A multiplication and an addition are two operations. Only matrix products, convolutions and attention count, as in
torch.utils.flop_counter, which the tests compare with. L = tokens of a sequence, D = width, M = width of the MLP.
"""

from __future__ import annotations

import contextlib
import ctypes
import statistics
import time
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from ov_encoder.data.manifest import Sample
from ov_encoder.model.config import OVEncoderConfig

if TYPE_CHECKING:
    import torch

    from ov_encoder.evaluate.featurizer import Featurizer


def linear_flops(rows: int, inputs: int, outputs: int) -> int:
    """A matrix product of [rows, inputs] and [inputs, outputs]."""
    return 2 * rows * inputs * outputs


def transformer_flops(lengths: Iterable[int], *, width: int, hidden: int, layers: int, gated: bool = False) -> int:
    """Blocks of attention (four projections, scores, weighted sum) and MLP (two matrices, three if gated)."""
    matrices = 4 * width * width + (3 if gated else 2) * width * hidden
    return layers * sum(2 * L * matrices + 4 * L * L * width for L in lengths)


def pooling_flops(lengths: Iterable[int], *, width: int, hidden: int) -> int:
    """One learned probe attends to every token, then an MLP: the head of SigLIP and of our encoder."""
    probe = linear_flops(1, width, 2 * width) + 2 * linear_flops(1, width, hidden)  # q, out, fc1, fc2
    return sum(probe + linear_flops(L, width, 2 * width) + 4 * L * width for L in lengths)


def encoder_flops(config: OVEncoderConfig, lengths: Sequence[int]) -> int:
    """OVEncoder on samples of `lengths` tokens: patch embedding, blocks and, where it has one, the pooling head."""
    D, M = config.hidden_size, config.intermediate_size
    total = linear_flops(sum(lengths), config.patch_dim, D)
    total += transformer_flops(lengths, width=D, hidden=M, layers=config.num_hidden_layers)
    return total + (pooling_flops(lengths, width=D, hidden=M) if config.use_head else 0)


def counted_flops(model: torch.nn.Module, *inputs: torch.Tensor) -> int:
    """What torch counts in one forward pass: for networks without a formula here (convolutions)."""
    import torch
    from torch.utils.flop_counter import FlopCounterMode

    with FlopCounterMode(display=False) as counter, torch.no_grad():
        model(*inputs)
    return counter.get_total_flops()


@dataclass(frozen=True, slots=True)
class Cost:
    """Of one clip: medians over a few. gflop: 10^9 operations.

    read_s: from the file to patches or frames, codec signals included. encode_s: from there to features. peak_mb:
    memory of the process above what it held before the clip, None where the system cannot tell (it needs Linux).
    gpu_peak_mb: the same on the GPU, weights not included; None on a CPU.
    """

    tokens: float
    gflop: float
    read_s: float
    encode_s: float
    peak_mb: float | None
    gpu_peak_mb: float | None

    def to_dict(self) -> dict[str, float | None]:
        """Ready for JSON."""
        return asdict(self)


def measure(featurizer: Featurizer, samples: Sequence[Sample], *, clips: int = 5) -> Cost:
    """Read and encode a few clips, one after the other in this process: what a user waits for one clip.

    The clips are spread over `samples`; the first is done once more before, to warm up.

    Raises:
        ValueError: no samples. OvEncoderError: a clip cannot be read.
    """
    if not samples:
        raise ValueError("no samples to measure the cost of")
    count = min(clips, len(samples))
    chosen = [samples[i * len(samples) // count] for i in range(count)]
    costs = [_measure_one(featurizer, sample) for sample in [chosen[0], *chosen]][1:]
    medians = {name: _median([getattr(cost, name) for cost in costs]) for name in Cost.__slots__}
    return Cost(**medians)  # type: ignore[arg-type]


def _measure_one(featurizer: Featurizer, sample: Sample) -> Cost:
    import torch

    gpu = torch.cuda.is_available()
    held_mb = _restart_peak()
    held_gpu = torch.cuda.memory_allocated() if gpu else 0
    if gpu:
        torch.cuda.reset_peak_memory_stats()
    began = time.perf_counter()
    read = featurizer.read(sample)
    middle = time.perf_counter()
    features = featurizer.encode([read])[0]
    if gpu:
        torch.cuda.synchronize()
    ended = time.perf_counter()
    peak_mb = _status_mb("VmHWM") if held_mb is not None else None
    return Cost(
        tokens=float(features.tokens),
        gflop=features.flops / 1e9,
        read_s=middle - began,
        encode_s=ended - middle,
        peak_mb=None if held_mb is None or peak_mb is None else max(peak_mb - held_mb, 0.0),
        gpu_peak_mb=(torch.cuda.max_memory_allocated() - held_gpu) / 1e6 if gpu else None,
    )


def _median(values: Sequence[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return statistics.median(known) if len(known) == len(values) else None


def _restart_peak() -> float | None:
    """Make Linux forget the largest memory this process held so far; returns what it holds now, in MB.

    The allocator gives back what it keeps for later first: kept memory that is used again would not count as new.
    """
    with contextlib.suppress(OSError, AttributeError):  # malloc_trim is the GNU library's
        ctypes.CDLL(None).malloc_trim(0)
    try:
        Path("/proc/self/clear_refs").write_text("5")
    except OSError:  # another system, or a sandbox that forbids it: peaks are not known then
        return None
    return _status_mb("VmRSS")


def _status_mb(field: str) -> float | None:
    lines = Path("/proc/self/status").read_text().splitlines()
    return next((int(line.split()[1]) * 1024 / 1e6 for line in lines if line.startswith(field + ":")), None)
