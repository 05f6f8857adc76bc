"""The provider `bitstream` through the public calls: with and without pictures, in parallel, and after a refusal.

T = frames, H, W = pixels of the clips here.
"""

import io

import av
import numpy as np
import pytest

import ov_encoder as ov
from ov_encoder.codec.bitstream import library
from ov_encoder.codec.media import inspect
from ov_encoder.codec.read import choose_provider
from ov_encoder.codec.signals import KIND_SKIP
from tests.clips import encode, pan

T, H, W = 20, 64, 96
MAPS = ("motion_HW2", "residual_HW", "bits_HW", "qp_HW", "kind_HW")
CODECS = ["h264", "h264+b", "hevc", "hevc+b"]


@pytest.fixture(scope="module")
def files():
    scene = pan(T, H, W, dx=2.0, dy=1.0, with_object=False)
    return {
        codec: encode(scene.frames_THW3, codec=codec.partition("+")[0], gop=7, bframes=codec.endswith("+b"))
        for codec in CODECS
    }


def raw(data: bytes, codec: str) -> bytes:
    """The same stream without a container, and so without times."""
    with av.open(io.BytesIO(data)) as source:
        stream = source.streams.video[0]
        to_bytes = av.BitStreamFilterContext(f"{codec}_mp4toannexb", stream)
        packets = [bytes(q) for p in source.demux(stream) for q in to_bytes.filter(p if p.size else None)]
    return b"".join(packets)


def same(a, b) -> bool:
    facts = [(f.index, f.time_s, f.frame_type, f.packet_bits) for f in (a, b)]
    maps = [(getattr(a, name), getattr(b, name)) for name in MAPS]
    return facts[0] == facts[1] and all(x is y is None or np.array_equal(x, y) for x, y in maps)


@pytest.mark.parametrize("codec", CODECS)
@pytest.mark.parametrize("threads", [1, 2])
def test_with_and_without_pictures_the_signals_are_the_same(files, codec, threads):
    beside = ov.read_signals(files[codec], threads=3 - threads)
    alone = ov.read_signals(files[codec], frames=False, threads=threads)
    assert (alone.provider, beside.provider, len(alone)) == ("bitstream", "bitstream", T)
    assert alone.provenance == beside.provenance == dict.fromkeys(alone.provenance, "native")
    assert alone.notes == beside.notes == []
    assert all(same(a, b) for a, b in zip(alone, beside, strict=True))
    assert all(same(a, b) for a, b in zip(alone, ov.iter_signals(files[codec], frames=False), strict=True))


@pytest.mark.parametrize("codec", CODECS)
def test_motion_is_per_frame_of_display_distance(files, codec):
    """The picture moves by (2, 1) a frame, whatever the distance of the reference."""
    clip = ov.read_signals(files[codec], frames=False)
    for frame in clip:
        if frame.frame_type != "I":
            inner = frame.motion_HW2[1:-1, 1:-1]
            assert np.median(inner, axis=(0, 1)) == pytest.approx((-2, -1), abs=0.26), (frame.index, frame.frame_type)


@pytest.mark.parametrize("codec", ["h264+b", "hevc+b"])
def test_without_times_the_order_is_the_stream_s(files, codec):
    timed = ov.read_signals(files[codec], frames=False)
    bare = ov.read_signals(raw(files[codec], codec[:4]), frames=False)
    assert [f.frame_type for f in bare] == [f.frame_type for f in timed]
    assert [f.time_s for f in bare] == pytest.approx(np.arange(T) / 25)
    for a, b in zip(bare, timed, strict=True):
        assert np.array_equal(a.bits_HW, b.bits_HW) and np.array_equal(a.kind_HW, b.kind_HW)
        assert a.motion_HW2 is b.motion_HW2 is None or np.allclose(a.motion_HW2, b.motion_HW2)


@pytest.mark.parametrize("codec", CODECS)
def test_bits_are_those_of_the_packets(files, codec):
    for frame in ov.read_signals(files[codec], frames=False):
        bits = frame.bits_HW.sum(dtype=np.float64)
        assert 0.3 * frame.packet_bits - 1500 < bits < frame.packet_bits  # the rest: headers, SEI, parameter sets
        assert (frame.residual_HW[frame.kind_HW == KIND_SKIP] == 0).all()


