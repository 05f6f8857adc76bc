"""Text in images as labels: read, cut into words, counted, and up to 100 tags written for each image.

    OUT/text/part-000000.parquet  id, lines (list of strings as read), words (list of strings), reason ("" or why not)
    OUT/vocabulary.parquet        see `vocabulary`
    OUT/ocr.parquet               id, tags (list of int32; empty where there is no text), words (how many were known)

Reading is by far the most work, and other cut-offs need no second reading: parts are kept.
"""

from __future__ import annotations

import functools
import io
import os
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from ov_encoder.codec import stills
from ov_encoder.codec.limits import Limits
from ov_encoder.codec.media import Source, binary, source_name
from ov_encoder.data.folder import PART, agree_on_options, locked, write_atomically
from ov_encoder.data.manifest import Sample
from ov_encoder.errors import OvEncoderError, missing_extra
from ov_encoder.labels.engine import TIMEOUT_S, Block, Engine, Failed, Tally, cut_blocks, run_blocks
from ov_encoder.labels.features import samples_digest
from ov_encoder.labels.ocr_words import words
from ov_encoder.labels.vocabulary import TAGS, build_vocabulary, save_vocabulary, tags_of

if TYPE_CHECKING:
    import pyarrow as pa

BLOCK_ROWS = 64  # images of a block: a minute or two of reading
MIN_IMAGES, MOST_WORDS = 2, 400_000


@dataclass(frozen=True, slots=True)
class Reading:
    """The work of a block. See `engine.Work`."""

    folder: Path

    def rows(self, block: Block) -> Sequence[Sample]:
        """The images."""
        return block.rows

    def read(self, row: Sample) -> list[str]:
        """Lines of text in one image."""
        return read_text(row.source())

    def finish(self, found: Sequence[Any]) -> Sequence[Any]:
        """As read."""
        return found

    def write(self, block: Block, rows: Sequence[Sample], found: Sequence[Any]) -> None:
        """Lines and words of the block."""
        import pyarrow as pa

        lines = [[] if isinstance(f, Failed) else f for f in found]
        columns = {
            "id": pa.array([row.id for row in rows], pa.string()),
            "lines": pa.array(lines, pa.list_(pa.string())),
            "words": pa.array([words(some) for some in lines], pa.list_(pa.string())),
            "reason": pa.array([f.reason if isinstance(f, Failed) else "" for f in found], pa.string()),
        }
        write_atomically(self._part(block), _parquet(pa.table(columns)))

    def done(self, block: Block) -> bool:
        """Whether the part is there."""
        return self._part(block).exists()

    def _part(self, block: Block) -> Path:
        return self.folder / f"part-{block.number:06d}.parquet"


def read_texts(
    samples: Sequence[Sample],
    folder: str | Path,
    *,
    engine: Engine = "local",
    workers: int = 1,
    rows: int = BLOCK_ROWS,
    timeout_s: float = TIMEOUT_S,
    progress: Callable[[Tally], None] | None = None,
) -> dict[str, int]:
    """Read the text of images into parts; goes on after a kill from the last whole block.

    Args:
        samples: images.
        folder: OUT/text.
        engine: see `engine.run_blocks`; so workers, timeout_s, progress.
        rows: images of a block.

    Returns:
        "images", "with_text" (any line), "failed".

    Raises:
        ValueError: no samples, or a folder of other images.
        OvEncoderError: the reader is not installed.
    """
    if not samples:
        raise ValueError("no images to read")
    _reader()  # here first: one clear error instead of one for each worker
    folder = Path(folder)
    work = Reading(folder)
    blocks = cut_blocks(list(samples), rows)
    with locked(folder):
        chosen = {"samples": samples_digest(samples), "rows": rows}
        agree_on_options(folder, chosen, sum(work.done(block) for block in blocks))
        run_blocks(work, blocks, folder, engine=engine, workers=workers, timeout_s=timeout_s, progress=progress)
    counts = {"images": 0, "with_text": 0, "failed": 0}
    for row in _rows(folder):
        counts["images"] += 1
        counts["with_text"] += bool(row["lines"])
        counts["failed"] += bool(row["reason"])
    return counts


