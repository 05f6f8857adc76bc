"""The protocol: from a cache and labels to numbers. What is tried, on what it is chosen, what is reported.

For each seed: hold out 20 % of the training samples, train the whole grid on the others, choose rate, decay and
stopping point on what was held out, train once more on all training samples with that choice, and only then look at
the validation samples, once. The preset `reference` is the paper's protocol instead: one rate, no choice, and beside
the last epoch the best one on the validation samples, which is what its authors report.

Shapes: N = samples, C = classes, S = seeds, G = heads of the grid, D = width.
"""

from __future__ import annotations

import logging
import time
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from typing import Any, Literal

import numpy as np
import torch
from torch import nn

from ov_encoder.data.manifest import Sample
from ov_encoder.errors import OvEncoderError
from ov_encoder.evaluate.attentive import AttentiveHeads
from ov_encoder.evaluate.features import FeatureCache
from ov_encoder.evaluate.heads import Schedule, Tokens, Vectors, losses, predict, train
from ov_encoder.evaluate.knn import choose_k, knn_scores
from ov_encoder.evaluate.linear import LinearHeads
from ov_encoder.evaluate.metrics import Estimate, estimates, in_top, mean_average_precision
from ov_encoder.evaluate.split import held_out, shots

PROBES = ("knn", "linear", "attentive", "reference")
Vector = Literal["pooled", "mean"]
_log = logging.getLogger("ov_encoder")


