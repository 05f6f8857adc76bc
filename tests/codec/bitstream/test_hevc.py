"""HEVC: every x265 setting is read to the last bit, and every header field is the one that FFmpeg reads."""

from __future__ import annotations

import ctypes
import io
import re
from collections.abc import Iterator
from pathlib import Path

import av
import av.logging
import numpy as np
import pytest
from av.bitstream import BitStreamFilterContext

from ov_encoder.codec.bitstream import library
from ov_encoder.codec.bitstream.parser import ParsedFrame, Parser
from tests.codec.bitstream import hevc_streams as streams

pytestmark = pytest.mark.skipif(not library.available(), reason=library.reason())

# name -> x265 parameters, pixel format, preset
SETTINGS = {
    "intra": ("keyint=1", "yuv420p", "medium"),
    "P, one reference": ("bframes=0:ref=1", "yuv420p", "medium"),
    "P, rect, amp": ("bframes=0:ref=4:rect=1:amp=1", "yuv420p", "medium"),
    "B pyramid": ("bframes=4:b-adapt=0:b-pyramid=1:ref=4:weightb=1:rect=1:amp=1", "yuv420p", "slow"),
    "CTB 16, wavefront": ("ctu=16:wpp=1:bframes=3", "yuv420p", "medium"),
    "CTB 32, slices": ("ctu=32:wpp=1:slices=3:bframes=3", "yuv420p", "medium"),
    "transform skip": ("tskip=1:bframes=2:crf=14", "yuv420p", "medium"),
    "no sign hiding": ("signhide=0:bframes=2:crf=15", "yuv420p", "medium"),
    "deep transforms": ("tu-intra-depth=4:tu-inter-depth=4:limit-tu=0:bframes=2:crf=20", "yuv420p", "slower"),
    "small transforms": ("max-tu-size=8:bframes=2:crf=20", "yuv420p", "medium"),
    "large coding blocks": ("min-cu-size=16:rect=1:amp=1:bframes=2:crf=20", "yuv420p", "medium"),
    "quantisation groups": ("aq-mode=3:qg-size=8:aq-strength=2:bframes=2:crf=24", "yuv420p", "medium"),
    "scaling lists": ("scaling-list=default:bframes=2:crf=20", "yuv420p", "medium"),
    "lossless": ("lossless=1:bframes=2", "yuv420p", "medium"),
    "lossless blocks": ("cu-lossless=1:bframes=2:crf=8", "yuv420p", "slow"),
    "constrained intra": ("constrained-intra=1:bframes=2", "yuv420p", "medium"),
    "open GOP": ("keyint=4:min-keyint=4:open-gop=1:bframes=2:b-adapt=0", "yuv420p", "medium"),
    "no SAO": ("sao=0:no-deblock=1:bframes=2", "yuv420p", "medium"),
    "temporal layers": ("temporal-layers=3:bframes=3:b-adapt=0", "yuv420p", "medium"),
    "no temporal vectors": ("temporal-mvp=0:bframes=3", "yuv420p", "medium"),
    "one merge candidate": ("max-merge=1:bframes=3", "yuv420p", "medium"),
    "buffering model": ("repeat-headers=1:aud=1:hrd=1:vbv-maxrate=900:vbv-bufsize=900:keyint=4", "yuv420p", "medium"),
    "10 bit": ("bframes=3", "yuv420p10le", "medium"),
    "12 bit": ("bframes=2:crf=12", "yuv420p12le", "medium"),
    "4:2:2": ("bframes=2:crf=18:rect=1", "yuv422p", "medium"),
    "4:2:2, 10 bit": ("bframes=2:crf=18", "yuv422p10le", "medium"),
    "4:4:4": ("bframes=2:crf=14:tskip=1", "yuv444p", "medium"),
    "4:4:4, lossless": ("lossless=1:bframes=2", "yuv444p", "medium"),
    "4:0:0": ("bframes=2", "gray", "medium"),
}
NAMES = list(SETTINGS)


def packets_of(name: str) -> tuple[bytes, ...]:
    params, pixels, preset = SETTINGS[name]
    return streams.x265(params, pixels=pixels, preset=preset)


def parse(packets: tuple[bytes, ...] | list[bytes], *, cell: int = 8) -> list[ParsedFrame]:
    with Parser("hevc", cell=cell) as parser:
        return [frame for packet in packets for frame in parser.feed(packet)]


@pytest.mark.parametrize("name", NAMES)
def test_every_slice_ends_on_its_last_bit(name: str) -> None:
    packets = packets_of(name)
    frames = parse(packets)
    assert len(frames) == len(packets)
    assert [f.damaged for f in frames if f.damaged] == []
    assert all(f.exact_end for f in frames)


