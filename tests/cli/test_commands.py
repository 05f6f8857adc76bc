"""The other commands, on real (small) media: what they print and what they leave."""

import json
import re

import av
import numpy as np
import pytest
from PIL import Image

import ov_encoder as ov
from ov_encoder.bundled import BUNDLED
from ov_encoder.cli import main
from ov_encoder.cli.console import sparkline
from ov_encoder.cli.samples import sample_photo, sample_video
from ov_encoder.errors import OvEncoderError
from tests import clips


def test_inspect_prints_facts(clip, capsys):
    assert main(["inspect", str(clip), "--decode"]) == 0
    text = capsys.readouterr().out
    for line in (r"size +128 x 96", r"frames +24 in 0\.96 s, 25 fps", r"key frames +2, every 12 frames",
                 r"frame types +22 P, 2 I", r"signals +bitstream: ", r"residual +native", r"qp +native"):  # fmt: skip
        assert re.search(line, text), line


def test_inspect_json_is_pure_and_agrees_with_the_file(clip, capsys):
    assert main(["inspect", str(clip), "--json", "--decode"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert (found["codec"], found["width"], found["height"], found["frames"]) == ("h264", 128, 96, 24)
    assert found["key_spacing"] == [12, 12, 12] and found["frame_types"] == {"I": 2, "P": 22}
    with av.open(str(clip)) as container:
        bits = sum(8 * p.size for p in container.demux(video=0))
    assert found["kbit_per_s"] == pytest.approx(bits / 0.96 / 1e3)
    assert found["provider"] == "bitstream" and found["signals"]["motion"] == "native"


def test_inspect_says_why_another_codec_is_transcoded(tmp_path, capsys):
    path = tmp_path / "clip.webm"
    path.write_bytes(clips.encode(clips.moving_object(T=6, H=64, W=64).frames_THW3, codec="vp9"))
    main(["inspect", str(path), "--json"])
    found = json.loads(capsys.readouterr().out)
    assert found["provider"] == "transcode" and "vp9" in found["why"] and found["native"] == []


def test_inspect_works_on_an_image(photo, capsys):
    assert main(["inspect", str(photo)]) == 0
    text = capsys.readouterr().out
    assert "80 x 60" in text and "one picture" in text and "bit rate" not in text


def test_inspect_works_on_an_animation(photo, tmp_path, capsys):
    first = Image.open(photo).convert("P")
    first.save(tmp_path / "a.gif", save_all=True, append_images=[first.rotate(180)], duration=100)
    assert main(["inspect", str(tmp_path / "a.gif")]) == 0
    text = capsys.readouterr().out
    assert re.search(r"frames +2 in 0\.20 s, 10 fps", text) and "key frames" not in text and "bit rate" not in text
    assert main(["inspect", str(tmp_path / "a.gif"), "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["kbit_per_s"] is None


def test_inspect_plots(clip, photo, tmp_path, capsys):
    assert main(["inspect", str(clip), "--plot", str(tmp_path / "bits.png")]) == 0
    assert Image.open(tmp_path / "bits.png").size[0] > 1000
    assert main(["inspect", str(photo), "--plot", str(tmp_path / "none.png")]) == 1
    assert "no curve" in capsys.readouterr().err


def test_sparkline_shows_shape():
    assert sparkline([0, 1, 2, 3, 4, 5, 6, 8]) == "▁▂▃▄▅▆▇█"
    assert len(sparkline(list(range(1000)))) == 60 and sparkline([0, 0]) == "▁▁"


@pytest.mark.parametrize("mode", ["codec", "chunk", "collage"])
def test_view_leaves_pictures_a_movie_and_a_page(clip, tmp_path, capsys, mode):
    assert main(["view", str(clip), "-o", str(tmp_path), "--mode", mode, "--budget", "120", "--size", "96"]) == 0
    names = {p.name for p in tmp_path.iterdir()}
    scored = {"disc.mp4.scores.png"} if mode == "codec" else set()
    assert names == {"disc.mp4.kept.png", "disc.mp4.mp4", "disc.mp4.html"} | scored
    text = capsys.readouterr().out
    kept = ov.plan(str(clip), mode=mode, budget=120, size=96).tokens
    assert re.search(rf"kept +{kept} of ", text) and all(f"wrote {tmp_path / n}" in text for n in names)
    data = json.loads(re.search(r'json">(.*?)</script>', (tmp_path / "disc.mp4.html").read_text(), re.S)[1])
    assert data["kept"] == kept
    with av.open(str(tmp_path / "disc.mp4.mp4")) as movie:
        assert sum(1 for _ in movie.decode(video=0)) == data["T"]


def test_view_of_an_image(photo, tmp_path, capsys):
    assert main(["view", str(photo), "-o", str(tmp_path), "--size", "native"]) == 0
    assert {p.name for p in tmp_path.iterdir()} == {"noise.png.kept.png", "noise.png.html"}


def test_demo_on_files_of_ones_own(clip, photo, tmp_path, capsys):
    assert main(["demo", "--out", str(tmp_path), "--video", str(clip), "--image", str(photo)]) == 0
    text = capsys.readouterr().out
    plans = ov.plan(str(clip)), ov.plan(str(photo), size="native")
    tokens = [p.tokens for p in plans]
    assert f"{tokens[0]:,} + {tokens[1]:,} = {sum(tokens):,}" in text and "2 vectors of 192" in text
    assert "untrained" not in text and "bitstream (motion: native, residual: native" in text
    page = (tmp_path / "index.html").read_text()
    assert page.count('class="viewer"') == 2 and page.count("data:image/png") == 1
    for name in ("video.png", "video-scores.png", "video-bits.png", "photo.png"):
        assert np.asarray(Image.open(tmp_path / name)).std() > 5  # not an empty sheet


def test_samples_are_found_or_the_extra_is_named(monkeypatch):
    assert sample_video().stat().st_size > 100_000 and sample_photo().stat().st_size > 100_000
    monkeypatch.setattr("ov_encoder.cli.samples.files", lambda package: None)
    with pytest.raises(OvEncoderError, match=r"pip install 'ov-encoder\[demo\]'"):
        sample_video()


def test_models_lists_every_name_with_its_size(capsys):
    assert main(["models"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert [line.split()[0] for line in lines[1:]] == ov.list_models()
    weights = {line.split()[0]: line.split()[-1] for line in lines[1:]}
    assert weights == {name: "trained" if name in BUNDLED else "untrained" for name in weights} and "5.9 M" in lines[1]


def test_bench_ends_with_json(clip, capsys):
    assert main(["bench", str(clip), "--repeat", "1", "--budget", "60"]) == 0
    found = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert found["frames"] == 24 and found["tokens"] == 60
    assert found["patchify_over_decode"] == pytest.approx(found["patchify_s"] / found["decode_s"], rel=0.05)
    assert found["tokens_per_s"] == pytest.approx(60 / found["encode_s"], rel=0.05)
