"""The feature cache on disk: what a finished extraction left, and how it is read. Making one is in `extract`.

    run.json                     options of the featurizer, hash of its weights, versions
    blocks/00000.safetensors     up to 32 samples: pooled_BD (float32) and, where kept, tokens_ND (bfloat16)
    timings/00000.json           seconds and memory of the same samples: the only thing that two runs do not share
    index.parquet                one row a sample: id, block, row, start, length, tokens, flops, failure, reason

Blocks are cut from the list of samples by position alone, and each says in its header which files it was made from.
A file is known by its id, size and time of change: found with one `stat`, so that a cache of a million files is checked
in seconds; a copy that keeps times (rsync -a, tar) keeps the cache. A file that was changed with size and time kept is
not noticed: delete the cache then.

Shapes: N = tokens of all samples of a block, B = samples, D = width.
"""

from __future__ import annotations

import hashlib
import io
import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from ov_encoder.data.folder import RUN
from ov_encoder.data.manifest import Sample
from ov_encoder.errors import OvEncoderError, missing_extra
from ov_encoder.evaluate.featurizer import Features, Featurizer

if TYPE_CHECKING:
    import torch

FORMAT = "ov-encoder.features/1"
BLOCK = 32  # samples; a killed run loses at most the blocks it was working on
BLOCKS, TIMINGS, INDEX = "blocks", "timings", "index.parquet"


@dataclass(frozen=True, slots=True)
class Timing:
    """What one sample took. read_s, encode_s: wall seconds; read_peak: bytes of the worker's memory at its highest."""

    read_s: float
    encode_s: float
    read_peak: int


@dataclass(slots=True)
class Block:
    """What becomes of up to BLOCK samples. Features or a (failure, reason) for each, by position."""

    ids: list[str]
    key: str
    features: dict[int, Features] = field(default_factory=dict)
    failures: dict[int, tuple[str, str]] = field(default_factory=dict)
    timings: dict[int, Timing] = field(default_factory=dict)

    def to_bytes(self) -> bytes:
        """A safetensors file: the same features give the same bytes."""
        import torch
        from safetensors.torch import save

        kept = [self.features[i] for i in sorted(self.features)]
        header = {
            "format": FORMAT,
            "key": self.key,
            "ids": self.ids,
            "rows": sorted(self.features),
            "tokens": [f.tokens for f in kept],
            "flops": [f.flops for f in kept],
            "lengths": [0 if f.tokens_ND is None else len(f.tokens_ND) for f in kept],
            "failures": {str(i): self.failures[i] for i in sorted(self.failures)},
        }
        tensors: dict[str, torch.Tensor] = {}
        if kept:
            tensors["pooled_BD"] = torch.from_numpy(np.stack([f.pooled_D for f in kept]).astype(np.float32))
            if tokens := [torch.from_numpy(f.tokens_ND).bfloat16() for f in kept if f.tokens_ND is not None]:
                tensors["tokens_ND"] = torch.cat(tokens)
        return save(tensors, metadata={"ov_encoder": json.dumps(header, sort_keys=True)})


def block_name(number: int) -> str:
    """Of the file in `blocks/`."""
    return f"{number:05d}.safetensors"


def read_header(path: Path) -> dict[str, Any]:
    """What a block says about itself.

    Raises:
        OvEncoderError: it is no block, or damaged (not by us: blocks appear whole).
    """
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(str(path), "pt") as f:
            header = json.loads((f.metadata() or {}).get("ov_encoder", "{}"))
    except (OSError, ValueError, SafetensorError) as e:
        raise OvEncoderError(f"{path}: cannot be read as a block of features; delete it to redo it: {e}") from e
    if header.get("format") != FORMAT:
        raise OvEncoderError(f"{path}: is no block of features (format {header.get('format')!r}, not {FORMAT!r})")
    return header


def identity(sample: Sample) -> list[Any]:
    """What a sample's bytes are known by, see the head of this file. A missing file is one whose size is -1."""
    try:
        stat = Path(sample.path).stat()
        found = [stat.st_size, stat.st_mtime_ns]
    except OSError:
        found = [-1, -1]
    return [sample.id, sample.kind, sample.offset, sample.length, *found]


def digest(value: Any) -> str:
    """A short hash of anything JSON-able."""
    text = json.dumps(value, sort_keys=True)
    return hashlib.blake2b(text.encode(), digest_size=16).hexdigest()


def describe(featurizer: Featurizer) -> dict[str, Any]:
    """All that decides the features: two caches may share a folder only if this is the same."""
    return {
        "format": FORMAT,
        "featurizer": type(featurizer).__name__,
        "name": featurizer.name,
        "weights": featurizer.fingerprint(),
        **featurizer.options(),
    }


def cache_folder(root: str | Path, featurizer: Featurizer, data: str | Path) -> Path:
    """A folder below `root` that no other featurizer, option or data set shares: NAME-HASH."""
    where = str(Path(data).resolve())
    return Path(root) / f"{featurizer.name.replace('/', '-')}-{digest([describe(featurizer), where])[:12]}"