@pytest.mark.parametrize("name", NAMES)
def test_bits_of_all_cells_are_those_of_the_slices(name: str) -> None:
    for packet, frame in zip(packets_of(name), parse(packets_of(name)), strict=True):
        assert frame.slice_bits < 8 * len(packet)
        np.testing.assert_allclose(frame.maps["bits"].sum(dtype=np.float64), frame.slice_bits, atol=0.02)
        assert (frame.maps["bits"] > 0).mean() > 0.9  # nothing is free: even a skipped block costs a part of a bit


def test_cells_of_4_and_16_say_the_same_as_cells_of_8() -> None:
    by_size = {cell: parse(packets_of("B pyramid"), cell=cell) for cell in (4, 8, 16)}
    for small, middle, large in zip(*by_size.values(), strict=True):
        for name in ("bits", "energy"):
            total = middle.maps[name].sum(dtype=np.float64)
            for other in (small, large):
                np.testing.assert_allclose(other.maps[name].sum(dtype=np.float64), total, rtol=1e-6)
        np.testing.assert_array_equal(small.maps["motion"][:, ::2, ::2], middle.maps["motion"])
        np.testing.assert_array_equal(middle.maps["motion"][:, ::2, ::2], large.maps["motion"])
        np.testing.assert_array_equal(middle.maps["kind"], small.maps["kind"][::2, ::2])


# --- headers --------------------------------------------------------------------------------------------------------

# FFmpeg's names where they differ from the standard's, and what it reads that no picture depends on: the NAL unit's
# header and ends, and constraint flags of the profile
RENAMED = {"chroma_offset_l0": "delta_chroma_offset_l0", "chroma_offset_l1": "delta_chroma_offset_l1"}
SKIPPED = re.compile(
    r"forbidden_zero_bit|nal_unit_type|nuh_.*|rbsp_.*|alignment_bit.*|"
    r"general_(max|intra|one|lower|reserved|inbld).*"
)
FIELD = re.compile(r"^\d+ +(\w+?)(?:\[\d+\])* +[01]* = (-?\d+)$")


def headers_by_ffmpeg(packets: tuple[bytes, ...]) -> list[tuple[str, int]]:
    fields, level = [], av.logging.get_level()
    av.logging.set_level(av.logging.TRACE)
    try:
        with av.open(io.BytesIO(b"".join(packets)), "r", format="hevc") as container:
            stream = container.streams.video[0]
            tracer = BitStreamFilterContext("trace_headers", stream)
            for packet in container.demux(stream):
                with av.logging.Capture() as logs:
                    tracer.filter(packet)
                fields += list(_fields(logs))
    finally:
        av.logging.set_level(level)
    return fields


def _fields(logs: list[tuple[int, str, str]]) -> Iterator[tuple[str, int]]:
    wanted = False
    for _, _, text in logs:
        repeated = re.search(r"\(repeated (\d+) more times\)", text)
        for line in text.split("\n"):
            if line[:1].isupper():  # the title of a unit
                wanted = bool(re.search(r"(Video|Sequence|Picture) Parameter Set|Slice Segment", line))
            match = FIELD.match(line.rstrip())
            if wanted and match and not SKIPPED.fullmatch(match[1]):
                yield from [(RENAMED.get(match[1], match[1]), int(match[2]))] * (
                    1 + int(repeated[1] if repeated else 0)
                )


def headers_by_us(packets: tuple[bytes, ...]) -> list[tuple[str, int]]:
    fields = []
    listener_type = ctypes.CFUNCTYPE(None, ctypes.c_void_p, ctypes.c_char_p, ctypes.c_int64)
    listener = listener_type(lambda _, name, value: fields.append((name.decode(), value)))
    with Parser("hevc", wanted=()) as parser:
        library.load().ovb_listen(ctypes.c_void_p(parser._parser), listener, None)
        for packet in packets:
            list(parser.feed(packet))
    return fields


@pytest.mark.parametrize("name", NAMES)
def test_every_header_field_is_what_ffmpeg_reads(name: str) -> None:
    expected = headers_by_ffmpeg(packets_of(name))
    assert len(expected) > 150
    assert headers_by_us(packets_of(name)) == expected


# --- real clips -----------------------------------------------------------------------------------------------------


REAL = Path(__file__).resolve().parents[4] / "shared" / "data" / "slovak_sign"


@pytest.mark.shared
@pytest.mark.skipif(not REAL.is_dir(), reason="no real clips beside this checkout")
def test_real_clips_are_read_to_the_last_bit() -> None:
    read = 0
    for path in sorted(REAL.rglob("*.mp4"))[::20]:
        with av.open(str(path)) as container:
            stream = container.streams.video[0]
            if stream.codec_context.name != "hevc":
                continue
            annexb = BitStreamFilterContext("hevc_mp4toannexb", stream)
            packets = [bytes(q) for p in container.demux(stream) if p.size for q in annexb.filter(p)]
        frames = parse(packets)
        assert len(frames) == len(packets)
        assert all(f.exact_end and not f.damaged for f in frames), path.name
        read += len(frames)
    assert read > 500
