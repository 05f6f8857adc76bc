"""Bad input: every source and option gives a result, or an error that names the file and the value.

Never a crash, a hang, unbounded memory, or pictures that the stream does not hold. Sources that might kill the
process run in a child (tests/survive.py).
"""

import io
import os

import numpy as np
import pytest
from PIL import Image

import ov_encoder as ov
from ov_encoder.codec.decode import Resizer
from ov_encoder.codec.read import read
from tests.clips import encode, moving_object
from tests.odd_media import HEADERS, audio_only, odd
from tests.survive import Endless, Failing, Overlong, Wordless, survey

T, H, W = 8, 48, 64


def frames():
    return moving_object(T, H, W, radius=10).frames_THW3


MEDIA = {
    "h264 mp4": lambda: encode(frames()),
    "h264 raw": lambda: encode(frames(), container="h264", bframes=True),
    "h264 ts": lambda: encode(frames(), container="mpegts", bframes=True),
    "hevc mkv": lambda: encode(frames(), codec="hevc", container="matroska"),
    "vp9 webm": lambda: encode(frames(), codec="vp9"),
    "av1 mkv": lambda: encode(frames(), codec="av1", container="matroska"),
    "mpeg4 avi": lambda: encode(frames(), codec="mpeg4", container="avi"),
    "mpeg2 ts": lambda: encode(frames(), codec="mpeg2"),
    "mjpeg avi": lambda: encode(frames(), codec="mjpeg"),
    "ffv1 mkv": lambda: encode(frames(), codec="ffv1"),
    "gif": lambda: odd("transparent gif").data,
    "webp": lambda: odd("webp").data,
    "apng": lambda: odd("apng").data,
    "png": lambda: odd("still png").data,
    "jpeg": lambda: odd("still jpeg").data,
    "exif jpeg": lambda: odd("still exif").data,
}
GOOD = ("result", "OvEncoderError", "ValueError")


def refuse_bad(outcomes, *, refused=False):
    """Every outcome is allowed, and every error names its source; with `refused`, nothing may pass."""
    kinds = ("OvEncoderError", "ValueError") if refused else GOOD
    wrong = {}
    for name, outcome in outcomes.items():
        silent = outcome.kind != "result" and name.split("@")[-1] not in outcome.message
        if silent or outcome.kind not in kinds:
            wrong.setdefault((outcome.kind, outcome.message[-200:]), []).append(name)
    assert not wrong, "\n" + "\n".join(f"{len(v)} x {k[0]}: {k[1]}  <- {v[0]}" for k, v in wrong.items())


def named(name, data):
    """A key for `refuse_bad`: what comes after @ must be in the message."""
    return f"{name} @<bytes: {len(data)}>"


# --- damaged streams ------------------------------------------------------------------------------------------


def cuts(data, count, seed):
    ends = np.random.default_rng(seed).integers(1, len(data), count)
    return [data[:end] for end in ends]


def flips(data, count, seed):
    """One to twenty bits turned over, every third time one of them in the first 200 bytes."""
    rng = np.random.default_rng(seed)
    out = []
    for i in range(count):
        damaged = bytearray(data)
        places = rng.integers(0, len(data), rng.integers(1, 20)).tolist()
        places += [int(rng.integers(0, min(200, len(data))))] * (i % 3 == 0)
        for at in places:
            damaged[at] ^= 1 << int(rng.integers(0, 8))
        out.append(bytes(damaged))
    return out


@pytest.mark.parametrize("kind", ["truncated", "bit-flipped"])
def test_damaged_media_give_a_result_or_a_named_error(tmp_path, kind):
    sources = {}
    for seed, (medium, make) in enumerate(MEDIA.items()):
        damaged = cuts(make(), 100, seed) if kind == "truncated" else flips(make(), 40, seed)
        sources |= {named(f"{medium} {i}", data): data for i, data in enumerate(damaged)}
    outcomes = survey(sources, tmp_path)
    refuse_bad(outcomes)
    assert len(outcomes) == len(sources)
    assert {o.kind for o in outcomes.values()} >= {"result", "OvEncoderError"}
    assert sum(o.grown_mb for o in outcomes.values()) < 200


