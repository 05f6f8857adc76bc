"""Are these clusters concepts? Sizes, empty share, agreement with known classes, and a sheet of pictures to look at.

Shapes: N = samples, K = labels.
"""

from __future__ import annotations

import io
import itertools
import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from ov_encoder.data.folder import write_atomically
from ov_encoder.errors import missing_extra
from ov_encoder.labels.assign import labels_facts, read_labels

if TYPE_CHECKING:
    from matplotlib.figure import Figure
    from PIL import Image

PAPER, INK, BAR = "#fbfaf6", "#23303d", "#2f7f79"


def write_health(
    labels: str | Path,
    folder: str | Path,
    *,
    known: Mapping[str, str] | None = None,
    thumbnail: Callable[[str], Image.Image] | None = None,
    clusters: int = 12,
    seed: int = 0,
) -> dict[str, Any]:
    """Write health.json, health.png (sizes) and, with `thumbnail`, clusters.png into `folder`; returns the JSON.

    Args:
        labels: a labels.parquet. The nearest label of each sample counts.
        known: id -> class, for some or all samples.
        thumbnail: id -> RGB picture, for the contact sheet.
        clusters: rows of the sheet, drawn by `seed` among those of at least four samples.

    Raises:
        OvEncoderError: the labels cannot be read, or an extra is missing.
    """
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    facts = labels_facts(labels)
    ids, label_NT, similarity_NT = read_labels(labels)
    classes = None if known is None else [known.get(name) for name in ids]
    report = {"labels": facts} | health(label_NT[:, 0], facts["k"], classes=classes)
    figure = plot_sizes(np.bincount(label_NT[:, 0], minlength=facts["k"]))
    out = io.BytesIO()
    figure.savefig(out, format="png")
    write_atomically(folder / "health.png", out.getvalue())
    if thumbnail is not None:
        chosen = sample_clusters(ids, label_NT[:, 0], similarity_NT[:, 0], clusters=clusters, seed=seed)
        out = io.BytesIO()
        contact_sheet(chosen, thumbnail).save(out, format="PNG")
        write_atomically(folder / "clusters.png", out.getvalue())
    write_atomically(folder / "health.json", (json.dumps(report, indent=1) + "\n").encode())
    return report


def health(label_N: np.ndarray, k: int, *, classes: Sequence[str | None] | None = None) -> dict[str, Any]:
    """Sizes of the clusters and, for samples of known class (not None), purity and NMI.

    Keys: samples, k, empty (share of the k), largest (samples), median (of clusters that have any), effective (exp of
    the entropy of sizes: how many equal clusters would be as mixed), histogram (pairs: at least this size, clusters;
    powers of two) and with classes: known (samples), classes (count), purity (share of samples whose class is the
    commonest of their cluster), chance (the share of the commonest class of all), nmi (normalised mutual information,
    arithmetic mean, as scikit-learn).

    Purity grows with k whatever the clusters are: compare at equal k.
    """
    sizes_K = np.bincount(label_N, minlength=k)
    full = sizes_K[sizes_K > 0]
    share = full / max(1, full.sum())
    powers = np.floor(np.log2(full)).astype(int) if len(full) else np.zeros(0, int)
    report: dict[str, Any] = {
        "samples": len(label_N),
        "k": k,
        "empty": float((sizes_K == 0).mean()),
        "largest": int(sizes_K.max()),
        "median": float(np.median(full)) if len(full) else 0.0,
        "effective": float(np.exp(-(share * np.log(share)).sum())),
        "histogram": [[1 << int(p), int((powers == p).sum())] for p in np.unique(powers)],
    }
    if classes is not None:
        if len(classes) != len(label_N):
            raise ValueError(f"{len(classes)} classes for {len(label_N)} samples")
        report |= _agreement(label_N, classes)
    return report


