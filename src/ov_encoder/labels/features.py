"""Teacher features of a manifest: a few frames of every sample through a teacher, shards of vectors on disk.

As the paper does it: 8 frames of a video from the middles of equal parts, short side 256, centre crop 224; L2 for
each frame, side by side, L2 for the whole. An image is one frame and one vector. Images and videos are different
widths, so they are different jobs and different folders.

Shapes: T = frames of a sample, S = side in pixels, D = width of the teacher's vector, N = samples.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np

from ov_encoder.codec.decode import Resizer, decode
from ov_encoder.codec.limits import Limits
from ov_encoder.codec.media import Source, binary, inspect, source_name
from ov_encoder.data.folder import agree_on_options, locked, write_atomically
from ov_encoder.data.manifest import Sample
from ov_encoder.errors import OvEncoderError
from ov_encoder.labels.engine import TIMEOUT_S, Block, Engine, Failed, Tally, cut_blocks, run_blocks
from ov_encoder.labels.shards import PREFIX, write_shard
from ov_encoder.labels.teacher import load_teacher
from ov_encoder.patchify.sampling import chunk_slots

Pooling = Literal["concat", "mean"]
POOLINGS = ("concat", "mean")
FRAMES = 8
BLOCK_FRAMES = 256  # of a block, which becomes a shard: what a kill can cost


@dataclass(frozen=True, slots=True)
class Extraction:
    """The work of a block: frames, teacher, shard. See `engine.Work`."""

    folder: Path
    teacher: str
    device: str
    frames: int
    pooling: Pooling

    def rows(self, block: Block) -> Sequence[Sample]:
        """The samples."""
        return block.rows

    def read(self, row: Sample) -> np.ndarray:
        """Frames [T, S, S, 3] of one sample."""
        teacher = load_teacher(self.teacher, device=self.device)
        return read_frames(row.source(), self.frames, short=teacher.short, size=teacher.size)

    def finish(self, found: Sequence[np.ndarray]) -> Sequence[np.ndarray]:
        """The vector of each sample, float16."""
        if not found:
            return []
        teacher = load_teacher(self.teacher, device=self.device)
        x_ND = teacher.encode(np.concatenate(found))
        return [pool(x_TD, self.pooling).astype(np.float16) for x_TD in x_ND.reshape(len(found), self.frames, -1)]

    def write(self, block: Block, rows: Sequence[Sample], found: Sequence[Any]) -> None:
        """Vectors of the block as a shard, reasons of those that have none beside it."""
        given = {row.id: f for row, f in zip(rows, found, strict=True) if not isinstance(f, Failed)}
        failed = {row.id: f.reason for row, f in zip(rows, found, strict=True) if isinstance(f, Failed)}
        if failed:
            lines = [json.dumps({"id": name, "reason": why}, ensure_ascii=False) + "\n" for name, why in failed.items()]
            write_atomically(self.folder / f"failed-{block.number:05d}.jsonl", "".join(lines).encode())
        width = load_teacher(self.teacher, device=self.device).dim * (self.frames if self.pooling == "concat" else 1)
        x_nD = np.stack(list(given.values())) if given else np.empty((0, width), np.float16)
        write_shard(self.folder, block.number, list(given), x_nD)

    def done(self, block: Block) -> bool:
        """Whether the shard's index, which is written last, is there."""
        return (self.folder / f"{PREFIX}{block.number:05d}.parquet").exists()


