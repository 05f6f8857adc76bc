"""The whole way from a file to its kept patches, against ground truth: whatever the codec, they lie on what moves.

T = slots, H, W = patch rows and columns.
"""

from itertools import pairwise, product

import numpy as np
import pytest

import ov_encoder as ov
from ov_encoder.patchify.select import SHOT_FLOOR
from tests.clips import SCENES, Mover, Scene, encode, four_shots, moving_object, render, video

CODECS = ["h264", "h264 with B-frames", "hevc", "vp9", "av1", "mpeg4"]
SHARE = 0.9  # of the patches outside whole frames that must lie on the object


def made_of(scene, codec="h264", signals="auto", **options):
    name, _, b = codec.partition(" with ")
    data = video(scene, name, bframes=bool(b))
    return ov.plan(data, budget=options.pop("budget", 0.05), signals=signals, **options)


def object_patches(scene: Scene, plan):
    """Patches that the object touches, and their eight neighbours: bool [T, H, W]."""
    T, H, W = plan.grid
    masks = scene.masks_THW[plan.slot_frames_T]
    touched = masks.reshape(T, H, 14, W, 14).any(axis=(2, 4))
    padded = np.pad(touched, ((0, 0), (1, 1), (1, 1)))
    return np.logical_or.reduce([padded[:, i : i + H, j : j + W] for i in range(3) for j in range(3)])


def revealed_patches(scene: Scene, plan):
    """Patches that mostly show what the camera's motion brought into view since the P-frame before: bool [H, W]."""
    _, H, W = plan.grid
    y, x = np.mgrid[0 : H * 14, 0 : W * 14].astype(float)
    was = np.stack([x, y], axis=-1) + 4 * scene.background_motion(x, y)
    unseen = ((was < 0) | (was > [W * 14 - 1, H * 14 - 1])).any(axis=-1)
    return unseen.reshape(H, 14, W, 14).mean(axis=(1, 3)) > 0.5


def share_on_object(scene: Scene, plan, *, revealed: bool = False):
    """revealed: what came into view at the picture's edge counts too; it is new, and P-frames pay for it."""
    chosen = plan.keep_THW & ~plan.anchors_T[:, None, None]
    assert chosen.sum() > 300  # 5 % of 64 x 256, less two whole frames
    good = object_patches(scene, plan) | (revealed_patches(scene, plan) if revealed else False)
    return (chosen & good).sum() / chosen.sum()


@pytest.mark.parametrize("codec", CODECS)
@pytest.mark.parametrize("scene", ["moving_object", "pan", "flash", "cut"])
def test_patches_lie_on_the_object(scene, codec):
    plan = made_of(scene, codec)
    assert plan.grid == (64, 16, 16)
    assert plan.tokens == round(0.05 * 64 * 256)
    expected = {"h264": "bitstream", "hevc": "bitstream", "mpeg4": "native"}.get(codec.partition(" ")[0], "transcode")
    assert plan.provenance["provider"] == expected
    assert plan.notes == []
    assert share_on_object(SCENES[scene](64), plan, revealed=True) >= SHARE
    if scene == "cut":
        assert np.flatnonzero(plan.anchors_T).tolist() == [0, 32]


@pytest.mark.parametrize(("codec", "provider"), [("h264", "transcode"), ("mpeg4", "transcode"), ("h264", "native")])
@pytest.mark.parametrize("scene", ["moving_object", "pan", "flash", "cut"])
def test_other_providers_agree_where_they_exist_too(scene, codec, provider):
    plan = made_of(scene, codec, provider)
    assert plan.provenance["provider"] == provider
    assert share_on_object(SCENES[scene](64), plan) >= SHARE


@pytest.mark.parametrize("codec", ["h264", "vp9"])
def test_a_camera_that_follows_the_object_finds_it_by_compensation_only(codec):
    """The object rests on the screen and the background rushes by: plain motion would choose the background."""
    rest = np.full((64, 2), 112.0)
    scene = render(64, 224, 224, seed=3, step_23=np.array([[1, 0, -3], [0, 1, 1.5]]), movers=[Mover(rest, 26, 4)])
    data = encode(scene.frames_THW3, codec=codec)
    followed = ov.plan(data, budget=0.05, signal="motion")
    assert share_on_object(scene, followed) >= SHARE
    assert share_on_object(scene, ov.plan(data, budget=0.05, signal="motion", camera="none")) < 0.2


def test_a_random_choice_would_fail():
    plan = made_of("moving_object")
    assert object_patches(moving_object(64), plan)[1:].mean() < 0.2


@pytest.mark.parametrize(
    ("codec", "signal"),
    [*product(["h264", "hevc"], ["motion", "residual", "bits"]), ("vp9", "motion"), ("vp9", "residual")],
)
def test_each_signal_alone_finds_the_object(codec, signal):
    assert share_on_object(moving_object(64), made_of("moving_object", codec, signal=signal)) >= SHARE


# --- nothing moves ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("codec", CODECS)
def test_a_static_clip_falls_back_to_spread_whole_frames_and_says_so(codec):
    plan = made_of("static", codec, budget=0.125)
    assert plan.tokens == 2048
    assert len(plan.notes) == 1
    assert "tokens went to whole frames, spread out" in plan.notes[0]
    assert plan.provenance["notes"] == plan.notes
    whole = np.flatnonzero(plan.keep_THW.all(axis=(1, 2)))
    assert len(whole) >= 7  # of the 8 that 2048 tokens hold
    gaps = np.diff([*whole, 64])
    assert gaps.max() <= 16
    assert plan.anchors_T.sum() == 2


# --- four shots -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("codec", "signals"), [("h264", "auto"), ("h264", "transcode"), ("hevc", "auto")])
@pytest.mark.parametrize("budget", [0.05, 2048])
def test_every_shot_keeps_its_floor_beside_a_violent_one(codec, signals, budget):
    plan = made_of("four_shots", codec, signals, budget=budget, anchors=4)
    assert plan.shots == list(four_shots(64).shots)
    anchors = np.flatnonzero(plan.anchors_T).tolist()
    room = 2 * plan.tokens // (3 * 256)
    assert anchors == ([0, 16, 32, 48] if room >= 4 else [0, 16])  # shot starts before anywhere else
    chosen = plan.keep_THW & ~plan.anchors_T[:, None, None]
    for start, end in pairwise([*plan.shots, 64]):
        due = int(SHOT_FLOOR * chosen.sum() * (end - start) / 64)
        shown = plan.keep_THW[start:end].all(axis=(1, 2)).any()
        assert chosen[start:end].sum() >= due or shown
        assert plan.keep_THW[start:end].sum() >= due


def test_the_quiet_shots_keep_patches_on_their_slow_object():
    plan = made_of("four_shots", budget=2048)
    chosen = plan.keep_THW & ~plan.anchors_T[:, None, None]
    on_object = object_patches(four_shots(64), plan)
    for start in (32, 48):
        kept = chosen[start + 1 : start + 16]
        assert (kept & on_object[start + 1 : start + 16]).sum() >= 0.8 * kept.sum() > 0
