"""What came of a run, for people: counts, health of the clusters, contact sheets, and the same k-means on raw pixels.

    OUT/report/report.json
    OUT/report/image/  health.json, health.png (sizes), clusters.png (pictures); video/ likewise

Shapes: N = samples.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from ov_encoder.data.folder import write_atomically
from ov_encoder.data.manifest import Sample, read_manifest
from ov_encoder.labels.assign import LABELS, Searcher, labels_facts, read_labels
from ov_encoder.labels.engine import TIMEOUT_S, Engine
from ov_encoder.labels.features import extract_features, read_frames
from ov_encoder.labels.health import health, write_health
from ov_encoder.labels.kmeans import fit_kmeans
from ov_encoder.labels.shards import blocks, open_features

if TYPE_CHECKING:
    from PIL import Image

REPORT = "report"
_SHOWN = 112  # pixels of a picture on a contact sheet


def write_report(
    out: Path,
    *,
    kinds: Sequence[str],
    pixels: bool = True,
    clusters: int = 20,
    kmeans: Mapping[str, Any] | None = None,
    engine: Engine = "local",
    workers: int = 1,
    timeout_s: float = TIMEOUT_S,
) -> dict[str, Any]:
    """Write OUT/report/ of a run's folder; returns its agreement with the known classes in short.

    Args:
        out: folder of the run: manifest, duplicates, and a folder of labels for each kind.
        kinds: "image", "video" or both.
        pixels: cluster raw pixels of the samples whose class is known, with the same k, for comparison.
        clusters: rows of a contact sheet.
        kmeans: options of `fit_kmeans` for the pixels: those of the run, so that the two can be compared.
        engine: see `engine.run_blocks`; so workers, timeout_s.

    Raises:
        OvEncoderError: something of the run is missing or damaged.
    """
    from ov_encoder.labels.dedup import load_duplicates

    folder = out / REPORT
    folder.mkdir(parents=True, exist_ok=True)
    manifest = read_manifest(out / "manifest.parquet")
    found = load_duplicates(out / "duplicates.parquet")
    report: dict[str, Any] = {
        "format": "ov-encoder.label-report/1",
        "samples": len(manifest),
        "bad": len(manifest.skipped),
        "kept": len(found.kept),
    }
    summary: dict[str, Any] = {}
    for kind in kinds:
        samples = {s.id: s for s in manifest if s.kind == kind}
        known = {s.id: s.labels[0] for s in samples.values() if len(s.labels) == 1}

        def picture(name: str, samples: dict[str, Sample] = samples) -> Image.Image:
            return thumbnail(samples[name])

        labels = out / kind / LABELS
        report[kind] = write_health(labels, folder / kind, known=known or None, thumbnail=picture, clusters=clusters)
        if known:
            summary[kind] = {name: round(report[kind][name], 3) for name in ("purity", "nmi", "chance")}
        if known and pixels:
            ids = [name for name in read_labels(labels)[0] if name in known]
            compared = pixel_agreement(
                [samples[name] for name in ids], [known[name] for name in ids], out / kind / "pixels",
                k=labels_facts(labels)["k"], kmeans=kmeans or {}, frames=_frames(out / kind),
                engine=engine, workers=workers, timeout_s=timeout_s,
            )  # fmt: skip
            report[kind]["pixels"] = compared
            summary[kind] |= {f"pixels_{name}": round(compared[name], 3) for name in ("purity", "nmi")}
    if (out / "ocr/ocr.parquet").exists():
        report["ocr"] = _ocr(out / "ocr")
        summary["ocr"] = {name: report["ocr"][name] for name in ("with_tags", "images")}
    write_atomically(folder / "report.json", (json.dumps(report, indent=1, ensure_ascii=False) + "\n").encode())
    return summary


def pixel_agreement(
    samples: Sequence[Sample],
    classes: Sequence[str],
    folder: Path,
    *,
    k: int,
    frames: int,
    kmeans: Mapping[str, Any],
    engine: Engine = "local",
    workers: int = 1,
    timeout_s: float = TIMEOUT_S,
) -> dict[str, Any]:
    """`health` of k-means (at most one centre a sample) on 32 x 32 thumbnails: what needs no teacher."""
    extract_features(
        samples, folder, teacher="pixels", frames=frames, engine=engine, workers=workers, timeout_s=timeout_s
    )
    features = open_features(folder)
    k = min(k, len(features))
    searcher = Searcher(fit_kmeans(features, k=k, checkpoint=folder / "kmeans", **kmeans), top=1)
    label_N = np.concatenate([searcher.search(_unit(x_nD))[0][:, 0] for _, x_nD in blocks(features)])
    class_of = {s.id: c for s, c in zip(samples, classes, strict=True)}
    return health(label_N, k, classes=[class_of[name] for name in features.ids().to_pylist()])


def thumbnail(sample: Sample) -> Image.Image:
    """A square picture of an image, or of the middle frame of a video.

    Raises:
        OvEncoderError: it cannot be read any more.
    """
    from PIL import Image

    return Image.fromarray(read_frames(sample.source(), 1, short=_SHOWN, size=_SHOWN)[0])


def _unit(x_nD: np.ndarray) -> np.ndarray:
    return x_nD / np.linalg.norm(x_nD, axis=1, keepdims=True)


def _frames(folder: Path) -> int:
    """How many frames of each sample the teacher saw."""
    return json.loads((folder / "features/run.json").read_text())["options"]["frames"]


def _ocr(folder: Path) -> dict[str, Any]:
    """Counts, and the commonest words, for people."""
    import pyarrow.compute as pc
    import pyarrow.parquet as pq

    tags = pq.ParquetFile(folder / "ocr.parquet").read()["tags"]
    words = pq.ParquetFile(folder / "vocabulary.parquet").read()
    lengths = pc.list_value_length(tags)
    return {
        "images": len(tags),
        "with_tags": pc.sum(pc.greater(lengths, 0)).as_py() or 0,
        "tags": pc.sum(lengths).as_py() or 0,
        "vocabulary": len(words),
        "commonest": dict(zip(words["word"].to_pylist()[:30], words["images"].to_pylist()[:30], strict=True)),
    }