@dataclass(frozen=True)
class FeatureCache:
    """A finished cache. ids: of the samples that have features, in the order of the manifest.

    failures: id -> reason of the others. run: what run.json says.
    """

    folder: Path
    ids: list[str]
    failures: dict[str, str]
    run: dict[str, Any]
    _places: dict[str, tuple[int, int, int, int]]  # id -> block, row, start, length
    _counts: dict[str, tuple[int, int]]  # id -> tokens, flops

    @classmethod
    def open(cls, folder: str | Path) -> FeatureCache:
        """Read the index; the blocks are opened when they are asked for.

        Raises:
            OvEncoderError: no finished cache is there, or a file of it is damaged.
        """
        import pyarrow as pa

        pq = parquet()
        folder = Path(folder)
        if not (folder / INDEX).is_file():
            raise OvEncoderError(f"{folder}: holds no finished feature cache (no {INDEX}); run the extraction again")
        try:
            rows = pq.read_table(folder / INDEX).to_pylist()
            run = json.loads((folder / RUN).read_text())
        except (OSError, ValueError, pa.ArrowException) as e:
            raise OvEncoderError(f"{folder}: its index cannot be read: {e}") from e
        good = [r for r in rows if not r["failure"]]
        return cls(
            folder,
            [r["id"] for r in good],
            {r["id"]: f"{r['failure']}: {r['reason']}" for r in rows if r["failure"]},
            run,
            {r["id"]: (r["block"], r["row"], r["start"], r["length"]) for r in good},
            {r["id"]: (r["tokens"], r["flops"]) for r in good},
        )

    @property
    def has_tokens(self) -> bool:
        """Whether tokens were kept."""
        return any(length for *_, length in self._places.values())

    @property
    def width(self) -> int:
        """Of the pooled vectors; that of tokens may differ.

        Raises:
            OvEncoderError: not a single sample has features.
        """
        if not self.ids:
            some = "; ".join(f"{name}: {why}" for name, why in list(self.failures.items())[:3])
            raise OvEncoderError(f"{self.folder}: not one of {len(self.failures)} samples could be read ({some})")
        return self._block(self._places[self.ids[0]][0])["pooled_BD"].shape[1]

    def pooled(self, ids: Sequence[str]) -> torch.Tensor:
        """float32 [B, D]."""
        import torch

        rows = [self._block(block)["pooled_BD"][row] for block, row, *_ in map(self._places.__getitem__, ids)]
        return torch.stack(rows) if rows else torch.zeros(0, self.width)

    def tokens(self, name: str) -> torch.Tensor:
        """bfloat16 [length, D] of one sample, a view of the file: pages come from the disk when they are used.

        Raises:
            ValueError: tokens were not kept.
        """
        block, _, start, length = self._places[name]
        if not length:
            raise ValueError(f"{self.folder}: this cache has no tokens; extract with tokens=True")
        return self._block(block)["tokens_ND"][start : start + length]

    def lengths(self, ids: Sequence[str]) -> list[int]:
        """Tokens that were kept of each sample."""
        return [self._places[name][3] for name in ids]

    def costs(self) -> dict[str, float]:
        """Means a clip: tokens, gflop, read_s, encode_s; and read_peak_mb, the highest of any worker.

        Raises:
            OvEncoderError: not a single sample has features.
        """
        assert self.width
        timings: list[dict[str, Any]] = []
        for path in sorted((self.folder / TIMINGS).glob("*.json")):
            timings += json.loads(path.read_text())
        counts = np.array([self._counts[name] for name in self.ids], np.float64).reshape(-1, 2)
        return {
            "tokens": float(counts[:, 0].mean()),
            "gflop": float(counts[:, 1].mean() / 1e9),
            "read_s": float(np.mean([t["read_s"] for t in timings])),
            "encode_s": float(np.mean([t["encode_s"] for t in timings])),
            "read_peak_mb": max(t["read_peak"] for t in timings) / 1e6,
        }

    def _block(self, number: int) -> dict[str, torch.Tensor]:
        if number not in self._open:
            self._open[number] = _map(self.folder / BLOCKS / block_name(number))
        return self._open[number]

    @cached_property
    def _open(self) -> dict[int, dict[str, torch.Tensor]]:
        return {}


def index_bytes(headers: Sequence[dict[str, Any]]) -> bytes:
    """index.parquet of all blocks, from their headers in order."""
    import pyarrow as pa

    pq = parquet()
    rows = []
    for number, header in enumerate(headers):
        starts = np.cumsum([0, *header["lengths"]])
        place = {i: row for row, i in enumerate(header["rows"])}
        for i, name in enumerate(header["ids"]):
            failure, reason = header["failures"].get(str(i), ("", ""))
            row = place.get(i, -1)
            facts = (
                [int(starts[row]), *(header[what][row] for what in ("lengths", "tokens", "flops"))]
                if i in place
                else [0] * 4
            )
            rows.append((name, number, row, *facts, failure, reason))
    whole, text = pa.int64(), pa.string()
    names = ("id", "block", "row", "start", "length", "tokens", "flops", "failure", "reason")
    schema = pa.schema(list(zip(names, (text, *[whole] * 6, text, text), strict=True)))
    columns = list(zip(*rows, strict=True)) or [()] * len(names)
    out = io.BytesIO()
    pq.write_table(pa.table([pa.array(c, f.type) for c, f in zip(columns, schema, strict=True)], schema=schema), out)
    return out.getvalue()


def parquet() -> Any:
    """pyarrow.parquet.

    Raises:
        OvEncoderError: pyarrow is missing.
    """
    try:
        import pyarrow.parquet
    except ImportError as e:
        raise missing_extra("pyarrow", "eval", "a feature cache") from e
    return pyarrow.parquet


def _map(path: Path) -> dict[str, torch.Tensor]:
    """The tensors of a block, mapped, not read.

    Raises:
        OvEncoderError: the block is missing or damaged.
    """
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(str(path), "pt") as f:
            return {name: f.get_tensor(name) for name in f.keys()}  # noqa: SIM118
    except (OSError, SafetensorError) as e:
        raise OvEncoderError(f"{path}: cannot be read as a block of features; delete it to redo it: {e}") from e
