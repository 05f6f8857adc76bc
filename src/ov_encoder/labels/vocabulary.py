"""Which words become tags, and which tags an image gets. Words are counted once for each image that shows them.

vocabulary.parquet  tag (int32, 0 the most frequent), word, images (int64)
"""

from __future__ import annotations

import hashlib
import io
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

import numpy as np

from ov_encoder.data.folder import write_atomically
from ov_encoder.errors import OvEncoderError

TAGS = 100  # of one image, as in the paper


def build_vocabulary(images: Iterable[Sequence[str]], *, min_images: int, most: int) -> dict[str, int]:
    """word -> number of images, the most frequent first, equal counts by the alphabet.

    Memory: about 100 bytes for each different word that was read.

    Args:
        images: the words of each image; a word counts once an image.
        min_images: words of fewer images are left out (misreadings mostly stand alone).
        most: at most so many words.

    Raises:
        ValueError: a bound below 1.
    """
    if min_images < 1 or most < 1:
        raise ValueError(f"min_images and most must be at least 1, got {min_images} and {most}")
    counts: Counter[str] = Counter()
    for words in images:
        counts.update(set(words))
    kept = sorted((-count, word) for word, count in counts.items() if count >= min_images)
    return {word: -count for count, word in kept[:most]}


def tags_of(sample_id: str, words: Iterable[str], tag_of: Mapping[str, int], *, most: int = TAGS) -> list[int]:
    """Tags of an image, ascending, each once; [] where it shows no word of the vocabulary (no label, not class 0).

    Of more than `most`, every subset is equally likely, drawn by the sample's id: the same in every run and process.
    """
    tags = sorted({tag_of[word] for word in words if word in tag_of})
    if len(tags) <= most:
        return tags
    seed = int.from_bytes(hashlib.sha256(sample_id.encode()).digest()[:8], "big")
    chosen = np.random.default_rng(seed).choice(len(tags), most, replace=False)
    return [tags[i] for i in np.sort(chosen)]


def save_vocabulary(path: Path, vocabulary: Mapping[str, int]) -> None:
    """Write what `build_vocabulary` gave."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    columns = {
        "tag": pa.array(range(len(vocabulary)), pa.int32()),
        "word": pa.array(vocabulary, pa.string()),
        "images": pa.array(vocabulary.values(), pa.int64()),
    }
    out = io.BytesIO()
    pq.write_table(pa.table(columns), out)
    write_atomically(path, out.getvalue())


def read_vocabulary(path: str | Path) -> dict[str, int]:
    """word -> tag.

    Raises:
        OvEncoderError: it cannot be read, or its tags do not count 0, 1, 2, ...
    """
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        table = pq.ParquetFile(path).read(columns=["tag", "word"])
    except (pa.ArrowException, OSError) as e:
        raise OvEncoderError(f"{path}: cannot be read as a vocabulary: {e}") from e
    tags = table["tag"].to_pylist()
    if tags != list(range(len(tags))):
        raise OvEncoderError(f"{path}: column tag must count 0..{len(tags) - 1}")
    return dict(zip(table["word"].to_pylist(), tags, strict=True))
