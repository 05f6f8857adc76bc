"""The bundled model's recipe, small: motion statistics against known motion, manifests, and the whole chain once."""

import json
import shutil
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
from PIL import Image

import ov_encoder as ov
from ov_encoder import bundled
from ov_encoder.cli import main as ov_encoder
from ov_encoder.data.manifest import read_manifest
from ov_encoder.errors import OvEncoderError
from tests import clips

WORDS = ("river|stone", "stone", "river|cloud")


@pytest.fixture(scope="module")
def rendered(tmp_path_factory):
    """What make.py leaves: six clips of two motions, three stamps, three pages, labels.csv and licences."""
    data = tmp_path_factory.mktemp("bundle") / "data"
    rows = ["path,label,split"]
    for name in ("physics", "stamps", "pages"):
        (data / name).mkdir(parents=True)
    for i in range(6):
        if i % 2 == 0:
            scene = clips.moving_object(T=16, H=96, W=96, speed=1.0 + i, radius=14)
        else:
            scene = clips.pan(T=16, H=96, W=96, dx=float(i), with_object=False)
        (data / f"physics/{i}.mp4").write_bytes(clips.encode(scene.frames_THW3, gop=16))
        label = ("motion orbit|still camera", "motion still|pan right")[i % 2]
        rows.append(f"physics/{i}.mp4,{label},{'test' if i > 3 else 'train'}")
    for i in range(3):
        noise = np.random.default_rng(i).integers(0, 256, (60, 60, 3), dtype=np.uint8)
        for name, label in (("stamps", f"thing {'ab'[i % 2]}|family x"), ("pages", WORDS[i])):
            Image.fromarray(noise).resize((140, 140)).save(data / f"{name}/{i}.jpg")
            rows.append(f"{name}/{i}.jpg,{label},train")
    (data / "labels.csv").write_text("\n".join(rows) + "\n")
    licence = {"physics": "own render", "stamps": "GPL-2.0", "pages": "own render; free fonts"}
    (data / "labels.json").write_text(json.dumps({"licence": licence}))
    return data


@pytest.mark.parametrize(
    ("scene", "camera"),
    [
        (clips.pan(T=12, with_object=False), (2.0 / 2.24, 0.75 / 2.24, 0, 0)),
        (clips.zoom(T=12), (0, 0, 50 * (1 - 1 / 1.008), 0)),
        (clips.rotation(T=12), (0, 0, 0, -50 * np.sin(np.deg2rad(0.8)))),
        (clips.static(T=12), (0, 0, 0, 0)),
    ],
    ids=["pan", "zoom", "rotation", "static"],
)
def test_the_camera_is_told_in_percent_of_the_height(scene, camera):
    import motion

    x_D = motion.describe(clips.encode(scene.frames_THW3, gop=12))
    assert x_D.shape == (motion.WIDTH,) and x_D.dtype == np.float32
    for part_C in x_D.reshape(motion.PARTS, -1):
        np.testing.assert_allclose(part_C[:4], camera, atol=0.06)


def test_what_moves_is_told_by_speed_direction_and_place():
    """A disc goes to the right through the upper half: direction 0 and the upper rows of the grid, and only these."""
    import motion

    path_T2 = np.stack([40 + 8.0 * np.arange(12), np.full(12, 50.0)], 1)
    scene = clips.render(12, 224, 224, seed=1, movers=[clips.Mover(path_T2, 26, 2)])
    parts = motion.describe(clips.encode(scene.frames_THW3, gop=12)).reshape(motion.PARTS, -1)[1:]
    for part_C in parts:
        _, speed, directions_D, places = np.split(part_C, np.cumsum(motion.GROUPS)[:-1])
        assert speed > 0.1 and directions_D.argmax() == 0 and directions_D[0] > 3 * directions_D[4]
        places_GG = places.reshape(motion.GRID, motion.GRID) ** 2
        assert places_GG[:2].sum() > 0.8 * places_GG.sum()
    still = motion.describe(clips.encode(clips.static(T=8, H=96, W=96).frames_THW3, gop=8))
    assert still.reshape(motion.PARTS, -1)[1:, 4].max() < 0.02  # (a first P frame may point anywhere alike)


