"""Concepts of motion: a vector of codec motion statistics for every clip, then our k-means. Labels like any others.

A teacher of single pictures says what is seen. These say what moves: where, which way and how fast, apart from the
camera, and how the camera moves. Only motion vectors are used. Bits, intra shares and residuals tell encoders and
their settings from each other before they tell motions, and every clip here has settings of its own.

Not here: which clips (sets.py), k-means and labels themselves (ov_encoder.labels).
Shapes: Y, X = cells of a signal, G = GRID.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

import ov_encoder as ov
from ov_encoder.data.folder import agree_on_options, locked, write_atomically
from ov_encoder.data.manifest import Sample
from ov_encoder.labels.assigning import write_labels
from ov_encoder.labels.engine import Block, Failed, cut_blocks, run_blocks
from ov_encoder.labels.features import samples_digest
from ov_encoder.labels.run_kmeans import write_centres
from ov_encoder.labels.shards import PREFIX, open_features, write_shard
from ov_encoder.patchify.camera import fit_camera

PARTS, GRID, DIRECTIONS = 4, 4, 8
GROUPS = (4, 1, DIRECTIONS, GRID * GRID)  # camera, speed, directions, places: columns of one part of a clip
WIDTH = PARTS * sum(GROUPS)
_BLOCK = 64  # clips of a shard


def describe(source: str | bytes) -> np.ndarray:
    """float32 [WIDTH]: for each quarter of the clip, means over its frames that have motion (0 where none has).

    Camera: shift right, shift down (percent of the picture's height a frame), zoom, turn (percent a frame). What is
    left when the camera's share is subtracted: mean speed; how much goes into each of eight directions; how much is in
    each cell of a 4 x 4 grid; square roots, so that a clip ten times as fast is not ten times as far away.

    Raises:
        ov.OvEncoderError: the clip cannot be read.
    """
    clip = ov.read_signals(source, frames=False, residual=False)
    rows_TC = np.full((len(clip), sum(GROUPS)), np.nan, np.float32)
    for row_C, signals in zip(rows_TC, clip, strict=True):
        if signals.motion_HW2 is not None and np.isfinite(signals.motion_HW2).any():
            row_C[:] = _of_frame(signals.motion_HW2, 100 / clip.height)
    return np.concatenate([_mean(part_TC) for part_TC in np.array_split(rows_TC, PARTS)])


def _of_frame(motion_YX2: np.ndarray, percent: float) -> np.ndarray:
    """motion_YX2: as `FrameSignals` has it. percent: of the picture's height that a pixel is."""
    Y, X = motion_YX2.shape[:2]
    known_YX = np.isfinite(motion_YX2).all(2)
    camera = fit_camera(motion_YX2, known_YX)
    a = -percent * camera.weights_6  # a vector points to where content came from: it moves the other way
    border = Y / 2  # the linear terms are for a cell; here: at the upper and lower border
    camera_4 = (a[0], a[3], (a[1] + a[5]) / 2 * border, (a[4] - a[2]) / 2 * border)
    moved_YX2 = -percent * np.where(known_YX[..., None], motion_YX2 - camera.field(Y, X), 0)
    angles_D = 2 * np.pi * np.arange(DIRECTIONS) / DIRECTIONS
    along_YXD = moved_YX2 @ np.stack([np.cos(angles_D), np.sin(angles_D)])
    speed_YX = np.linalg.norm(moved_YX2, axis=2)
    places = [
        cells.mean() if cells.size else 0.0  # a picture of fewer than four rows of cells
        for rows in np.array_split(speed_YX, GRID)
        for cells in np.array_split(rows, GRID, axis=1)
    ]
    directions_D = np.maximum(along_YXD, 0).mean((0, 1))
    return np.concatenate([camera_4, np.sqrt([speed_YX.mean()]), np.sqrt(directions_D), np.sqrt(places)])


def _mean(rows_TC: np.ndarray) -> np.ndarray:
    known = rows_TC[np.isfinite(rows_TC).all(1)]
    return known.mean(0) if len(known) else np.zeros(rows_TC.shape[1], np.float32)


@dataclass(frozen=True, slots=True)
class Describing:
    """The work of a block of clips, see `ov_encoder.labels.engine.Work`."""

    folder: Path

    def rows(self, block: Block) -> Sequence[Sample]:
        """The clips."""
        return block.rows

    def read(self, row: Sample) -> np.ndarray:
        """The vector of one."""
        return describe(row.source())

    def finish(self, found: Sequence[np.ndarray]) -> Sequence[np.ndarray]:
        """As they are."""
        return found

    def write(self, block: Block, rows: Sequence[Sample], found: Sequence[Any]) -> None:
        """A shard, and the reasons of those that have no vector."""
        given = {row.id: x for row, x in zip(rows, found, strict=True) if not isinstance(x, Failed)}
        failed = [
            json.dumps({"id": row.id, "reason": x.reason}) + "\n"
            for row, x in zip(rows, found, strict=True)
            if isinstance(x, Failed)
        ]
        if failed:
            write_atomically(self.folder / f"failed-{block.number:05d}.jsonl", "".join(failed).encode())
        x_nD = np.stack(list(given.values())) if given else np.empty((0, WIDTH), np.float32)
        write_shard(self.folder, block.number, list(given), x_nD)

    def done(self, block: Block) -> bool:
        """Whether its index, which is written last, is there."""
        return (self.folder / f"{PREFIX}{block.number:05d}.parquet").exists()


def standardised(x_ND: np.ndarray) -> np.ndarray:
    """Every column to mean 0 and deviation 1, then every group of columns to the same share of the distance."""
    x_ND = (x_ND - x_ND.mean(0)) / np.maximum(x_ND.std(0), 1e-6)
    weights = np.concatenate([np.full(n, n**-0.5) for n in GROUPS])
    return (x_ND * np.tile(weights, PARTS)).astype(np.float32)


def write_motion_labels(
    samples: Sequence[Sample],
    out: Path,
    *,
    k: int,
    top: int,
    workers: int = 1,
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> dict[str, Any]:
    """OUT/labels.parquet: the `top` nearest of k motion concepts of every clip. Goes on after a kill.

    Returns:
        What `write_labels` returns, and "failed".

    Raises:
        ValueError: OUT holds a run of other clips. ov.OvEncoderError: no clip can be read.
    """
    raw = out / "statistics"
    work, blocks = Describing(raw), cut_blocks(list(samples), _BLOCK)
    done = 0

    def count(tally: Any) -> None:
        nonlocal done
        done += tally.samples + tally.failed
        progress(done, len(samples))

    with locked(raw):
        agree_on_options(raw, {"samples": samples_digest(samples)}, sum(work.done(b) for b in blocks))
        run_blocks(work, blocks, raw, workers=workers, progress=count)
    found = open_features(raw)
    x_ND = standardised(np.asarray(found.read(0, len(found)), np.float32))
    ids = found.ids(0, len(found)).to_pylist()
    write_shard(out / "features", 0, ids, x_ND)
    write_centres(out / "features", out / "centres.npz", k=min(k, len(ids)), metric="l2", init="k-means++")
    failed = sum(len(f.read_text().splitlines()) for f in raw.glob("failed-*.jsonl"))
    return write_labels(out, top=min(top, len(ids))) | {"failed": failed}
