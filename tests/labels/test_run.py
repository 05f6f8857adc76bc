"""The whole chain on generated media: files that fit together, nothing done twice, everything done when it must be."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
from PIL import Image

from ov_encoder.cli import main
from ov_encoder.errors import OvEncoderError
from ov_encoder.labels.assign import read_labels
from ov_encoder.labels.kmeans import load_centres
from ov_encoder.labels.run import run, write_duplicates
from ov_encoder.labels.run_config import read_config
from ov_encoder.labels.shards import open_features
from tests import clips
from tests.labels.inline import blocks_inline  # noqa: F401
from tests.labels.media import picture

CONFIG = """
out = "out"
workers = 1
[index]
sources = ["media"]
[dedup]
near = false
[features]
teacher = "pixels"
[kmeans]
images = 3
videos = 2
init = "k-means++"
[assign]
top = 2
[report]
clusters = 3
"""
STAGES = [
    "index", "dedup", "image-features", "image-kmeans", "image-assign", "video-features", "video-kmeans",
    "video-assign", "report",
]  # fmt: skip


@pytest.fixture(autouse=True, scope="module")
def one_thread():
    import torch

    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def make(folder: Path) -> Path:
    """Three looks, four pictures of each (noise apart), a copy, a broken file, four clips of two looks; the config."""
    media = folder / "media"
    media.mkdir()
    lines = ["path,label"]
    for look in range(3):
        for i in range(4):
            noise = np.random.default_rng([look, i]).integers(-25, 25, (64, 64, 3))
            name = f"{look}{i}.png"
            Image.fromarray(np.clip(picture(look) + noise, 0, 255).astype(np.uint8)).save(media / name)
            lines.append(f"{name},look{look}")
    shutil.copy(media / "00.png", media / "copy.png")
    (media / "broken.png").write_text("no picture")
    for look, scene in enumerate((clips.moving_object(T=9, H=64, W=64, radius=9), clips.pan(T=9, H=64, W=64))):
        for i in range(2):
            (media / f"{look}{i}.mp4").write_bytes(clips.encode(scene.frames_THW3[i:], gop=6))
            lines.append(f"{look}{i}.mp4,move{look}")
    (media / "labels.csv").write_text("\n".join([*lines, "copy.png,look0", "broken.png,look1"]) + "\n")
    (folder / "label.toml").write_text(CONFIG)
    return folder / "label.toml"


@pytest.fixture(scope="module")
def done(tmp_path_factory):
    config = make(tmp_path_factory.mktemp("run"))
    return config, run(read_config(config))


def rerun(config: Path, **changes: str) -> list[str]:
    """The stages that a run with a changed file does."""
    text = config.read_text()
    for before, after in changes.items():
        assert before in text
        text = text.replace(before, after)
    config.write_text(text)
    return [name for name, state in run(read_config(config)).items() if state != "unchanged"]


def test_all_stages_are_done_and_their_files_fit(done):
    config, states = done
    out = config.parent / "out"
    assert list(states) == STAGES and set(states.values()) == {"not done yet"}
    rows = pq.read_table(out / "manifest.parquet").to_pylist()
    assert [r["id"] for r in rows if r["status"] == "bad"] == ["broken.png"]
    assert {r["id"]: r["representative"] for r in pq.read_table(out / "duplicates.parquet").to_pylist()}[
        "copy.png"
    ] == ("00.png")
    for kind, count, k in (("image", 12, 3), ("video", 4, 2)):
        ids, label_NT, similarity_NT = read_labels(out / kind / "labels.parquet")
        features, centres = open_features(out / kind / "features"), load_centres(out / kind / "centres.npz")
        assert ids == features.ids().to_pylist() and label_NT.shape == (count, 2) and len(centres) == k
        cosine_NK = features.read(0, count) @ centres.centres_KD.T
        assert (label_NT == np.argsort(-cosine_NK, axis=1)[:, :2]).all()
        np.testing.assert_allclose(similarity_NT, np.sort(cosine_NK, axis=1)[:, :-3:-1], atol=2e-3)
        listed = np.load(out / kind / "inverted.npz")
        for c in range(k):
            rows_n = listed["rows"][listed["starts"][c] : listed["starts"][c + 1]]
            assert (rows_n == np.flatnonzero((label_NT == c).any(1))).all()


def test_the_report_compares_with_raw_pixels(done):
    config, _ = done
    report = json.loads((config.parent / "out/report/report.json").read_text())
    assert (report["samples"], report["bad"], report["kept"]) == (17, 1, 16)
    for kind in ("image", "video"):
        assert report[kind]["purity"] == report[kind]["pixels"]["purity"] == 1.0  # the teacher is raw pixels here
        with Image.open(config.parent / "out/report" / kind / "clusters.png") as sheet:
            assert sheet.width > 200


def test_nothing_is_done_twice(done):
    config, _ = done
    out = config.parent / "out"
    before = {p: p.stat().st_mtime_ns for p in out.rglob("*") if p.is_file()}
    assert rerun(config) == []
    after = {p: p.stat().st_mtime_ns for p in out.rglob("*") if p.is_file()}
    assert {p for p in after if before.get(p) != after[p]} <= {out / ".lock"}


def test_what_changes_is_done_again_with_all_that_follows(tmp_path):
    config = make(tmp_path)
    run(read_config(config))
    media, out = tmp_path / "media", tmp_path / "out"
    assert rerun(config, **{"videos = 2": "videos = 1\nseed = 0", "top = 2": "top = 1"}) == [
        "image-assign", "video-kmeans", "video-assign", "report",
    ]  # fmt: skip
    config.write_text(CONFIG.replace("videos = 2", "videos = 0").replace("top = 2", "top = 1"))
    assert rerun(config) == ["report"]
    (media / "00.png").touch()  # looked at again, and found to be the same
    assert rerun(config) == ["index"]
    Image.fromarray(picture(0)).save(media / "00.png")
    assert rerun(config)[:4] == ["index", "dedup", "image-features", "image-kmeans"]
    (out / "image/labels.parquet").unlink()
    assert rerun(config)[0] == "image-assign"
    assert len(read_labels(out / "image/labels.parquet")[0]) == 13  # copy.png stands for itself now


def test_a_killed_run_goes_on(tmp_path, done):
    """Killed as soon as the first shard of features is there, while its workers write the next ones."""
    config = make(tmp_path)
    code = (
        "from ov_encoder.labels import features\n"
        "import ov_encoder.labels.run as r\n"
        "from ov_encoder.labels.run_config import read_config\n"
        "def dying(*a, progress, **k):\n"
        "    def die(tally):\n"
        "        import os, signal; os.kill(os.getpid(), signal.SIGKILL)\n"
        "    return features.extract_features(*a, progress=die, **k | {'rows': 4})\n"
        "r.extract_features = dying\n"
        f"if __name__ == '__main__': r.run(read_config({str(config)!r}))\n"
    )
    script = tmp_path / "dying.py"
    script.write_text(code)
    ended = subprocess.run([sys.executable, str(script)], env=os.environ | {"OMP_NUM_THREADS": "1"}, check=False)
    assert ended.returncode == -9
    folder = tmp_path / "out/image/features"
    # A worker can end between a shard and its index: such a shard is not whole, and is rightly written again.
    whole = [p.with_suffix(".npy") for p in folder.glob("features-*.parquet")]
    shards = {p: p.stat().st_mtime_ns for p in whole}
    assert len(shards) >= 1
    from ov_encoder.labels import run as run_module

    original = run_module.extract_features
    try:
        run_module.extract_features = lambda *a, **k: original(*a, **k | {"rows": 4})  # type: ignore[assignment]
        states = run(read_config(config))
    finally:
        run_module.extract_features = original
    assert states["index"] == states["dedup"] == "unchanged" and states["image-features"] == "continues"
    assert all(p.stat().st_mtime_ns == t for p, t in shards.items())
    for kind in ("image", "video"):
        theirs = read_labels(done[0].parent / "out" / kind / "labels.parquet")
        ours = read_labels(tmp_path / "out" / kind / "labels.parquet")
        assert ours[0] == theirs[0] and (ours[1] == theirs[1]).all() and (ours[2] == theirs[2]).all()


def test_two_runs_do_not_write_to_one_folder(done):
    from ov_encoder.data.folder import locked

    config, _ = done
    with locked(config.parent / "out"), pytest.raises(ValueError, match="another job is writing there"):
        run(read_config(config))


def test_the_commands(tmp_path, capsys, done):
    config, _ = done
    media = config.parent / "media"
    made = tmp_path / "made"
    made.mkdir()
    assert main(["label", "run", str(config), "--dry-run"]) == 0
    shown = capsys.readouterr().out
    assert shown.count("skip: unchanged") == len(STAGES) and "in all about 0.0 s" in shown
    assert main(["label", "index", str(media), "-o", str(made / "manifest.parquet"), "--workers", "1"]) == 1
    assert "bad: broken.png: " in capsys.readouterr().out
    duplicates = str(made / "duplicates.parquet")
    assert main(["label", "dedup", str(made / "manifest.parquet"), "-o", duplicates, "--no-near"]) == 0
    assert main([
        "label", "features", str(made / "manifest.parquet"), "-o", str(made / "image/features"), "--kind", "image",
        "--duplicates", duplicates, "--teacher", "pixels", "--workers", "1",
    ]) == 0  # fmt: skip
    assert (
        main(
            [
                "label",
                "kmeans",
                str(made / "image/features"),
                "-o",
                str(made / "image/centres.npz"),
                "--k",
                "3",
                "--init",
                "k-means++",
            ]
        )
        == 0
    )
    assert main(["label", "assign", str(made / "image"), "--top", "2"]) == 0
    assert main(["label", "report", str(made), "--no-pixels", "--workers", "1"]) == 0
    assert "purity" in capsys.readouterr().out
    theirs = read_labels(config.parent / "out/image/labels.parquet")
    assert (read_labels(made / "image/labels.parquet")[1] == theirs[1]).all()


def test_a_dry_run_counts_and_writes_nothing(tmp_path, capsys):
    config = make(tmp_path)
    assert main(["label", "run", str(config), "--dry-run"]) == 0
    shown = capsys.readouterr().out
    assert not (tmp_path / "out").exists()
    for name in STAGES:
        line = next(text for text in shown.splitlines() if text.strip().startswith(name))
        assert "run:" in line and "skip" not in line
    assert "3072-d" in shown and "24576-d" in shown and "in all about" in shown


def test_kmeans_in_two_processes_of_torchrun(tmp_path):
    from ov_encoder.labels.run_kmeans import write_centres
    from ov_encoder.labels.shards import write_shard

    rng = np.random.default_rng(0)
    write_shard(tmp_path / "features", 0, [str(i) for i in range(60)], rng.standard_normal((60, 8)).astype(np.float32))
    for name, processes in (("one", 1), ("two", 2)):
        write_centres(
            tmp_path / "features", tmp_path / name / "centres.npz", k=4, iterations=5, device="cpu", processes=processes
        )
    one, two = (load_centres(tmp_path / name / "centres.npz") for name in ("one", "two"))
    np.testing.assert_array_equal(one.centres_KD, two.centres_KD)
    with pytest.raises(ValueError, match="hierarchical k-means runs in one process"):
        write_centres(tmp_path / "features", tmp_path / "x.npz", k=4, hierarchical=True, processes=2)


@pytest.mark.parametrize(
    ("text", "error", "message"),
    [
        ("", ValueError, "needs 'out'"),
        ("out = ", OvEncoderError, "is not TOML"),
        ('out = "x"\n[index]\nsources = ["a"]', ValueError, "nothing to do: set kmeans.images"),
        ('out = "x"\n[index]\nsources = "a"', ValueError, "sources must be a list of strings, got 'a'"),
        ('out = "x"\n[index]\nsources = []\n[kmeens]\nk = 3', ValueError, "no option 'kmeens'; there are out, index"),
        ('out = "x"\nindex = 3', ValueError, "index must be a table, got 3"),
        ('out = "x"\n[index]\nsources = []\n[kmeans]\nimages = "5"', ValueError, "images must be int, got '5'"),
    ],
)
def test_mistakes_in_the_file_are_named(tmp_path, text, error, message):
    path = tmp_path / "c.toml"
    path.write_text(text)
    with pytest.raises(error, match=message):
        read_config(path)


def test_paths_are_those_of_the_file(tmp_path):
    (tmp_path / "c.toml").write_text('out = "x"\ntimeout = 5\n[index]\nsources = ["a", "/b"]\n[kmeans]\nimages = 4\n')
    config = read_config(tmp_path / "c.toml")
    assert config.out == str(tmp_path / "x") and config.index.sources == (str(tmp_path / "a"), "/b")
    assert config.concepts("image") == 4 and config.concepts("video") == 0 and config.timeout == 5.0


def test_duplicates_of_a_manifest(done, tmp_path):
    config, _ = done
    manifest = config.parent / "out/manifest.parquet"
    assert write_duplicates(manifest, tmp_path / "d.parquet", near=False) == {"samples": 17, "kept": 16, "groups": 1}
    near = write_duplicates(manifest, tmp_path / "e.parquet", radius=8)
    assert near["groups"] == 3 and near["kept"] == 3 + 4  # one of each look, and the clips, which have no such hash
