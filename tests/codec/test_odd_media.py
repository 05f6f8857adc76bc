"""Every odd medium is read as it is meant: right pictures at the right times, honest signals, a usable plan."""

import numpy as np
import pytest

import ov_encoder as ov
from ov_encoder.codec.decode import Resizer
from ov_encoder.codec.media import inspect
from ov_encoder.codec.read import BITSTREAM_CODECS, read
from ov_encoder.codec.signals import SIGNALS
from tests.clips import encode, pan
from tests.odd_media import DURATIONS_MS, ODD, VFR_TICKS, odd, turned

NATIVE = ("mpeg4", "mpeg2video")


def expected_provider(name):
    medium = odd(name)
    if len(medium.frames_THW3) == 1:
        return "none"
    if name.startswith("interlaced"):
        return "transcode"
    return "bitstream" if medium.codec in BITSTREAM_CODECS else "native" if medium.codec in NATIVE else "transcode"


def pictures(data, height, width):
    with read(data, signals="none") as reading:
        resize = Resizer(height, width)
        shown = [(picture.time_s, resize(picture)) for picture, _ in reading.pairs]
    return np.array([t for t, _ in shown]), np.stack([p for _, p in shown])


@pytest.mark.parametrize("name", ODD)
def test_headers_are_described(name):
    medium = odd(name)
    info = inspect(medium.data)
    T, H, W = medium.frames_THW3.shape[:3]
    assert (info.codec, info.frames, info.height, info.width) == (medium.codec, T, H, W)
    animated = name in ("gif", "webp", "apng", "transparent gif")
    assert info.kind == ("animation" if animated else "image" if name.startswith("still") else "video")
    assert info.streams == (2 if name == "two streams" else 1)
    assert info.name == f"<bytes: {len(medium.data)}>"


@pytest.mark.parametrize("name", ODD)
def test_pictures_are_the_right_ones(name):
    medium = odd(name)
    times, shown = pictures(medium.data, *medium.frames_THW3.shape[1:3])
    assert shown.shape == medium.frames_THW3.shape
    difference = np.abs(shown.astype(int) - medium.frames_THW3)[:, :, : medium.opaque]
    assert difference.mean(axis=(1, 2, 3)).max() <= medium.tolerance
    assert (np.diff(times) > 0).all()


@pytest.mark.parametrize("name", ["variable frame rate", "gif", "webp", "apng"])
def test_times_are_the_stream_s_own(name):
    medium = odd(name)
    times, _ = pictures(medium.data, 32, 32)
    assert times == pytest.approx(medium.times_T, abs=0.002)


def test_without_timestamps_frames_are_spread_by_the_frame_rate():
    times, _ = pictures(odd("no timestamps").data, 32, 32)
    assert times == pytest.approx(np.arange(12) / 25)


@pytest.mark.parametrize("name", ODD)
def test_signals_say_where_they_come_from_and_fit_the_picture(name):
    medium = odd(name)
    clip = ov.read_signals(medium.data)
    T, H, W = medium.frames_THW3.shape[:3]
    assert (len(clip), clip.provider, clip.codec) == (T, expected_provider(name), medium.codec)
    assert abs(clip.height - H) <= 1 >= abs(clip.width - W)  # a transcode works on even sides
    assert set(clip.provenance) == set(SIGNALS)
    changed_size = name == "resolution change"
    for i, frame in enumerate(clip):
        assert frame.index == i
        for signal, attribute in zip(
            SIGNALS, ("motion_HW2", "residual_HW", "bits_HW", "qp_HW", "kind_HW"), strict=True
        ):
            value = getattr(frame, attribute)
            assert value is None or clip.provenance[signal] != "absent", (signal, i)
            assert value is None or np.isfinite(value).all(), (signal, i)
            assert value is None or changed_size or value.shape[:2] == clip.grid_HW, (signal, i)
        silent = medium.codec in ("mpeg2video", "mpeg1video", "mpeg4") and (frame.frame_type == "B" or i == T - 1)
        if clip.provider != "none" and frame.frame_type in "PB":
            assert silent or frame.motion_HW2 is not None  # FFmpeg leaves their vectors out, see codec.read
            assert frame.residual_HW is not None
    if clip.provider != "none":
        moving = [np.abs(f.motion_HW2).max() for f in clip if f.motion_HW2 is not None]
        assert max(moving) > 0.5 or name in ("resolution change", "transparent gif")
    if clip.provider == "native":
        assert (clip.provenance["motion"], clip.provenance["residual"]) == ("native", "derived")
    elif clip.provider == "bitstream":
        assert set(clip.provenance.values()) == {"native"}
    elif clip.provider == "transcode":
        assert clip.provenance["motion"] == "derived"
    else:
        assert set(clip.provenance.values()) == {"absent"}


@pytest.mark.parametrize("name", ODD)
def test_plans_keep_the_budget_and_the_pictures(name):
    medium = odd(name)
    T, H, W = medium.frames_THW3.shape[:3]
    plan = ov.plan(medium.data, budget=0.5, size=112)
    whole = T == 1
    assert plan.mode == ("image" if whole else "codec")
    assert plan.grid[0] == T
    assert plan.tokens == plan.keep_THW.size if whole else plan.tokens == round(0.5 * plan.keep_THW.size)
    assert plan.provenance["provider"] == expected_provider(name)
    assert abs(plan.grid[1] / plan.grid[2] - H / W) < 0.15
    batch = plan.to_batch()
    assert batch.tokens == plan.tokens
    assert (batch.slot_times_B[0] == plan.slot_times_T).all()


@pytest.mark.parametrize("name", ["interlaced h264", "interlaced mpeg2"])
def test_why_an_interlaced_stream_is_transcoded_is_said_once(name):
    clip = ov.read_signals(odd(name).data)
    assert clip.notes == ["interlaced: vectors of fields are not used"]
    with pytest.raises(ValueError, match=r"signals='native' is not possible for .*interlaced"):
        ov.read_signals(odd(name).data, signals="native")


@pytest.mark.parametrize(("degrees", "expected"), [(0, (-2, -1)), (90, (1, -2)), (180, (2, 1)), (270, (-1, 2))])
def test_vectors_turn_with_the_picture(degrees, expected):
    """Content moves by (2, 1) as coded, so it came from (-2, -1); a quarter turn maps (x, y) to (-y, x)."""
    data = encode(pan(6, 96, 128, dx=2.0, dy=1.0, with_object=False).frames_THW3)
    clip = ov.read_signals(turned(data, degrees) if degrees else data)
    assert clip.grid_HW == ((12, 16) if degrees % 180 == 0 else (16, 12))
    middle = np.median(clip[3].motion_HW2[2:-2, 2:-2], axis=(0, 1))
    assert middle == pytest.approx(expected, abs=0.26)


def test_the_media_are_what_their_names_say():
    assert odd("variable frame rate").times_T[-1] == VFR_TICKS[-1] / 25
    assert odd("gif").times_T[-1] == pytest.approx(sum(DURATIONS_MS[:-1]) / 1000)
    assert inspect(odd("10 bit hevc").data).pixel_format == "yuv420p10le"
    assert inspect(odd("4:4:4 h264").data).pixel_format == "yuv444p"
    assert inspect(odd("rotated 90").data).rotation == 90
    types = [f.frame_type for f in ov.read_signals(odd("open gop").data)]
    assert types.count("I") > 1
    assert "B" in types[types.index("I", 1) - 1 :]
