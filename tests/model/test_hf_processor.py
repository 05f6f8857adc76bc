"""The processor: bytes, PIL and arrays to the same pixels, positions of a video, and no file access."""

import builtins
import io

import numpy as np
import pytest
import torch
from PIL import Image

pytest.importorskip("transformers")

from transformers import AutoImageProcessor, AutoProcessor

from ov_encoder.errors import OvEncoderError
from ov_encoder.hf import OneVisionEncoderModel, OneVisionEncoderProcessor, from_patch_batch
from ov_encoder.model.encoder import CLIP_MEAN, CLIP_STD
from ov_encoder.model.weights import save_model
from ov_encoder.patchify.batch import PatchBatch
from tests.model.oracle import formula_pixels
from tests.model.samples import make_batch, make_encoder

MEAN, STD = torch.tensor(CLIP_MEAN)[:, None, None], torch.tensor(CLIP_STD)[:, None, None]


def frames(T=3, H=60, W=90):
    return formula_pixels("frames", T, H * W * 3).reshape(T, H, W, 3)


def png(image):
    out = io.BytesIO()
    Image.fromarray(image).save(out, "png")
    return out.getvalue()


def test_bytes_pil_and_arrays_agree():
    process, image = OneVisionEncoderProcessor(size=56), frames()[0]
    ways = [process(images=x).pixel_values for x in (image, [image], png(image), Image.fromarray(image))]
    assert ways[0].shape == (1, 3, 56, 56) and ways[0].dtype == torch.float32
    assert all(torch.equal(w, ways[0]) for w in ways)


def test_pixels_are_normalised_and_cropped_in_the_middle():
    image = frames(H=56, W=84)[0]
    got = OneVisionEncoderProcessor(size=56)(images=image).pixel_values[0]
    want = (torch.from_numpy(image[:, 14:70]).permute(2, 0, 1) / 255 - MEAN) / STD
    torch.testing.assert_close(got, want)


def test_without_crop_sides_are_whole_patches():
    process = OneVisionEncoderProcessor(size=56, do_center_crop=False)
    assert process(images=frames(H=60, W=100)[0]).pixel_values.shape == (1, 3, 56, 98)


@pytest.mark.parametrize(("T", "slots"), [(1, [0]), (2, [0, 63]), (8, list(range(0, 64, 9))), (64, list(range(64)))])
def test_frames_of_a_video_are_spread_over_64_slots(T, slots):
    out = OneVisionEncoderProcessor(size=28)(videos=frames(T, 28, 28))
    assert out.pixel_values.shape == (1, 3, T, 28, 28)
    positions = out.patch_positions[0].reshape(T, 2, 2, 3)
    assert positions[:, 0, 0, 0].tolist() == slots
    assert positions[0, :, :, 1:].tolist() == [[[0, 0], [0, 1]], [[1, 0], [1, 1]]]


def test_videos_as_lists():
    process = OneVisionEncoderProcessor(size=28)
    clip = frames()
    a = process(videos=[clip, clip])
    b = process(videos=[[png(f) for f in clip], [Image.fromarray(f) for f in clip]])
    assert torch.equal(a.pixel_values, b.pixel_values) and a.patch_positions.shape == (2, 12, 3)


def test_output_feeds_the_model(tmp_path):
    save_model(make_encoder(), tmp_path)
    model = OneVisionEncoderModel.from_pretrained(tmp_path)
    out = model(**OneVisionEncoderProcessor(size=28)(videos=frames()))
    assert out.last_hidden_state.shape == (1, 12, 128)


def test_round_trip_and_auto_classes(tmp_path):
    process = OneVisionEncoderProcessor(size=70, crop_size=56, slots=32, image_mean=(0.5, 0.5, 0.5))
    process.save_pretrained(tmp_path)
    save_model(make_encoder(), tmp_path)
    for cls in (OneVisionEncoderProcessor, AutoImageProcessor, AutoProcessor):
        again = cls.from_pretrained(tmp_path)
        assert type(again) is OneVisionEncoderProcessor and again.to_dict() == process.to_dict()
        assert torch.equal(again(images=frames()[0]).pixel_values, process(images=frames()[0]).pixel_values)