@pytest.mark.parametrize(
    "medium", [m for m in MEDIA if m not in ("h264 mp4", "gif", "webp", "apng", "png", "jpeg", "exif jpeg")]
)
def test_a_truncated_stream_shows_only_pictures_that_it_holds(medium):
    """Frames may be missing at the end; none may be half made up."""

    def pictures(data):
        with read(data, signals="none") as reading:
            resize = Resizer(H, W)
            return [resize(picture).astype(int) for picture, _ in reading.pairs]

    data = MEDIA[medium]()
    whole = pictures(data)
    assert len(whole) == T
    shown = 0
    for part in cuts(data, 40, 1):
        try:
            got = pictures(part)
        except ov.OvEncoderError:
            continue
        for picture in got:
            assert min(np.abs(picture - true).mean() for true in whole) < 0.5, f"of {len(part)} bytes"
        shown += len(got)
    assert shown > 0


# --- headers that lie -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("size", [(30000, 30000), (0, 0), (8000, 16000), (1, 60000), (60000, 16)])
def test_impossible_sizes_are_refused_before_memory_is_taken(tmp_path, size):
    sources = {f"{name} @<bytes: {len(data)}>": data for name, data in ((n, f(*size)) for n, f in HEADERS.items())}
    outcomes = survey(sources, tmp_path)
    refuse_bad(outcomes)
    for name, outcome in outcomes.items():
        within = size[0] * size[1] <= ov.Limits().pixels  # then Pillow may hold a few copies of the picture
        assert outcome.grown_mb < (300 if within else 100), (name, outcome)
    if size in ((30000, 30000), (8000, 16000)):
        # MPEG-4 in MP4 carries its own size, so its container's lie changes nothing.
        assert {n.split()[0] for n, o in outcomes.items() if o.kind == "result"} == {"mp4"}


def test_the_limit_that_refused_is_named_with_its_value():
    with pytest.raises(ov.OvEncoderError, match=r"<bytes: \d+>: .*30000.*|900000000 pixels.*limit is 67108864"):
        ov.patchify(HEADERS["png"](30000, 30000))
    with pytest.raises(ov.OvEncoderError, match=r"16000x8000 = 128000000 pixels; the limit is 67108864"):
        ov.patchify(HEADERS["h264"](8000, 16000))


# --- not media ------------------------------------------------------------------------------------------------

NOT_MEDIA = {
    "empty": b"",
    "one byte": b"\0",
    "text": b"Just some text, line after line.\n" * 100,
    "html": b"<!doctype html><html><body>404 not found</body></html>",
    "json": b'{"frames": []}',
    "playlist": b"#EXTM3U\n#EXT-X-VERSION:3\n#EXTINF:10,\nfile:///etc/hostname\n#EXT-X-ENDLIST\n",
    "concat list": b"ffconcat version 1.0\nfile /etc/hostname\n",
    "session description": b"v=0\no=- 0 0 IN IP4 127.0.0.1\ns=x\nc=IN IP4 127.0.0.1\nm=video 5004 RTP/AVP 96\n",
    "svg": b'<svg xmlns="http://www.w3.org/2000/svg" width="10" height="10"/>',
    "zip": b"PK\x03\x04" + bytes(200),
    "zeros": bytes(100_000),
    "ones": b"\xff" * 100_000,
    "noise": np.random.default_rng(0).bytes(100_000),
    "png signature": b"\x89PNG\r\n\x1a\n",
    "jpeg signature": b"\xff\xd8\xff",
    "gif signature": b"GIF89a",
    "mp4 signature": b"\0\0\0\x18ftypisom\0\0\2\0isomiso2",
    "audio mp4": audio_only("mp4"),
    "audio wav": audio_only("wav"),
}


def test_what_is_no_picture_is_refused(tmp_path):
    refuse_bad(survey({named(n, d): d for n, d in NOT_MEDIA.items()}, tmp_path), refused=True)


def test_audio_is_told_from_noise():
    with pytest.raises(ov.OvEncoderError, match=r"has no video stream \(streams: audio\)"):
        ov.patchify(NOT_MEDIA["audio mp4"])


def test_a_wrong_suffix_does_not_matter(tmp_path):
    for name, data in (("photo.mp4", odd("still png").data), ("clip.jpg", MEDIA["vp9 webm"]())):
        (tmp_path / name).write_bytes(data)
        same = ov.patchify(data, size=56)
        assert (ov.patchify(tmp_path / name, size=56).patches_ND == same.patches_ND).all()
    (tmp_path / "notes.mp4").write_text("no video")
    with pytest.raises(ov.OvEncoderError, match=r"notes\.mp4: not a video"):
        ov.patchify(tmp_path / "notes.mp4")


