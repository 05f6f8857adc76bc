"""The model card of a run: what it is, how to use it, data and licences, cost, results, limits. Text in, text out.

Not here: weights (export.py), how results are measured (`ov-encoder probe` writes the files that are quoted).
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ov_encoder.data.manifest import read_manifest
from ov_encoder.errors import OvEncoderError
from ov_encoder.train.config import TrainConfig
from ov_encoder.train.metrics import HELD_OUT


@dataclass(frozen=True)
class Facts:
    """What a card is made of.

    about: what the checkpoint says (`step`, `bad_steps`, `config`, `encoder`, `side`). records: of metrics.jsonl. run:
    its run.json. averaged: whether the average of the weights is exported. picture: file of the curves beside the card,
    or None. results: documents of `ov-encoder probe`.
    """

    about: Mapping[str, Any]
    records: Sequence[Mapping[str, Any]]
    run: Mapping[str, Any]
    averaged: bool
    picture: str | None = None
    results: Sequence[Mapping[str, Any]] = ()


def card(facts: Facts, *, title: str = "") -> str:
    """The card as Markdown. title: of the page; the recipe's name if empty."""
    config = TrainConfig.from_dict(facts.about["config"])
    return "\n".join(
        [
            *_head(facts, config, title), "", *_data(facts, config), "", *_cost(facts, config), "",
            *_results(facts.results), *_limits(facts, config), "", "## Complete config", "", "```json",
            json.dumps(_portable(config), indent=1), "```", "",
        ]
    )  # fmt: skip


def _portable(config: TrainConfig) -> dict[str, Any]:
    """The config without the folders of the machine that it ran on."""
    values = config.to_dict()
    for data in (*values["data"], *([values["probe"]["data"]] if values["probe"] else [])):
        for name in ("path", "labels"):
            data[name] = data[name] and "/".join(Path(data[name]).parts[-2:])
    return values | {"cache": None, "init": values["init"] and Path(values["init"]).name}


def read_results(paths: Sequence[Path]) -> list[dict[str, Any]]:
    """Documents of `ov-encoder probe`.

    Raises:
        OvEncoderError: a file is none.
    """
    found = []
    for path in paths:
        try:
            document = json.loads(path.read_text(encoding="utf-8"))
            if not str(document["format"]).startswith("ov-encoder.probe/"):
                raise ValueError(f"its format is {document['format']!r}")
        except (OSError, ValueError, KeyError, TypeError) as e:
            raise OvEncoderError(f"{path}: is no probe.json of ov-encoder probe: {e!r}") from e
        found.append(document)
    return found


def _head(facts: Facts, config: TrainConfig, title: str) -> list[str]:
    encoder, video, picture = facts.about["encoder"], config.video, config.video.picture
    size = max(picture.sizes)
    shape = f"({size}, {size})" if picture.aspect == "square" else str(size)
    still = max(config.image.sizes)
    still_shape = f"({still}, {still})" if config.image.aspect == "square" else str(still)
    return [
        "---", "library_name: ov-encoder", "pipeline_tag: feature-extraction", "tags: [video, image, codec]", "---", "",
        f"# {title or config.name}", "",
        f"A vision transformer of {encoder['num_hidden_layers']} layers, {encoder['hidden_size']} wide, patches of "
        f"{encoder['patch_size']} pixels, rope `{encoder['rope']}`, trained for {facts.about['step']:,} of "
        f"{config.optim.steps:,} steps with ov-encoder"
        + (f", from the weights of {Path(config.init).name}, whose own steps are not counted" if config.init else "")
        + (" (moving average of the weights)." if facts.averaged else "."),
        "", "```python", "import ov_encoder as ov", "", f'model = ov.load_model("{title or "this folder"}")',
        f'clip = ov.patchify("clip.mp4", frames={video.frames}, budget={video.budget}, size={shape})',
        f'photo = ov.patchify("photo.jpg", size={still_shape})',
        "vectors_BD = model(ov.pack([clip, photo])).pooled_BD", "```", "",
        "These are the sizes that it was trained with.",
    ]  # fmt: skip


def _data(facts: Facts, config: TrainConfig) -> list[str]:
    """Which data, how many, under which licence; then what was learned from them."""
    lines = ["## Trained on", "", "| set | source | samples | licence |", "|---|---|---|---|"]
    for path in dict.fromkeys(data.path for data in config.data):
        lines += [f"| {Path(path).stem} | {s} | {n} | {licence} |" for s, n, licence in _sources(path)]
    lines += ["", "Samples of a split named test, val or validation were not trained on.", ""]
    for head in config.heads:
        # Data without a head go to the first of their kind, never to one that stands beside another.
        mine = [d for d in config.data if d.head == head.name or (d.head is None and head.beside is None)]
        known = sorted({"/".join(Path(d.labels).parts[-2:]) if d.labels else f"column {d.label}" for d in mine})
        beside = f", of the samples of {head.beside}" if head.beside else ""
        lines.append(
            f"* {head.name} ({head.kind}): {facts.about['side'][head.name]['classes']:,} classes"
            f"{beside}{', labels: ' + ', '.join(known) if known else ''}; {head.margin} margin {head.m}, "
            f"rate {head.sample_rate}"
        )
    return lines


