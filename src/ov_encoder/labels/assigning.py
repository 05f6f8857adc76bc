"""Assignment of a kind's folder: labels and the inverted list, in this process or as blocks on a Ray cluster.

Here, one process holds the centres once and uses every core; on Ray each task holds them (4 bytes x K x D). The parts
are the same, and `assign` joins them after it has checked them.
"""

from __future__ import annotations

import functools
import io
import shutil
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from ov_encoder.data.folder import write_atomically
from ov_encoder.labels.assign import LABELS, PARTS, Searcher, assign, invert, labels_facts, read_labels, write_part
from ov_encoder.labels.engine import Block, Engine, cut_blocks, run_blocks
from ov_encoder.labels.kmeans import Centres, load_centres
from ov_encoder.labels.shards import READ_ROWS, FeatureShards, open_features

INVERTED = "inverted.npz"


@dataclass(frozen=True, slots=True)
class Assignment:
    """The work of a block: one (low, high) of rows. See `engine.Work`."""

    folder: Path
    top: int
    method: str
    device: str | None
    facts: tuple[tuple[str, Any], ...]

    def rows(self, block: Block) -> Sequence[Any]:
        """The one range."""
        return block.rows

    def read(self, row: Any) -> Any:
        """Nothing a stranger made is read here."""
        return row

    def finish(self, found: Sequence[Any]) -> Sequence[Any]:
        """As read."""
        return found

    def write(self, block: Block, rows: Sequence[Any], found: Sequence[Any]) -> None:
        """Labels of the range."""
        features, centres = _opened(self.folder)
        searcher = Searcher(centres, top=self.top, method=self.method, device=self.device)
        low, high = rows[0]
        write_part(self._part(block), features, low, high, searcher, dict(self.facts))

    def done(self, block: Block) -> bool:
        """Whether the part is there."""
        return self._part(block).exists()

    def _part(self, block: Block) -> Path:
        return self.folder / PARTS / f"part-{block.number:05d}.parquet"


def write_labels(
    folder: Path,
    *,
    top: int = 10,
    method: str = "exact",
    device: str | None = None,
    engine: Engine = "local",
    workers: int = 1,
    rows: int = READ_ROWS,
    progress: Callable[[int, int], None] | None = None,
) -> dict[str, Any]:
    """FOLDER/labels.parquet and FOLDER/inverted.npz of FOLDER/features and FOLDER/centres.npz.

    The inverted list: `rows` int64 and `starts` int64 [k + 1]; label c is among the labels of the samples
    rows[starts[c]:starts[c + 1]] of labels.parquet. Arguments as `assign.assign`; engine as `engine.run_blocks`.

    Returns:
        "samples", "k", "used" (labels that are the nearest of some sample), "similarity" (mean of the nearest).
    """
    features, centres = open_features(folder / "features"), load_centres(folder / "centres.npz")
    if engine == "ray":
        blocks = cut_blocks([(low, min(low + rows, len(features))) for low in range(0, len(features), rows)], 1)
        facts = {
            "format": "ov-encoder.labels/1",
            "centres": centres.fingerprint,
            "metric": centres.metric,
            "k": len(centres),
            "top": top,
            "method": method,
            "samples": len(features),
            "rows": rows,
        }
        (folder / PARTS).mkdir(parents=True, exist_ok=True)
        work = Assignment(folder, top, method, device, tuple(facts.items()))
        gpus = 1.0 if device and device.startswith("cuda") else 0.0
        run_blocks(work, blocks, folder / PARTS, engine=engine, workers=workers, gpus=gpus)
    assign(features, centres, folder, top=top, method=method, device=device, rows=rows, progress=progress)
    shutil.rmtree(folder / PARTS)
    _, label_NT, similarity_NT = read_labels(folder / LABELS)
    listed, starts = invert(label_NT, len(centres))
    out = io.BytesIO()
    np.savez(out, rows=listed, starts=starts, allow_pickle=False)
    write_atomically(folder / INVERTED, out.getvalue())
    summary = {
        "samples": len(features),
        "k": len(centres),
        "used": len(np.unique(label_NT[:, 0])),
        "similarity": round(float(similarity_NT[:, 0].astype(np.float64).mean()), 4),
    }
    recall = labels_facts(folder / LABELS).get("recall")
    return summary if recall is None else summary | {"recall": recall}


@functools.lru_cache(maxsize=1)
def _opened(folder: Path) -> tuple[FeatureShards, Centres]:
    return open_features(folder / "features"), load_centres(folder / "centres.npz")