# --- paths ----------------------------------------------------------------------------------------------------


def test_paths_that_cannot_be_read_are_named(tmp_path):
    (tmp_path / "loop").symlink_to(tmp_path / "loop")
    (tmp_path / "dangling").symlink_to(tmp_path / "nowhere")
    os.mkfifo(tmp_path / "pipe")
    paths = [".", "missing.mp4", "missing/clip.mp4", "loop", "dangling", "pipe", "x" * 300 + ".mp4"]
    sources = {f"@{tmp_path / p}": str(tmp_path / p) for p in paths}
    devices = {"@/dev/zero": "/dev/zero", "@/dev/null": "/dev/null"}
    addresses = {f"@{a}": a for a in ("http://127.0.0.1:9/x.mp4", "concat:/etc/hostname", "pipe:0")}
    refuse_bad(survey(sources | devices | addresses, tmp_path), refused=True)


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read everything")
def test_a_file_without_permission_is_named(tmp_path):
    path = tmp_path / "secret.mp4"
    path.write_bytes(MEDIA["h264 mp4"]())
    path.chmod(0)
    with pytest.raises(ov.OvEncoderError, match=r"secret\.mp4: cannot be opened: Permission denied"):
        ov.patchify(path)


# --- file objects ---------------------------------------------------------------------------------------------


def test_file_objects_that_misbehave(tmp_path):
    data = encode(moving_object(48).frames_THW3, container="mpegts", options={"crf": "8"})
    assert len(data) > 2 * 32768  # more than one buffer of the demuxer
    sources = {
        "overlong @Overlong": Overlong(data),
        "failing @Failing": Failing(data),
        "failing png @Failing": Failing(odd("still png").data),
        "wordless @Wordless": Wordless(data),
        "text @StringIO": io.StringIO("text"),
        "none @NoneType": None,
        "number @int": 5,
    }
    refuse_bad(survey(sources, tmp_path), refused=True)


def test_a_pipe_is_asked_to_be_read_first():
    class Pipe(io.BytesIO):
        def seek(self, *args):
            raise io.UnsupportedOperation("seek")

    with pytest.raises(ValueError, match=r"Pipe.*not seekable"):
        ov.patchify(Pipe(MEDIA["h264 mp4"]()))


ENDLESS = {
    "mpegts": lambda: MEDIA["h264 ts"](),
    "h264": lambda: MEDIA["h264 raw"](),
    "webm": lambda: MEDIA["vp9 webm"](),
    "gif": lambda: odd("gif").data[:60_000],
    "mjpeg": lambda: odd("still jpeg").data,
    "zeros": lambda: bytes(4096),
    "text": lambda: b"lorem ipsum ",
    "noise": lambda: np.random.default_rng(1).bytes(1 << 16),
}


@pytest.mark.parametrize("content", ENDLESS)
@pytest.mark.parametrize(
    "limit", [{"bytes": 10_000_000}, {"frames": 300, "bytes": 100_000_000}], ids=["bytes", "frames"]
)
def test_endless_streams_end_at_a_limit(content, limit):
    """Endless itself refuses to be read without end. JPEG and noise may be over at once; that is a result too."""
    source = Endless(ENDLESS[content]())
    try:
        batch = ov.patchify(source, size=56, limits=ov.Limits(**limit))
    except ov.OvEncoderError as e:
        assert "endless.bin" in str(e)
    else:
        assert (content, batch.modes_B) == ("mjpeg", ["image"])
    # A frame limit ends the stream itself; only headers that point far ahead may cost more than a few buffers.
    assert source.given <= 5 * limit["bytes"]


# --- options --------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def clip():
    return encode(frames())


@pytest.mark.parametrize(
    ("option", "values"),
    [
        ("budget", [0, -1, 0.0, 1.5, float("nan"), float("inf"), "all", None]),
        ("size", [0, -14, "big", None, (224,), (0, 224), (224, -1), float("nan"), 224.5]),
        ("frames", [0, -1, 2.5, "all"]),
        ("patch", [0, -14, 1.5]),
        ("block", [0, -1]),
        ("mode", ["film", None]),
        ("anchors", [-1, "some", 1.5]),
        ("signal", ["luck"]),
        ("signals", ["none", ""]),
        ("camera", ["homography"]),
        ("accumulate", ["sum"]),
        ("normalise", [""]),
        ("fusion", ["product"]),
        ("centre_prior", [float("nan"), -1.0]),
        ("slot_floor", [-1]),
        ("slot_cap", [-1, 0, 1.5]),
        ("threads", [-1]),
    ],
)
def test_options_out_of_range_are_named_with_their_value(clip, option, values):
    for value in values:
        with pytest.raises(ValueError) as error:
            ov.patchify(clip, **{option: value})
        assert option in str(error.value)
        assert str(value) in str(error.value)


