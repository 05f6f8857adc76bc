"""Sources with labels, sorted into the streams of heads."""

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from ov_encoder.data.training_set import gather, open_samples
from ov_encoder.errors import OvEncoderError

HEADS = {"object": "image", "video": "video"}


def source(path, **more):
    return {"path": str(path), "label": "label", "labels": None, "splits": (), "head": None, **more}


def run(*sources, heads=HEADS, classes=None):
    return gather(sources, heads, classes or dict.fromkeys(heads))


@pytest.fixture
def manifest(tmp_path):
    path = tmp_path / "labels.csv"
    rows = ["path,label,split,colour"]
    rows += [f"{i}.mp4,{'ab'[i % 2]},{'test' if i == 3 else 'train'},{'red' if i else ''}" for i in range(4)]
    rows += ["p.jpg,b,train,blue", "q.jpg,,train,"]
    path.write_text("\n".join(rows) + "\n")
    return path


def test_kinds_go_to_their_heads_and_held_out_splits_stay_out(manifest):
    streams = run(source(manifest))
    assert [s.id for s in streams["video"].samples] == ["0.mp4", "1.mp4", "2.mp4"]
    assert streams["video"].names == ["a", "b"] and streams["video"].labels_SL.tolist() == [[0], [1], [0]]
    assert streams["object"].names == ["b"] and streams["object"].skipped == {"q.jpg": "has no label"}


def test_splits_can_be_named(manifest):
    assert [s.id for s in run(source(manifest, splits=("test", "train")))["video"].samples][-1] == "3.mp4"
    with pytest.raises(ValueError, match="no samples in split 'dev'"):
        run(source(manifest, splits=("dev",)))


def test_columns_join_to_several_labels(manifest):
    samples = open_samples(manifest, label="label+colour").samples
    assert [s.labels for s in samples[:2]] == [("a",), ("b", "colour=red")]
    stream = run(source(manifest, label="label+colour"))["video"]
    assert stream.names == ["a", "b", "colour=red"] and stream.labels_SL.tolist() == [[0, -1], [1, 2], [0, 2]]


def test_class_folders(tmp_path):
    for name in ("cat/1.jpg", "cat/deep/2.jpg", "dog/3.mp4", "4.jpg"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_bytes(b"")
    streams = run(source(tmp_path))
    assert [(s.id, s.labels) for s in streams["object"].samples] == [
        ("cat/1.jpg", ("cat",)),
        ("cat/deep/2.jpg", ("cat",)),
    ]
    assert streams["object"].skipped == {"4.jpg": "has no label"} and streams["video"].names == ["dog"]


def test_numbers_from_a_labels_file(manifest, tmp_path):
    labels = tmp_path / "made.parquet"
    table = pa.table({"id": ["0.mp4", "2.mp4"], "labels": [[5, 1], [7, -1]], "similarity": [[1.0, 0.5], [0.9, 0.1]]})
    pq.write_table(table, labels)
    videos = tmp_path / "videos.csv"
    videos.write_text("".join(line for line in manifest.read_text().splitlines(True) if "jpg" not in line))

    def of(classes):
        return gather([source(videos, labels=str(labels))], {"video": "video"}, {"video": classes})["video"]

    assert of(8).labels_SL.tolist() == [[5, 1], [7, -1]] and of(None).classes == 8
    assert of(8).skipped == {"1.mp4": f"is not in {labels}"}
    with pytest.raises(OvEncoderError, match=r"2\.mp4 has label 7, which is none of its 7 classes"):
        of(7)


def test_labels_twice_are_refused(tmp_path, manifest):
    labels = tmp_path / "made.parquet"
    pq.write_table(pa.table({"id": ["a", "a"], "labels": [[1], [2]]}), labels)
    with pytest.raises(OvEncoderError, match="id 'a' stands twice"):
        run(source(manifest, labels=str(labels)))


def test_what_no_head_wants_is_said(manifest):
    with pytest.raises(ValueError, match="no head takes them"):
        run(source(manifest), heads={"object": "image"})
    with pytest.raises(OvEncoderError, match="head 'ocr' has no labelled sample"):
        run(source(manifest), heads={**HEADS, "ocr": "ocr"})
    with pytest.raises(ValueError, match=r"0\.mp4 is of kind video, head 'object' takes image"):
        run(source(manifest, head="object"))


def test_bad_rows_and_cut_tars_are_not_forgotten(tmp_path):
    rows = ["path,label,status,reason", "a.jpg,x,ok,", "b.jpg,x,bad,cannot be decoded"]
    (tmp_path / "manifest.csv").write_text("\n".join(rows) + "\n")
    stream = run(source(tmp_path), heads={"object": "image"}, classes={"object": None})["object"]
    assert stream.skipped == {"b.jpg": "cannot be decoded"} and len(stream.samples) == 1


def test_labels_are_compact(manifest):
    assert run(source(manifest))["video"].labels_SL.dtype == np.int32


def test_a_head_beside_another_has_its_samples_and_its_own_labels(manifest, tmp_path):
    videos = tmp_path / "videos.csv"
    videos.write_text("".join(line for line in manifest.read_text().splitlines(True) if "jpg" not in line))
    other = tmp_path / "sub" / "other.csv"  # another manifest, other ids, other order; the same files
    other.parent.mkdir()
    other.write_text("id,path,label\nz,../2.mp4,fast|far\ny,../gone.mp4,slow\nx,../0.mp4,slow\n")
    heads = {"video": "video", "speed": "video"}
    sources = (source(videos, head="video"), source(other, head="speed"))
    streams = gather(sources, heads, dict.fromkeys(heads), beside={"speed": "video"})
    assert [s.id for s in streams["speed"].samples] == ["0.mp4", "1.mp4", "2.mp4"]
    assert streams["speed"].names == ["far", "fast", "slow"]
    assert streams["speed"].labels_SL.tolist() == [[2, -1], [-1, -1], [1, 0]]
    other.write_text("path,label\nelsewhere.mp4,slow\n")
    with pytest.raises(OvEncoderError, match="'speed' shares no sample"):
        gather(sources, heads, dict.fromkeys(heads), beside={"speed": "video"})
