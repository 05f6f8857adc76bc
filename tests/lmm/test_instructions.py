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


def reference_assets(folder, *, rows, seed=0):
    """What the reference's stage 2 writes for one video (R 1.7), by plain loops: 8 JPEGs of 36 x 36 cells of 16 pixels,
    each cell of one colour, and positions_thw.npy; selected rows are fewer than cells, so the last one is repeated."""
    rng = np.random.default_rng(seed)
    total = 8 * 36 * 36
    chosen = sorted(rng.choice(64 * 36 * 36, rows, replace=False).tolist())
    positions = [(i // 1296, i % 1296 // 36, i % 36) for i in chosen]
    colours = rng.integers(0, 256, (rows, 3), np.uint8)
    every = [*range(rows), *[rows - 1] * (total - rows)]
    for number in range(8):
        canvas = np.zeros((576, 576, 3), np.uint8)
        for place, row in enumerate(every[number * 1296 : (number + 1) * 1296]):
            y, x = divmod(place, 36)
            canvas[16 * y : 16 * y + 16, 16 * x : 16 * x + 16] = colours[row]
        Image.fromarray(canvas).save(folder / f"clip_{number:03d}.jpg", quality=95)
    np.save(folder / "clip_positions_thw.npy", np.array([positions[row] for row in every], np.int32))
    return positions, colours


def test_assets_of_the_reference_load(tmp_path):
    positions, colours = reference_assets(tmp_path, rows=10_000)
    entry = item(
        image=[f"clip_{i:03d}.jpg" for i in range(8)], positions_thw="clip_positions_thw.npy",
        conversations=[{"from": "human", "value": "<video>\nWhat?"}, {"from": "gpt", "value": "A cat."}],
    )  # fmt: skip
    (tmp_path / "d.json").write_text(json.dumps([entry]))
    (talk,) = read_instructions(tmp_path / "d.json")
    (batch,) = talk.media()["videos"]
    assert batch.positions_N3.tolist() == [list(p) for p in positions]  # repeated rows are left out
    assert batch.modes_B == ["codec"] and batch.patch_size == 14
    inner_N3SS = batch.patches_ND.reshape(-1, 3, 14, 14)[:, :, 4:10, 4:10].astype(int)  # JPEG smears cells' borders
    assert np.abs(inner_N3SS - colours[:, :, None, None]).max() <= 8
    _, processor = make()
    processor.context = 20_000
    ids = processor.example(talk.messages, videos=[batch]).ids_L
    assert ids.count(processor.vision_id) == 10_000
    assert "<t=" not in processor.tokenizer.decode([i for i in ids if i != processor.vision_id])  # times are not known


def test_cells_are_resized_as_pillow_does_each_alone():
    from ov_encoder.lmm.instructions import _resize_cells

    cell = np.random.default_rng(0).integers(90, 160, (16, 16, 3), np.uint8)
    alone = np.asarray(Image.fromarray(cell).resize((14, 14), Image.Resampling.BICUBIC)).astype(int)
    canvas = np.concatenate([cell, np.zeros_like(cell)], axis=1)
    canvas = np.concatenate([canvas, 255 - canvas], axis=0)
    assert np.abs(_resize_cells(canvas, 16, 14)[:14, :14].astype(int) - alone).max() <= 1
    assert (_resize_cells(canvas, 16, 14)[:14, 14:] == 0).all()


def test_prepared_and_raw_videos_train_on_the_same_tokens(tmp_path, movie):
    """Through the stream that training reads, with time stamps: canvases with our meta.json against the video."""
    from ov_encoder.lmm.media import as_bytes
    from ov_encoder.lmm.stream import ConversationStream
    from ov_encoder.lmm.train_config import LMMTrainConfig, SightConfig
    from ov_encoder.train.config import LoopConfig

    _, processor = make()
    sight = SightConfig(video_size=56, frames=6, budget=32, anchors=1)
    (tmp_path / "clip.mkv").write_bytes(as_bytes(movie))
    canvases = save_mosaics(
        processor.see(movie, "video", budget=32, size=(56, 56), frames=6), tmp_path / "clip", canvas=(4, 4)
    )
    turns = [{"from": "human", "value": "<video>\nWhat?"}, {"from": "gpt", "value": "A square."}]
    raw = item(image=None, video="clip.mkv", conversations=turns)
    ready = item(
        image=[f"clip/{p.name}" for p in canvases], positions_thw="clip/positions_thw.npy", conversations=turns
    )
    batches = []
    for name, one in (("raw", raw), ("ready", ready)):
        (tmp_path / f"{name}.json").write_text(json.dumps([one]))
        config = LMMTrainConfig(sight=sight, samples=1, group=1, loop=LoopConfig(workers=0))
        batches.append(next(ConversationStream(read_instructions(tmp_path / f"{name}.json"), processor, config)))
    first, second = (b.inputs for b in batches)
    assert (first["input_ids"] == second["input_ids"]).all() and (first["labels"] == second["labels"]).all()
    assert (first["vision"].patches_ND == second["vision"].patches_ND).all()
    assert (first["vision"].positions_N3 == second["vision"].positions_N3).all()
    assert "<t=0.2s>" in processor.tokenizer.decode(first["input_ids"][0])


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
    np.save(tmp_path / "none.npy", np.full((4, 3), -1))
    with pytest.raises(ov.OvEncoderError, match=r"none\.npy: names 0 slots; must be 1 to"):
        prepared([tmp_path / "c.png"], tmp_path / "none.npy")
    np.save(tmp_path / "far.npy", np.array([[2**31 - 1, 0, 0]] * 4))
    with pytest.raises(ov.OvEncoderError, match=r"far\.npy: names 2147483648 slots; must be 1 to"):
        prepared([tmp_path / "c.png"], tmp_path / "far.npy")
    np.save(tmp_path / "nine.npy", np.zeros((9, 3), np.int32))
    with pytest.raises(ov.OvEncoderError, match=r"c\.png: .* 28 x 28 pixels are not 3 x 3 square cells"):
        prepared([tmp_path / "c.png"], tmp_path / "nine.npy")
    np.save(tmp_path / "p.npy", np.argwhere(np.ones((1, 2, 2))))
    (tmp_path / "meta.json").write_text('{"slot_times": []}')
    with pytest.raises(ov.OvEncoderError, match=r"meta\.json: .* slot_times has 0 entries for 1 slots"):
        prepared([tmp_path / "c.png"], tmp_path / "p.npy")
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
