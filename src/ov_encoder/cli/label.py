"""From a folder of images and videos to concepts to train on: index, dedup, features, kmeans, assign, ocr, report.

`ov-encoder label run CONFIG` does all of it and goes on after a kill; each stage is also a command of its own. Start
with `ov-encoder label run --help`; docs/labels.md is the page on making your own training data."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Any, Literal

import tyro

Out = Annotated[Path, tyro.conf.arg(aliases=["-o"])]
Engine = Literal["local", "ray"]


def run(
    config: Annotated[tyro.conf.Positional[Path], tyro.conf.arg(metavar="CONFIG")],
    *,
    dry_run: bool = False,
) -> int:
    """Do all stages of a TOML file; those whose inputs and options are unchanged are skipped.

    The smallest file:

        out = "concepts"
        [index]
        sources = ["photos", "videos"]    # folders, manifests (labels.csv), WebDataset tars
        [kmeans]
        images = 1000                     # concepts; 0 leaves images out
        videos = 200

    Tables and their defaults: [dedup] near, radius, video_radius; [features] teacher, device, frames, pooling;
    [kmeans] metric, init, iterations, batch, seed, hierarchical, processes; [assign] top, method; [ocr] read,
    min_images, most_words, tags; [report] pixels, clusters; on top: engine ("local", "ray"), workers, timeout. What you
    get: OUT/image and OUT/video with labels.parquet (id, 10 labels, 10 similarities), OUT/ocr/ocr.parquet, OUT/report.

    Example: ov-encoder label run label.toml --dry-run

    Args:
        config: The TOML file; paths in it are relative to it.
        dry_run: Only say what would be done, how long it takes and how many bytes, measured on a few samples.
    """
    from ov_encoder.cli.console import print_table
    from ov_encoder.labels.run import run as run_stages
    from ov_encoder.labels.run_config import read_config

    chosen = read_config(config)
    if dry_run:
        from ov_encoder.labels.plan import plan

        lines, notes = plan(chosen)
        print_table(("stage", "would", "samples", "time", "bytes", "how"), lines, right=(2, 3, 4))
        print("\n".join(notes))
        return 0
    with _bars() as progress:
        states = run_stages(chosen, say=_say, progress=progress)
    done = [name for name, state in states.items() if state != "unchanged"]
    print(f"{len(done)} of {len(states)} stages done; look at {Path(chosen.out) / 'report'}")
    return 0


def index(
    sources: Annotated[tyro.conf.Positional[tuple[Path, ...]], tyro.conf.arg(metavar="SOURCES...")],
    *,
    out: Out,
    label: str = "label",
    engine: Engine = "local",
    workers: int = 0,
    timeout: float = 120.0,
) -> int:
    """List every sample in a parquet manifest: hashes, size, duration; bad files with their reason.

    Folders are searched for media; a folder with a labels.csv gives what that lists, with its classes; tars give
    their members. Exit code 1 if there were bad files.

    Example: ov-encoder label index photos videos -o manifest.parquet

    Args:
        sources: Folders, manifests or WebDataset tars.
        out: The parquet file.
        label: Column of the manifests that names classes.
        engine: Worker processes here, or a Ray cluster.
        workers: Processes; 0 for one each core.
        timeout: Seconds that one file may take.
    """
    from ov_encoder.labels.index import build_index

    with _bars() as progress:
        counts = build_index(
            sources, out, label=label, engine=engine, workers=_workers(workers), timeout_s=timeout,
            progress=_tallies(progress, "index"),
        )  # fmt: skip
    _say("index", str(out), counts)
    if counts["bad"]:
        _show_bad(out)
    return 1 if counts["bad"] else 0


def dedup(
    manifest: Annotated[tyro.conf.Positional[Path], tyro.conf.arg(metavar="MANIFEST")],
    *,
    out: Out,
    near: bool = True,
    radius: int = 3,
    video_radius: int = 35,
) -> int:
    """Find duplicates: equal bytes, and images or videos that look alike. One of each group is kept.

    Example: ov-encoder label dedup manifest.parquet -o duplicates.parquet

    Args:
        manifest: What label index wrote.
        out: Parquet: id, representative, kept.
        near: Also images and videos whose perceptual hashes are close.
        radius: Bits (of 64) that may differ between images.
        video_radius: Bits (of 576) that may differ between videos.
    """
    from ov_encoder.labels.run import write_duplicates

    _say("dedup", str(out), write_duplicates(manifest, out, near=near, radius=radius, video_radius=video_radius))
    return 0


def features(
    manifest: Annotated[tyro.conf.Positional[Path], tyro.conf.arg(metavar="MANIFEST")],
    *,
    out: Out,
    kind: Literal["image", "video"],
    duplicates: Path | None = None,
    teacher: str = "mobilenet",
    device: str = "cpu",
    frames: int = 8,
    pooling: Literal["concat", "mean"] = "concat",
    engine: Engine = "local",
    workers: int = 0,
    timeout: float = 120.0,
) -> int:
    """A teacher's vector of every image or of every video, as float16 shards.

    Example: ov-encoder label features manifest.parquet --kind video -o video/features --teacher clip-vit-b16/

    Args:
        manifest: What label index wrote, or any manifest.
        out: Folder for the shards.
        kind: Images give one vector; videos one of several frames, so they are shards of their own.
        duplicates: What label dedup wrote: only samples that are kept get a vector.
        teacher: mobilenet, efficientnet (both inside packages), pixels, a directory of transformers, or an encoder
            of ours.
        device: cpu, cuda, ...
        frames: Of a video.
        pooling: Frames side by side (the paper's) or their mean.
        engine: Worker processes here, or a Ray cluster.
        workers: Processes; 0 for one each core.
        timeout: Seconds that one file may take.
    """
    from ov_encoder.data.manifest import read_manifest
    from ov_encoder.labels.dedup import load_duplicates
    from ov_encoder.labels.features import extract_features

    kept = set(load_duplicates(duplicates).kept) if duplicates else None
    samples = [s for s in read_manifest(manifest) if s.kind == kind and (kept is None or s.id in kept)]
    with _bars() as progress:
        counts = extract_features(
            samples, out, teacher=teacher, device=device, frames=frames if kind == "video" else 1, pooling=pooling,
            engine=engine, workers=_workers(workers), timeout_s=timeout,
            progress=_tallies(progress, "features", len(samples)),
        )  # fmt: skip
    _say("features", str(out), counts)
    return 1 if counts["failed"] else 0


def kmeans(
    features: Annotated[tyro.conf.Positional[Path], tyro.conf.arg(metavar="FEATURES")],
    *,
    out: Out,
    k: int,
    metric: Literal["cosine", "l2"] = "cosine",
    init: Literal["sample", "k-means++"] = "sample",
    iterations: int = 20,
    batch: int = 0,
    seed: int = 0,
    hierarchical: bool = False,
    device: str | None = None,
) -> int:
    """Cluster features into concepts.

    Killed runs go on. With torchrun each process takes its share of the rows:
    torchrun --nproc-per-node 8 -m ov_encoder label kmeans ...

    Example: ov-encoder label kmeans image/features -o image/centres.npz --k 1000

    Args:
        features: What label features wrote.
        out: The centres (.npz); a folder kmeans/ beside it holds the state of a killed run.
        k: Concepts.
        metric: cosine (spherical) or l2.
        init: First centres: rows drawn, or spread out (k-means++, up to some thousands).
        iterations: Of Lloyd's algorithm.
        batch: Rows of a mini-batch; 0 for all.
        seed: Of draws.
        hierarchical: Coarse clusters first, then fine ones: for millions of concepts.
        device: cpu, cuda, ...; by default a GPU if there is one.
    """
    from ov_encoder.labels.run_kmeans import write_centres

    with _bars() as progress:
        write_centres(
            features, out, k=k, metric=metric, init=init, iterations=iterations, batch=batch, seed=seed,
            hierarchical=hierarchical, device=device, progress=lambda done, total: progress("kmeans", done, total),
        )  # fmt: skip
    if os.environ.get("RANK", "0") == "0":
        print(f"wrote {out}")
    return 0


def assign(
    folder: Annotated[tyro.conf.Positional[Path], tyro.conf.arg(metavar="FOLDER")],
    *,
    top: int = 10,
    method: Literal["exact", "hnsw", "ivf"] = "exact",
    device: str | None = None,
    engine: Engine = "local",
    workers: int = 0,
) -> int:
    """Give every sample its nearest concepts: FOLDER/labels.parquet and FOLDER/inverted.npz.

    Example: ov-encoder label assign image

    Args:
        folder: Holds features/ and centres.npz.
        top: Labels of a sample.
        method: All centres, or an approximate index (its recall is reported).
        device: cpu, cuda, ...; by default a GPU if there is one.
        engine: This process, or tasks of a Ray cluster.
        workers: Tasks at a time; 0 for one each core.
    """
    from ov_encoder.labels.assigning import write_labels

    with _bars() as progress:
        summary = write_labels(
            folder, top=top, method=method, device=device, engine=engine, workers=_workers(workers),
            progress=lambda done, total: progress("assign", done, total),
        )  # fmt: skip
    _say("assign", str(folder / "labels.parquet"), summary)
    return 0


def ocr(
    manifest: Annotated[tyro.conf.Positional[Path], tyro.conf.arg(metavar="MANIFEST")],
    *,
    out: Out,
    duplicates: Path | None = None,
    min_images: int = 2,
    most_words: int = 400_000,
    tags: int = 100,
    engine: Engine = "local",
    workers: int = 0,
    timeout: float = 120.0,
) -> int:
    """Read the text in images and make it tags; images without text get none.

    Example: ov-encoder label ocr manifest.parquet -o ocr --min-images 5

    Args:
        manifest: What label index wrote, or any manifest; its images are read.
        out: Folder: text/, vocabulary.parquet, ocr.parquet. Other cut-offs read nothing again.
        duplicates: What label dedup wrote: only samples that are kept are read.
        min_images: Words of fewer images become no tag.
        most_words: Size of the vocabulary at most.
        tags: Of one image at most, drawn without bias where there are more.
        engine: Worker processes here, or a Ray cluster.
        workers: Processes; 0 for one each core.
        timeout: Seconds that one image may take.
    """
    from ov_encoder.data.manifest import read_manifest
    from ov_encoder.labels.dedup import load_duplicates
    from ov_encoder.labels.ocr import read_texts, tag_images

    kept = set(load_duplicates(duplicates).kept) if duplicates else None
    samples = [s for s in read_manifest(manifest) if s.kind == "image" and (kept is None or s.id in kept)]
    with _bars() as progress:
        counts = read_texts(
            samples, out / "text", engine=engine, workers=_workers(workers), timeout_s=timeout,
            progress=_tallies(progress, "ocr", len(samples)),
        )  # fmt: skip
    counts |= tag_images(out / "text", out, min_images=min_images, most_words=most_words, tags=tags)
    _say("ocr", str(out), counts)
    return 1 if counts["failed"] else 0


def report(
    folder: Annotated[tyro.conf.Positional[Path], tyro.conf.arg(metavar="OUT")],
    *,
    pixels: bool = True,
    clusters: int = 20,
    workers: int = 0,
) -> int:
    """Sizes of concepts, pictures of some, agreement with known classes next to k-means on raw pixels.

    Example: ov-encoder label report concepts --clusters 40

    Args:
        folder: OUT of a run: manifest.parquet, duplicates.parquet, image/ and video/.
        pixels: Cluster raw pixels too, to compare (samples whose class is known).
        clusters: Rows of a contact sheet.
        workers: Processes; 0 for one each core.
    """
    from ov_encoder.labels.run_config import KINDS
    from ov_encoder.labels.run_report import write_report

    kinds = [kind for kind in KINDS if (folder / kind / "labels.parquet").exists()]
    summary = write_report(folder, kinds=kinds, pixels=pixels, clusters=clusters, workers=_workers(workers))
    _say("report", str(folder / "report"), summary)
    return 0


def _workers(given: int) -> int:
    from ov_encoder.labels.run import cores

    return given or cores()


def _say(name: str, state: str, summary: dict[str, Any]) -> None:
    """One line of a stage: name, state, what it counted."""
    facts = ", ".join(f"{key} {_short(value)}" for key, value in summary.items())
    print(f"{name:15} {state:14} {facts}")


def _short(value: Any) -> str:
    if isinstance(value, dict):
        return "(" + ", ".join(f"{key} {_short(v)}" for key, v in value.items()) + ")"
    return f"{value:,}" if isinstance(value, int) else f"{value:.4g}" if isinstance(value, float) else str(value)


def _show_bad(manifest: Path, most: int = 20) -> None:
    from ov_encoder.data.manifest import read_manifest

    bad = read_manifest(manifest).skipped
    for name, reason in list(bad.items())[:most]:
        print(f"bad: {name}: {reason}")
    if len(bad) > most:
        print(f"... and {len(bad) - most} more; all are in {manifest}")


@contextmanager
def _bars() -> Iterator[Callable[[str, int, int], None]]:
    """A progress bar on stderr for each stage that reports."""
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    columns = (TextColumn("{task.description:15}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, console=Console(stderr=True)) as bars:
        tasks: dict[str, Any] = {}

        def show(name: str, done: int, total: int) -> None:
            if name not in tasks:
                tasks[name] = bars.add_task(name, total=total)
            bars.update(tasks[name], completed=done, total=total)

        yield show


def _tallies(show: Callable[[str, int, int], None], name: str, total: int = 0) -> Callable[[Any], None]:
    """Blocks of a stage as samples on its bar; without a total, the bar is as long as what is done."""
    done = 0

    def count(tally: Any) -> None:
        nonlocal done
        done += tally.samples + tally.failed
        show(name, done, max(total, done))

    return count


COMMANDS = (run, index, dedup, features, kmeans, assign, ocr, report)
