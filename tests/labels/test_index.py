"""The index: every file once, with facts that other tools confirm; bad files stay, with their reason."""

import csv
import hashlib
import io
import shutil
import tarfile

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from ov_encoder.data.manifest import read_manifest
from ov_encoder.errors import OvEncoderError
from ov_encoder.labels.index import COLUMNS, build_index, list_sources, listing_digest
from ov_encoder.labels.phash import phash
from tests.labels.inline import blocks_inline  # noqa: F401
from tests.labels.media import make_media, picture


@pytest.fixture(scope="module")
def media(tmp_path_factory):
    return make_media(tmp_path_factory.mktemp("index") / "media")


@pytest.fixture(scope="module")
def rows(media, tmp_path_factory):
    out = tmp_path_factory.mktemp("index") / "manifest.parquet"
    counts = build_index([media], out, rows=4)
    assert counts == {"samples": 9, "ok": 6, "bad": 3, "images": 4, "videos": 2}
    return {row["id"]: row for row in pq.read_table(out).to_pylist()}


def test_facts_are_those_of_the_files(rows, media):
    assert list(rows) == sorted(rows) and list(next(iter(rows.values()))) == list(COLUMNS)
    for name, row in rows.items():
        if row["status"] == "ok":
            data = (media / name).read_bytes()
            assert row["bytes"] == len(data) and row["sha256"] == hashlib.sha256(data).hexdigest()
    disc = rows["clips/disc.mp4"]
    assert (disc["kind"], disc["frames"], disc["height"], disc["width"]) == ("video", 12, 96, 128)
    assert disc["duration_s"] == pytest.approx(12 / 25, abs=0.1)
    assert disc["phash"] is None and len(disc["video_hash"]) == 72
    still = rows["a/1.jpg"]
    assert (still["kind"], still["frames"], still["height"], still["width"]) == ("image", 1, 64, 64)
    assert still["video_hash"] is None and still["phash"] == phash(np.asarray(Image.open(media / "a/1.jpg")))


def test_bad_files_are_kept_with_their_reason(rows):
    bad = {name: row["reason"] for name, row in rows.items() if row["status"] == "bad"}
    assert sorted(bad) == ["b/broken.png", "b/text.jpg", "clips/empty.mp4"]
    assert "empty" in bad["clips/empty.mp4"] and "damaged" in bad["b/broken.png"] and "text.jpg" in bad["b/text.jpg"]
    assert all(rows[name]["sha256"] is None for name in bad)


def test_the_manifest_reads_as_every_manifest(rows, media, tmp_path):
    build_index([media], tmp_path / "m.parquet")
    manifest = read_manifest(tmp_path / "m.parquet")
    assert len(manifest) == 6 and len(manifest.skipped) == 3
    assert {s.kind for s in manifest} == {"image", "video"}


def test_blocks_change_nothing_and_a_stopped_run_goes_on(media, tmp_path, monkeypatch):
    build_index([media], tmp_path / "whole.parquet", rows=100)
    from ov_encoder.labels import index

    def stop(*args, **kwargs):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(index, "_merge", stop)
        with pytest.raises(KeyboardInterrupt):
            build_index([media], tmp_path / "m.parquet", rows=2)
    parts = sorted((tmp_path / "m.parquet.parts").glob("part-*"))
    assert len(parts) == 5
    parts[1].unlink()
    untouched = parts[0].stat().st_mtime_ns
    seen = []
    with pytest.raises(ValueError, match=r"rows: 2 there, 3 now"):
        build_index([media], tmp_path / "m.parquet", rows=3)
    build_index([media], tmp_path / "m.parquet", rows=2, progress=lambda t: seen.append((t.number, untouched)))
    assert [number for number, _ in seen] == [1]
    assert pq.read_table(tmp_path / "m.parquet").equals(pq.read_table(tmp_path / "whole.parquet"))
    assert not (tmp_path / "m.parquet.parts").exists()


def test_labels_of_a_manifest_are_kept(media, tmp_path):
    with (tmp_path / "labels.csv").open("w", newline="") as f:
        csv.writer(f).writerows(
            [
                ("path", "label", "split", "colour"),
                (media / "a/0.png", "x|y", "train", "red"),
                ("gone.png", "z", "", ""),
            ]
        )
    build_index([tmp_path], tmp_path / "m.parquet")
    manifest = read_manifest(tmp_path / "m.parquet")
    assert [(s.labels, s.split) for s in manifest] == [(("x", "y"), "train")]
    assert "no such file" in manifest.skipped["gone.png"]
    build_index([tmp_path / "labels.csv"], tmp_path / "m.parquet", label="colour")
    assert read_manifest(tmp_path / "m.parquet").samples[0].labels == ("red",)


def test_classes_of_a_labels_run_are_no_manifest(media, tmp_path):
    """labels.parquet of `label assign` beside a manifest, or beside the media themselves."""
    shutil.copytree(media / "a", tmp_path / "a")
    for folder in (tmp_path, tmp_path / "a"):
        pq.write_table(pa.table({"id": ["a/0.png"], "labels": [[1]]}), folder / "labels.parquet")
    assert [row.id for row in list_sources([tmp_path / "a"])] == ["0.png", "1.jpg"]
    build_index([tmp_path / "a"], tmp_path / "manifest.parquet")
    assert len(read_manifest(tmp_path)) == len(list_sources([tmp_path])) == 2
    with pytest.raises(OvEncoderError, match="has no column 'path'; columns are id, labels"):
        read_manifest(tmp_path / "labels.parquet")


