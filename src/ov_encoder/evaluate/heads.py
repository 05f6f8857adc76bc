"""Many classifiers trained in one pass over the same batches, each with its own learning rate and weight decay.

A head is one point of the grid. Parameters of all heads are stacked along a first axis G and never mix, so each comes
out as if it had been trained alone (tested). What the heads compute is in `linear` and `attentive`; which rates are
tried and how one is chosen is in `protocol`.

Shapes: G = heads, B = samples of a batch, N = samples, C = classes, D = width, L = tokens of a sample.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import torch
import torch.nn.functional as F
from torch import nn

from ov_encoder.evaluate.features import FeatureCache

_MICRO_TOKENS = 32_768  # tokens in memory as float32 at a time; a batch is summed up from such parts


class Data(Protocol):
    """Inputs of the heads, by number: what `inputs` gives is what `forward` of the heads takes."""

    def __len__(self) -> int: ...

    def inputs(self, rows: np.ndarray) -> tuple[torch.Tensor, ...]:
        """Of some samples."""
        ...

    def parts(self, rows: np.ndarray) -> list[np.ndarray]:
        """The rows in groups that fit in memory."""
        ...


class Vectors:
    """One vector a sample, all in memory."""

    def __init__(self, x_ND: torch.Tensor) -> None:
        self.x_ND = x_ND

    def __len__(self) -> int:
        return len(self.x_ND)

    def inputs(self, rows: np.ndarray) -> tuple[torch.Tensor, ...]:
        """float32 [B, D]."""
        return (self.x_ND[torch.from_numpy(rows)],)

    def parts(self, rows: np.ndarray) -> list[np.ndarray]:
        """One group."""
        return [rows]

    def moments(self, rows: np.ndarray) -> tuple[torch.Tensor, torch.Tensor]:
        """Mean and deviation [D] over some samples, see `_deviation`."""
        x_ND = self.x_ND[torch.from_numpy(rows)].double()
        return x_ND.mean(dim=0).float(), _deviation(x_ND.var(dim=0, correction=0)).float()


class Tokens:
    """All tokens of each sample, read from the cache when they are used."""

    def __init__(self, cache: FeatureCache, ids: Sequence[str], device: torch.device | str = "cpu") -> None:
        self.cache = cache
        self.ids = list(ids)
        self.lengths = np.array(cache.lengths(self.ids))
        self.device = device

    def __len__(self) -> int:
        return len(self.ids)

    def inputs(self, rows: np.ndarray) -> tuple[torch.Tensor, ...]:
        """Tokens float32 [B, L, D], and a mask bool [B, L] of those that exist, if samples differ in length."""
        tokens = [self.cache.tokens(self.ids[row]) for row in rows]
        lengths = self.lengths[rows]
        if (lengths == lengths[0]).all():
            return (torch.stack(tokens).to(self.device).float(),)
        mask_BL = torch.arange(int(lengths.max())) < torch.from_numpy(lengths)[:, None]
        x_BLD = nn.utils.rnn.pad_sequence(tokens, batch_first=True)
        return x_BLD.to(self.device).float(), mask_BL.to(self.device)

    def parts(self, rows: np.ndarray) -> list[np.ndarray]:
        """Groups of about 32,768 tokens."""
        count = max(1, _MICRO_TOKENS // int(self.lengths[rows].max()))
        return [rows[a : a + count] for a in range(0, len(rows), count)]

    def moments(self, rows: np.ndarray) -> tuple[torch.Tensor, torch.Tensor]:
        """Mean and deviation [D] over all tokens of some samples, see `_deviation`; one pass."""
        sums = squares = torch.zeros(())
        for row in rows:
            x_LD = self.cache.tokens(self.ids[row]).double()
            sums, squares = sums + x_LD.sum(dim=0), squares + (x_LD * x_LD).sum(dim=0)
        n = int(self.lengths[rows].sum())
        mean_D = sums / n
        return (m.float().to(self.device) for m in (mean_D, _deviation(squares / n - mean_D**2)))  # type: ignore[return-value]

    @property
    def width(self) -> int:
        """D."""
        return self.cache.tokens(self.ids[0]).shape[1]

    def means(self) -> torch.Tensor:
        """The mean of each sample's tokens, float32 [N, D]."""
        return torch.stack([self.cache.tokens(name).float().mean(dim=0) for name in self.ids])


def _deviation(variance_D: torch.Tensor) -> torch.Tensor:
    """The root; 1 where a feature never changes, so that dividing by it does nothing."""
    constant = variance_D <= 1e-12 * variance_D.max().clamp(min=1e-30)
    return torch.where(constant, 1.0, variance_D.clamp(min=0).sqrt())


