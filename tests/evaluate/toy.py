"""A featurizer without network and media: a file of bytes gives its features. Fast to start in workers: no torch.

As a program: `python -m tests.evaluate.toy FOLDER CACHE [SHARD/N] [OPS]` extracts all files of FOLDER, and is killed by
itself at its OPS-th write to the disk.
"""

import hashlib
import os
import signal
import sys
from functools import partial
from pathlib import Path

import numpy as np

from ov_encoder.data.manifest import Sample
from ov_encoder.errors import OvEncoderError
from ov_encoder.evaluate.featurizer import Features

WIDTH = 8


def read(sample: Sample, scale: float) -> np.ndarray:
    data = Path(sample.path).read_bytes() if Path(sample.path).exists() else b"bad: no such file"
    if data.startswith(b"bad"):
        raise OvEncoderError(f"{sample.id}: {data.decode()}")
    if data.startswith(b"crash"):
        os._exit(3)
    seed = int.from_bytes(hashlib.blake2b(data, digest_size=8).digest(), "little")
    random = np.random.default_rng(seed)
    values = scale * random.standard_normal((2 + seed % 5, WIDTH))
    return np.full_like(values, np.nan) if data.startswith(b"nan") else values.astype(np.float32)


class Toy:
    """Tokens are random numbers that a file's bytes seed; pooled is their mean."""

    def __init__(self, *, scale: float = 1.0, tokens: bool = True, batch: int = 3, name: str = "toy") -> None:
        self.scale, self.tokens, self.batch, self.name = scale, tokens, batch, name
        self.encoded = 0

    def fingerprint(self) -> str:
        return "toy weights"

    def options(self) -> dict:
        return {"scale": self.scale, "tokens": self.tokens, "batch": self.batch}

    @property
    def read(self):
        return partial(read, scale=self.scale)

    def encode(self, prepared) -> list[Features]:
        assert 0 < len(prepared) <= self.batch
        self.encoded += len(prepared)
        shift = 0.001 * sum(len(x) for x in prepared)  # depends on the company: grouping must be the same every time
        return [
            Features((x + shift).mean(axis=0), x + shift if self.tokens else None, len(x), 100 * len(x))
            for x in prepared
        ]


def make_files(folder: Path, count: int) -> list[Sample]:
    folder.mkdir(parents=True, exist_ok=True)
    for i in range(count):
        (folder / f"{i:03d}.mp4").write_bytes(f"file {i}".encode())
    return samples_of(folder)


def samples_of(folder: Path) -> list[Sample]:
    return [Sample(p.name, str(p), "video", (f"c{i % 2}",)) for i, p in enumerate(sorted(folder.glob("*.mp4")))]


def die_at(count: int) -> None:
    """Kill this process, as `kill -9` does, at its count-th flush or rename."""
    seen = 0
    for owner, name in ((os, "fsync"), (Path, "replace")):
        before = getattr(owner, name)

        def counted(*args, before=before):
            nonlocal seen
            seen += 1
            if seen == count:
                os.kill(os.getpid(), signal.SIGKILL)
            return before(*args)

        setattr(owner, name, counted)


if __name__ == "__main__":
    from ov_encoder.evaluate.extract import extract

    folder, cache, shard, ops = Path(sys.argv[1]), sys.argv[2], sys.argv[3], int(sys.argv[4])
    if ops:
        die_at(ops)
    i, n = map(int, shard.split("/"))
    extract(Toy(), samples_of(folder), cache, workers=1, shard=(i, n))
