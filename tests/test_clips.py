"""The test media are what they claim: frames count, colours survive, masks and motion fit the pixels."""

import io

import av
import numpy as np
import pytest

from tests.clips import CODECS, SCENES, encode, moving_object, pan, video
from tests.odd_media import HEADERS, audio_only


def decode(data: bytes) -> np.ndarray:
    with av.open(io.BytesIO(data)) as c:
        return np.stack([f.to_ndarray(format="rgb24") for f in c.decode(video=0)])


@pytest.mark.parametrize("codec", CODECS)
def test_every_codec_gives_back_every_frame(codec):
    scene = moving_object()
    shown = decode(video("moving_object", codec))
    assert shown.shape == scene.frames_THW3.shape
    assert np.abs(shown.astype(int) - scene.frames_THW3).mean() < 5


@pytest.mark.parametrize("codec", ["h264", "hevc", "mpeg4", "mpeg2"])
def test_b_frames_only_where_asked(codec):
    for wanted in (False, True):
        with av.open(io.BytesIO(video("moving_object", codec, bframes=wanted))) as c:
            types = {av.video.frame.PictureType(f.pict_type).name for f in c.decode(video=0)}
        assert ("B" in types) == wanted


def test_x264_writes_one_slice_per_frame():
    data = encode(moving_object(4).frames_THW3, container="h264")
    slices = [data[i + 3] & 31 for i in range(len(data) - 3) if data[i : i + 3] == b"\0\0\1"]
    assert sum(kind in (1, 5) for kind in slices) == 4


@pytest.mark.parametrize("name", ["moving_object", "static"])
def test_outside_the_masks_nothing_happens(name):
    scene = SCENES[name](8)
    outside = ~(scene.masks_THW[1:] | scene.masks_THW[:-1])
    assert (scene.frames_THW3[1:][outside] == scene.frames_THW3[:-1][outside]).all()
    assert scene.masks_THW.any() == (name == "moving_object")


@pytest.mark.parametrize("name", ["pan", "zoom", "rotation"])
def test_outside_the_masks_the_known_motion_explains_the_picture(name):
    scene = SCENES[name](8)
    frames = scene.frames_THW3.astype(np.float32)
    y, x = np.mgrid[24:200, 24:200].astype(float)
    source = np.stack([x, y], axis=-1)
    for _ in range(7):
        source = source + scene.background_motion(source[..., 0], source[..., 1])
    u, v = np.rint(source).astype(int).transpose(2, 0, 1)
    outside = ~(scene.masks_THW[7, 24:200, 24:200] | scene.masks_THW[0, v, u])
    moved = np.abs(frames[7, 24:200, 24:200] - frames[0, v, u])[outside].mean()
    stood = np.abs(frames[7] - frames[0])[24:200, 24:200][outside].mean()
    assert moved < 0.4 * stood


def test_shots_and_the_flash_are_where_they_are_said_to_be():
    for name, starts in (("cut", (0, 8)), ("four_shots", (0, 4, 8, 12)), ("flash", (0,))):
        scene = SCENES[name](16)
        change = np.abs(np.diff(scene.frames_THW3.astype(int), axis=0)).mean(axis=(1, 2, 3))
        assert scene.shots == starts
        assert all(change[s - 1] > 25 for s in starts[1:])
        if name == "flash":
            assert set(np.flatnonzero(change > 25) + 1) == {6, 8}


def test_an_integer_pan_is_exact():
    frames = pan(3, dx=3.0, dy=-2.0, with_object=False).frames_THW3
    assert (frames[1, :-2, 3:] == frames[0, 2:, :-3]).all()


def test_scenes_are_deterministic_and_cannot_be_changed():
    again = moving_object.__wrapped__(4)
    assert (again.frames_THW3 == moving_object(4).frames_THW3).all()
    with pytest.raises(ValueError, match="read-only"):
        again.frames_THW3[0] = 0


def test_headers_claim_what_they_are_told():
    for name, make in HEADERS.items():
        assert make(96, 128) != make(30000, 30000), name
    with av.open(io.BytesIO(HEADERS["h264"](8000, 16000))) as c:
        assert (c.streams.video[0].height, c.streams.video[0].width) == (8000, 16000)


@pytest.mark.parametrize("container", ["mp4", "wav"])
def test_audio_only_has_sound_and_no_pictures(container):
    with av.open(io.BytesIO(audio_only(container))) as c:
        assert not c.streams.video
        assert sum(f.samples for f in c.decode(audio=0)) >= 16000