def tag_images(
    folder: str | Path,
    out: str | Path,
    *,
    min_images: int = MIN_IMAGES,
    most_words: int = MOST_WORDS,
    tags: int = TAGS,
) -> dict[str, int]:
    """Write OUT/vocabulary.parquet and OUT/ocr.parquet of texts that were read.

    Args:
        folder: what `read_texts` wrote.
        out: folder.
        min_images: a word of fewer images becomes no tag.
        most_words: of the vocabulary.
        tags: at most so many for one image, drawn without bias where there are more.

    Returns:
        "vocabulary" (words), "images", "with_tags".

    Raises:
        ValueError: a bound below 1. OvEncoderError: no texts there.
    """
    if tags < 1:
        raise ValueError(f"tags must be at least 1, got {tags}")
    folder, out = Path(folder), Path(out)
    vocabulary = build_vocabulary((row["words"] for row in _rows(folder)), min_images=min_images, most=most_words)
    out.mkdir(parents=True, exist_ok=True)
    save_vocabulary(out / "vocabulary.parquet", vocabulary)
    return {"vocabulary": len(vocabulary)} | _write_tags(folder, out / "ocr.parquet", vocabulary, tags)


def read_text(source: Source) -> list[str]:
    """Lines of text in a still image (the first picture of an animation), in reading order.

    Raises:
        OvEncoderError: it cannot be read, or the reader is not installed.
    """
    limits = Limits()
    with binary(source, limits) as file:
        if not stills.is_still(file):
            raise OvEncoderError(f"{source_name(source)}: no still image; text is read in images only")
        rgb_HW3, _ = next(stills.read_frames(file, source_name(source), limits))
    found, _ = _reader()(np.ascontiguousarray(rgb_HW3[..., ::-1]))  # it wants BGR
    return [text for _, text, _ in found or []]


@functools.cache
def _reader() -> Any:
    """PP-OCRv4 through RapidOCR: its models lie in the package. One thread, as blocks are the parallelism."""
    try:
        from rapidocr_onnxruntime import RapidOCR
    except ImportError as e:
        raise missing_extra("rapidocr-onnxruntime", "labels", "reading text in images") from e
    return RapidOCR(intra_op_num_threads=1, inter_op_num_threads=1)


def _write_tags(folder: Path, path: Path, vocabulary: dict[str, int], most: int) -> dict[str, int]:
    import pyarrow as pa
    import pyarrow.parquet as pq

    tag_of = {word: tag for tag, word in enumerate(vocabulary)}
    schema = pa.schema([("id", pa.string()), ("tags", pa.list_(pa.int32())), ("words", pa.int32())])
    counts = {"images": 0, "with_tags": 0}
    half = path.with_name(f".{path.name}{PART}")
    with half.open("wb") as f:
        with pq.ParquetWriter(f, schema) as writer:
            for part in _parts(folder):
                out = []
                for row in _rows_of(part):
                    tags = tags_of(row["id"], row["words"], tag_of, most=most)
                    out.append({"id": row["id"], "tags": tags, "words": sum(word in tag_of for word in row["words"])})
                    counts["images"] += 1
                    counts["with_tags"] += bool(tags)
                writer.write_table(pa.Table.from_pylist(out, schema=schema))
        f.flush()
        os.fsync(f.fileno())
    half.replace(path)
    return counts


def _parts(folder: Path) -> list[Path]:
    parts = sorted(folder.glob("part-*.parquet"))
    if not parts:
        raise OvEncoderError(f"{folder}: holds no texts (part-000000.parquet); read them first")
    return parts


def _rows(folder: Path) -> Iterator[dict[str, Any]]:
    for part in _parts(folder):
        yield from _rows_of(part)


def _rows_of(part: Path) -> list[dict[str, Any]]:
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        return pq.ParquetFile(part).read().to_pylist()
    except (pa.ArrowException, OSError) as e:
        raise OvEncoderError(f"{part}: cannot be read as texts; delete it to read them again: {e}") from e


def _parquet(table: pa.Table) -> bytes:
    import pyarrow.parquet as pq

    out = io.BytesIO()
    pq.write_table(table, out)
    return out.getvalue()
