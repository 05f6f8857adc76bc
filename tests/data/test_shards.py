"""Tars: the same samples as the webdataset library reads, by offset; damage is said."""

import io
import json
import tarfile

import pytest
import webdataset

from ov_encoder.data.shards import read_tars
from ov_encoder.errors import OvEncoderError


def make_tar(path, members):
    with tarfile.open(path, "w") as tar:
        for name, data in members.items():
            info = tarfile.TarInfo(name)
            info.size = len(data)
            tar.addfile(info, io.BytesIO(data))
    return path


MEMBERS = {
    "a/0001.jpg": b"jpeg one", "a/0001.cls": b"3\n",
    "a/0002.png": b"png two" * 200, "a/0002.json": json.dumps({"label": "cat"}).encode(),
    "b.v1.mp4": b"mp4 three", "b.json": json.dumps({"labels": ["run", "jump"]}).encode(),
    "c.jpg": b"no label", "notes.md": b"ignored",
}  # fmt: skip


def test_members_become_samples_with_their_labels(tmp_path):
    path = make_tar(tmp_path / "s.tar", MEMBERS)
    manifest = read_tars([path])
    found = {s.id: (s.kind, s.labels, s.source()) for s in manifest}
    assert found == {
        "s.tar/a/0001.jpg": ("image", ("3",), MEMBERS["a/0001.jpg"]),
        "s.tar/a/0002.png": ("image", ("cat",), MEMBERS["a/0002.png"]),
        "s.tar/b.v1.mp4": ("video", ("run", "jump"), MEMBERS["b.v1.mp4"]),
        "s.tar/c.jpg": ("image", (), MEMBERS["c.jpg"]),
    }
    assert not manifest.skipped


def test_the_library_of_the_format_reads_the_same_bytes(tmp_path):
    path = make_tar(tmp_path / "s.tar", {k: v for k, v in MEMBERS.items() if not k.startswith("notes")})
    theirs = {
        value
        for sample in webdataset.WebDataset(str(path), shardshuffle=False)
        for key, value in sample.items()
        if key.rpartition(".")[2] in ("jpg", "png", "mp4")
    }
    assert {s.source() for s in read_tars([path])} == theirs


def test_a_cut_tar_gives_what_is_whole_and_says_so(tmp_path):
    whole = make_tar(tmp_path / "s.tar", MEMBERS).read_bytes()
    for length in (len(whole) - 9000, 3 * 512 + 700, 2600):
        path = tmp_path / "cut.tar"
        path.write_bytes(whole[:length])
        manifest = read_tars([path])
        assert all(s.source() == MEMBERS[s.id.partition("/")[2]] for s in manifest)
        if length < 5000:
            assert "cut off after" in manifest.skipped["cut.tar"] and len(manifest) < 4


def test_what_is_no_tar_is_an_error(tmp_path):
    path = tmp_path / "x.tar"
    path.write_bytes(b"hello" * 500)
    with pytest.raises(OvEncoderError, match=r"x\.tar: cannot be read as an uncompressed tar"):
        read_tars([path])
    with pytest.raises(OvEncoderError, match="holds no image or video"):
        read_tars([make_tar(tmp_path / "y.tar", {"a.txt": b"x"})])
    with pytest.raises(OvEncoderError, match=r"a\.json: cannot be read as the label"):
        read_tars([make_tar(tmp_path / "z.tar", {"a.json": b"{", "a.jpg": b"x"})])