def test_what_is_no_tar_is_a_bad_row(media, tmp_path):
    (tmp_path / "0.tar").write_bytes(b"no tar" * 500)
    pack(tmp_path / "1.tar", media, ["a/0.png"], {"a/0.png": "x|y"})
    build_index([tmp_path], tmp_path / "m.parquet")
    manifest = read_manifest(tmp_path / "m.parquet")
    assert [(s.id, s.labels) for s in manifest] == [("1.tar/a_0.png", ("x y",))]  # one label, not two
    assert "0.tar: cannot be read as an uncompressed tar" in manifest.skipped["0.tar"]


def pack(path, media, names, classes):
    with tarfile.open(path, "w") as tar:
        for name in names:
            tar.add(media / name, name.replace("/", "_"))
            if name in classes:
                info = tarfile.TarInfo(name.replace("/", "_").split(".")[0] + ".cls")
                info.size = len(classes[name])
                tar.addfile(info, io.BytesIO(classes[name].encode()))


def test_members_of_tars_are_samples_with_their_bytes(media, tmp_path, rows):
    shards = tmp_path / "shards"
    shards.mkdir()
    pack(shards / "0.tar", media, ["a/0.png", "b/broken.png"], {"a/0.png": "cat"})
    pack(shards / "1.tar", media, ["clips/disc.mp4"], {})
    counts = build_index([shards], tmp_path / "m.parquet")
    assert counts == {"samples": 3, "ok": 2, "bad": 1, "images": 1, "videos": 1}
    first, second = read_manifest(tmp_path / "m.parquet").samples
    assert (first.id, first.labels, second.id) == ("0.tar/a_0.png", ("cat",), "1.tar/clips_disc.mp4")
    assert (
        first.source() == (media / "a/0.png").read_bytes()
        and second.source() == (media / "clips/disc.mp4").read_bytes()
    )
    assert pq.read_table(tmp_path / "m.parquet")["sha256"][0].as_py() == rows["a/0.png"]["sha256"]


def test_webdataset_reads_the_same_members(media, tmp_path):
    wds = pytest.importorskip("webdataset")
    pack(tmp_path / "0.tar", media, ["a/0.png", "a/1.jpg"], {"a/1.jpg": "7"})
    build_index([tmp_path / "0.tar"], tmp_path / "m.parquet")
    theirs = {s["__key__"]: s for s in wds.WebDataset(str(tmp_path / "0.tar"), shardshuffle=False)}
    for sample in read_manifest(tmp_path / "m.parquet"):
        key, suffix = sample.id.removeprefix("0.tar/").split(".")
        assert theirs[key][suffix] == sample.source()
        assert sample.labels == ((theirs[key]["cls"].decode(),) if "cls" in theirs[key] else ())


@pytest.mark.parametrize("where", ["in a member", "in a header", "between members", "before the end mark"])
def test_a_tar_that_is_cut_off_says_so(media, tmp_path, where):
    pack(tmp_path / "0.tar", media, ["a/0.png", "clips/disc.mp4"], {})
    with tarfile.open(tmp_path / "0.tar") as tar:
        _, second = tar.getmembers()
    end = second.offset_data + -(-second.size // 512) * 512
    places = {"in a member": second.offset_data + 99, "in a header": second.offset + 99}
    cut = places | {"between members": second.offset, "before the end mark": end}
    with (tmp_path / "0.tar").open("rb+") as f:
        f.truncate(cut[where])
    counts = build_index([tmp_path / "0.tar"], tmp_path / "m.parquet")
    assert counts["ok"] == (2 if where == "before the end mark" else 1) and counts["bad"] >= 1
    assert "0.tar: damaged or cut off" in read_manifest(tmp_path / "m.parquet").skipped["0.tar"]


def test_several_sources_keep_their_names_apart(media, tmp_path):
    ids = [row.id for row in list_sources([media / "a", media / "clips"])]
    assert ids[0] == "a/0.png" and ids[-1] == "clips/pan.mp4"
    make_media(tmp_path / "more" / "media")
    with pytest.raises(ValueError, match="two sources are called 'media'"):
        list_sources([media, tmp_path / "more" / "media"])
    with pytest.raises(ValueError, match="no such file or folder"):
        list_sources([tmp_path / "nowhere"])
    with pytest.raises(ValueError, match="no sources"):
        list_sources([])
    (tmp_path / "labels.csv").write_text("path\nx.png\nx.png\n")
    with pytest.raises(OvEncoderError, match="stands twice"):
        list_sources([tmp_path])


def test_the_digest_sees_every_change(media, tmp_path):
    make_media(tmp_path / "media")
    seen = {listing_digest(list_sources([tmp_path / "media"]))}
    assert listing_digest(list_sources([tmp_path / "media"])) in seen
    (tmp_path / "media/a/0.png").touch()
    seen.add(listing_digest(list_sources([tmp_path / "media"])))
    (tmp_path / "media/a/0.png").unlink()
    seen.add(listing_digest(list_sources([tmp_path / "media"])))
    assert len(seen) == 3


def bits(a: int, b: int) -> int:
    return (a ^ b).bit_count()


def test_perceptual_hash_keeps_what_is_seen():
    for seed in range(20):
        rgb = picture(seed, size=200)
        buffer = io.BytesIO()
        Image.fromarray(rgb).save(buffer, "JPEG", quality=40)
        smaller = np.asarray(Image.open(buffer).resize((90, 90)))
        darker = (rgb * 0.7).astype(np.uint8)
        assert bits(phash(rgb), phash(smaller)) <= 6 and bits(phash(rgb), phash(darker)) <= 6
        assert bits(phash(rgb), phash(picture(seed + 100, size=200))) >= 12
        assert 20 <= phash(rgb).bit_count() <= 40
    assert phash(np.full((50, 40, 3), 90, np.uint8)) == 0
