"""The feature cache: what is read is what was encoded; nothing is mixed, doubled, half-written or replaced."""

import errno
import json
import os
import random
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from ov_encoder.errors import OvEncoderError
from ov_encoder.evaluate import extract as extract_file
from ov_encoder.evaluate.extract import extract, shard_of_environment
from ov_encoder.evaluate.features import BLOCK, FeatureCache, cache_folder
from tests.evaluate.toy import Toy, make_files, read, samples_of

ROOT = Path(__file__).parents[2]
COUNT = 2 * BLOCK + 5


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    """Samples of three blocks, one of them unreadable, one missing, one whose features are NaN."""
    folder = tmp_path_factory.mktemp("files")
    samples = make_files(folder, COUNT)
    (folder / "003.mp4").write_bytes(b"bad: cut off")
    (folder / "040.mp4").unlink()
    (folder / "041.mp4").write_bytes(b"nan")
    return samples


@pytest.fixture(scope="module")
def cache(files, tmp_path_factory):
    return extract(Toy(), files, tmp_path_factory.mktemp("cache"))


def content(folder):
    """Every published file but the timings."""
    kept = [p for p in Path(folder).rglob("*") if p.is_file() and p.parent.name not in ("timings",)]
    return {str(p.relative_to(folder)): p.read_bytes() for p in kept if "working" not in p.parts}


def run_toy(folder, cache, shard="0/1", ops=0):
    command = [sys.executable, "-m", "tests.evaluate.toy", str(folder), str(cache), shard, str(ops)]
    return subprocess.Popen(command, cwd=ROOT, env={**os.environ, "OMP_NUM_THREADS": "1"}, stderr=subprocess.PIPE)


