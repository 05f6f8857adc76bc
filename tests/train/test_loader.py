"""Batches: mixed and packed, the same however they are decoded, resumable anywhere; bad samples are left out, with a
reason."""

from dataclasses import replace
from functools import partial

import numpy as np
import pytest
import torch

from ov_encoder.data.training_set import Stream
from ov_encoder.errors import OvEncoderError
from ov_encoder.patchify.batch import pack
from ov_encoder.train.clip import dump_clip, load_clip, read_clip
from ov_encoder.train.config import BatchConfig
from ov_encoder.train.loader import Loader, epochs, make_patches
from ov_encoder.train.pretrain import fresh_encoder, load_streams
from tests.train.small import deadly, small_config


@pytest.fixture
def config(small_set):
    return small_config(small_set)


def loader(config, rank=0, world=1, streams=None):
    return Loader(config, streams or load_streams(config), patch=14, rank=rank, world=world)


def same(a, b):
    return (
        a.ids == b.ids
        and np.array_equal(a.patches.patches_ND, b.patches.patches_ND)
        and np.array_equal(a.patches.positions_N3, b.patches.positions_N3)
        and all(np.array_equal(a.rows[h], b.rows[h]) and np.array_equal(a.labels[h], b.labels[h]) for h in a.rows)
    )


def test_a_batch_mixes_heads_and_modes_and_labels_fit_their_samples(config):
    batches = [batch for batch, _ in zip(loader(config), range(4), strict=False)]
    modes = [mode for batch in batches for mode in batch.patches.modes_B]
    assert modes.count("image") == 12 and modes.count("codec") == 6
    assert modes.count("chunk") + modes.count("collage") == 6
    names = load_streams(config)
    for batch in batches:
        assert sorted([*batch.rows["object"], *batch.rows["video"]]) == list(range(6))
        for head, kind in (("object", ("dark", "light")), ("video", ("slow", "fast"))):
            for row, label in zip(batch.rows[head], batch.labels[head], strict=True):
                wanted = kind[int(batch.ids[row].split(".")[0]) % 2]
                assert names[head].names[label[0]] == wanted
                assert (batch.patches.modes_B[row] == "image") == (head == "object")


def test_workers_give_the_same_batches_as_this_process(config):
    here, there = loader(config), loader(replace(config, loop=replace(config.loop, workers=2, prefetch=4)))
    try:
        for _ in range(3):
            assert same(next(here), next(there))
    finally:
        there.close()


def test_two_processes_together_see_what_one_sees(config):
    one = loader(config)
    two = [loader(config, rank, 2) for rank in range(2)]
    for _ in range(3):
        parts = [next(part) for part in two]
        assert sorted(next(one).ids) == sorted([i for part in parts for i in part.ids])
    again = loader(config)
    again.load_state_dict([part.state_dict() for part in two])
    assert again.used == one.used  # two processes to one: exactly there


@pytest.mark.parametrize("taken", [0, 1, 3])
def test_it_goes_on_exactly_where_it_was(config, taken):
    first = loader(config)
    for _ in range(taken):
        next(first)
    second = loader(config)
    second.load_state_dict([first.state_dict()])
    for _ in range(2):
        assert same(next(first), next(second))


def test_a_token_budget_cuts_batches_short_and_nothing_is_lost(config):
    small = replace(config, batch=BatchConfig(samples=6, tokens=70))
    whole, cut = loader(config), loader(small)
    ids = sorted([i for _ in range(4) for i in next(whole).ids])
    found = []
    while len(found) < len(ids):
        batch = next(cut)
        assert batch.tokens <= 70 or len(batch.ids) == 1
        found += batch.ids
    assert sorted(found[: len(ids)]) == ids


def test_batches_must_divide(config):
    with pytest.raises(ValueError, match=r"batch\.samples=6; need a multiple of 4"):
        loader(config, 0, 4)


def test_bad_samples_are_left_out_with_their_reason(config, tmp_path):
    streams = load_streams(config)
    broken = tmp_path / "broken.mp4"
    broken.write_bytes(b"this is no video")
    samples = list(streams["video"].samples)
    samples[1] = replace(samples[1], id="broken.mp4", path=str(broken))
    streams["video"] = Stream(samples, streams["video"].labels_SL, streams["video"].names)
    for workers in (0, 1):
        found = loader(replace(config, loop=replace(config.loop, workers=workers)), streams=streams)
        skipped, ids = {}, []
        for _ in range(3):
            batch = next(found)
            skipped |= batch.skipped
            ids += batch.ids
        found.close()
        assert set(skipped) == {"broken.mp4"} and "broken.mp4" in skipped["broken.mp4"] and "broken.mp4" not in ids
        assert len(ids) < 18


def test_a_sample_that_kills_its_worker_is_left_out(config):
    found = loader(replace(config, loop=replace(config.loop, workers=1)))
    found._work = lambda: partial(deadly, config=config, patch=14)
    skipped, ids = {}, []
    for _ in range(3):
        batch = next(found)
        skipped |= batch.skipped
        ids += batch.ids
    found.close()
    assert list(skipped) == ["1.mp4"] and "SIGKILL" in skipped["1.mp4"] and "1.mp4" not in ids and len(ids) >= 14


