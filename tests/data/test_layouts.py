"""Layouts on disk: the smallest tree of each format becomes the manifest that its authors mean."""

import json

import pytest

from ov_encoder.data.layouts import read_dataset
from ov_encoder.errors import OvEncoderError


def tree(root, *names):
    for name in names:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_bytes(b"x")
    return root


def rows(manifest):
    return sorted((s.id, s.labels[0] if s.labels else None, s.split) for s in manifest)


def test_a_folder_per_class_with_and_without_splits(tmp_path):
    flat = tree(tmp_path / "flat", "run/a.mp4", "run/b.mp4", "jump/deep/c.png", "notes.csv", ".hidden/x/d.mp4")
    assert rows(read_dataset(flat)) == [
        ("jump/deep/c.png", "jump", ""), ("run/a.mp4", "run", ""), ("run/b.mp4", "run", "")
    ]  # fmt: skip
    split = tree(tmp_path / "split", "train/run/a.mp4", "Val/run/b.mp4", "test/jump/c.mp4")
    found = read_dataset(split)
    assert [(s.labels, s.split) for s in found] == [(("run",), "Val"), (("jump",), "test"), (("run",), "train")]
    assert {s.kind for s in read_dataset(flat)} == {"image", "video"}


def test_a_class_may_be_called_train_when_it_holds_the_files(tmp_path):
    found = read_dataset(tree(tmp_path, "train/a.mp4", "plane/b.mp4"))
    assert [(s.labels, s.split) for s in found] == [(("plane",), ""), (("train",), "")]


def test_ucf101(tmp_path):
    tree(tmp_path, "UCF-101/Archery/v_Archery_g01_c01.avi", "UCF-101/Archery/v_Archery_g08_c01.avi")
    lists = tmp_path / "ucfTrainTestlist"
    lists.mkdir()
    (lists / "trainlist01.txt").write_text("Archery/v_Archery_g08_c01.avi 1\n")
    (lists / "testlist01.txt").write_text("Archery/v_Archery_g01_c01.avi\nArchery/v_Archery_g02_c01.avi\n")
    found = read_dataset(tmp_path)
    assert rows(found) == [
        ("Archery/v_Archery_g01_c01", "Archery", "test"), ("Archery/v_Archery_g08_c01", "Archery", "train")
    ]  # fmt: skip
    assert found.skipped == {"Archery/v_Archery_g02_c01": "named by a split file, but there is no such video"}
    assert found.card["fold"] == 1
    (lists / "testlist01.txt").unlink()
    with pytest.raises(OvEncoderError, match=r"has trainlist01\.txt, but no testlist01\.txt"):
        read_dataset(tmp_path)


def test_hmdb51(tmp_path):
    tree(tmp_path, "videos/wave/a.b_1.avi", "videos/wave/c.avi", "videos/wave/d.avi", "videos/sit/a.b_1.avi")
    for fold, uses in ((1, "120"), (2, "211")):
        (tmp_path / f"wave_test_split{fold}.txt").write_text(
            "".join(f"{n} {u}\n" for n, u in zip(("a.b_1.avi", "c.avi", "d.avi"), uses, strict=True))
        )
        (tmp_path / f"sit_test_split{fold}.txt").write_text("a.b_1.avi 1 \n")
    assert rows(read_dataset(tmp_path)) == [
        ("sit/a.b_1", "sit", "train"), ("wave/a.b_1", "wave", "train"), ("wave/c", "wave", "test")
    ]  # fmt: skip
    assert len(read_dataset(tmp_path, fold=2)) == 4
    paths = {s.id: s.path for s in read_dataset(tmp_path)}
    assert paths["sit/a.b_1"].endswith("sit/a.b_1.avi") and paths["wave/a.b_1"].endswith("wave/a.b_1.avi")


@pytest.mark.parametrize("prefix", ["", "something-something-v2-"])
def test_something_something_v2(tmp_path, prefix):
    tree(tmp_path, "videos/1.webm", "videos/2.webm")
    entry = {"id": "1", "label": "holding a pen", "template": "Holding [something]", "placeholders": ["a pen"]}
    (tmp_path / "labels").mkdir()
    (tmp_path / f"labels/{prefix}train.json").write_text(json.dumps([entry]))
    (tmp_path / f"labels/{prefix}validation.json").write_text(json.dumps([entry | {"id": "2"}, entry | {"id": "3"}]))
    found = read_dataset(tmp_path)
    assert rows(found) == [("1", "Holding something", "train"), ("2", "Holding something", "validation")]
    assert list(found.skipped) == ["3"]


