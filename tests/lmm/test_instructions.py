"""LLaVA-style files, prepared canvases, and what is wrong with an item."""

import json

import numpy as np
import pytest
from PIL import Image

import ov_encoder as ov
from ov_encoder.lmm.instructions import prepared, read_instructions
from ov_encoder.patchify.exchange import save_mosaics
from tests.lmm.conftest import make


def item(**changes):
    turns = [{"from": "human", "value": "<image>\nWhat?"}, {"from": "gpt", "value": "A cat."}]
    return {"id": 7, "image": "a.png", "conversations": turns} | changes


@pytest.mark.parametrize("name", ["a.json", "a.jsonl"])
def test_both_forms_read_the_same(tmp_path, name, picture):
    Image.fromarray(picture).save(tmp_path / "a.png")
    items = [item(), item(id=8, image=None, video=["b.mp4"])]
    text = json.dumps(items) if name == "a.json" else "\n".join(map(json.dumps, items)) + "\n"
    (tmp_path / name).write_text(text)
    one, two = read_instructions(tmp_path / name)
    assert one.messages == [{"role": "user", "content": "<image>\nWhat?"}, {"role": "assistant", "content": "A cat."}]
    assert (one.id, one.images, two.images, two.videos) == ("7", [tmp_path / "a.png"], [], [tmp_path / "b.mp4"])
    assert one.media()["images"] == [(tmp_path / "a.png").read_bytes()]
    with pytest.raises(ov.OvEncoderError, match=r"b\.mp4: cannot be read: No such file"):
        two.media()


def test_prepared_and_raw_give_the_same_tokens(tmp_path, movie):
    """Canvases written from a batch, as the reference's stage 2 does, are that batch again."""
    _, processor = make(stamps=False)
    raw = processor.see(movie, "video", budget=32)
    assert raw.tokens == 32
    canvases = save_mosaics(raw, tmp_path, canvas=(4, 4))
    (tmp_path / "d.json").write_text(
        json.dumps([item(image=[p.name for p in canvases], positions_thw="positions_thw.npy")])
    )
    (talk,) = read_instructions(tmp_path / "d.json")
    (again,) = talk.media()["images"]
    assert (again.patches_ND == raw.patches_ND).all() and (again.positions_N3 == raw.positions_N3).all()
    from_raw = processor.example(talk.messages, images=[raw])
    assert processor.example(talk.messages, images=[again]).ids_L == from_raw.ids_L


def test_padding_rows_are_left_out_and_tokens_sorted(tmp_path):
    canvas = np.zeros((28, 28, 3), np.uint8)
    canvas[:14, :14], canvas[:14, 14:], canvas[14:, :14] = 10, 20, 30
    Image.fromarray(canvas).save(tmp_path / "c.png")
    np.save(tmp_path / "p.npy", np.array([[3, 0, 1], [0, 2, 2], [0, 0, 5], [-1, -1, -1]], np.int32))
    batch = prepared([tmp_path / "c.png"], tmp_path / "p.npy")
    assert batch.positions_N3.tolist() == [[0, 0, 5], [0, 2, 2], [3, 0, 1]]
    assert batch.patches_ND[:, 0].tolist() == [30, 20, 10]


def test_canvases_and_positions_that_do_not_fit_are_told(tmp_path):
    Image.new("RGB", (28, 28)).save(tmp_path / "c.png")
    np.save(tmp_path / "p.npy", np.zeros((5, 3), np.int32))
    with pytest.raises(ov.OvEncoderError, match=r"p\.npy: holds 5 positions for 1 canvases"):
        prepared([tmp_path / "c.png"], tmp_path / "p.npy")
    np.save(tmp_path / "f.npy", np.zeros((4, 3)))
    with pytest.raises(ov.OvEncoderError, match=r"f\.npy: holds float64 \[4, 3\]; must be whole numbers"):
        prepared([tmp_path / "c.png"], tmp_path / "f.npy")
    (tmp_path / "bad.npy").write_bytes(b"no")
    with pytest.raises(ov.OvEncoderError, match=r"bad\.npy: cannot be read as positions"):
        prepared([tmp_path / "c.png"], tmp_path / "bad.npy")


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("{", "is not JSON"),
        ("{}", "must be a JSON list of conversations, is a dict"),
        ("[3]", "item 1: is a int, must be an object"),
        ('[{"id": 1}]', "item 1: has no 'conversations'"),
        (json.dumps([item(conversations=[{"from": "dog", "value": "x"}])]), "item 1: a turn is from 'dog'; allowed"),
        (json.dumps([item(), item(conversations=[{"from": "gpt", "value": " "}])]), "item 2: a turn of 'gpt' is empty"),
    ],
)
def test_mistakes_are_named_with_their_item(tmp_path, content, message):
    (tmp_path / "a.json").write_text(content)
    with pytest.raises(ov.OvEncoderError, match=message):
        read_instructions(tmp_path / "a.json")