def _agreement(label_N: np.ndarray, classes: Sequence[str | None]) -> dict[str, Any]:
    try:
        from sklearn.metrics import normalized_mutual_info_score
        from sklearn.metrics.cluster import contingency_matrix
    except ImportError as e:
        raise missing_extra("scikit-learn", "labels", "purity and NMI") from e
    at = [row for row, name in enumerate(classes) if name is not None]
    if not at:
        return {"known": 0}
    names = [classes[row] for row in at]
    table = contingency_matrix(names, label_N[at], sparse=True)  # classes x clusters
    return {
        "known": len(at),
        "classes": table.shape[0],
        "purity": float(table.max(axis=0).sum() / len(at)),
        "chance": float(table.sum(axis=1).max() / len(at)),
        "nmi": float(normalized_mutual_info_score(names, label_N[at])),
    }


def plot_sizes(sizes_K: np.ndarray) -> Figure:
    """Bars: how many clusters have a size of 1, 2-3, 4-7, ...; empty ones apart."""
    try:
        from matplotlib.figure import Figure  # not pyplot: no global state, no display
    except ImportError as e:
        raise missing_extra("matplotlib", "labels", "a plot of cluster sizes") from e
    figure = Figure(figsize=(8, 3.4), dpi=130, layout="constrained", facecolor=PAPER)
    axes = figure.add_subplot(facecolor=PAPER)
    bins = np.concatenate([[0], 1 << np.arange(int(sizes_K.max()).bit_length() + 1)])
    counts = np.histogram(sizes_K, bins=bins)[0]
    names = [f"{a}" if b - a == 1 else f"{a}-{b - 1}" for a, b in itertools.pairwise(bins.tolist())]
    axes.bar(names, counts, color=[*["#c8553d"], *[BAR] * (len(names) - 1)])
    axes.set_xlabel("samples in a cluster", color=INK)
    axes.set_ylabel("clusters", color=INK)
    axes.set_title(
        f"{sizes_K.sum():,} samples in {len(sizes_K):,} clusters, {(sizes_K == 0).mean():.1%} empty",
        loc="left", color=INK, fontsize=11,
    )  # fmt: skip
    axes.spines[:].set_visible(False)
    axes.tick_params(axis="x", labelsize=8, rotation=30)
    return figure


def sample_clusters(
    ids: Sequence[str],
    label_N: np.ndarray,
    similarity_N: np.ndarray,
    *,
    clusters: int = 12,
    columns: int = 10,
    seed: int = 0,
) -> dict[str, list[str]]:
    """Some clusters, for people: caption -> ids of the samples nearest to the centre, nearest first.

    Drawn by `seed` among clusters of at least four samples (of any size where there are none), in order of label.
    """
    sizes_K = np.bincount(label_N)
    fit = np.flatnonzero(sizes_K >= min(4, sizes_K.max()))
    chosen = np.sort(np.random.default_rng(seed).choice(fit, min(clusters, len(fit)), replace=False))
    sheet = {}
    for label in chosen:
        rows = np.flatnonzero(label_N == label)
        rows = rows[np.argsort(-similarity_N[rows].astype(np.float32), kind="stable")][:columns]
        sheet[f"{label}: {sizes_K[label]} samples"] = [ids[row] for row in rows.tolist()]
    return sheet


def contact_sheet(
    clusters: Mapping[str, Sequence[str]], thumbnail: Callable[[str], Image.Image], *, side: int = 112
) -> Image.Image:
    """One row of pictures for each cluster, its caption above; RGB.

    Args:
        clusters: caption -> ids, as `sample_clusters` gives.
        thumbnail: id -> picture of any size; shown whole within side x side pixels.

    Raises:
        ValueError: no clusters.
    """
    from PIL import Image, ImageDraw

    if not clusters:
        raise ValueError("no clusters to show")
    caption, gap = 18, 4
    columns = max(len(ids) for ids in clusters.values())
    row_height = caption + side + gap
    sheet = Image.new("RGB", (gap + columns * (side + gap), gap + len(clusters) * row_height), PAPER)
    draw = ImageDraw.Draw(sheet)
    for row, (text, ids) in enumerate(clusters.items()):
        top = gap + row * row_height
        draw.text((gap, top + 2), text, fill=INK)
        for column, name in enumerate(ids):
            picture = thumbnail(name).convert("RGB")
            picture.thumbnail((side, side))
            left = gap + column * (side + gap)
            sheet.paste(picture, (left + (side - picture.width) // 2, top + caption + (side - picture.height) // 2))
    return sheet
