"""Manifests: what is read is what was written, and every mistake in one is named with its place."""

import csv

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ov_encoder.data.manifest import Sample, kind_of, read_manifest, write_manifest
from ov_encoder.errors import OvEncoderError

words = st.text(st.characters(categories=("L", "N"), include_characters=" _-,\"'é"), min_size=1, max_size=8).map(
    str.strip
)


def write(path, text):
    path.write_text(text, encoding="utf-8")
    return path


def test_rows_become_samples_relative_to_the_file(tmp_path):
    path = write(tmp_path / "m.csv", "path,label,split\na/x.mp4,run|jump,train\n/abs/y.JPG,,test\n")
    write(tmp_path / "m.json", '{"name": "two", "licence": "MIT"}')
    manifest = read_manifest(path)
    assert manifest.samples == [
        Sample("a/x.mp4", str(tmp_path / "a/x.mp4"), "video", ("run", "jump"), "train"),
        Sample("/abs/y.JPG", "/abs/y.JPG", "image", (), "test"),
    ]
    assert manifest.classes == ["jump", "run"] and manifest.card["licence"] == "MIT"
    assert [s.id for s in manifest.split("test")] == ["/abs/y.JPG"]


def test_a_folder_gives_its_manifest_and_any_column_can_be_the_label(tmp_path):
    write(tmp_path / "labels.csv", "path,label,colour\nx.mp4,bin,red\n")
    assert read_manifest(tmp_path, label="colour").samples[0].labels == ("red",)
    with pytest.raises(OvEncoderError, match=r"no column 'shape'; columns are path, label, colour"):
        read_manifest(tmp_path, label="shape")


@given(st.lists(st.tuples(words, st.lists(words, max_size=3), words), max_size=6, unique_by=lambda row: row[0]))
def test_written_manifests_read_back(tmp_path_factory, rows):
    root = tmp_path_factory.mktemp("manifest")
    samples = [
        Sample(name, str(root / f"{i}.mp4"), "video", tuple(x for x in labels if x), split)
        for i, (name, labels, split) in enumerate(rows)
        if name
    ]
    write_manifest(root / "m.csv", samples)
    assert read_manifest(root / "m.csv").samples == samples


def test_parquet_reads_like_csv_and_bad_rows_are_told(tmp_path):
    pa = pytest.importorskip("pyarrow")
    import pyarrow.parquet as pq

    rows = [
        {"id": "a", "path": "a.tar", "kind": "image", "offset": 2, "length": 3, "status": "ok", "reason": ""},
        {"id": "b", "path": "b.mp4", "kind": "video", "offset": None, "length": None, "status": "bad", "reason": "cut"},
    ]
    pq.write_table(pa.Table.from_pylist(rows), tmp_path / "manifest.parquet")
    (tmp_path / "a.tar").write_bytes(b"..abc...")
    manifest = read_manifest(tmp_path)
    assert manifest.samples[0].source() == b"abc" and manifest.skipped == {"b": "cut"}
    (tmp_path / "a.tar").write_bytes(b"..a")
    with pytest.raises(OvEncoderError, match=r"a\.tar: ends within sample 'a' \(1 of 3 bytes from 2\)"):
        manifest.samples[0].source()


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("file,label\nx.mp4,a\n", "has no column 'path'; columns are file, label"),
        ("path,label\n,a\n", "row 2 has no path"),
        ("path\nx.mp4\nx.mp4\n", r"id 'x\.mp4' stands twice, the second time in row 3"),
        ("path,label\nx.mp4\n", "line 2 has another number of columns"),
        ("path,label\nx.mp4,a,b\n", "line 2 has another number of columns"),
    ],
)
def test_mistakes_are_named(tmp_path, text, message):
    with pytest.raises(OvEncoderError, match=message):
        read_manifest(write(tmp_path / "m.csv", text))


def test_missing_manifests_and_splits_are_named(tmp_path):
    with pytest.raises(OvEncoderError, match="no such manifest"):
        read_manifest(tmp_path / "none.csv")
    with pytest.raises(OvEncoderError, match=r"holds none of labels\.csv"):
        read_manifest(tmp_path)
    manifest = read_manifest(write(tmp_path / "m.csv", "path,split\nx.mp4,train\n"))
    with pytest.raises(ValueError, match="no samples in split 'val'; there are train: 1"):
        manifest.split("train", "val")
    with pytest.raises(ValueError, match=r"suffix '\.txt' is no known image or video"):
        kind_of("a.txt")


def test_a_label_with_the_separator_is_refused_and_the_old_file_stays(tmp_path):
    path = tmp_path / "m.csv"
    write_manifest(path, [Sample("a", str(tmp_path / "a.mp4"), "video", ("x",))])
    before = path.read_bytes()
    with pytest.raises(ValueError, match=r"contains .\|."):
        write_manifest(path, [Sample("a", "a.mp4", "video", ("x|y",))])
    assert path.read_bytes() == before
    assert next(csv.reader(path.open()))[0] == "id"