@pytest.mark.parametrize("vocabulary", [True, False])
def test_diving48(tmp_path, vocabulary):
    tree(tmp_path, "rgb/x_0001.mp4", "rgb/x_0002.mp4")
    for split, name, label in (("train", "x_0001", 0), ("test", "x_0002", 1)):
        entry = {"vid_name": name, "label": label, "start_frame": 0, "end_frame": 9}
        (tmp_path / f"Diving48_V2_{split}.json").write_text(json.dumps([entry]))
    if vocabulary:
        (tmp_path / "Diving48_vocab.json").write_text(json.dumps([["Back", "15som", "05Twis", "FREE"], ["Inward"]]))
    names = ("Back_15som_05Twis_FREE", "Inward") if vocabulary else ("00", "01")
    assert rows(read_dataset(tmp_path)) == [("x_0001", names[0], "train"), ("x_0002", names[1], "test")]


def test_kinetics(tmp_path):
    tree(tmp_path, "train/abseiling/-Qz_000010_000020.mp4", "val/zumba/Ab_c.mp4")
    head = "label,youtube_id,time_start,time_end,split\n"
    (tmp_path / "train.csv").write_text(head + "abseiling,-Qz,10,20,train\n")
    (tmp_path / "val.csv").write_text(head + "zumba,Ab_c,3,13,val\nzumba,gone,3,13,val\n")
    found = read_dataset(tmp_path)
    assert rows(found) == [("-Qz_000010_000020", "abseiling", "train"), ("Ab_c_000003_000013", "zumba", "val")]
    assert list(found.skipped) == ["gone_000003_000013"]


def test_a_manifest_goes_first_and_alone_has_columns(tmp_path):
    tree(tmp_path, "run/a.mp4")
    (tmp_path / "labels.csv").write_text("path,label,colour\nrun/a.mp4,x,red\n")
    assert read_dataset(tmp_path, label="colour").samples[0].labels == ("red",)
    assert read_dataset(tmp_path / "labels.csv").samples[0].labels == ("x",)
    (tmp_path / "labels.csv").unlink()
    with pytest.raises(ValueError, match="only be chosen in a manifest"):
        read_dataset(tmp_path, label="colour")


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("trainlist01.txt", "noclass.avi 1\n", r"line 1 is 'noclass.avi 1'"),
        ("wave_test_split1.txt", "a.avi 7\n", r"line 1 is 'a.avi 7'; must be a video and 0, 1 or 2"),
        ("validation.json", "[{]", "cannot be read as JSON"),
        ("Diving48_V2_train.json", '{"a": 1}', "must be a list"),
        ("Diving48_V2_train.json", '[{"vid_name": "a"}]', "entry 0 has no vid_name and label"),
        ("train.csv", "label,youtube_id,time_start,time_end\nx,y,one,2\n", "is none of Kinetics"),
    ],
)
def test_damaged_split_files_are_named(tmp_path, name, text, message):
    tree(tmp_path, "a.avi")
    (tmp_path / name).write_text(text)
    for other in ("testlist01.txt", "train.json", "Diving48_V2_test.json"):
        if other != name:
            (tmp_path / other).write_text("[]" if other.endswith("json") else "")
    if name.startswith("Diving"):
        (tmp_path / "train.json").unlink()
    with pytest.raises(OvEncoderError, match=message):
        read_dataset(tmp_path)


def test_nothing_there(tmp_path):
    with pytest.raises(OvEncoderError, match=r"no manifest .*, no known split files and no media"):
        read_dataset(tmp_path)
    with pytest.raises(OvEncoderError, match="lies in no folder that would name its class"):
        read_dataset(tree(tmp_path / "loose", "a.mp4"))
    (tmp_path / "k").mkdir()
    (tmp_path / "k/train.csv").write_text("label,youtube_id,time_start,time_end,split\nx,y,1,2,train\n")
    with pytest.raises(OvEncoderError, match="looks like kinetics, but not one of its 1 videos is there"):
        read_dataset(tmp_path / "k")
    with pytest.raises(ValueError, match="fold=0"):
        read_dataset(tmp_path, fold=0)
