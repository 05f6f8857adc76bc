"""Where embeddings go: one safetensors file an input, or parquet shards. Every file appears whole or not at all.

What is finished is read back from the files themselves, so that a killed run can go on. Shapes: N = tokens of all
samples of one input, D = width, B = samples (1, or one a window), T = slots.
"""

from __future__ import annotations

import io
import json
import os
import struct
import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np

from ov_encoder.data.folder import write_atomically
from ov_encoder.data.sources import Entry
from ov_encoder.errors import OvEncoderError, missing_extra
from ov_encoder.patchify.batch import PatchBatch

if TYPE_CHECKING:
    import torch

FORMAT = "ov-encoder.embeddings/1"
SHARD_BYTES = 64 << 20
SHARD_SECONDS = 120.0  # a killed run loses at most this much work


@dataclass(slots=True)
class Embedding:
    """Everything about one input: its batch of patches and what the encoder made of it.

    pooled_BD: float32, None for a model without a pooling head. tokens_ND: None if not asked for.
    """

    entry: Entry
    batch: PatchBatch
    pooled_BD: torch.Tensor | None
    tokens_ND: torch.Tensor | None


class Writer(Protocol):
    """One way to keep embeddings."""

    def done(self) -> dict[str, str]:
        """source -> id of every input that is complete on disk."""

    def write(self, embedding: Embedding) -> None:
        """Keep one input."""

    def close(self) -> None:
        """Write what is still in memory."""