def test_config_of_the_released_processor():
    """A CLIP-style preprocessor_config.json, as released checkpoints carry it."""
    process = OneVisionEncoderProcessor(
        size={"shortest_edge": 448}, crop_size={"height": 448, "width": 448}, do_resize=True, do_normalize=True,
        do_rescale=True, do_convert_rgb=True, resample=3, rescale_factor=1 / 255, patch_size=14,
    )  # fmt: skip
    assert (process.size, process.crop_size) == (448, 448)


def test_opens_nothing(monkeypatch):
    process = OneVisionEncoderProcessor(size=28)
    picture = png(frames()[0])

    def forbidden(*args, **kwargs):
        raise AssertionError(f"opened {args}")

    monkeypatch.setattr(builtins, "open", forbidden)
    process(images=picture)
    for text in ("picture.png", ["http://host/picture.png"]):
        with pytest.raises(ValueError, match="must be bytes, a PIL image or a uint8 array, got str"):
            process(images=text)


@pytest.mark.parametrize(
    ("settings", "says"),
    [
        ({"size": 50}, "crop_size is 50; must be a multiple of 14"),
        ({"size": 28, "crop_size": 56}, "at most size, 28"),
        ({"size": {"height": 28, "width": 56}}, "must be one positive number"),
        ({"do_normalize": False}, "do_normalize must be True"),
        ({"resample": 2}, "resample must be 3"),
    ],
)
def test_wrong_settings(settings, says):
    with pytest.raises(ValueError, match=says):
        OneVisionEncoderProcessor(**settings)


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        ({}, "either images or videos"),
        ({"images": frames()[0], "videos": frames()}, "either images or videos"),
        ({"images": frames()[0].astype(np.float32)}, "must be uint8"),
        ({"images": []}, "got none"),
        ({"videos": frames(65, 28, 28)}, "65 frames for 64 slots"),
        ({"videos": [frames(2), frames(3)]}, "must have one shape"),
    ],
)
def test_wrong_inputs(arguments, says):
    with pytest.raises(ValueError, match=says):
        OneVisionEncoderProcessor(size=28)(**arguments)


def test_bytes_that_are_no_picture():
    with pytest.raises(OvEncoderError, match="6 bytes given as an image"):
        OneVisionEncoderProcessor()(images=b"RIFF??")


@pytest.mark.parametrize("lengths", [[32, 32], [7, 7, 7]])
def test_patch_batch_for_transformers_equals_the_packed_forward(lengths, tmp_path):
    """Whole fake frames (32 = 2 x 4 x 4) and one patch a frame (7): both equal the packed encoder."""
    encoder, batch = make_encoder(rope="reference"), make_batch(lengths)
    batch = PatchBatch.from_arrays(
        patches_ND=batch.patches_ND,
        positions_N3=batch.positions_N3,
        lengths_B=lengths,
        grids_B=[(64, 4, 4)] * len(lengths),
    )
    save_model(encoder, tmp_path)
    inputs = from_patch_batch(batch)
    assert inputs.pixel_values.shape[2:] == ((2, 56, 56) if lengths[0] == 32 else (7, 14, 14))
    with torch.inference_mode():
        theirs, ours = OneVisionEncoderModel.from_pretrained(tmp_path)(**inputs), encoder(batch)
    torch.testing.assert_close(theirs.last_hidden_state.flatten(0, 1), ours.tokens_ND, atol=1e-5, rtol=0)
    torch.testing.assert_close(theirs.pooler_output, ours.pooled_BD, atol=1e-5, rtol=0)


def test_patch_batch_of_unequal_samples():
    with pytest.raises(ValueError, match=r"same number of tokens, got \[3, 4\]"):
        from_patch_batch(make_batch([3, 4]))