def extract_features(
    samples: Sequence[Sample],
    out: str | Path,
    *,
    teacher: str = "mobilenet",
    device: str = "cpu",
    frames: int = 1,
    pooling: Pooling = "concat",
    engine: Engine = "local",
    workers: int = 1,
    rows: int = 0,
    timeout_s: float = TIMEOUT_S,
    progress: Callable[[Tally], None] | None = None,
) -> dict[str, Any]:
    """Write float16 feature shards (see `shards`) of unit vectors; goes on after a kill from the last whole block.

    Args:
        samples: all of one kind: a manifest's images (frames=1) or its videos (frames=8).
        out: folder; a sample that cannot be read is listed in its failed-*.jsonl with the reason.
        teacher: see `teacher`.
        device: cpu, cuda, ...
        frames: of each sample.
        pooling: "concat" (frames side by side, the paper's) or "mean".
        engine: see `engine.run_blocks`; so workers, timeout_s, progress.
        rows: samples of a block, which becomes a shard; 0: so many that they have 256 frames. Raise it for millions.

    Returns:
        "samples" that have a vector, "failed", "dim".

    Raises:
        ValueError: no samples, a pooling or engine that is not allowed, or a folder made with other options.
        OvEncoderError: the teacher cannot be loaded.
    """
    if pooling not in POOLINGS:
        raise ValueError(f"pooling is {pooling!r}; allowed: {', '.join(POOLINGS)}")
    if frames < 1:
        raise ValueError(f"frames must be at least 1, got {frames}")
    if not samples:
        raise ValueError("no samples to take features of")
    out, rows = Path(out), rows or max(1, BLOCK_FRAMES // frames)
    loaded = load_teacher(teacher, device=device)  # here first: one clear error instead of one for each worker
    work = Extraction(out, teacher, device, frames, pooling)
    blocks = cut_blocks(list(samples), rows)
    chosen = {
        "teacher": teacher,
        "weights": loaded.fingerprint,
        "frames": frames,
        "pooling": pooling,
        "rows": rows,
        "samples": samples_digest(samples),
    }
    with locked(out):
        agree_on_options(out, chosen, sum(work.done(block) for block in blocks))
        gpus = 1.0 if device.startswith("cuda") else 0.0
        run_blocks(work, blocks, out, engine=engine, workers=workers, gpus=gpus, timeout_s=timeout_s, progress=progress)
    failed = sum(len(f.read_text().splitlines()) for f in out.glob("failed-*.jsonl"))
    dim = loaded.dim * (frames if pooling == "concat" else 1)
    return {"samples": len(samples) - failed, "failed": failed, "dim": dim}


def samples_digest(samples: Sequence[Sample]) -> str:
    """A hash of which samples there are, in which order."""
    import hashlib

    digest = hashlib.sha256()
    for s in samples:
        digest.update(json.dumps([s.id, s.path, s.offset, s.length]).encode())
    return digest.hexdigest()


def pool(x_TD: np.ndarray, pooling: Pooling) -> np.ndarray:
    """Vectors of frames to the unit vector of their sample: [T * D] for "concat", [D] for "mean".

    Every frame is brought to length 1 first, so that no frame counts more than another.

    Raises:
        OvEncoderError: a vector is all zeros or not finite, so it has no direction.
    """
    unit_TD = _unit(x_TD.astype(np.float64))
    return _unit(unit_TD.ravel() if pooling == "concat" else unit_TD.mean(0))


def read_frames(source: Source, count: int, *, short: int, size: int) -> np.ndarray:
    """`count` frames from the middles of equal parts: uint8 RGB [T, S, S, 3], upright, cropped at the centre.

    A source of fewer frames repeats them (a vector needs its `count` places). If the container promises more frames
    than decode, those that decode are what is divided.

    Args:
        source: an image or a video.
        count: T.
        short: pixels of the frame's short side before the crop.
        size: S, of the crop.

    Raises:
        OvEncoderError: it cannot be read.
    """
    limits = Limits()
    info = inspect(source, limits=limits)
    scale = short / min(info.height, info.width)
    height, width = max(size, round(info.height * scale)), max(size, round(info.width * scale))
    top, left = (height - size) // 2, (width - size) // 2
    total = info.frames
    for _ in range(2):
        wanted = middles(total, count)
        resize = Resizer(height, width)
        got: dict[int, np.ndarray] = {}
        seen = 0
        with binary(source, limits) as file:
            pictures = decode(file, info, limits=limits)
            for picture in pictures:
                seen += 1
                if picture.index in wanted:
                    got[picture.index] = resize(picture)[top : top + size, left : left + size].copy()
                    if len(got) == len(set(wanted)):
                        break
            pictures.close()
        if len(got) == len(set(wanted)):
            return np.stack([got[int(i)] for i in wanted])
        total = seen
    raise OvEncoderError(f"{source_name(source)}: gave {seen} frames, then fewer, when it was read again")


def middles(frames: int, count: int) -> np.ndarray:
    """Frame numbers at the middles of `count` equal parts of `frames`; a frame repeats where there are too few."""
    if frames >= count:
        return chunk_slots(frames, count)
    return ((np.arange(count) + 0.5) * frames / count).astype(np.int64)


def _unit(x: np.ndarray) -> np.ndarray:
    length = np.linalg.norm(x, axis=-1, keepdims=True)
    if not (np.isfinite(length).all() and (length > 0).all()):
        raise OvEncoderError("a teacher's vector is all zeros or not finite: it has no direction")
    return x / length
