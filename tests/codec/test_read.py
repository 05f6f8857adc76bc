"""One pass over any source: which provider serves it, what it promises, what it refuses."""

import io

import numpy as np
import pytest

import ov_encoder as ov
from ov_encoder.codec.media import inspect
from ov_encoder.codec.read import PROVIDERS, SIGNAL_SOURCES, choose_provider, read, upright
from ov_encoder.codec.signals import SIGNALS, ClipSignals, FrameSignals
from tests.clips import encode, moving_object, pan, video
from tests.odd_media import odd, turned

T, H, W = 12, 96, 128
MAPS = dict(zip(SIGNALS, ("motion_HW2", "residual_HW", "bits_HW", "qp_HW", "kind_HW"), strict=True))


@pytest.fixture(scope="module")
def files():
    frames = moving_object(T, H, W, speed=3.0, radius=18).frames_THW3
    made = {codec: encode(frames, codec=codec) for codec in ("h264", "mpeg4", "mpeg2", "hevc", "vp9", "av1", "mjpeg")}
    return made | {"h264+b": encode(frames, bframes=True)}


def same(a: FrameSignals, b: FrameSignals) -> bool:
    plain = [(f.index, f.time_s, f.frame_type, f.packet_bits) for f in (a, b)]
    maps = [(getattr(a, name), getattr(b, name)) for name in MAPS.values()]
    return plain[0] == plain[1] and all(
        x is y is None or (x is not None and y is not None and np.array_equal(x, y)) for x, y in maps
    )


def same_clip(a: ClipSignals, b: ClipSignals) -> bool:
    return len(a) == len(b) and all(same(x, y) for x, y in zip(a, b, strict=True))


# --- providers ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("codec", ["h264", "h264+b", "mpeg4", "mpeg2", "hevc", "vp9", "av1", "mjpeg"])
def test_auto_is_what_knows_most_about_the_stream(files, codec):
    native = codec in ("h264", "h264+b", "mpeg4", "mpeg2")
    bitstream = codec in ("h264", "h264+b", "hevc")
    info = inspect(files[codec])
    assert choose_provider(info, "auto") == ("bitstream" if bitstream else "native" if native else "transcode")
    for asked in ("transcode", "none"):
        assert choose_provider(info, asked) == asked
    if native:
        assert choose_provider(info, "native") == "native"
    else:
        name = info.codec
        with pytest.raises(ValueError, match=rf"<bytes: \d+>: signals='native' is not possible for {name} .*'auto'"):
            choose_provider(info, "native")


def test_an_unknown_provider_is_refused_with_the_list(files):
    with pytest.raises(ValueError, match="signals='guess'; allowed: auto, bitstream, native, transcode, none"):
        ov.read_signals(files["h264"], signals="guess")


def test_one_picture_needs_no_signals():
    clip = ov.read_signals(odd("one frame h264").data)
    assert (clip.provider, len(clip)) == ("none", 1)
    assert set(clip.provenance.values()) == {"absent"}