def test_coarser_cells_sum_and_share(files):
    from ov_encoder.codec.read import read

    maps = {}
    for cell in (8, 16):
        with read(files["h264+b"], cell=cell) as reading:
            maps[cell] = [signals for _, signals in reading.pairs]
    for fine, coarse in zip(maps[8], maps[16], strict=True):
        summed = fine.bits_HW.reshape(H // 16, 2, W // 16, 2).sum(axis=(1, 3))
        assert coarse.bits_HW == pytest.approx(summed)
        mean = fine.residual_HW.reshape(H // 16, 2, W // 16, 2).mean(axis=(1, 3))
        assert coarse.residual_HW == pytest.approx(mean)


# --- refusal and damage -------------------------------------------------------------------------------------------


def joined(first: bytes, second: bytes) -> bytes:
    return raw(first, "h264") + raw(second, "h264")


@pytest.fixture(scope="module")
def turns_interlaced(files):
    scene = pan(6, H, W, dx=2.0, dy=1.0, with_object=False)
    return joined(files["h264"], encode(scene.frames_THW3, options={"x264-params": "interlaced=1", "flags": "+ildct"}))


@pytest.mark.parametrize("frames", [True, False])
def test_a_refusal_in_the_middle_hands_over_and_says_why(turns_interlaced, frames):
    clip = ov.read_signals(turns_interlaced, frames=frames)
    assert (len(clip), clip.provider) == (T + 6, "bitstream")
    assert [f.index for f in clip] == list(range(T + 6))
    assert clip.notes == [f"bitstream reader stopped after {T} pictures (interlaced (field pictures or "
                          "macroblock-adaptive fields)); then native"]  # fmt: skip
    assert clip.provenance["bits"] == "absent" and clip.provenance["residual"] == "derived"
    assert all(f.bits_HW is not None for f in clip[:T]) and all(f.bits_HW is None for f in clip[T:])


def test_a_refusal_at_the_start_is_named(files):
    scene = pan(6, H, W)
    data = encode(scene.frames_THW3, options={"x264-params": "interlaced=1", "flags": "+ildct"})
    info = inspect(data)
    assert info.bitstream.startswith("interlaced")
    with pytest.raises(ValueError, match=r"signals='bitstream' is not possible \(interlaced"):
        ov.read_signals(data, signals="bitstream")
    with pytest.raises(ValueError, match="no bitstream reader for vp9"):
        ov.read_signals(encode(scene.frames_THW3, codec="vp9"), signals="bitstream")


@pytest.mark.parametrize("codec", ["h264", "hevc"])
def test_damaged_pictures_have_no_maps_and_are_counted(files, codec):
    data = bytearray(raw(files[codec], codec))
    at = len(data) * 3 // 5
    data[at : at + 40] = bytes(40)
    clip = ov.read_signals(bytes(data), frames=False)
    without = [f.index for f in clip if f.kind_HW is None]
    assert without and any("without signals: damaged" in note for note in clip.notes)
    assert all(f.bits_HW is not None for f in clip if f.index not in without)


def test_without_the_library_the_next_provider_says_so(files, monkeypatch):
    monkeypatch.setattr(library, "_load", lambda: (None, "the bitstream reader was not built"))
    info = inspect(files["h264"])
    assert choose_provider(info, "auto") == "native" and info.bitstream == "the bitstream reader was not built"
    clip = ov.read_signals(files["h264"])
    assert clip.provider == "native"
    assert clip.notes == ["bitstream reader not used: the bitstream reader was not built"]
    assert choose_provider(inspect(files["hevc"]), "auto") == "transcode"


def test_intra_pictures_alone_are_compared_by_pixels():
    info = inspect(encode(pan(6, H, W).frames_THW3, gop=1))
    assert info.bitstream == "" and choose_provider(info, "auto") == "native"


def test_stopping_early_leaves_nothing_running(files):
    import threading

    for threads in (1, 2):
        signals = ov.iter_signals(files["h264+b"], frames=False, threads=threads)
        assert next(signals).index == 0
        signals.close()
        assert not [t for t in threading.enumerate() if "bitstream" in t.name]
