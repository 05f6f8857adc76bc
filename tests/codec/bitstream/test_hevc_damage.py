"""HEVC: broken, cut, foreign and refused streams. There is a picture, or a reason; never a crash."""

from __future__ import annotations

from functools import lru_cache

import numpy as np
import pytest

from ov_encoder.codec.bitstream import library
from ov_encoder.codec.bitstream.parser import ParsedFrame, Parser, RefusedError
from tests.codec.bitstream import hevc_streams as streams
from tests.codec.bitstream.hevc_writer import PPS, SPS, VPS, Stream
from tests.codec.bitstream.test_hevc import parse

pytestmark = pytest.mark.skipif(not library.available(), reason=library.reason())


@lru_cache(maxsize=1)
def slices() -> tuple[bytes, ...]:
    return streams.x265("slices=3:ctu=16:bframes=2:b-adapt=0:ref=2", preset="ultrafast")


def units(packet: bytes) -> list[bytes]:
    """NAL units with three-byte start codes."""
    return [b"\0\0\1" + unit.rstrip(b"\0") for unit in packet.split(b"\0\0\1")[1:]]


def kind_of(unit: bytes) -> int:
    return unit[3] >> 1 & 63


def test_a_broken_slice_leaves_the_others() -> None:
    whole = parse(slices())
    packets = list(slices())
    parts = units(packets[2])
    cut = [u for u in parts if kind_of(u) < 32]
    assert len(cut) == 3
    at = parts.index(cut[1])
    parts[at] = parts[at][: len(parts[at]) // 2]
    packets[2] = b"".join(parts)
    frames = parse(packets)
    assert len(frames) == len(whole)
    assert "end" in frames[2].damaged or "contradict" in frames[2].damaged
    assert not frames[2].exact_end
    rows = frames[2].maps["bits"].shape[0]
    for name in ("kind", "motion", "bits", "qp", "energy"):  # the slices before and after are as they were
        for part in (slice(0, rows // 3 - 1), slice(rows - rows // 3 + 1, rows)):
            ours, theirs = frames[2].maps[name], whole[2].maps[name]
            axis = 1 if ours.ndim > 2 else 0
            np.testing.assert_array_equal(
                np.take(ours, range(*part.indices(rows)), axis), np.take(theirs, range(*part.indices(rows)), axis)
            )
    assert all(not f.damaged for f in frames[:2])


def test_a_missing_slice_is_told() -> None:
    packets = list(slices())
    parts = units(packets[3])
    packets[3] = b"".join(u for u in parts if u != [v for v in parts if kind_of(v) < 32][2])
    frame = parse(packets)[3]
    assert "coding tree units were not read" in frame.damaged
    assert (frame.maps["kind"] == 255).any()


def test_a_missing_reference_is_told() -> None:
    packets = list(streams.x265("bframes=0:ref=1", preset="ultrafast"))
    frames = parse([*packets[:3], *packets[4:]])
    assert "missing" in frames[3].damaged
    assert (frames[3].maps["age"] == 0)[:, frames[3].maps["valid"] > 0].any()
    assert not any(f.damaged for f in frames[4:])


def test_leading_pictures_of_an_open_start_are_skipped() -> None:
    packets = streams.x265("keyint=8:min-keyint=8:open-gop=1:bframes=3:b-adapt=0:repeat-headers=1", T=20)
    all_frames = parse(packets)
    start = next(i for i, f in enumerate(all_frames) if i and f.random_access and not f.idr)
    late = parse(packets[start:])
    leading = [f for f in all_frames[start:] if f.poc < all_frames[start].poc]
    assert len(leading) > 0
    assert len(late) == len(all_frames) - start - len(leading)
    assert not any(f.damaged for f in late)
    shown = [f for f in all_frames[start:] if f.poc >= all_frames[start].poc]
    for ours, theirs in zip(late, shown, strict=True):
        assert ours.frame_type == theirs.frame_type
        for name in ("motion", "kind", "bits", "energy"):
            np.testing.assert_array_equal(ours.maps[name], theirs.maps[name])


def test_nothing_before_the_first_picture_that_can_be_read() -> None:
    packets = streams.x265("bframes=0:ref=1", preset="ultrafast")
    headers = b"".join(u for u in units(packets[0]) if kind_of(u) in (VPS, SPS, PPS))
    assert parse([headers, *packets[1:]]) == []


def test_pictures_after_the_end_of_a_sequence_start_anew() -> None:
    packets = streams.x265("bframes=0:ref=1:keyint=4:repeat-headers=1", preset="ultrafast")
    frames = parse([*packets, b"\0\0\1" + bytes([36 << 1, 1]), *packets])
    assert len(frames) == 2 * len(packets)
    assert not any(f.damaged for f in frames)
    order = [(f.sequence, f.poc) for f in frames]
    assert order == sorted(order)


EXTENSIONS = {
    "transform_skip_rotation": (SPS, 0),
    "transform_skip_context": (SPS, 1),
    "implicit_rdpcm": (SPS, 2),
    "explicit_rdpcm": (SPS, 3),
    "extended_precision": (SPS, 4),
    "persistent_rice": (SPS, 7),
    "bypass_alignment": (SPS, 8),
}


@pytest.mark.parametrize("tool", EXTENSIONS)
def test_range_extension_tools_are_refused_by_name(tool: str) -> None:
    stream = Stream(range_flags=tuple(int(i == EXTENSIONS[tool][1]) for i in range(9)))
    with pytest.raises(RefusedError, match=tool):
        parse(stream.random_pictures("I", seed=0))


@pytest.mark.parametrize("flag, name", [(1, "multilayer"), (2, "3D"), (3, "screen content")])
def test_other_extensions_are_refused_by_name(flag: int, name: str) -> None:
    with pytest.raises(RefusedError, match=name):
        parse(Stream(extension=flag).random_pictures("I", seed=0))


def test_extensions_that_change_pixels_only_are_read() -> None:
    """intra_smoothing_disabled and high_precision_offsets."""
    (frame,) = parse(Stream(range_flags=(0, 0, 0, 0, 0, 1, 1, 0, 0)).random_pictures("I", seed=0))
    assert frame.maps["bits"].sum() > 0


def test_pictures_above_the_limit_are_refused() -> None:
    with Parser("hevc", pixels=100 * 100) as parser, pytest.raises(RefusedError, match="limit"):
        list(parser.feed(streams.x265("keyint=1", preset="ultrafast")[0]))
    with Parser("hevc", memory=60_000) as parser, pytest.raises(RefusedError, match="limit"):
        list(parser.feed(streams.x265("keyint=1", preset="ultrafast")[0]))


def _flipped(packet: bytes, rng: np.random.Generator) -> bytes:
    data = bytearray(packet)
    for at in rng.integers(4, len(data), 3):
        data[at] ^= 1 << int(rng.integers(8))
    return bytes(data)


def _outcome(packets: list[bytes]) -> list[ParsedFrame] | str:
    try:
        return parse(packets)
    except RefusedError as refused:
        return str(refused)


@pytest.mark.parametrize("seed", range(40))
def test_flipped_bits_give_the_same_frames_or_reasons_twice(seed: int) -> None:
    rng = np.random.default_rng(seed)
    packets = [_flipped(p, rng) if rng.random() < 0.4 else p for p in slices()]
    once, twice = _outcome(packets), _outcome(packets)
    if isinstance(once, str) or isinstance(twice, str):
        assert once == twice != ""
        return
    for a, b in zip(once, twice, strict=True):
        assert a.damaged == b.damaged
        assert np.isfinite(a.maps["energy"]).all()
        assert (a.maps["energy"] >= 0).all()
        for name, map_ in a.maps.items():
            np.testing.assert_array_equal(map_, b.maps[name])


def test_packets_cut_anywhere_are_survived() -> None:
    packets = slices()
    for n in range(1, len(packets[1]), max(1, len(packets[1]) // 60)):
        frames = parse([packets[0], packets[1][:n], packets[2]])
        assert frames[0].damaged == ""


def test_pictures_joined_in_one_packet_are_told_apart() -> None:
    packets = slices()
    apart, joined = parse(packets), parse([b"".join(packets)])
    assert [f.poc for f in apart] == [f.poc for f in joined]
    assert all(np.array_equal(a.maps["bits"], b.maps["bits"]) for a, b in zip(apart, joined, strict=True))
