"""Shards give back what was written, wherever a read cuts them; damage is named with file and row."""

from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ov_encoder.errors import OvEncoderError
from ov_encoder.labels.shards import ShardWriter, as_vectors, blocks, open_features, write_shard
from tests.labels.shard_files import blobs, shards_of

X = blobs(103, 6, 4)


@pytest.fixture(scope="module")
def features(tmp_path_factory: pytest.TempPathFactory):
    return shards_of(tmp_path_factory.mktemp("features"), X, rows=25)


@given(st.integers(0, 103), st.integers(0, 103), st.integers(1, 40))
def test_reads_equal_the_array(features, a: int, b: int, rows: int) -> None:
    low, high = sorted((a, b))
    assert np.array_equal(features.read(low, high), X[low:high])
    assert features.ids(low, high).to_pylist() == [f"s{i}" for i in range(low, high)]
    read = list(blocks(features, start=low, stop=high, rows=rows))
    assert [first for first, _ in read] == list(range(low, high, rows))
    assert np.array_equal(np.concatenate([x for _, x in read] or [X[:0]]), X[low:high])


@given(st.lists(st.integers(0, 102), max_size=50))
def test_take_equals_the_array(features, rows: list[int]) -> None:
    assert np.array_equal(features.take(np.array(rows, np.int64)), X[rows])


def test_index_is_one_table(features) -> None:
    table = pq.read_table(sorted(features.folder.glob("*.parquet")))
    assert table.num_rows == 103 and table.column_names == ["id", "shard", "row"]
    assert table["shard"].to_pylist()[30] == "features-00001.npy" and table["row"].to_pylist()[30] == 5


def test_writer_goes_on_after_a_kill(tmp_path: Path) -> None:
    writer = ShardWriter(tmp_path, rows=10, dtype=np.float32)
    for i in range(25):  # two shards on disk, five vectors in memory: then the process dies
        writer.add(f"s{i}", X[i])
    np.save(tmp_path / "features-00002.npy", X[:3])  # written, but killed before its index was
    with ShardWriter(tmp_path, rows=10, dtype=np.float32) as again:
        assert again.done == {f"s{i}" for i in range(20)}
        for i in range(40):
            if f"s{i}" not in again.done:
                again.add(f"s{i}", X[i])
    features = open_features(tmp_path, dim=6)
    assert features.ids().to_pylist() == [f"s{i}" for i in range(40)]
    assert np.array_equal(features.read(0, 40), X[:40])
    with pytest.raises(ValueError, match="'s3' was added before"):
        ShardWriter(tmp_path).add("s3", X[3])


def test_same_shard_same_bytes(tmp_path: Path) -> None:
    for folder in ("a", "b"):
        write_shard(tmp_path / folder, 7, ["x", "y"], X[:2].astype(np.float16))
    for suffix in ("npy", "parquet"):
        a, b = (tmp_path / folder / f"features-00007.{suffix}" for folder in ("a", "b"))
        assert a.read_bytes() == b.read_bytes()


def test_truncated_shard(tmp_path: Path) -> None:
    features = shards_of(tmp_path, X, rows=50)
    path = tmp_path / "features-00001.npy"
    path.write_bytes(path.read_bytes()[:700])
    with pytest.raises(OvEncoderError, match=r"features-00001.npy: cut off"):
        open_features(tmp_path)
    with pytest.raises(OvEncoderError, match=r"features-00001.npy: cut off"):
        features.read(0, 60)
    path.unlink()
    with pytest.raises(OvEncoderError, match=r"features-00001.npy: is missing"):
        open_features(tmp_path)


def test_nan_names_shard_row_and_sample(tmp_path: Path) -> None:
    bad = X.copy()
    bad[61, 2] = np.nan
    with pytest.raises(OvEncoderError, match=r"row 61 \(sample 's61'\): holds nan"):
        write_shard(tmp_path, 0, [f"s{i}" for i in range(103)], bad)
    features = shards_of(tmp_path, X, rows=50)
    np.save(tmp_path / "features-00001.npy", bad[50:100])  # damage that came later
    for read in (lambda: features.read(40, 80), lambda: features.take(np.array([3, 61]))):
        with pytest.raises(OvEncoderError, match=r"features-00001.npy, row 11 \(sample 's61'\): holds nan"):
            read()


def test_float16_overflow_is_refused(tmp_path: Path) -> None:
    with pytest.raises(OvEncoderError, match="sample 'a' as float16: holds inf"):
        ShardWriter(tmp_path).add("a", np.array([1e6, 0], np.float32))


def test_damaged_folders(tmp_path: Path) -> None:
    with pytest.raises(OvEncoderError, match="no feature shards"):
        open_features(tmp_path)
    write_shard(tmp_path, 0, ["a", "b"], X[:2])
    with pytest.raises(OvEncoderError, match="vectors of 6 numbers, expected 8"):
        open_features(tmp_path, dim=8)
    write_shard(tmp_path, 1, ["c", "b"], X[2:4])
    with pytest.raises(OvEncoderError, match=r"00001.npy, row 1 \(sample 'b'\): the same id as .*00000.npy, row 1"):
        open_features(tmp_path)
    write_shard(tmp_path, 1, ["c"], X[:1, :5])
    with pytest.raises(OvEncoderError, match=r"00001.npy: vectors of 5 numbers, expected 6"):
        open_features(tmp_path)
    index = tmp_path / "features-00001.parquet"
    np.save(tmp_path / "features-00001.npy", X[:3])
    with pytest.raises(OvEncoderError, match="1 rows for the 3 vectors"):
        open_features(tmp_path)
    rows = {"id": ["c", "d", "e"], "shard": ["features-00001.npy"] * 3, "row": pa.array([0, 2, 1], pa.int32())}
    pq.write_table(pa.table(rows), index)
    with pytest.raises(OvEncoderError, match=r"column row must count 0..2"):
        open_features(tmp_path)
    index.write_bytes(index.read_bytes()[:-9])
    with pytest.raises(OvEncoderError, match="cannot be read as the index"):
        open_features(tmp_path)


def test_wrong_arguments(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="float16 or float32"):
        write_shard(tmp_path, 0, ["a"], X[:1].astype(np.float64))
    with pytest.raises(ValueError, match="2 ids for 1 vectors"):
        write_shard(tmp_path, 0, ["a", "b"], X[:1])
    with pytest.raises(ValueError, match="'a' stands twice"):
        write_shard(tmp_path, 0, ["a", "a"], X[:2])
    with pytest.raises(ValueError, match="float array"):
        as_vectors(np.arange(6).reshape(2, 3))
