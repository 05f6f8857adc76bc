"""Videos by what they look like: copies of another codec, size and rate are found, other movements are not."""

import numpy as np
import pyarrow.parquet as pq
import pytest
from PIL import Image

from ov_encoder.codec.limits import Limits
from ov_encoder.codec.media import inspect
from ov_encoder.errors import OvEncoderError
from ov_encoder.labels import phash
from ov_encoder.labels.dedup import VIDEO_RADIUS, load_duplicates
from ov_encoder.labels.index import build_index
from ov_encoder.labels.phash import WORDS, video_hash
from ov_encoder.labels.run import write_duplicates
from tests import clips
from tests.clips import Mover, path, render
from tests.labels.inline import blocks_inline  # noqa: F401

T, H, W = 32, 96, 128


def moving(phase: float, seed: int = 1, **size: int) -> np.ndarray:
    """A disc on its way before a still wall; `phase` says where it starts, `seed` which wall."""
    return render(T, H, W, seed=seed, movers=[Mover(path(T, H, W, speed=6.0, phase=phase), 16, 2)]).frames_THW3


def resized(frames_THW3: np.ndarray, height: int, width: int) -> np.ndarray:
    return np.stack([np.asarray(Image.fromarray(frame).resize((width, height))) for frame in frames_THW3])


def hash_of(data: bytes) -> bytes | None:
    limits = Limits()
    return video_hash(data, inspect(data, limits=limits), limits=limits)


def bits(a: bytes | None, b: bytes | None) -> int:
    assert a is not None and b is not None and len(a) == len(b) == 8 * WORDS
    return (int.from_bytes(a) ^ int.from_bytes(b)).bit_count()


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """a: a clip and its copies; b: the same wall with another movement; c: another wall; d: nothing moves."""
    folder = tmp_path_factory.mktemp("videos")
    frames = moving(0.0)
    twice = np.repeat(frames, 2, axis=0)  # 50 pictures a second instead of 25
    files = {
        "a.mp4": clips.encode(frames, gop=16),
        "a-coarse.mp4": clips.encode(frames, gop=8, bframes=True, options={"crf": "30"}),
        "a-hevc-small.mp4": clips.encode(resized(frames, 64, 86), codec="hevc"),
        "a-50.mp4": clips.encode(twice, fps=50),
        "b.mp4": clips.encode(moving(2.5), gop=16),
        "b-mpeg4.mp4": clips.encode(moving(2.5), codec="mpeg4"),
        "c.mp4": clips.encode(moving(0.0, seed=5), gop=16),
        "d.mp4": clips.encode(np.repeat(frames[:1], T, axis=0), codec="ffv1", container="matroska"),
    }
    for name, data in files.items():
        (folder / name).write_bytes(data)
    return folder


def test_copies_are_near_and_others_far(folder):
    found = {file.stem: hash_of(file.read_bytes()) for file in sorted(folder.iterdir())}
    for name in ("a-coarse", "a-hevc-small", "a-50"):
        assert bits(found["a"], found[name]) <= VIDEO_RADIUS, name
    assert bits(found["b"], found["b-mpeg4"]) <= VIDEO_RADIUS
    for one, other in (("a", "b"), ("a", "c"), ("b", "c")):
        assert bits(found[one], found[other]) > 2 * VIDEO_RADIUS, (one, other)
    mean = {name: (found[name] or b"")[:8] * WORDS for name in ("a", "b", "c")}
    assert bits(mean["a"], mean["b"]) < bits(mean["a"], mean["c"])  # a and b share the wall
    assert found["d"] is None


def test_the_map_joins_copies_only(folder, tmp_path):
    build_index([folder], tmp_path / "m.parquet")
    assert write_duplicates(tmp_path / "m.parquet", tmp_path / "d.parquet") == {"samples": 8, "kept": 4, "groups": 2}
    found = load_duplicates(tmp_path / "d.parquet")
    stands = dict(zip(found.ids, (found.ids[row] for row in found.keep_N), strict=True))
    # Of equal size the first is kept, and the small copy stands for nobody.
    assert {name for name, kept in stands.items() if kept == "a-50.mp4"} == {n for n in stands if n.startswith("a")}
    assert stands["b.mp4"] == stands["b-mpeg4.mp4"] == "b-mpeg4.mp4" and stands["d.mp4"] == "d.mp4"
    none = write_duplicates(tmp_path / "m.parquet", tmp_path / "d.parquet", near=False)
    assert none == {"samples": 8, "kept": 8, "groups": 0}
    table = pq.read_table(tmp_path / "m.parquet")
    pq.write_table(table.drop_columns(["video_hash"]), tmp_path / "old.parquet")
    with pytest.raises(OvEncoderError, match=r"old.parquet: has no column 'video_hash'; make it \(again\)"):
        write_duplicates(tmp_path / "old.parquet", tmp_path / "d.parquet")


def test_what_is_long_or_ends_early_has_none(folder, monkeypatch):
    data, limits = (folder / "a.mp4").read_bytes(), Limits()
    info = inspect(data, limits=limits)
    assert video_hash(data, info, limits=limits) is not None
    info.frames = 2 * T  # a container that promises too much
    assert video_hash(data, info, limits=limits) is None
    info.frames = T
    monkeypatch.setattr(phash, "LONGEST", T - 1)
    monkeypatch.setattr(phash, "decode", lambda *a, **k: pytest.fail("decoded"))
    assert video_hash(data, info, limits=limits) is None