def test_groups_of_columns_weigh_the_same():
    import motion

    x_ND = np.random.default_rng(0).normal(3, 5, (200, motion.WIDTH)).astype(np.float32)
    x_ND[:, 7] = 1.0  # says nothing, and divides by nothing
    squares_D = (motion.standardised(x_ND) ** 2).mean(0)
    assert squares_D[7] == 0
    groups = np.split(squares_D[: sum(motion.GROUPS)], np.cumsum(motion.GROUPS)[:-1])
    assert [g.sum() for g in groups] == pytest.approx([1, 1, 7 / 8, 1], rel=1e-3)


def test_clips_that_cannot_be_read_are_told(rendered, tmp_path):
    import motion

    samples = [s for s in read_manifest(rendered) if s.kind == "video"]
    (tmp_path / "bad.mp4").write_bytes(b"not a video")
    samples.append(type(samples[0])("bad.mp4", str(tmp_path / "bad.mp4"), "video"))
    summary = motion.write_motion_labels(samples, tmp_path / "motion", k=2, top=1)
    assert (summary["samples"], summary["failed"], summary["k"]) == (6, 1, 2)
    rows = pq.read_table(tmp_path / "motion/labels.parquet").to_pylist()
    label = {row["id"]: row["labels"] for row in rows}
    assert {tuple(label[f"physics/{i}.mp4"]) for i in (1, 3, 5)} != {
        tuple(label[f"physics/{i}.mp4"]) for i in (0, 2, 4)
    }
    assert "bad.mp4" in (tmp_path / "motion/statistics/failed-00000.jsonl").read_text()


def test_other_sets_come_with_their_licence(rendered, tmp_path):
    import sets

    extra = tmp_path / "signs"
    extra.mkdir()
    shutil.copy(rendered / "physics/0.mp4", extra / "a.mp4")
    shutil.copy(rendered / "physics/1.mp4", extra / "b.mp4")
    (extra / "labels.csv").write_text("path,label,split\na.mp4,again,sample\nb.mp4,bird,test\n")
    also = sets.parse_also(f"{extra}:video:CC BY 4.0")
    counts = sets.write_sets(rendered, [also], tmp_path / "sets")
    videos = read_manifest(tmp_path / "sets/videos.csv")
    assert [(s.id, s.labels) for s in videos][-1] == ("signs/a.mp4", ("again",)) and counts["videos"] == 7
    assert videos.card["sources"] == {
        "physics": {"samples": 4, "licence": "own render"},
        "signs": {"samples": 1, "licence": "CC BY 4.0"},
    }
    assert counts["images"] == 3 + 2 * 5 and counts["unreadable"] == 0  # stamps, stills of the clips to train on
    still = read_manifest(tmp_path / "sets/images.csv").samples[3]
    assert still.id == "stills/physics/0.mp4_0.jpg" and Image.open(still.path).size == (sets.STILL, sets.STILL)
    probe = read_manifest(tmp_path / "sets/probe.csv")
    assert probe.classes == ["motion orbit", "motion still"] and probe.splits == {"train": 4, "test": 2}
    for wrong in ("signs", "signs:video", "signs:film:MIT", "signs:video: "):
        with pytest.raises(ValueError, match="need DIR:KIND:LICENCE"):
            sets.parse_also(wrong)