class SafetensorsWriter:
    """`<id>.safetensors` for each input: pooled_BD, lengths_B, slot_times and, with tokens, tokens_ND,
    positions_N3 (t, h, w) and scores_N. One metadata key, "ov_encoder", holds JSON: id, source, modes, grids,
    slots of each sample, provenance."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def done(self) -> dict[str, str]:
        """source -> id, from the headers of the files.

        Raises:
            OvEncoderError: a file is cut off (not by us: files appear whole).
        """
        found = {}
        for path in sorted(self.folder.rglob("*.safetensors")):
            header = _read_header(path)
            if header.get("format") == FORMAT:
                found[header["source"]] = header["id"]
        return found

    def write(self, embedding: Embedding) -> None:
        """Write one file, at once."""
        from safetensors.torch import save

        path = self.folder / f"{embedding.entry.id}.safetensors"
        path.parent.mkdir(parents=True, exist_ok=True)
        header = json.dumps({"format": FORMAT, **_facts(embedding)}, sort_keys=True)
        # one key: the order of several is not fixed, and the same input must give the same bytes
        write_atomically(path, save(_tensors(embedding), metadata={"ov_encoder": header}))

    def close(self) -> None:
        """Nothing is kept in memory."""


class ParquetWriter:
    """`part-00000.parquet`, ...: one row for each sample (window) of an input. An input never spans two shards.

    Columns: id, source, window, mode, grid [T, H, W], tokens (count), slot_times, provenance (JSON), pooled, and
    with tokens: tokens_ND (float32, row after row), positions_N3, scores_N.
    """

    def __init__(self, folder: Path) -> None:
        try:
            import pyarrow  # noqa: F401
        except ImportError as e:
            raise missing_extra("pyarrow", "parquet", "--format parquet") from e
        self.folder = folder
        self.rows: list[dict[str, Any]] = []
        self.bytes = 0
        self.since = time.monotonic()

    def done(self) -> dict[str, str]:
        """source -> id, from two columns of the shards.

        Raises:
            OvEncoderError: a shard cannot be read (not by our doing: shards appear whole).
        """
        import pyarrow as pa
        import pyarrow.parquet as pq

        found: dict[str, str] = {}
        for path in self._shards():
            try:
                table = pq.read_table(path, columns=["id", "source"])
            except (pa.ArrowException, OSError) as e:
                raise OvEncoderError(f"{path}: cannot be read as a shard; delete it to redo its inputs: {e}") from e
            found |= dict(zip(table["source"].to_pylist(), table["id"].to_pylist(), strict=True))
        return found

    def write(self, embedding: Embedding) -> None:
        """Keep the rows of one input; write a shard when enough has come together."""
        for row in _rows(embedding):
            self.rows.append(row)
            self.bytes += sum(v.nbytes for v in row.values() if isinstance(v, np.ndarray))
        if self.bytes >= SHARD_BYTES or time.monotonic() - self.since >= SHARD_SECONDS:
            self.close()

    def close(self) -> None:
        """Write the rows in memory as the next shard."""
        import pyarrow as pa
        import pyarrow.parquet as pq

        if self.rows:
            number = max((int(p.stem[5:]) for p in self._shards()), default=-1) + 1
            types = {
                **dict.fromkeys(("id", "source", "mode", "provenance"), pa.string()),
                **dict.fromkeys(("window", "tokens"), pa.int32()),
                **dict.fromkeys(("grid", "positions_N3"), pa.list_(pa.int32())),
                **dict.fromkeys(("pooled", "tokens_ND", "scores_N"), pa.list_(pa.float32())),
                "slot_times": pa.list_(pa.float64()),
            }
            schema = pa.schema([(name, types[name]) for name in self.rows[0]])
            out = io.BytesIO()
            pq.write_table(pa.Table.from_pylist(self.rows, schema=schema), out)
            write_atomically(self.folder / f"part-{number:05d}.parquet", out.getvalue())
        self.rows, self.bytes, self.since = [], 0, time.monotonic()

    def _shards(self) -> list[Path]:
        return sorted(self.folder.glob("part-[0-9]*.parquet"))


WRITERS: dict[str, type[SafetensorsWriter] | type[ParquetWriter]] = {
    "safetensors": SafetensorsWriter,
    "parquet": ParquetWriter,
}


def _facts(embedding: Embedding) -> dict[str, Any]:
    batch = embedding.batch
    return {
        "id": embedding.entry.id,
        "source": embedding.entry.source,
        "modes_B": batch.modes_B,
        "grids_B": batch.grids_B,
        "slots_B": [len(t) for t in batch.slot_times_B],
        "provenance_B": batch.provenance_B,
    }


def _tensors(embedding: Embedding) -> dict[str, torch.Tensor]:
    import torch

    batch = embedding.batch
    tensors = {
        "lengths_B": torch.tensor(batch.lengths_B, dtype=torch.int64),
        "slot_times": torch.from_numpy(np.concatenate(batch.slot_times_B)),
    }
    if embedding.pooled_BD is not None:
        tensors["pooled_BD"] = embedding.pooled_BD.contiguous()
    if embedding.tokens_ND is not None:
        tensors["tokens_ND"] = embedding.tokens_ND.contiguous()
        tensors["positions_N3"] = torch.from_numpy(np.ascontiguousarray(batch.positions_N3))
        tensors["scores_N"] = torch.from_numpy(np.ascontiguousarray(batch.scores_N))
    return tensors


def _rows(embedding: Embedding) -> list[dict[str, Any]]:
    rows = []
    start = 0
    for i, sample in enumerate(embedding.batch.unpack()):
        row: dict[str, Any] = {
            "id": embedding.entry.id,
            "source": embedding.entry.source,
            "window": i,
            "mode": sample.modes_B[0],
            "grid": list(sample.grids_B[0]),
            "tokens": sample.tokens,
            "slot_times": sample.slot_times_B[0],
            "provenance": json.dumps(sample.provenance_B[0], sort_keys=True),
        }
        if embedding.pooled_BD is not None:
            row["pooled"] = embedding.pooled_BD[i].numpy()
        if embedding.tokens_ND is not None:
            tokens_ND = embedding.tokens_ND[start : start + sample.tokens]
            row |= {
                "tokens_ND": tokens_ND.float().numpy().ravel(),  # parquet has no bfloat16
                "positions_N3": sample.positions_N3.ravel(),
                "scores_N": sample.scores_N,
            }
        rows.append(row)
        start += sample.tokens
    return rows


def _read_header(path: Path) -> dict[str, Any]:
    """Our JSON of a safetensors file ({} if it is not ours), read without loading tensors or torch."""
    try:
        with path.open("rb") as f:
            (length,) = struct.unpack("<Q", f.read(8))
            header = json.loads(f.read(min(length, 100 << 20)))
            ends = [t["data_offsets"][1] for name, t in header.items() if name != "__metadata__"]
            whole = f.seek(0, os.SEEK_END) == 8 + length + max(ends, default=0)
    except (OSError, ValueError, KeyError, TypeError, struct.error) as e:
        raise OvEncoderError(f"{path}: cannot be read as safetensors; delete it to redo it: {e!r}") from e
    if not whole:
        raise OvEncoderError(f"{path}: is cut off; delete it to redo its input")
    return json.loads(header.get("__metadata__", {}).get("ov_encoder", "{}"))
