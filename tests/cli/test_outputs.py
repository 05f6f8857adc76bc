"""Files appear whole or not at all, hold what was encoded, and say themselves what is done."""

import json

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch
from safetensors import safe_open

from ov_encoder.cli import outputs
from ov_encoder.cli.outputs import Embedding, ParquetWriter, SafetensorsWriter
from ov_encoder.data.folder import remove_parts, write_atomically
from ov_encoder.data.sources import Entry
from ov_encoder.errors import OvEncoderError
from ov_encoder.patchify.batch import PatchBatch


def embedding(n: int, *, samples: int = 1, width: int = 8, tokens: bool = True) -> Embedding:
    rng = np.random.default_rng(n)
    lengths = [3 + i for i in range(samples)]
    N = sum(lengths)
    batch = PatchBatch.from_arrays(
        patches_ND=rng.integers(0, 256, (N, 588), dtype=np.uint8),
        positions_N3=rng.integers(0, 4, (N, 3)),
        lengths_B=lengths,
        grids_B=[(4, 4, 4)] * samples,
        slot_times_B=[np.arange(4) + 10.0 * i for i in range(samples)],
        scores_N=rng.random(N),
        provenance_B=[{"codec": "h264"}] * samples,
    )
    generator = torch.Generator().manual_seed(n)
    return Embedding(
        Entry(f"sub/{n}.mp4", f"in/{n}.mp4", f"/abs/in/{n}.mp4"),
        batch,
        torch.randn(samples, width, generator=generator),
        torch.randn(N, width, generator=generator) if tokens else None,
    )


def test_safetensors_hold_everything_and_name_their_source(tmp_path):
    writer, made = SafetensorsWriter(tmp_path), embedding(1, samples=2)
    writer.write(made)
    assert writer.done() == {"/abs/in/1.mp4": "sub/1.mp4"}
    with safe_open(tmp_path / "sub/1.mp4.safetensors", "pt") as f:
        assert torch.equal(f.get_tensor("tokens_ND"), made.tokens_ND)
        assert torch.equal(f.get_tensor("pooled_BD"), made.pooled_BD)
        assert f.get_tensor("lengths_B").tolist() == [3, 4]
        np.testing.assert_array_equal(f.get_tensor("positions_N3").numpy(), made.batch.positions_N3)
        np.testing.assert_array_equal(f.get_tensor("scores_N").numpy(), made.batch.scores_N)
        assert f.get_tensor("slot_times").tolist() == [0, 1, 2, 3, 10, 11, 12, 13]
        header = json.loads(f.metadata()["ov_encoder"])
    assert header["grids_B"] == [[4, 4, 4]] * 2 and header["provenance_B"][0] == {"codec": "h264"}


def test_bfloat16_tokens_stay_bfloat16(tmp_path):
    made = embedding(1)
    made.tokens_ND = made.tokens_ND.bfloat16()
    SafetensorsWriter(tmp_path).write(made)
    with safe_open(tmp_path / "sub/1.mp4.safetensors", "pt") as f:
        assert f.get_tensor("tokens_ND").dtype == torch.bfloat16


def test_the_same_embedding_gives_the_same_bytes(tmp_path):
    seen = set()
    for i in range(5):
        SafetensorsWriter(tmp_path / str(i)).write(embedding(1))
        seen.add((tmp_path / str(i) / "sub/1.mp4.safetensors").read_bytes())
    assert len(seen) == 1


@pytest.mark.parametrize("cut", [0, 4, 40, -1])
def test_a_cut_file_is_named_not_skipped(tmp_path, cut):
    writer = SafetensorsWriter(tmp_path)
    writer.write(embedding(1))
    path = tmp_path / "sub/1.mp4.safetensors"
    path.write_bytes(path.read_bytes()[:cut])
    with pytest.raises(OvEncoderError, match=r"1\.mp4\.safetensors"):
        writer.done()