def test_the_whole_chain_and_again(rendered, tmp_path, monkeypatch, capsys, caplog):
    """From clips to an encoder that loads by name; a second call does nothing again; other data do not mix in."""
    import run

    data = tmp_path / "data"
    shutil.copytree(rendered, data)
    out = tmp_path / "out"
    common = {"data": data, "teacher": "pixels", "steps": 2, "workers": 1}
    small = {"set": ("batch.samples=8", "loop.workers=0", "loop.log_every=1")}
    assert run.main(out, **common, **small, until="motion") == 0
    assert not (out / "run").exists()
    assert run.main(out, **common, **small) == 0
    said = capsys.readouterr().out
    assert "sets: unchanged" in said and "motion: unchanged" in said and "0 of 9 stages done" in said
    for head in ("video: 4 samples", "motion: 4 samples", "truth: 4 samples, 4 classes", "thing: ", "ocr: 3 samples"):
        assert f"\n{head}" in said, head
    before = (out / "model/model.safetensors").read_bytes()
    assert run.main(out, **common, **small) == 0
    assert "going on from step 2" in capsys.readouterr().out
    assert (out / "model/model.safetensors").read_bytes() == before

    card = (out / "model/README.md").read_text()
    assert "# ov-encoder-tiny" in card and "| images | stamps | 3 | GPL-2.0 |" in card and str(tmp_path) not in card
    assert len(before) < 12_500_000
    installed = tmp_path / "package" / "bundled"
    monkeypatch.setattr(bundled, "__file__", str(installed / "__init__.py"))
    run._install(out / "model")
    assert {p.name for p in (installed / run.NAME).iterdir()} == {p.name for p in (out / "model").iterdir()}
    monkeypatch.setitem(bundled.BUNDLED, run.NAME, bundled.find_bundled(installed)[run.NAME])
    model = ov.load_model(run.NAME)
    assert (model.config.hidden_size, model.config.num_hidden_layers, model.config.rope) == (192, 12, "rotation")
    clip = data / "physics/0.mp4"
    assert ov_encoder(["encode", str(clip), "--model", run.NAME, "-o", str(tmp_path / "e"), "--workers", "1"]) == 0
    assert not [r for r in caplog.records if "untrained" in r.message]

    # packed and taken elsewhere, the same samples give the same weights
    import pack

    travel = tmp_path / "travel"
    assert pack.main(out, travel, largest=1) == 0
    moved, here = (read_manifest(o / "sets/images.csv").samples for o in (travel, out))
    assert [s.id for s in moved] == [s.id for s in here]
    assert [s.source() for s in moved] == [Path(s.path).read_bytes() for s in here]
    assert run.main(travel, **common, **small, since="pretrain") == 0
    assert (travel / "model/model.safetensors").read_bytes() == before

    # a second round starts where the first ended, and leaves the first as it is
    assert run.main(out, **common, **small, rounds=2) == 0
    assert (out / "model-1/model.safetensors").read_bytes() == before != (out / "model/model.safetensors").read_bytes()
    start = json.loads((out / "run-2/run.json").read_text())["options"]["init"]
    assert Path(start) == out / "model-1" and "weights of model-1" in (out / "model/README.md").read_text()

    rows = (data / "labels.csv").read_text().replace("physics/5.mp4,motion still|pan right,test\n", "")
    (data / "labels.csv").write_text(rows)
    with pytest.raises(OvEncoderError, match=r"run: was begun with other data \(sets/videos\.csv"):
        run.main(out, **common, **small)


def test_without_renders_or_renderers_it_says_what_is_missing(tmp_path):
    import run

    with pytest.raises(OvEncoderError, match=r"--renderer-python names another interpreter"):
        run.main(tmp_path / "out", renderer_python="false")


def test_renders_follow_from_their_job_and_are_made_once(tmp_path):
    """Pages, whose packages tests have: the words on a page are its labels, a second call renders nothing."""
    import make
    import pages

    first, again = pages.plan(3), pages.plan(5)[:3]
    assert first == again and all(job.labels == tuple(sorted(job.labels)) for job in first)
    np.testing.assert_array_equal(pages.render(first[0])[0], pages.render(again[0])[0])
    assert not np.array_equal(pages.render(first[0])[0][0, :200, :200], pages.render(first[1])[0][0, :200, :200])
    times = []
    for _ in range(2):
        assert make.main(tmp_path, scale=0.001, sources=("pages",), workers=1) == 0
        times.append({p.name: p.stat().st_mtime_ns for p in (tmp_path / "pages").iterdir()})
    assert times[0] == times[1] and len(times[0]) == 3
    manifest = read_manifest(tmp_path)
    assert [s.labels for s in manifest] == [job.labels for job in first]
    assert "matplotlib" in manifest.card["licence"]["pages"]