@dataclass(frozen=True, slots=True)
class Recipe:
    """How heads are trained. rates x decays is the grid; stops: how often on the way one may be chosen.

    least_steps: small sets are gone through more often than `epochs`, until there are so many steps. choose: on what
    (see the head of this file). default: the rate and decay where nothing can be held out.
    """

    rates: tuple[float, ...]
    decays: tuple[float, ...]
    epochs: int
    batch: int
    least_steps: int = 0
    kind: str = "cosine"
    warmup: float = 0.05
    floor: float = 0.0
    smoothing: float = 0.0
    clip: float | None = None
    standardise: bool = True
    stops: int = 8
    choose: Literal["held out", "validation"] = "held out"
    default: tuple[float, float] = (1e-3, 0.1)

    @property
    def grid(self) -> list[tuple[float, float]]:
        """(rate, decay) of every head."""
        return [(rate, decay) for rate in self.rates for decay in self.decays]

    def schedule(self, samples: int) -> Schedule:
        """For a number of training samples."""
        steps = max(self.epochs * -(-samples // self.batch), self.least_steps)
        return Schedule(steps, self.batch, self.kind, self.warmup, self.floor)

    def stop_steps(self, steps: int) -> list[int]:
        """After which steps heads are scored; the last one always."""
        return sorted({max(1, round(steps * (i + 1) / self.stops)) for i in range(self.stops)})


RECIPES = {
    "linear": Recipe((3e-4, 1e-3, 3e-3, 1e-2), (0.01, 0.1, 1.0), epochs=30, batch=128, least_steps=500),
    "attentive": Recipe(
        (1e-4, 3e-4, 1e-3, 3e-3), (0.01, 0.1, 0.4), epochs=20, batch=128, least_steps=200, smoothing=0.1, clip=5.0,
        default=(3e-4, 0.1),
    ),
    # The released scripts, without their colour jitter and channel swap: features are computed once.
    "reference": Recipe(
        (1e-4,), (0.0,), epochs=10, batch=128, kind="linear", warmup=0.0, floor=1e-3, smoothing=0.1, clip=5.0,
        standardise=False, stops=10, choose="validation", default=(1e-4, 0.0),
    ),
}  # fmt: skip


@dataclass(frozen=True, slots=True)
class Task:
    """Who trains, who validates, and their labels. targets: float32 [N, C], ones for the labels.

    skipped: id -> why a sample takes no part. notes: what a reader of the numbers should know.
    """

    classes: list[str]
    train_ids: list[str]
    val_ids: list[str]
    train_targets_NC: torch.Tensor
    val_targets_NC: torch.Tensor
    multi: bool
    skipped: dict[str, str]
    notes: list[str]

    @property
    def chance(self) -> float:
        """Top-1 of always naming the most frequent training class; mean share of positives for several labels."""
        if self.multi:
            return float(self.val_targets_NC.mean())
        return float(self.val_targets_NC[:, self.train_targets_NC.sum(dim=0).argmax()].mean())


@dataclass(frozen=True, slots=True)
class SeedOutcome:
    """One seed. chosen: rate, decay, share of the steps and score where it was chosen (k for nearest neighbours)."""

    seed: int
    chosen: dict[str, float]
    last_scores_NC: np.ndarray
    chosen_scores_NC: np.ndarray


@dataclass(frozen=True, slots=True)
class ProbeResult:
    """What one probe says. headline: "chosen" or "last", the one to quote.

    last, chosen: metric -> Estimate, at the last step and at the chosen one. Of the headline: scores_SNC, validation
    scores of each seed, and right_N, the share of seeds that are right about each sample (top-1).
    """

    probe: str
    headline: Literal["chosen", "last"]
    last: dict[str, Estimate]
    chosen: dict[str, Estimate]
    seeds: list[dict[str, Any]]
    recipe: dict[str, Any]
    seconds: float
    scores_SNC: np.ndarray = field(repr=False)
    right_N: np.ndarray = field(repr=False)

    @property
    def best(self) -> dict[str, Estimate]:
        """The estimates to quote."""
        return self.chosen if self.headline == "chosen" else self.last

    def to_dict(self) -> dict[str, Any]:
        """Everything but the scores, JSON-able."""
        out = {name: getattr(self, name) for name in ("probe", "headline", "seeds", "recipe", "seconds")}
        for what in ("last", "chosen"):
            out[what] = {name: asdict(estimate) for name, estimate in getattr(self, what).items()}
        return out


def make_task(
    train: Sequence[Sample],
    validation: Sequence[Sample],
    cache: FeatureCache,
    *,
    card: Mapping[str, Any] | None = None,
) -> Task:
    """Labels for the samples of a cache. Several labels a sample, or "metric": "mAP" in the card, make it multi-label.

    Samples without label or without features are left out by name. A class without a training sample stays: its
    validation samples count, as wrong.

    Raises:
        OvEncoderError: a label that the card's "classes" does not have, or nobody left to train or validate on.
    """
    card, there = card or {}, set(cache.ids)
    skipped: dict[str, str] = {}
    parts: list[list[Sample]] = []
    for what, samples in (("train", train), ("validate", validation)):
        part = []
        for sample in samples:
            if not sample.labels:
                skipped[sample.id] = "no label"
            elif sample.id not in there:
                skipped[sample.id] = cache.failures.get(sample.id, "no features in the cache")
            else:
                part.append(sample)
        if not part:
            why = "; ".join(f"{name}: {reason}" for name, reason in list(skipped.items())[:3])
            raise OvEncoderError(f"nothing to {what} on: {len(samples)} samples, all left out ({why or 'none given'})")
        parts.append(part)
    counts = Counter(label for sample in parts[0] for label in sample.labels)
    seen = set(counts) | {label for sample in parts[1] for label in sample.labels}
    classes = list(map(str, card.get("classes", sorted(seen))))
    if unknown := sorted(seen - set(classes)):
        raise OvEncoderError(f"label {unknown[0]!r} is not among the {len(classes)} classes of the card")
    if len(classes) < 2:
        raise OvEncoderError(f"a probe needs at least two classes, there is {classes}")
    notes = []
    if untrained := sorted(seen - set(counts)):
        notes.append(
            f"{len(untrained)} classes have no training sample and count as wrong: {', '.join(untrained[:10])}"
        )
    if skipped:
        notes.append(f"{len(skipped)} samples are left out, with reasons below")
    multi = str(card.get("metric", "")).lower() == "map" or any(len(s.labels) > 1 for part in parts for s in part)
    targets = [_targets(part, classes) for part in parts]
    ids = [[sample.id for sample in part] for part in parts]
    return Task(classes, ids[0], ids[1], targets[0], targets[1], multi, skipped, notes)


def run_probe(
    probe: str,
    cache: FeatureCache,
    task: Task,
    *,
    seeds: int = 3,
    k_shot: int | None = None,
    vector: Vector = "pooled",
    device: str = "cpu",
    epochs: int | None = None,
    batch: int | None = None,
) -> ProbeResult:
    """Train and score one of PROBES with seeds 0, 1, ...

    k_shot: so many training samples a class, drawn anew for each seed. vector: what knn and linear look at: the pooled
    vector, or the mean of the kept tokens. epochs, batch: instead of the recipe's. In a torch.distributed group each
    process takes every n-th seed and all return the same result, whatever their number.

    Raises:
        ValueError: an unknown probe, fewer than one seed, or a probe that needs tokens that the cache has not.
    """
    if probe not in PROBES:
        raise ValueError(f"probe {probe!r}; allowed: {', '.join(PROBES)}")
    if seeds < 1:
        raise ValueError(f"seeds={seeds}; must be at least 1")
    if (probe in ("attentive", "reference") or vector == "mean") and not cache.has_tokens:
        raise ValueError(f"probe {probe!r} needs tokens; this cache has only pooled vectors (extract with tokens=True)")
    began = time.perf_counter()
    recipe = RECIPES.get(probe)
    if recipe:
        if (epochs is not None and epochs < 1) or (batch is not None and batch < 1):
            raise ValueError(f"epochs={epochs}, batch={batch}; both must be at least 1")
        least = recipe.least_steps if epochs is None else 0  # who gives epochs means them
        recipe = replace(recipe, epochs=epochs or recipe.epochs, batch=batch or recipe.batch, least_steps=least)
    run = _Run(probe, cache, task, k_shot, vector, device, recipe)
    own = [run.seed(seed) for seed in _mine(range(seeds if recipe or k_shot else 1))]
    outcomes = sorted(_gather(own), key=lambda outcome: outcome.seed)
    labels_NC = task.val_targets_NC.numpy() > 0
    headline: Literal["chosen", "last"] = "last" if recipe and recipe.choose == "validation" else "chosen"
    last, chosen = [o.last_scores_NC for o in outcomes], [o.chosen_scores_NC for o in outcomes]
    quoted = chosen if headline == "chosen" else last
    return ProbeResult(
        probe=probe,
        headline=headline,
        last=estimates(last, labels_NC, multi=task.multi),
        chosen=estimates(chosen, labels_NC, multi=task.multi),
        seeds=[{"seed": o.seed, **o.chosen} for o in outcomes],
        recipe=asdict(recipe) if recipe else {"vector": vector},
        seconds=time.perf_counter() - began,
        scores_SNC=np.stack(quoted),
        right_N=np.mean([in_top(scores, labels_NC.argmax(axis=1), 1) for scores in quoted], axis=0),
    )


class _Run:
    """One probe on one task: the data, opened once for all seeds."""

    def __init__(
        self, probe: str, cache: FeatureCache, task: Task, k_shot: int | None, vector: str, device: str, recipe: Any
    ) -> None:
        self.task, self.k_shot, self.device, self.recipe = task, k_shot, device, recipe
        if probe in ("attentive", "reference"):
            self.train: Tokens | Vectors = Tokens(cache, task.train_ids, device)
            self.val: Tokens | Vectors = Tokens(cache, task.val_ids, device)
        else:
            parts = []
            for ids in (task.train_ids, task.val_ids):
                x_ND = Tokens(cache, ids).means() if vector == "mean" else cache.pooled(ids)
                parts.append(Vectors(x_ND.to(device)))
            self.train, self.val = parts
        self.strata = [tuple(row.nonzero().flatten()[:1].tolist()) for row in task.train_targets_NC]

    def seed(self, seed: int) -> SeedOutcome:
        """Draw shots, hold out, choose, train, score."""
        pool = np.arange(len(self.train))
        if self.k_shot is not None:
            pool = shots(self.strata, self.k_shot, seed=seed)
        if self.recipe is None:
            return self._knn(seed, pool)
        if self.recipe.choose == "validation":
            return self._last_and_best(seed, pool)
        (rate, decay), share, score = self._choose(seed, pool)
        steps = self.recipe.schedule(len(pool)).steps
        at = max(1, round(share * steps))
        scores = self._train(seed, pool, [(rate, decay)], (at, steps), self.val, np.arange(len(self.val)))
        chosen = {"rate": rate, "decay": decay, "share": share, "held_out": score}
        return SeedOutcome(seed, chosen, scores[steps][0], scores[at][0])

    def _choose(self, seed: int, pool: np.ndarray) -> tuple[tuple[float, float], float, float]:
        """((rate, decay), share of the steps, held-out score) of the best head at its best stop."""
        out_N = held_out([self.strata[row] for row in pool], seed=seed)
        if not out_N.any():
            _say_default(self.recipe.default)
            return self.recipe.default, 1.0, float("nan")
        rest, held = pool[~out_N], pool[out_N]
        steps = self.recipe.schedule(len(rest)).steps
        scores = self._train(seed, rest, self.recipe.grid, self.recipe.stop_steps(steps), self.train, held)
        targets = self.task.train_targets_NC[torch.from_numpy(held)]
        tried = []
        for step, scores_GNC in scores.items():
            for g, loss in enumerate(losses(scores_GNC, targets, multi=self.task.multi)):
                tried.append((self._score(scores_GNC[g], targets), -loss, g, step))
        score, _, g, step = max(tried)
        return self.recipe.grid[g], step / steps, score

    def _last_and_best(self, seed: int, pool: np.ndarray) -> SeedOutcome:
        steps = self.recipe.schedule(len(pool)).steps
        stops = self.recipe.stop_steps(steps)
        scores = self._train(seed, pool, self.recipe.grid, stops, self.val, np.arange(len(self.val)))
        values = {step: self._score(scores[step][0], self.task.val_targets_NC) for step in stops}
        best = max(stops, key=lambda step: values[step])
        (rate, decay), *_ = self.recipe.grid
        chosen = {"rate": rate, "decay": decay, "share": best / steps, "validation": values[best]}
        return SeedOutcome(seed, chosen, scores[steps][0], scores[best][0])

    def _knn(self, seed: int, pool: np.ndarray) -> SeedOutcome:
        assert isinstance(self.train, Vectors) and isinstance(self.val, Vectors)
        rows = torch.from_numpy(pool)
        x_ND, targets_NC = self.train.x_ND[rows], self.task.train_targets_NC[rows]
        k = choose_k(x_ND.cpu(), targets_NC, lambda scores: self._score(scores.numpy(), targets_NC))
        scores_NC = knn_scores(x_ND.cpu(), targets_NC, self.val.x_ND.cpu(), k=k).numpy()
        return SeedOutcome(seed, {"k": k}, scores_NC, scores_NC)

    def _train(
        self,
        seed: int,
        rows: np.ndarray,
        grid: Sequence[tuple[float, float]],
        stops: Sequence[int],
        judged: Tokens | Vectors,
        judged_rows: np.ndarray,
    ) -> dict[int, np.ndarray]:
        """Scores [G, N, C] of the judged samples after each of `stops` steps."""
        recipe: Recipe = self.recipe
        heads = self._heads(seed, rows, len(grid))
        found: dict[int, np.ndarray] = {}
        train(
            heads,
            self.train,
            rows,
            self.task.train_targets_NC,
            rates=[rate for rate, _ in grid],
            decays=[decay for _, decay in grid],
            schedule=recipe.schedule(len(rows)),
            multi=self.task.multi,
            smoothing=recipe.smoothing,
            clip=recipe.clip,
            seed=seed,
            stops=stops,
            at_stop=lambda step: found.__setitem__(step, predict(heads, judged, judged_rows)),
        )
        return found

    def _heads(self, seed: int, rows: np.ndarray, count: int) -> nn.Module:
        classes = len(self.task.classes)
        if isinstance(self.train, Vectors):
            mean_D, deviation_D = self.train.moments(rows)
            return LinearHeads(count, classes, mean_D=mean_D, deviation_D=deviation_D)
        mean, deviation = self.train.moments(rows) if self.recipe.standardise else (None, None)
        width = self.train.width
        return AttentiveHeads(count, width, classes, seed=seed, mean_D=mean, deviation_D=deviation, device=self.device)

    def _score(self, scores_NC: np.ndarray, targets_NC: torch.Tensor) -> float:
        """Top-1, or mAP: what is chosen by."""
        labels_NC = targets_NC.numpy() > 0
        if self.task.multi:
            return mean_average_precision(scores_NC, labels_NC)
        return float(in_top(scores_NC, labels_NC.argmax(axis=1), 1).mean())


def _targets(samples: Sequence[Sample], classes: Sequence[str]) -> torch.Tensor:
    number = {name: i for i, name in enumerate(classes)}
    out = torch.zeros(len(samples), len(classes))
    for row, sample in enumerate(samples):
        out[row, [number[label] for label in sample.labels]] = 1
    return out


def _mine(seeds: Sequence[int]) -> Sequence[int]:
    """Every n-th seed in a group of n processes."""
    import torch.distributed as dist

    grouped = dist.is_available() and dist.is_initialized()
    return seeds[dist.get_rank() :: dist.get_world_size()] if grouped else seeds


def _gather(own: list[SeedOutcome]) -> list[SeedOutcome]:
    import torch.distributed as dist

    if not (dist.is_available() and dist.is_initialized()):
        return own
    everyone: list[Any] = [None] * dist.get_world_size()
    dist.all_gather_object(everyone, own)
    return [outcome for part in everyone for outcome in part]


def _say_default(default: tuple[float, float]) -> None:
    _log.warning("every class has one training sample, so none can be held out: rate %g, decay %g, last step", *default)