def test_files_of_others_are_left_alone(tmp_path):
    from safetensors.numpy import save_file

    save_file({"w": np.zeros(3)}, tmp_path / "model.safetensors")
    assert SafetensorsWriter(tmp_path).done() == {}


def test_parquet_rows_hold_everything(tmp_path):
    writer, made = ParquetWriter(tmp_path), embedding(1, samples=2)
    writer.write(made)
    assert writer.done() == {}  # in memory: a kill now loses it, and it is done again
    writer.close()
    assert writer.done() == {"/abs/in/1.mp4": "sub/1.mp4"}
    rows = pq.read_table(tmp_path / "part-00000.parquet").to_pylist()
    assert [r["window"] for r in rows] == [0, 1] and [r["tokens"] for r in rows] == [3, 4]
    np.testing.assert_array_equal(np.array(rows[1]["pooled"], np.float32), made.pooled_BD[1])
    np.testing.assert_array_equal(np.array(rows[1]["tokens_ND"], np.float32).reshape(4, 8), made.tokens_ND[3:])
    np.testing.assert_array_equal(np.array(rows[1]["positions_N3"]).reshape(4, 3), made.batch.positions_N3[3:])
    assert json.loads(rows[0]["provenance"]) == {"codec": "h264"} and rows[1]["slot_times"][0] == 10


def test_shards_fill_up_and_a_killed_writer_loses_only_its_last_one(tmp_path, monkeypatch):
    one = sum(v.nbytes for r in outputs._rows(embedding(0)) for v in r.values() if isinstance(v, np.ndarray))
    monkeypatch.setattr(outputs, "SHARD_BYTES", 3 * one)
    writer = ParquetWriter(tmp_path)
    for n in range(8):
        writer.write(embedding(n))
    del writer  # killed: rows 6 and 7 were in memory
    again = ParquetWriter(tmp_path)
    assert sorted(again.done().values()) == [f"sub/{n}.mp4" for n in range(6)]
    for n in (6, 7):
        again.write(embedding(n))
    again.close()
    ids = [r["id"] for p in sorted(tmp_path.glob("*.parquet")) for r in pq.read_table(p).to_pylist()]
    assert sorted(ids) == [f"sub/{n}.mp4" for n in range(8)]
    assert len(list(tmp_path.glob("*.parquet"))) == 3


def test_a_shard_is_written_after_a_while_even_if_small(tmp_path, monkeypatch):
    monkeypatch.setattr(outputs, "SHARD_SECONDS", 0.0)
    ParquetWriter(tmp_path).write(embedding(0))
    assert len(list(tmp_path.glob("*.parquet"))) == 1


def test_a_broken_shard_is_named(tmp_path):
    (tmp_path / "part-00000.parquet").write_bytes(b"PAR1 no")
    with pytest.raises(OvEncoderError, match=r"part-00000\.parquet"):
        ParquetWriter(tmp_path).done()


def test_pooled_only_leaves_tokens_out(tmp_path):
    for writer in (SafetensorsWriter(tmp_path), ParquetWriter(tmp_path)):
        writer.write(embedding(1, tokens=False))
        writer.close()
    with safe_open(tmp_path / "sub/1.mp4.safetensors", "pt") as f:
        assert set(f.keys()) == {"pooled_BD", "lengths_B", "slot_times"}
    assert "tokens_ND" not in pq.read_schema(tmp_path / "part-00000.parquet").names


def test_a_write_that_fails_leaves_the_old_file_whole(tmp_path, monkeypatch):
    path = tmp_path / "x"
    write_atomically(path, b"old")

    def full(fd):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(outputs.os, "fsync", full)
    with pytest.raises(OSError, match="No space"):
        write_atomically(path, b"new")
    assert path.read_bytes() == b"old"
    remove_parts(tmp_path)
    assert [p.name for p in tmp_path.iterdir()] == ["x"]