def test_a_mistake_of_ours_ends_the_run(config):
    streams = load_streams(config)
    streams["video"].samples[:] = [replace(s, id="mistake") for s in streams["video"].samples]
    found = loader(replace(config, loop=replace(config.loop, workers=1)), streams=streams)
    found._work = lambda: partial(deadly, config=config, patch=14)
    with pytest.raises(RuntimeError, match=r"preparing mistake failed:[\s\S]*KeyError: 'a bug'"):
        next(found)
    found.close()


def test_nothing_but_bad_samples_is_an_error(config, tmp_path):
    streams = load_streams(config)
    for stream in streams.values():
        stream.samples[:] = [
            replace(s, id=f"{i}", path=str(tmp_path / "gone.mp4")) for i, s in enumerate(stream.samples)
        ]
    config = replace(config, cache=None)
    with pytest.raises(OvEncoderError, match=r"in a row cannot be read; the last: .*no such file"):
        next(loader(config, streams=streams))


def test_the_cache_gives_the_same_bits_and_a_damaged_file_is_made_again(config, tmp_path):
    ticket = next(t for t in map(loader(config).ticket, range(9)) if t.mode == "codec")
    cached = replace(config, cache=str(tmp_path / "cache"))
    plain = make_patches(ticket, config=replace(config, cache=None), patch=14)
    for _ in range(2):  # writes it, reads it
        found = make_patches(ticket, config=cached, patch=14)
        assert np.array_equal(found.patches_ND, plain.patches_ND) and np.array_equal(
            found.scores_N, plain.scores_N, True
        )
    (file,) = (tmp_path / "cache").rglob("*.safetensors")
    whole = file.read_bytes()
    file.write_bytes(whole[: len(whole) // 2])
    assert load_clip(file) is None
    assert np.array_equal(make_patches(ticket, config=cached, patch=14).patches_ND, plain.patches_ND)
    assert file.read_bytes() == whole
    sample = ticket.sample
    clip = read_clip(sample, options={"mode": "chunk", "size": 63, "frames": 4}, cache=None)
    file.write_bytes(dump_clip(clip))
    assert np.array_equal(load_clip(file).frames_THWC, clip.frames_THWC)


def test_a_packed_mixed_batch_equals_its_samples_alone(config):
    """Images, codec, sampling and collage in one forward: no token sees another sample, positions are each its own."""
    load = loader(replace(config, batch=BatchConfig(samples=16)))
    batch = next(load)
    assert set(batch.patches.modes_B) == {"image", "codec", "chunk", "collage"}
    encoder = fresh_encoder(config).eval()
    with torch.no_grad():
        together = encoder(batch.patches)
        alone = [encoder(sample) for sample in batch.patches.unpack()]
        backwards = encoder(pack(batch.patches.unpack()[::-1])).pooled_BD.flip(0)
    assert torch.allclose(together.pooled_BD, torch.cat([a.pooled_BD for a in alone]), atol=1e-5)
    assert torch.allclose(together.tokens_ND, torch.cat([a.tokens_ND for a in alone]), atol=1e-5)
    assert torch.allclose(together.pooled_BD, backwards, atol=1e-5)


def test_a_head_beside_another_learns_from_the_samples_that_it_knows(config, small_set, tmp_path):
    """Two of the four clips have a label for it; every batch holds the clips once, and rows say which are whose."""
    beside = replace(config.heads[1], name="speed", beside="video")
    config = replace(config, heads=(*config.heads, beside))
    streams = load_streams(replace(config, heads=config.heads[:2]))
    labels_SL = np.array([[-1], [4], [-1], [7]], np.int32)
    streams["speed"] = Stream(streams["video"].samples, labels_SL)
    taken = loader(config, streams=streams)
    for _ in range(4):
        batch = next(taken)
        assert len(batch.ids) == 6 and len(batch.rows["object"]) + len(batch.rows["video"]) == 6
        known = {
            batch.ids[row]: label.tolist()
            for row, label in zip(batch.rows["speed"], batch.labels["speed"], strict=True)
        }
        wanted = {"1.mp4": [4], "3.mp4": [7]}
        assert known == {i: wanted[i] for i in [batch.ids[row] for row in batch.rows["video"]] if i in wanted}
    seen = epochs(config, streams, steps=4)
    assert seen["speed"] == seen["video"] == 4 * 3 / 4


@pytest.mark.parametrize("beside", ["object", "speed", "gone"])
def test_a_head_stands_beside_one_of_its_kind_with_samples_of_its_own(config, beside):
    speed = replace(config.heads[1], name="speed", beside=beside)
    with pytest.raises(ValueError, match=r"'speed': beside=.*need a head of kind video .*\(video\)"):
        replace(config, heads=(*config.heads, speed))