@pytest.mark.parametrize("rate", [0, -1.0, float("nan"), float("inf")])
def test_a_rate_out_of_range_is_named_with_its_value(clip, rate):
    with pytest.raises(ValueError, match=f"rate={rate}"):
        list(ov.patchify_windows(clip, rate=rate))


def test_a_rate_far_above_the_stream_s_takes_every_frame_once(tmp_path, clip):
    batches = list(ov.patchify_windows(clip, rate=1e6, size=56))
    assert [b.grids_B[0][0] for b in batches] == [T]


def test_more_budget_than_there_is_keeps_everything_and_says_so(clip):
    plan = ov.plan(clip, budget=10**9, size=56)
    assert plan.keep_THW.all()
    assert any("1000000000" in note for note in plan.notes)


@pytest.mark.parametrize(
    ("size", "grid"), [(56, (4, 5)), (57, (4, 5)), (60, (4, 5)), (70, (5, 7)), (1, (1, 1)), ((30, 100), (2, 7))]
)
def test_a_size_that_is_no_multiple_of_the_patch_is_rounded_by_rule(clip, size, grid):
    """Short side to the nearest multiple of 14 (at least one patch), long side by the aspect ratio of 4:3."""
    plan = ov.plan(clip, size=size)
    assert plan.grid[1:] == grid
    assert plan.frames_THWC.shape[1:3] == (14 * grid[0], 14 * grid[1])


@pytest.mark.parametrize("options", [{"size": 10**6}, {"size": (14, 10**8)}, {"patch": 10**6}])
def test_a_size_beyond_the_limits_is_refused_before_memory_is_taken(clip, options):
    with pytest.raises(ov.OvEncoderError, match=r"<bytes: \d+>: .*the limit is 4294967296"):
        ov.patchify(clip, **options)


def test_long_thin_pictures_are_read_or_refused_by_name(tmp_path):
    sources = {}
    for height, width in ((1, 4000), (4000, 1), (1, 1), (3, 70000)):
        buffer = io.BytesIO()
        Image.new("RGB", (width, height), (9, 99, 199)).save(buffer, "png")
        sources[f"{height}x{width} @<bytes: {len(buffer.getvalue())}>"] = buffer.getvalue()
    refuse_bad(survey(sources, tmp_path, options={"size": 224}))


@pytest.mark.parametrize(
    ("limit", "message"),
    [
        ({"pixels": 100}, r"picture of 64x48 = 3072 pixels; the limit is 100"),
        ({"frames": 3}, r"more than 3 frames"),
        ({"seconds": 0.1}, r"longer than 0\.1 s"),
        ({"bytes": 1000}, r"the limit is 1000"),
    ],
)
def test_every_limit_is_enforced_and_named(clip, limit, message):
    for use in (ov.patchify, ov.read_signals):
        with pytest.raises(ov.OvEncoderError, match=r"<bytes: \d+>: .*" + message):
            use(clip, limits=ov.Limits(**limit))


@pytest.mark.parametrize("limit", [{"pixels": 0}, {"frames": -1}, {"seconds": float("nan")}, {"bytes": 0}])
def test_limits_must_be_positive(limit):
    with pytest.raises(ValueError, match=rf"Limits\.{next(iter(limit))} must be positive"):
        ov.Limits(**limit)


def test_times_that_jump_beyond_the_limit_are_refused():
    ticks = [0, 1, 2, 3, 4, 5, 6, 25 * 3600 * 30]
    with pytest.raises(ov.OvEncoderError, match=r"longer than 86400\.0 s"):
        ov.patchify(encode(frames(), container="matroska", pts_T=ticks))


@pytest.mark.parametrize("size", [(0, 0), (-2, 8), "x", 5])
def test_a_transcode_size_out_of_range_is_named(clip, size):
    with pytest.raises(ValueError, match="size"):
        ov.read_signals(clip, signals="transcode", size=size)