def _sources(path: str) -> list[tuple[str, str, str]]:
    """(name, samples, licence) of each source of a manifest, as the card beside it says."""
    try:
        manifest = read_manifest(path)
    except OvEncoderError:  # class folders, tars, or gone since: the card says what it knows
        return [("all", "not counted", "not stated: no manifest with a card there")]
    if sources := manifest.card.get("sources"):
        return [(name, f"{about['samples']:,}", about["licence"] or "not stated") for name, about in sources.items()]
    return [("all", f"{len(manifest):,}", str(manifest.card.get("licence") or "not stated"))]


def _cost(facts: Facts, config: TrainConfig) -> list[str]:
    """Time, tokens and machine, and the curves."""
    timed, last = [r for r in facts.records if "step_s" in r], 0
    seconds = tokens = 0.0
    for r in timed:
        steps, last = r["step"] - last, r["step"]
        seconds, tokens = seconds + steps * r["step_s"], tokens + steps * r["step_s"] * r["tokens_per_s"]
    final: Mapping[str, Any] = timed[-1] if timed else {}
    machine, versions = facts.run.get("machine", "unknown machine"), facts.run.get("versions", {})
    video = config.video
    probes = [r["probe"] for r in facts.records if r.get("probe") is not None]
    numbers = [f"| {k} | {final[k]} |" for k in sorted(final) if "/" in k or k in ("loss", "grad_norm")]
    numbers += [f"| kNN probe while training, last | {probes[-1]} |"] if probes else []
    held_out = {k: v for r in facts.records for k, v in r.items() if k.startswith(HELD_OUT) and v is not None}
    numbers += [f"| {k.removeprefix(HELD_OUT)}, accuracy on held-out samples | {v} |" for k, v in held_out.items()]
    return [
        "## Training", "",
        f"{facts.about['step']:,} steps of {config.batch.samples} samples, {tokens / 1e6:,.1f} million tokens, "
        f"{seconds / 3600:.2f} hours (steps only; waiting for data included), at most "
        f"{final.get('memory_gb', 0):.1f} GB; {machine}, torch {versions.get('torch', 'unknown')}.",
        f"Video samples: codec {video.shares[0]:.1%}, frame sampling {video.shares[1]:.1%}, collage "
        f"{video.shares[2]:.1%}, chunk {video.shares[3]:.1%}. Learning rate {config.optim.lr:g} "
        f"({config.optim.schedule}), weight decay {config.optim.weight_decay:g}, {config.loop.dtype}.",
        *(["", f"![Loss, accuracy, gradient norm and probe over the steps]({facts.picture})"] if facts.picture else []),
        "", "| last numbers of the run | |", "|---|---|", *numbers, "",
        'Without "held out" they are of training batches; none says how well the features do elsewhere.',
    ]  # fmt: skip


def _results(results: Sequence[Mapping[str, Any]]) -> list[str]:
    """A table of the probes, the model's rows among those it was compared with."""
    if not results:
        return []
    lines = ["## Results", "", "Frozen features, percent; 95 % intervals over samples.", ""]
    lines += ["| data | label | features | probe | top-1 or mAP | 95 % | seeds |", "|---|---|---|---|---|---|---|"]
    for document in results:
        config = document["config"]
        path = Path(config["data"])
        name = config["card"].get("name") or (path.parent.name if path.stem in ("labels", "manifest") else path.stem)
        for features, found in document["features"].items():
            for probe in found["probes"]:
                metrics = probe[probe["headline"]]
                quoted = metrics.get("map") or metrics["top1"]
                low, high = quoted["samples"]
                lines.append(
                    f"| {name} | {config['label']} | {features} | {probe['probe']} | {100 * quoted['value']:.1f} | "
                    f"{100 * low:.1f}-{100 * high:.1f} | {len(quoted['per_seed'])} |"
                )
    return [*lines, ""]


def _limits(facts: Facts, config: TrainConfig) -> list[str]:
    gaps = [f"* {gap}" for gap in config.gaps] or ["* None were recorded with the recipe."]
    bad = facts.about["bad_steps"]
    return ["## Limits", "", *gaps, f"* {bad} steps were skipped because they were not finite."]