@pytest.mark.parametrize(
    ("codec", "signals"),
    [*(("h264+b", s) for s in SIGNAL_SOURCES), ("vp9", "auto"), ("vp9", "transcode"), ("vp9", "none")],
)
def test_provenance_tells_what_is_there(files, codec, signals):
    clip = ov.read_signals(files[codec], signals=signals)
    expected = {
        "bitstream": dict.fromkeys(SIGNALS, "native"),
        "native": {"motion": "native", "residual": "derived", "bits": "absent", "qp": "native", "kind": "native"},
        "transcode": {"motion": "derived", "residual": "derived", "bits": "absent", "qp": "derived", "kind": "derived"},
        "none": dict.fromkeys(SIGNALS, "absent"),
    }
    assert set(expected) == set(PROVIDERS)
    assert clip.provenance == expected[clip.provider]
    assert clip.provider == (signals if signals != "auto" else "bitstream" if codec != "vp9" else "transcode")
    for signal, name in MAPS.items():
        there = [getattr(frame, name) is not None for frame in clip]
        assert any(there) == (clip.provenance[signal] != "absent"), signal
    for frame in clip:
        for name in MAPS.values():
            value = getattr(frame, name)
            assert value is None or value.shape[:2] == clip.grid_HW
    assert (clip.cell, clip.grid_HW) == (8, (H // 8, W // 8))


def test_the_description_is_the_stream_s(files):
    clip = ov.read_signals(files["h264+b"])
    assert (clip.codec, clip.height, clip.width, len(clip)) == ("h264", H, W, T)
    assert [frame.index for frame in clip] == list(range(T))
    assert [frame.time_s for frame in clip] == pytest.approx(np.arange(T) / 25)
    assert {frame.frame_type for frame in clip} == {"I", "P", "B"}
    assert clip[3] is clip.frames[3]
    assert clip[2:4] == clip.frames[2:4]


# --- one call or another ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(("codec", "signals"), [("h264+b", "native"), ("h264", "transcode"), ("vp9", "auto")])
def test_iterating_gives_the_same_frames(files, codec, signals):
    clip = ov.read_signals(files[codec], signals=signals)
    assert same_clip(clip, list(ov.iter_signals(files[codec], signals=signals)))


@pytest.mark.parametrize("codec", ["h264", "vp9"])
def test_path_bytes_and_file_object_are_alike(files, codec, tmp_path):
    data = files[codec]
    path = tmp_path / "clip.bin"  # the content decides, not the suffix
    path.write_bytes(data)
    expected = ov.read_signals(data)
    with path.open("rb") as file:
        file.seek(100)  # wherever the caller left it
        sources = [path, str(path), bytearray(data), memoryview(data), io.BytesIO(data), file]
        assert all(same_clip(expected, ov.read_signals(source)) for source in sources)
        assert not file.closed


@pytest.mark.parametrize(
    ("signals", "how"), [("native", {"frames": False}), ("native", {"residual": False}), ("auto", {"residual": False})]
)
def test_without_pixels_the_residual_is_absent_and_the_rest_unchanged(files, signals, how):
    full = ov.read_signals(files["h264+b"], signals=signals)
    lean = ov.read_signals(files["h264+b"], signals=signals, **how)
    assert lean.provenance == full.provenance | {"residual": "absent"}
    for a, b in zip(full, lean, strict=True):
        assert b.residual_HW is None
        a.residual_HW = None
        assert same(a, b)


def test_reading_can_stop_early(files):
    with read(files["h264+b"]) as reading:
        picture, signals = next(reading.pairs)
        assert (picture.index, signals.frame_type) == (0, "I")
        assert picture.luma().shape == (H, W)
    assert list(reading.pairs) == []


def test_transcode_works_at_the_size_it_is_given(files):
    clip = ov.read_signals(files["h264"], signals="transcode", size=(56, 70))
    assert (clip.height, clip.width, clip.grid_HW) == (56, 70, (7, 9))
    large = encode(pan(2, 500, 900, with_object=False).frames_THW3)
    clip = ov.read_signals(large, signals="transcode")
    assert (clip.height, clip.width) == (448, 806)  # at most 448 on the short side, even


# --- rotation and fields ------------------------------------------------------------------------------------


@pytest.mark.parametrize("degrees", [90, 180, 270])
@pytest.mark.parametrize("bframes", [False, True])
def test_a_rotated_video_gives_rotated_maps_and_turned_vectors(degrees, bframes):
    data = encode(pan(8, H, W).frames_THW3, bframes=bframes)
    flat, upright_clip = ov.read_signals(data), ov.read_signals(turned(data, degrees))
    assert (upright_clip.height, upright_clip.width) == ((W, H) if degrees % 180 else (H, W))
    turn = {90: ((0, -1), (1, 0)), 180: ((-1, 0), (0, -1)), 270: ((0, 1), (-1, 0))}[degrees]  # of a vector (x, y)
    for a, b in zip(flat, upright_clip, strict=True):
        for name in MAPS.values():
            before, after = getattr(a, name), getattr(b, name)
            if before is None:
                assert after is None
                continue
            expected = np.rot90(before, -degrees // 90)
            if name == "motion_HW2":
                expected = expected @ np.array(turn, np.float32).T
            assert np.array_equal(after, expected), name
    moved = np.median(upright_clip[4].motion_HW2, axis=(0, 1))
    assert moved == pytest.approx(np.array(turn) @ np.median(flat[4].motion_HW2, axis=(0, 1)))


def test_upright_leaves_upright_maps_alone():
    frame = FrameSignals(0, 0.0, "P", 8, motion_HW2=np.arange(24, dtype=np.float32).reshape(3, 4, 2))
    before = frame.motion_HW2.copy()
    assert np.array_equal(upright(frame, 0).motion_HW2, before)
    for _ in range(4):
        frame = upright(frame, 90)
    assert np.array_equal(frame.motion_HW2, before)


@pytest.mark.parametrize("codec", ["h264", "mpeg2"])
def test_interlaced_video_falls_back_to_the_transcode_and_says_so(codec):
    data = odd(f"interlaced {codec}").data
    clip = ov.read_signals(data)
    assert clip.provider == "transcode"
    assert clip.notes == ["interlaced: vectors of fields are not used"]
    with pytest.raises(ValueError, match="interlaced"):
        ov.read_signals(data, signals="native")


# --- limits ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("limits", "message"),
    [
        ({"frames": T - 1}, f"more than {T - 1} frames"),
        ({"seconds": 0.4}, r"longer than 0\.4 s"),
        ({"pixels": H * W - 1}, f"picture of {W}x{H} = {H * W} pixels; the limit is {H * W - 1}"),
        ({"bytes": 20_000}, rf"maps of {T} frames take {T * 12 * 16 * 21} bytes; the limit is 20000"),
    ],
)
@pytest.mark.parametrize("signals", ["native", "transcode"])
def test_limits_are_named_with_their_values(files, limits, message, signals):
    with pytest.raises(ov.OvEncoderError, match=message):
        ov.read_signals(files["h264"], signals=signals, limits=ov.Limits(**limits))


@pytest.mark.parametrize("limits", [{"frames": T}, {"seconds": 0.44}, {"pixels": H * W}, {"bytes": T * 12 * 16 * 21}])
def test_what_just_fits_is_read(files, limits):
    assert len(ov.read_signals(files["h264"], limits=ov.Limits(**limits))) == T


def test_iterating_is_not_bound_by_the_memory_of_a_whole_clip(files):
    limits = ov.Limits(bytes=20_000)
    assert len(list(ov.iter_signals(files["h264"], limits=limits))) == T


@pytest.mark.parametrize("signals", ["native", "transcode"])
def test_pictures_are_let_go_without_the_garbage_collector(signals):
    """A cycle through a frame's side data would hold every picture of a film."""
    import gc

    import av

    def frames_alive() -> int:
        return sum(isinstance(thing, av.VideoFrame) for thing in gc.get_objects())

    data = video("moving_object", "h264")
    gc.collect()
    before = frames_alive()
    gc.disable()
    try:
        for _ in ov.iter_signals(data, signals=signals):
            assert frames_alive() <= before + 8
    finally:
        gc.enable()