def test_what_is_read_is_what_was_encoded(files, cache):
    good = [s for s in files if s.id not in cache.failures]
    assert cache.ids == [s.id for s in good]  # each once, in order
    assert cache.has_tokens and cache.width == 8
    company = {}
    for block in range(3):  # groups of three, cut block by block
        members = [s for s in good if int(s.id[:3]) // BLOCK == block]
        raw = {s.id: read(s, 1.0) for s in members}
        members += [s for s in files if s.id == "041.mp4" and block == 1]  # read and encoded, then refused
        members.sort(key=lambda s: s.id)
        for a in range(0, len(members), 3):
            group = members[a : a + 3]
            total = sum(len(read(s, 1.0)) for s in group)
            company |= {s.id: np.float32(raw[s.id] + 0.001 * total) for s in group if s.id in raw}
    for name in cache.ids:
        wanted = torch.from_numpy(company[name])
        assert torch.equal(cache.tokens(name), wanted.bfloat16())
        assert torch.allclose(cache.pooled([name])[0], wanted.mean(dim=0), atol=1e-6)
    assert cache.lengths(cache.ids) == [len(company[name]) for name in cache.ids]
    assert cache.pooled([]).shape == (0, 8)
    costs = cache.costs()
    assert costs["tokens"] == pytest.approx(np.mean(cache.lengths(cache.ids)))
    assert costs["gflop"] == pytest.approx(100 * costs["tokens"] / 1e9) and costs["read_peak_mb"] > 1


def test_failures_are_named_and_never_replaced(cache):
    assert cache.failures == {
        "003.mp4": "error: 003.mp4: bad: cut off",
        "040.mp4": "error: 040.mp4: bad: no such file",
        "041.mp4": "error: the network gave features that are not finite",
    }
    assert len(cache.ids) + len(cache.failures) == COUNT


def test_a_finished_cache_is_not_made_again(files, cache):
    toy, before = Toy(), content(cache.folder)
    seen = []
    extract(toy, files, cache.folder, watch=lambda p: seen.append((p.before, p.done, p.total)))
    assert toy.encoded == 0 and seen == [(COUNT, COUNT, COUNT)]
    assert content(cache.folder) == before


def test_without_tokens(files, tmp_path):
    found = extract(Toy(tokens=False), files[:3], tmp_path)
    assert not found.has_tokens and found.costs()["tokens"] > 1
    with pytest.raises(ValueError, match="this cache has no tokens"):
        found.tokens("000.mp4")


def test_only_the_block_of_a_changed_file_is_made_again(tmp_path):
    samples = make_files(tmp_path / "files", COUNT)
    first = extract(Toy(), samples, tmp_path / "cache")
    blocks = sorted((tmp_path / "cache/blocks").iterdir())
    stamps = [p.stat().st_mtime_ns for p in blocks]
    (tmp_path / "files/035.mp4").write_bytes(b"another, longer file")
    toy = Toy()
    again = extract(toy, samples, tmp_path / "cache")
    assert toy.encoded == BLOCK
    assert [p.stat().st_mtime_ns == s for p, s in zip(blocks, stamps, strict=True)] == [True, False, True]
    changed = [n for n in first.ids if not torch.equal(first.tokens(n), again.tokens(n))]
    assert "035.mp4" in changed and all(BLOCK <= int(n[:3]) < 2 * BLOCK for n in changed)
    assert content(tmp_path / "cache") == content(extract(Toy(), samples, tmp_path / "fresh").folder)


def test_fewer_samples_leave_nothing_of_the_longer_list(tmp_path):
    samples = make_files(tmp_path / "files", COUNT)
    extract(Toy(), samples, tmp_path / "cache")
    extract(Toy(), samples[:BLOCK], tmp_path / "cache")
    assert content(tmp_path / "cache") == content(extract(Toy(), samples[:BLOCK], tmp_path / "fresh").folder)


def test_crashes_are_tried_again_but_errors_wait_for_another_file(tmp_path):
    samples = make_files(tmp_path / "files", 3)
    (tmp_path / "files/001.mp4").write_bytes(b"crash")
    first = extract(Toy(), samples, tmp_path / "cache")
    assert first.failures == {"001.mp4": "crash: worker process ended by itself with exit code 3"}
    toy = Toy()
    extract(toy, samples, tmp_path / "cache")
    assert toy.encoded == 2
    (tmp_path / "files/001.mp4").write_bytes(b"good")
    assert extract(Toy(), samples, tmp_path / "cache").failures == {}


def test_other_options_never_share_a_folder(files, cache, tmp_path):
    with pytest.raises(ValueError, match=r"other options \(scale: 1\.0 there, 2\.0 now\)"):
        extract(Toy(scale=2.0), files, cache.folder)
    folders = {
        cache_folder(tmp_path, toy, data)
        for toy in (Toy(), Toy(scale=2.0), Toy(tokens=False), Toy(name="other/name"))
        for data in ("a.csv", "b.csv")
    }
    assert len(folders) == 8 and all(f.parent == tmp_path for f in folders)
    assert cache_folder(tmp_path, Toy(), "a.csv") == cache_folder(tmp_path, Toy(), Path.cwd() / "a.csv")


def test_killed_again_and_again_the_cache_equals_an_uninterrupted_one(files, cache, tmp_path):
    folder, mine = Path(files[0].path).parent, tmp_path / "cache"
    everything = [f for f in files if Path(f.path).exists()]  # the program finds its samples on the disk
    wanted = content(extract(Toy(), everything, tmp_path / "whole").folder)
    dice = random.Random(0)
    # run.json is 2 writes and a rename, each block with its timings 8, the index 4
    for ops in [dice.randint(1, 4), *(dice.randint(3, 14) for _ in range(2))]:
        run = run_toy(folder, mine, ops=ops)
        assert run.wait(60) == -signal.SIGKILL, run.stderr.read()
        with pytest.raises(OvEncoderError, match="no finished feature cache"):
            FeatureCache.open(mine)
    late = run_toy(folder, mine)
    try:
        late.wait(dice.uniform(0.5, 1.5))
        assert late.returncode == 0
    except subprocess.TimeoutExpired:
        late.kill()
    late.wait()
    assert extract(Toy(), everything, mine) is not None
    assert content(mine) == wanted
    assert not [p for p in mine.rglob("*") if p.name.endswith(".part")]


@pytest.mark.parametrize("n", [2, 3])
def test_shards_merge_into_the_same_cache(files, cache, tmp_path, n):
    for i in range(n - 1):
        toy = Toy()
        assert extract(toy, files, tmp_path, shard=(i, n)) is None
    with pytest.raises(OvEncoderError, match="no finished feature cache"):
        FeatureCache.open(tmp_path)
    merged = extract(Toy(), files, tmp_path, shard=(n - 1, n))
    assert content(tmp_path) == content(cache.folder)
    assert merged.ids == cache.ids and merged.failures == cache.failures


def test_more_shards_than_blocks(files, cache, tmp_path):
    found = [extract(Toy(), files, tmp_path, shard=(i, 5)) for i in range(5)]
    assert [f is None for f in found] == [True, True, False, False, False]
    assert content(tmp_path) == content(cache.folder)


def test_shards_at_the_same_time(files, cache, tmp_path):
    folder = Path(files[0].path).parent
    runs = [run_toy(folder, tmp_path / "cache", f"{i}/2") for i in range(2)]
    for run in runs:
        assert run.wait(60) == 0, run.stderr.read()
    everything = [f for f in files if Path(f.path).exists()]
    assert content(tmp_path / "cache") == content(extract(Toy(), everything, tmp_path / "whole").folder)


def test_torchrun_names_the_shard(monkeypatch):
    assert shard_of_environment() == (0, 1)
    monkeypatch.setenv("RANK", "2")
    monkeypatch.setenv("WORLD_SIZE", "3")
    assert shard_of_environment() == (2, 3)


def test_a_full_disk_is_said_and_the_work_goes_on_later(files, cache, tmp_path, monkeypatch):
    real, left = extract_file.write_atomically, [3]

    def full(path, data):
        left[0] -= 1
        if left[0] < 0:
            path.write_bytes(data[:10])
            raise OSError(errno.ENOSPC, "No space left on device")
        real(path, data)

    monkeypatch.setattr(extract_file, "write_atomically", full)
    with pytest.raises(OvEncoderError, match="the disk is full; free some space and run the same command again"):
        extract(Toy(), files, tmp_path)
    assert len(list((tmp_path / "blocks").iterdir())) == 1
    assert [p.name for p in (tmp_path / "working/0-of-1").iterdir()] == [".lock"]
    monkeypatch.setattr(extract_file, "write_atomically", real)
    toy = Toy()
    extract(toy, files, tmp_path)
    assert toy.encoded == COUNT - BLOCK - 1 and content(tmp_path) == content(cache.folder)


def test_damaged_files_are_named(files, tmp_path):
    extract(Toy(), files[:3], tmp_path)
    block = tmp_path / "blocks/00000.safetensors"
    whole = block.read_bytes()
    block.write_bytes(whole[:-1])
    with pytest.raises(OvEncoderError, match=r"00000\.safetensors: cannot be read as a block"):
        extract(Toy(), files[:3], tmp_path)
    block.write_bytes(whole)
    (tmp_path / "index.parquet").write_bytes(b"PAR1")
    with pytest.raises(OvEncoderError, match="its index cannot be read"):
        FeatureCache.open(tmp_path)
    extract(Toy(), files[:3], tmp_path)
    run = json.loads((tmp_path / "run.json").read_text())
    assert run["options"]["weights"] == "toy weights" and "torch" in run["versions"]


def test_wrong_arguments(files, tmp_path):
    with pytest.raises(ValueError, match="no samples"):
        extract(Toy(), [], tmp_path)
    with pytest.raises(ValueError, match="two samples have one id"):
        extract(Toy(), [files[0], files[0]], tmp_path)
    for shard in ((2, 2), (-1, 2), (0, 0)):
        with pytest.raises(ValueError, match="shard="):
            extract(Toy(), files, tmp_path, shard=shard)
    only_bad = [s for s in files if s.id == "003.mp4"]
    with pytest.raises(OvEncoderError, match=r"not one of 1 samples could be read \(003\.mp4: error: .*cut off"):
        extract(Toy(), only_bad, tmp_path).costs()


def test_a_missing_file_that_comes_back_is_encoded(tmp_path):
    samples = make_files(tmp_path / "files", 3)
    (tmp_path / "files/001.mp4").rename(tmp_path / "aside")
    assert list(extract(Toy(), samples, tmp_path / "cache").failures) == ["001.mp4"]
    (tmp_path / "aside").rename(tmp_path / "files/001.mp4")
    assert extract(Toy(), samples_of(tmp_path / "files"), tmp_path / "cache").failures == {}
