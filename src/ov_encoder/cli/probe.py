"""`ov-encoder probe`: how much a frozen encoder knows. Everything is done in `evaluate`."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Annotated, Any, Literal

import tyro

from ov_encoder.bundled import DEFAULT
from ov_encoder.cli.options import Options, PatchOptions

_SHOWN = 20  # samples that were left out, on the console


def probe(
    *,
    data: Path,
    out: Annotated[Path, tyro.conf.arg(aliases=["-o"])],
    model: str = DEFAULT,
    baselines: tuple[str, ...] = (),
    probes: tuple[Literal["knn", "linear", "attentive", "reference"], ...] = ("knn", "linear", "attentive"),
    seeds: int = 3,
    shots: int | None = None,
    vector: Literal["pooled", "mean"] = "pooled",
    epochs: int | None = None,
    batch: int | None = None,
    label: str = "label",
    train_split: str | None = None,
    val_split: str | None = None,
    fold: int = 1,
    cache: Path | None = None,
    shard: str | None = None,
    workers: int | None = None,
    timeout: float = 600.0,
    device: str = "auto",
    dtype: Literal["float32", "bfloat16"] | None = None,
    options: PatchOptions = Options(size=(224, 224)),  # noqa: B008 (frozen)
) -> int:
    """Train small classifiers on the frozen features of a labelled set, and report them with their uncertainty.

    Every sample is encoded once, into a cache that a killed run continues. Clips are resized to a square, because their
    shape alone can give a class away. Hyper-parameters are chosen on a part of the training samples; see
    docs/evaluation.md. Writes OUT/probe.json and OUT/probe.png. Exit code 1 if samples had to be left out.

    Example: ov-encoder probe --data videos/ --model base -o results --probes knn linear attentive --budget 1024

    Args:
        data: A manifest (CSV or parquet), a folder with one, a folder per class, or a folder with the official split
            files of UCF101, HMDB51, Something-Something v2, Diving-48 or Kinetics.
        out: Folder for the results.
        model: A name (see ov-encoder models), a directory, or a hub id.
        baselines: Other networks under the same protocol and budget: siglip2:DIR, dinov3:DIR, clip:DIR, ...,
            mobilenet, pixels, histogram, meta, codec.
        probes: knn, linear, attentive (needs every token in the cache), reference (the paper's attentive protocol).
        seeds: Of training, of what is held out, and of the shots.
        shots: Train on so many samples a class, drawn for each seed.
        vector: What knn and linear see: the pooled vector, or the mean of all tokens.
        epochs: Instead of the recipe's.
        batch: Instead of the recipe's 128.
        label: Column of the manifest that holds the labels.
        train_split: By default the one called train. Without any split, a fifth of each class validates.
        val_split: By default the one called val, validation or test.
        fold: Which official split of UCF101 or HMDB51.
        cache: Folder for features, by default OUT/features. May be shared: nothing is ever mixed.
        shard: I/N, encode only this part (0/N to N-1/N) and stop; whoever comes last goes on to the probes. torchrun
            does this by itself.
        workers: Processes that read; by default one for each core but one.
        timeout: Seconds that one sample may take to read.
        device: cpu, cuda, ...; auto takes a GPU if there is one.
        dtype: Of the encoder; by default that of its weights.
    """
    from contextlib import nullcontext

    import torch

    from ov_encoder.data.layouts import read_dataset
    from ov_encoder.evaluate.baselines.featurizers import baseline
    from ov_encoder.evaluate.extract import extract, progress_bar, shard_of_environment
    from ov_encoder.evaluate.features import FeatureCache, cache_folder
    from ov_encoder.evaluate.featurizer import Featurizer, OVFeaturizer, ReadPatches
    from ov_encoder.evaluate.protocol import PROBES, make_task, run_probe
    from ov_encoder.evaluate.split import train_and_validation

    if not probes:
        raise ValueError(f"no probes; name some of {', '.join(PROBES)}")
    if seeds < 1 or (shots is not None and shots < 1):
        raise ValueError(f"seeds={seeds}, shots={shots}; must be at least 1")
    rank, processes = shard_of_environment()
    part = (rank, processes) if shard is None else _parts(shard)
    if device == "auto":
        device = f"cuda:{os.environ.get('LOCAL_RANK', 0)}" if torch.cuda.is_available() else "cpu"
    manifest = read_dataset(data, label=label, fold=fold)
    train, validation, how = train_and_validation(manifest, train=train_split, validation=val_split)
    tokens = vector == "mean" or any(name in ("attentive", "reference") for name in probes)
    featurizers: list[Featurizer] = [
        OVFeaturizer(model, reader=ReadPatches(options), tokens=tokens, device=device, dtype=dtype),
        *(baseline(name, options=options, tokens=tokens, device=device, dtype=dtype) for name in baselines),
    ]
    if len({f.name for f in featurizers}) < len(featurizers):
        raise ValueError("two of the model and the baselines have one name")
    if rank == 0:
        print(f"{manifest.path}: {len(train)} train, {len(validation)} validate ({how})")
        for name, reason in manifest.skipped.items():
            print(f"left out: {name}: {reason}")
    folders = [cache_folder(cache or out / "features", f, manifest.path) for f in featurizers]
    with _group(processes if shard is None else 1):
        finished = []
        for featurizer, folder in zip(featurizers, folders, strict=True):
            with progress_bar(featurizer.name) if rank == 0 else nullcontext() as watch:
                found = extract(
                    featurizer,
                    [*train, *validation],
                    folder,
                    workers=workers or max(_cores() - 1, 1),
                    shard=part,
                    timeout_s=timeout,
                    watch=watch,
                )
            finished.append(found is not None)
        if shard is not None and not all(finished):
            print(f"shard {shard} is done; other shards are not")
            return 0
        if processes > 1:
            torch.distributed.barrier()
        caches = {f.name: FeatureCache.open(folder) for f, folder in zip(featurizers, folders, strict=True)}
        tasks = {name: make_task(train, validation, c, card=manifest.card) for name, c in caches.items()}
        asked: dict[str, Any] = {"seeds": seeds, "k_shot": shots, "vector": vector, "epochs": epochs, "batch": batch}
        results = {
            name: [run_probe(p, caches[name], tasks[name], **asked, device=device) for p in dict.fromkeys(probes)]
            for name in caches
        }
    if rank:
        return 0
    config = {"data": str(manifest.path), "card": manifest.card, "label": label, "how": how, "model": model, **asked}
    skipped = {name: {**manifest.skipped, **task.skipped} for name, task in tasks.items()}
    _report(out, results, tasks, config, caches, skipped)
    return 1 if any(skipped.values()) else 0


def _report(out: Path, results, tasks, config, caches, skipped) -> None:
    """Print the table and what was left out; write probe.json and probe.png."""
    import json

    from ov_encoder.cli.console import print_table
    from ov_encoder.data.folder import write_atomically
    from ov_encoder.data.manifest import NAMES
    from ov_encoder.evaluate.summary import LEGEND, document, plot_probes, table

    header, rows = table(results)
    print_table(header, rows, right=range(2, len(header)))
    print(LEGEND)
    costs = {name: cache.costs() for name, cache in caches.items()}
    for name, cost in costs.items():
        print(
            f"{name}: a clip is {cost['tokens']:,.0f} tokens, {cost['gflop']:.2f} GFLOP; "
            f"read {1e3 * cost['read_s']:.0f} ms, encode {1e3 * cost['encode_s']:.0f} ms"
        )
        print(f"{name}: always saying the most frequent class: {100 * tasks[name].chance:.1f} %")
        for note in tasks[name].notes:
            print(f"{name}: {note}")
        for sample, reason in list(tasks[name].skipped.items())[:_SHOWN]:
            print(f"left out: {sample}: {reason}")
        if (more := len(tasks[name].skipped) - _SHOWN) > 0:
            print(f"left out: {more} more, see probe.json")
    written = document(
        results, tasks, config=config, runs={name: cache.run for name, cache in caches.items()}, costs=costs
    )
    out.mkdir(parents=True, exist_ok=True)
    write_atomically(out / "probe.json", (json.dumps(written | {"skipped": skipped}, indent=1) + "\n").encode())
    path = Path(config["data"])
    name = config["card"].get("name") or (path.parent.name if path.name in NAMES else path.stem)
    figure = plot_probes(results, tasks, title=f"{name}: probes on frozen features")
    figure.savefig(out / "probe.png")
    print(f"wrote {out / 'probe.json'} and {out / 'probe.png'}")


def _parts(text: str) -> tuple[int, int]:
    """(0, 4) of "0/4"."""
    i, _, n = text.partition("/")
    if not (i.isdigit() and n.isdigit() and int(i) < int(n)):
        raise ValueError(f"shard={text!r}; must be I/N with I from 0 to N-1, such as 0/4")
    return int(i), int(n)


def _group(processes: int):
    """The process group of torchrun, while it is needed."""
    from contextlib import contextmanager, nullcontext
    from datetime import timedelta

    import torch.distributed as dist

    @contextmanager
    def group():
        dist.init_process_group("gloo", timeout=timedelta(days=7))  # shards end at different times
        try:
            yield
        finally:
            dist.destroy_process_group()

    return group() if processes > 1 else nullcontext()


def _cores() -> int:
    """Cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
