"""Ranges of classes and cutting saved shards anew."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from ov_encoder.train import class_range, reshard


@given(classes=st.integers(1, 200), world=st.integers(1, 40))
def test_ranges_are_those_of_torch_chunk(classes, world):
    ranges = [class_range(classes, rank=r, world=world) for r in range(world)]
    chunks = [chunk.tolist() for chunk in torch.arange(classes).chunk(world)]
    assert [list(range(*r)) for r in ranges] == chunks + [[]] * (world - len(chunks))


@given(classes=st.integers(1, 30), worlds=st.lists(st.integers(1, 7), min_size=1, max_size=4))
def test_reshard_keeps_every_row(classes, worlds):
    whole = {
        "head": {"centres_CD": torch.randn(classes, 3).bfloat16(), "_extra_state": {"draws": 5}},
        "optimizer": {"steps_C": torch.arange(classes, dtype=torch.int32), "rounds": 9},
    }
    states = [whole]
    for world in worlds:
        states = reshard(states, world=world)
        assert len(states) == world
    back = reshard(states, world=1)[0]
    assert back["head"]["_extra_state"] == {"draws": 5} and back["optimizer"]["rounds"] == 9
    for room, name in (("head", "centres_CD"), ("optimizer", "steps_C")):
        torch.testing.assert_close(back[room][name], whole[room][name], rtol=0, atol=0)
        shapes = [len(state[room][name]) for state in states]
        ranges = [class_range(classes, rank=r, world=worlds[-1]) for r in range(worlds[-1])]
        assert shapes == [stop - start for start, stop in ranges]


def test_shards_of_different_steps_do_not_mix():
    with pytest.raises(ValueError, match="disagree about 'draws'"):
        reshard([{"draws": 4}, {"draws": 5}], world=1)


@pytest.mark.parametrize("wrong", [{"rank": 2, "world": 2}, {"rank": -1, "world": 2}])
def test_no_such_rank(wrong):
    with pytest.raises(ValueError, match="rank < world"):
        class_range(10, **wrong)