class HeadsAdamW:
    """AdamW (decoupled decay) with a rate and a decay for each head, and clipping of each head's gradient."""

    def __init__(
        self,
        heads: nn.Module,
        rates: Sequence[float],
        decays: Sequence[float],
        *,
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-8,
        clip: float | None = None,
    ) -> None:
        self.parameters = list(heads.parameters())
        device = self.parameters[0].device
        self.rate_G, self.decay_G = (torch.tensor(list(v), device=device) for v in (rates, decays))
        self.betas, self.eps, self.clip = betas, eps, clip
        self.state = [(torch.zeros_like(p), torch.zeros_like(p)) for p in self.parameters]
        self.steps = 0

    @torch.no_grad()
    def step(self, factor: float) -> None:
        """One update with every rate times `factor`; gradients are cleared."""
        self.steps += 1
        (b1, b2), t = self.betas, self.steps
        scale_G = self._clip_factors()
        for p, (m, v) in zip(self.parameters, self.state, strict=True):
            assert p.grad is not None
            shape = (-1, *[1] * (p.ndim - 1))
            g = p.grad if scale_G is None else p.grad.mul_(scale_G.view(shape))
            m.lerp_(g, 1 - b1)
            v.mul_(b2).addcmul_(g, g, value=1 - b2)
            rate = (self.rate_G * factor).view(shape)
            p.mul_(1 - rate * self.decay_G.view(shape))
            change = v.sqrt().mul_(1 / math.sqrt(1 - b2**t)).add_(self.eps)  # one temporary: this is bound by memory
            p.sub_(torch.div(m, change, out=change).mul_(rate / (1 - b1**t)))
            p.grad = None

    def _clip_factors(self) -> torch.Tensor | None:
        if self.clip is None:
            return None
        norms = [torch.linalg.vector_norm(p.grad.flatten(1), dim=1) for p in self.parameters if p.grad is not None]
        norm_G = torch.linalg.vector_norm(torch.stack(norms), dim=0)
        return (self.clip / (norm_G + 1e-6)).clamp(max=1)  # torch's clip_grad_norm_, a head at a time


@dataclass(frozen=True, slots=True)
class Schedule:
    """How long and how fast. kind: "cosine" to zero, or "linear" to `floor`. warmup: share of the steps."""

    steps: int
    batch: int
    kind: str = "cosine"
    warmup: float = 0.05
    floor: float = 0.0

    def factor(self, step: int) -> float:
        """Of the rates in step 0, 1, ..."""
        rising = round(self.warmup * self.steps)
        if step < rising:
            return (step + 1) / rising
        done = (step - rising) / max(self.steps - rising, 1)
        if self.kind == "linear":
            return 1 + (self.floor - 1) * done
        return 0.5 * (1 + math.cos(math.pi * done))


def train(
    heads: nn.Module,
    data: Data,
    rows: np.ndarray,
    targets_NC: torch.Tensor,
    *,
    rates: Sequence[float],
    decays: Sequence[float],
    schedule: Schedule,
    multi: bool = False,
    smoothing: float = 0.0,
    clip: float | None = None,
    seed: int = 0,
    stops: Sequence[int] = (),
    at_stop: Callable[[int], None] = lambda step: None,
) -> None:
    """Train every head on the samples `rows`; all see the same batches in the order that `seed` gives.

    targets_NC: float32, rows over all samples of `data`. multi: sigmoid per class, else softmax with label smoothing.
    at_stop is called after each number of steps in `stops`.

    Raises:
        ValueError: no samples.
    """
    if not len(rows):
        raise ValueError("no samples to train on")
    optimizer = HeadsAdamW(heads, rates, decays, clip=clip)
    order = _batches(rows, schedule.batch, seed)
    for step in range(schedule.steps):
        batch = next(order)
        for part in data.parts(batch):
            logits_GBC = heads(*data.inputs(part))
            t_BC = targets_NC[torch.from_numpy(part)].to(logits_GBC.device)
            (_loss(logits_GBC, t_BC, multi, smoothing) / len(batch)).backward()
        optimizer.step(schedule.factor(step))
        if step + 1 in stops:
            at_stop(step + 1)


@torch.inference_mode()
def predict(heads: nn.Module, data: Data, rows: np.ndarray) -> np.ndarray:
    """Scores float32 [G, N, C] of the samples `rows`, each computed once."""
    scores = [heads(*data.inputs(part)).cpu() for part in data.parts(rows)]
    return torch.cat(scores, dim=1).numpy()


def losses(scores_GNC: np.ndarray, targets_NC: torch.Tensor, *, multi: bool) -> np.ndarray:
    """Mean loss of each head [G], without smoothing."""
    scores, n = torch.from_numpy(scores_GNC), scores_GNC.shape[1]
    return np.array([float(_loss(s[None], targets_NC, multi, 0.0)) / n for s in scores])


def _loss(logits_GBC: torch.Tensor, targets_BC: torch.Tensor, multi: bool, smoothing: float) -> torch.Tensor:
    """Summed over heads and samples: gradients of heads do not touch."""
    targets = targets_BC.expand_as(logits_GBC)
    if multi:
        return F.binary_cross_entropy_with_logits(logits_GBC, targets, reduction="sum") / logits_GBC.shape[-1]
    return F.cross_entropy(logits_GBC.flatten(0, 1), targets.flatten(0, 1), label_smoothing=smoothing, reduction="sum")


def _batches(rows: np.ndarray, size: int, seed: int) -> Iterator[np.ndarray]:
    """Every sample once an epoch, in a new order each; the last batch of an epoch may be smaller."""
    random = np.random.default_rng([seed, 3])
    while True:
        mixed = random.permutation(rows)
        for a in range(0, len(mixed), size):
            yield mixed[a : a + size]
