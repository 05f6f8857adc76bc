"""The study: ways to spend tokens x budgets, each cell extracted, measured and probed once, resumable by cell.

A cell is one name (a policy of ours, with or without an intervention, or a baseline) at one budget. What it found lies
in cells/NAME@BUDGET.json; a cell whose features would be others now (weights, options) is done again. Features lie
below features/ and may be deleted when a study is over.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext, suppress
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ov_encoder.data.folder import agree_on_options, locked, write_atomically
from ov_encoder.data.manifest import Manifest, Sample, write_manifest
from ov_encoder.errors import OvEncoderError
from ov_encoder.evaluate.baselines import FACTS
from ov_encoder.evaluate.baselines.featurizers import BudgetError, baseline
from ov_encoder.evaluate.cost import measure
from ov_encoder.evaluate.extract import Progress, extract
from ov_encoder.evaluate.features import FeatureCache, cache_folder, describe, digest
from ov_encoder.evaluate.featurizer import Featurizer, OVFeaturizer
from ov_encoder.evaluate.paired import paired_difference
from ov_encoder.evaluate.protocol import PROBES, Task, make_task, run_probe
from ov_encoder.evaluate.selecting import ReadPolicy, parse_policy
from ov_encoder.evaluate.split import train_and_validation
from ov_encoder.model.weights import fingerprint
from ov_encoder.patchify.options import Options

if TYPE_CHECKING:
    from ov_encoder.model.encoder import OVEncoder

CELLS, FEATURES, SAMPLES = "cells", "features", "samples.csv"
Watch = Callable[[str], AbstractContextManager[Callable[[Progress], None]]]
_OF_CELLS = ("mode", "budget", "signal", "threads")  # options that a study does not hold for all its cells
_log = logging.getLogger("ov_encoder")


@dataclass(frozen=True, slots=True)
class Cell:
    """What is compared. kind: "policy" or "baseline". budget: None where tokens cannot be chosen."""

    name: str
    kind: str
    budget: int | None

    @property
    def file(self) -> str:
        """Of its result: no two cells share it."""
        name = self.name.replace("%", "%25").replace("/", "%2F")
        return f"{name}@{'all' if self.budget is None else self.budget}.json"


def plan_cells(policies: Sequence[str], baselines: Sequence[str], budgets: Sequence[int]) -> list[Cell]:
    """Every name at every budget, name by name; "dense" and what needs no frames stand once.

    Raises:
        ValueError: an unknown policy or intervention, something that stands twice, or nothing to do.
    """
    for what, given in (("policies", policies), ("baselines", baselines), ("budgets", budgets)):
        if len(set(given)) < len(given):
            raise ValueError(f"{what}={','.join(map(str, given))}: one stands twice")
    if not budgets or not (policies or baselines):
        raise ValueError("nothing to study: name at least one budget, and a policy or a baseline")
    if min(budgets) < 1:
        raise ValueError(f"budgets={min(budgets)}; must be at least 1 token")
    cells = []
    for name in policies:
        policy, _ = parse_policy(name)
        cells += [Cell(name, "policy", b) for b in ([None] if policy == "dense" else sorted(budgets))]
    for name in baselines:
        cells += [Cell(name, "baseline", b) for b in ([None] if name in FACTS else sorted(budgets))]
    return cells


def run_study(
    folder: str | Path,
    manifest: Manifest,
    encoder: OVEncoder,
    *,
    policies: Sequence[str],
    budgets: Sequence[int],
    baselines: Sequence[str] = (),
    probes: Sequence[str] = ("knn", "linear"),
    seeds: int = 3,
    options: Options | None = None,
    workers: int = 1,
    train: str | None = None,
    validation: str | None = None,
    watch: Watch = lambda what: nullcontext(lambda progress: None),
) -> list[dict[str, Any]]:
    """Extract, measure and probe every cell; results in the order of `plan_cells`. Finished cells are not done again.

    options: of `patchify`, for every cell: frames, size, anchors, camera, ...; mode, budget and signal are the cell's.
    seeds: of the probes that are trained (random patches are a function of the sample alone). train, validation:
    splits, see `split.train_and_validation`. watch: makes a progress bar for a cell, see `extract.progress_bar`.

    Raises:
        ValueError: unknown names, no samples, or a folder that holds a study of other samples, weights or options.
        OvEncoderError: a baseline that cannot be loaded, labels that are not the card's, or a full disk.
    """
    cells = plan_cells(policies, baselines, budgets)
    if bad := [probe for probe in probes if probe not in PROBES]:
        raise ValueError(f"probe {bad[0]!r}; allowed: {', '.join(PROBES)}")
    if seeds < 1 or not probes:
        raise ValueError(f"seeds={seeds}, {len(probes)} probes; must both be at least 1")
    options = options or Options(size=(224, 224))
    for name in ("mode", "budget", "signal"):
        if getattr(options, name) != getattr(Options(), name):
            raise ValueError(f"{name}={getattr(options, name)!r}; a study sets it for each cell, by policy and budgets")
    split = train_and_validation(manifest, train=train, validation=validation)
    run = _Study(Path(folder), *split, manifest.card, encoder, probes, seeds, options, workers, watch)
    for name in baselines:  # a missing checkpoint is said before anything long starts; a small budget by the cell
        with suppress(BudgetError):
            run.featurizer(Cell(name, "baseline", max(budgets)))
    with locked(run.folder):
        run.start()
        results: list[dict[str, Any]] = []
        for cell in cells:
            result = run.cell(cell)
            if result["features"] and result["features"] in [r["features"] for r in results]:
                _log.warning("%s at %s is the same as at a smaller budget: left out", cell.name, cell.budget)
            else:
                results.append(result)
    _compare(results)
    return results


@dataclass
class _Study:
    """What all cells share."""

    folder: Path
    train: Sequence[Sample]
    validation: Sequence[Sample]
    how_split: str
    card: Mapping[str, Any]
    encoder: OVEncoder
    probes: Sequence[str]
    seeds: int
    options: Options
    workers: int
    watch: Watch

    @property
    def samples(self) -> list[Sample]:
        """All of them."""
        return [*self.train, *self.validation]

    def start(self) -> None:
        """Refuse a folder of another study; leave the samples where readers of donors find them."""
        (self.folder / CELLS).mkdir(exist_ok=True)
        chosen = {
            "samples": digest([[s.id, s.labels, s.split] for s in self.samples]),
            "split": self.how_split,
            "weights": fingerprint(self.encoder),
            "seeds": self.seeds,
            "patchify": {k: v for k, v in asdict(self.options).items() if k not in _OF_CELLS},
        }
        agree_on_options(self.folder, chosen, len(list((self.folder / CELLS).iterdir())))
        write_manifest(self.folder / SAMPLES, self.samples)

    def cell(self, cell: Cell) -> dict[str, Any]:
        """The result of a cell: what its file says, and what is still missing there."""
        result: dict[str, Any] = {"name": cell.name, "kind": cell.kind, "budget": cell.budget, "features": {}}
        result |= {"impossible": "", "failures": {}, "notes": [], "chance": None, "cost": {}, "probes": {}}
        try:
            featurizer = self.featurizer(cell)
        except BudgetError as e:
            return {**result, "impossible": str(e)}
        made = json.loads(json.dumps(describe(featurizer)))
        result["features"] = {k: v for k, v in made.items() if k != "tokens"}  # keeping them changes nothing else
        file = self.folder / CELLS / cell.file
        if file.is_file() and (before := _load(file))["features"] == result["features"]:
            result = before
        if todo := [probe for probe in self.probes if probe not in result["probes"]]:
            self._fill(cell, result, featurizer, todo, file)
        return result

    def _fill(self, cell: Cell, result: dict[str, Any], featurizer: Featurizer, todo: list[str], file: Path) -> None:
        """Extract, measure and run the probes that are missing; the file is written after each."""
        place = cache_folder(self.folder / FEATURES, featurizer, self.folder)
        with self.watch(cell.name if cell.budget is None else f"{cell.name} at {cell.budget}") as tell:
            cache = extract(featurizer, self.samples, place, workers=self.workers, watch=tell)
        assert cache is not None  # only one shard of several can end before the others
        result["failures"] = cache.failures
        readable = set(cache.ids)
        measured = [s for s in self.validation if s.id in readable]
        if not measured or readable.isdisjoint(s.id for s in self.train):
            name, reason = next(iter(cache.failures.items()))
            result["impossible"] = (
                f"{len(cache.failures)} of {len(self.samples)} samples failed, first {name}: {reason}"
            )
            return _save(file, result)
        task = make_task(self.train, self.validation, cache, card=self.card)
        result |= {"impossible": "", "notes": task.notes, "chance": task.chance}
        result |= {"train": len(task.train_ids), "validation": len(task.val_ids)}
        result["cost"] = result["cost"] or measure(featurizer, measured).to_dict()
        for probe in todo:
            result["probes"][probe] = self._probe(probe, cache, task)
            _save(file, result)

    def _probe(self, probe: str, cache: FeatureCache, task: Task) -> dict[str, Any]:
        """Metrics to quote, and which samples were right (share of seeds), to compare cells sample by sample."""
        found = run_probe(probe, cache, task, seeds=self.seeds, device=str(self.encoder.device))
        right = {} if task.multi else dict(zip(task.val_ids, found.right_N.tolist(), strict=True))
        metrics = {name: asdict(estimate) for name, estimate in found.best.items()}
        return json.loads(json.dumps({"metrics": metrics, "right": right, **found.to_dict()}))  # as it is read again

    def featurizer(self, cell: Cell) -> Featurizer:
        """What makes the features of a cell.

        Raises:
            BudgetError: the budget does not pay for one frame of a baseline.
            ValueError: an unknown baseline. OvEncoderError: a baseline that cannot be loaded.
        """
        options = self.options if cell.budget is None else replace(self.options, budget=cell.budget)
        tokens = "attentive" in self.probes or "reference" in self.probes
        if cell.kind == "baseline":
            dtype = str(self.encoder.dtype).removeprefix("torch.")  # one precision for all
            return baseline(cell.name, options=options, tokens=tokens, device=self.encoder.device, dtype=dtype)
        policy, intervention = parse_policy(cell.name)
        donors = str((self.folder / SAMPLES).resolve()) if intervention == "other" else ""
        reader = ReadPolicy(policy, options, intervention=intervention, donors=donors)
        return OVFeaturizer(self.encoder, reader=reader, tokens=tokens, name=cell.name)


def _save(file: Path, result: dict[str, Any]) -> None:
    write_atomically(file, json.dumps(result).encode())


def _load(file: Path) -> dict[str, Any]:
    try:
        return json.loads(file.read_text())
    except (OSError, ValueError) as e:
        raise OvEncoderError(f"{file}: cannot be read as a cell of a study; delete it to do it again: {e}") from e


def _compare(results: Sequence[dict[str, Any]]) -> None:
    """Beside every probe of a cell, its paired difference to the first name of the study at the same budget."""
    first = {r["budget"]: r["probes"] for r in results if r["name"] == results[0]["name"]}
    for result in results:
        reference = first.get(result["budget"], {})
        for probe, found in result["probes"].items():
            difference = None
            if probe in reference and reference[probe] is not found:
                difference = paired_difference(found["right"], reference[probe]["right"])
            found["difference"] = None if difference is None else difference.to_dict()
