"""Blocks: each row once, whatever happens to processes; both engines leave the same bytes."""

import os
import shutil
import signal
import time
from dataclasses import dataclass
from pathlib import Path

import pytest

from ov_encoder.errors import OvEncoderError
from ov_encoder.labels.engine import Block, Failed, Tally, cut_blocks, run_block, run_blocks


@dataclass(frozen=True)
class Doing:
    """Squares numbers; what else a row does is said by the row. Each attempt at a row leaves a mark."""

    out: Path

    def rows(self, block):
        return block.rows

    def read(self, row):
        marks = self.out / "marks"
        marks.mkdir(exist_ok=True)
        name, _, what = str(row).partition(":")
        attempt = len(list(marks.glob(f"{name}-*")))
        (marks / f"{name}-{attempt}").touch()
        if what == "bad":
            raise OvEncoderError(f"{name} is bad")
        if what == "bug":
            raise RuntimeError("a mistake of ours")
        if what == "deadly" or (what == "once" and attempt == 0):
            os.kill(os.getpid(), signal.SIGKILL)
        if what == "hang":
            time.sleep(600)
        return int(name)

    def finish(self, found):
        return [number**2 for number in found]

    def write(self, block, rows, found):
        lines = [f.reason if isinstance(f, Failed) else str(f) for f in found]
        (self.out / f"{block.number:03d}.txt").write_text("\n".join(lines))

    def done(self, block):
        return (self.out / f"{block.number:03d}.txt").exists()


ROWS = ["1", "2", "3:bad", "4:once", "5", "6:deadly", "7", "8"]
EXPECTED = ["1\n4\n3 is bad", "16\n25\n", "49\n64"]


def results(folder: Path) -> dict[str, str]:
    return {p.name: p.read_text() for p in sorted(folder.glob("*.txt"))}


def attempts(folder: Path, name: str) -> int:
    return len(list((folder / "marks").glob(f"{name}-*")))


def test_killed_processes_are_replaced_and_nothing_is_doubled(tmp_path):
    tallies: list[Tally] = []
    blocks = cut_blocks(ROWS, 3)
    run_blocks(Doing(tmp_path), blocks, tmp_path, workers=2, timeout_s=30, progress=tallies.append)
    got = results(tmp_path)
    assert got["000.txt"] == EXPECTED[0] and got["002.txt"] == EXPECTED[2]
    assert got["001.txt"].startswith("16\n25\nits process died")
    assert attempts(tmp_path, "4") >= 2 and attempts(tmp_path, "6") == 2 and attempts(tmp_path, "1") == 1
    assert sorted((t.number, t.samples, t.failed) for t in tallies) == [(0, 2, 1), (1, 2, 1), (2, 2, 0)]
    assert not list(tmp_path.glob(".block-*"))


def test_what_is_done_is_not_done_again(tmp_path):
    blocks = cut_blocks(["1", "2", "3"], 1)
    assert run_blocks(Doing(tmp_path), blocks[:2], tmp_path) == (2, 0)
    assert run_blocks(Doing(tmp_path), blocks, tmp_path) == (1, 0)
    assert run_blocks(Doing(tmp_path), blocks, tmp_path) == (0, 0)
    assert [attempts(tmp_path, n) for n in "123"] == [1, 1, 1]


def test_a_hanging_row_is_ended_and_blamed(tmp_path):
    assert run_blocks(Doing(tmp_path), cut_blocks(["1", "2:hang", "3"], 3), tmp_path, timeout_s=3) == (2, 1)
    assert results(tmp_path)["000.txt"].split("\n")[1].endswith("took over 3 s, 2 times")


def test_a_row_that_an_earlier_run_was_killed_at_is_tried_afresh(tmp_path):
    (tmp_path / ".block-000000.at").write_text("start\n0\nstart\n0\n")
    assert run_blocks(Doing(tmp_path), [Block(0, ("5",))], tmp_path) == (1, 0)


def test_only_the_row_in_hand_is_blamed(tmp_path):
    note = tmp_path / ".block-000000.at"
    note.write_text("start\n0\n1\nstart\n0\n1\n2\nstart\n0\nfinish\nstart\n0\n1")  # the last line is torn
    run_block(Doing(tmp_path), Block(0, ("1", "2", "3")), folder=tmp_path, timeout_s=9)
    assert results(tmp_path)["000.txt"] == "1\n4\n9"  # rows 0, 1 and 2 were each in hand once


@dataclass(frozen=True)
class FullDisk(Doing):
    def write(self, block, rows, found):
        raise OSError(28, "No space left on device")


@pytest.mark.parametrize(("kind", "message"), [(Doing, "a mistake of ours"), (FullDisk, "No space left")])
def test_mistakes_and_full_disks_end_the_run_with_the_block_named(tmp_path, kind, message):
    rows = ["9", "1:bug"] if kind is Doing else ["9"]
    with pytest.raises(OvEncoderError, match=rf"block 0: .*{message}"):
        run_blocks(kind(tmp_path), cut_blocks(rows, 5), tmp_path)
    assert not results(tmp_path)


def test_arguments(tmp_path):
    with pytest.raises(ValueError, match="engine is 'spark'; allowed: local, ray"):
        run_blocks(Doing(tmp_path), [], tmp_path, engine="spark")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="workers"):
        run_blocks(Doing(tmp_path), [], tmp_path, workers=0)
    with pytest.raises(ValueError, match="at least 1"):
        cut_blocks([1], 0)


def test_ray_equals_local(tmp_path):
    """One start of Ray for all: kills, bad rows, a manifest, features and labels, byte for byte."""
    pytest.importorskip("ray.data")
    import ray

    from ov_encoder.data.manifest import read_manifest
    from ov_encoder.labels.assigning import write_labels
    from ov_encoder.labels.features import extract_features
    from ov_encoder.labels.index import build_index
    from ov_encoder.labels.kmeans import fit_kmeans
    from ov_encoder.labels.shards import open_features
    from tests.labels.media import make_media

    media = make_media(tmp_path / "media")
    try:
        for engine in ("local", "ray"):
            out = tmp_path / engine
            (out / "doing").mkdir(parents=True)
            run_blocks(Doing(out / "doing"), cut_blocks(ROWS, 3), out / "doing", engine=engine, workers=2)
            build_index([media], out / "m.parquet", engine=engine, workers=2, rows=5)
            images = [s for s in read_manifest(out / "m.parquet") if s.kind == "image"]
            extract_features(images, out / "features", teacher="pixels", engine=engine, workers=2, rows=2)
            fit_kmeans(open_features(out / "features"), k=3, device="cpu").save(tmp_path / "centres.npz")
            shutil.copy(tmp_path / "centres.npz", out)
            write_labels(out, top=2, device="cpu", engine=engine, workers=2, rows=3)
    finally:
        ray.shutdown()
    local, on_ray = ({p.name: p.read_bytes() for p in made(tmp_path / engine)} for engine in ("local", "ray"))
    assert len(local) == 3 + 1 + 4 + 2 and local == on_ray
    assert attempts(tmp_path / "ray" / "doing", "4") >= 2


def made(out: Path) -> list[Path]:
    files = [*(out / "doing").glob("*.txt"), *(out / "features").glob("features*")]
    return [*files, out / "m.parquet", out / "labels.parquet", out / "inverted.npz"]
