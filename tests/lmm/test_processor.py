"""Prompts and media: what the tokens say, and every mistake named with its numbers."""

import io

import numpy as np
import pytest
from PIL import Image

import ov_encoder as ov
from ov_encoder.lmm.config import LMMConfig
from ov_encoder.lmm.media import as_bytes, load
from ov_encoder.lmm.processor import VISION, OVProcessor
from tests.lmm.conftest import make, make_tokenizer


@pytest.fixture(scope="module")
def processor():
    return make()[1]


def test_placeholders_become_as_many_tokens_as_there_are_patches(processor, picture, movie):
    out = processor(["a <image> b", "<video>!"], images=[picture], videos=[movie])
    counts = (out["input_ids"] == processor.vision_id).sum(dim=1).tolist()
    assert counts == out["vision"].lengths_B == [4 * 6, 36]
    assert out["vision"].modes_B == ["image", "codec"]
    assert out["attention_mask"].sum(dim=1).max() == out["input_ids"].shape[1]


def test_the_times_of_slots_stand_before_their_tokens(processor, movie):
    batch = processor.see(movie, "video", mode="chunk", budget=32)
    text = processor.write_vision(batch)
    slots = np.unique(batch.positions_N3[:, 0])
    assert text == "".join(f"<t={batch.slot_times_B[0][t]:.1f}s>{VISION * 16}" for t in slots)


def test_frames_and_codec_mode_take_the_same_budget(processor, movie):
    sizes = {mode: processor.see(movie, "video", mode=mode, budget=32).tokens for mode in ("codec", "chunk")}
    assert sizes == {"codec": 32, "chunk": 32}


@pytest.mark.parametrize("kind", ["png bytes", "PIL", "array", "batch"])
def test_a_picture_is_the_same_whatever_it_comes_as(processor, picture, kind):
    png = io.BytesIO()
    Image.fromarray(picture).save(png, "PNG")
    given = {
        "png bytes": png.getvalue(),
        "PIL": Image.fromarray(picture),
        "array": picture,
        "batch": processor.see(picture, "image"),
    }[kind]
    expected = processor.see(png.getvalue(), "image")
    assert (processor("<image>", images=[given])["vision"].patches_ND == expected.patches_ND).all()


def test_frames_travel_without_loss(movie):
    plan = ov.plan(as_bytes(movie), mode="chunk", frames=8, size="native", budget=1.0)
    assert (plan.frames_THWC == movie).all()
    assert as_bytes([Image.fromarray(f) for f in movie]) == as_bytes(movie)


@pytest.mark.parametrize(
    ("text", "media", "message"),
    [
        ("no picture", {"images": 1}, "0 <image> in the text, but 1 images were given"),
        ("<video><video>", {"videos": 1}, "2 <video> in the text, but 1 videos were given"),
        (["<image>", "a"], {}, r"1 <image> in the text \(1, 0 in the 2 prompts\), but 0 images"),
        (f"<image>{VISION}", {"images": 1}, "reserved for visual tokens"),
    ],
)
def test_mismatches_are_counted(processor, picture, movie, text, media, message):
    items = {"images": [picture], "videos": [movie]}
    with pytest.raises(ValueError, match=message):
        processor(text, **{k: items[k] * n for k, n in media.items()})


def test_a_path_is_never_opened_by_a_prompt(processor, tmp_path, picture):
    path = tmp_path / "a.png"
    Image.fromarray(picture).save(path)
    with pytest.raises(ValueError, match=r"a\.png' is a path; pass its bytes"):
        processor("<image>", images=[path])
    assert processor("<image>", images=[load(path)])["vision"].lengths_B == [24]
    with pytest.raises(ov.OvEncoderError, match=r"none\.png: cannot be read: No such file"):
        load(tmp_path / "none.png")


def test_a_prompt_longer_than_the_context_is_told_with_its_numbers_or_made_to_fit(picture, movie):
    model_context = 40
    processor = OVProcessor(make_tokenizer(), image=make()[1].image, video=make()[1].video, context=model_context)
    with pytest.raises(ValueError, match=r"a prompt has \d+ tokens \(36 of them visual\), the language model takes 40"):
        processor("what? <video>", videos=[movie])
    fitted = processor("<image>", images=[np.repeat(picture, 4, axis=1)], fit=True)
    assert fitted["input_ids"].shape[1] <= model_context
    assert processor("<video>", videos=[movie], fit=True)["input_ids"].shape[1] <= model_context
    with pytest.raises(ValueError, match="leaves no room for media"):
        processor("x" * 50 + "<video>", videos=[movie], fit=True)


def test_merging_chooses_whole_squares_and_divides_the_tokens(picture, movie):
    _, processor = make(merge=2)
    out = processor("<image><video>", images=[picture], videos=[movie])
    assert int((out["input_ids"] == processor.vision_id).sum()) == 24 // 4 + 36 // 4


def test_it_reads_what_it_wrote(tmp_path, picture, movie):
    _, processor = make(merge=2, stamps=False)
    processor.save_pretrained(tmp_path)
    again = OVProcessor.from_pretrained(tmp_path)
    assert (again.lmm, again.image, again.video, again.vision_id) == (
        processor.lmm, processor.image, processor.video, processor.vision_id,
    )  # fmt: skip
    one, two = (p("<video> and <image>", images=[picture], videos=[movie]) for p in (processor, again))
    assert (one["input_ids"] == two["input_ids"]).all()
    (tmp_path / "ov_processor.json").write_text("{")
    with pytest.raises(ov.OvEncoderError, match=r"ov_processor\.json: cannot be read"):
        OVProcessor.from_pretrained(tmp_path)


def test_chats_are_flattened_into_the_models_template(processor):
    talk = [{"role": "user", "content": [{"type": "video"}, {"type": "text", "text": "What?"}]}]
    assert processor.apply_chat_template(talk) == "User: <video>What?\nAssistant:"
    processor.tokenizer.chat_template = "{% for m in messages %}[{{ m.role }}]{{ m.content }}{% endfor %}"
    assert processor.apply_chat_template(talk) == "[user]<video>What?"
    processor.tokenizer.chat_template = None
    with pytest.raises(ValueError, match="part of type 'audio'; allowed: text, image, video"):
        processor.apply_chat_template([{"role": "user", "content": [{"type": "audio"}]}])


@pytest.mark.parametrize(
    ("field", "message"),
    [
        ({"merge": 4}, "merge=4; allowed: 1, 2, 3"),
        ({"projector": "linear"}, "projector='linear'; allowed: mlp, resampler"),
        ({"projector": "resampler", "merge": 2}, "a resampler takes single tokens"),
        ({"queries": 0}, "queries=0; must be at least 1"),
        ({"feature_layer": 1.5}, "feature_layer=1.5; must be a whole number"),
    ],
)
def test_configs_that_cannot_be_are_refused(field, message):
    with pytest.raises(ValueError, match=message):
        LMMConfig(**field)
