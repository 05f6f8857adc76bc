"""plan, patchify and patchify_windows: layouts with exact places, budgets to the token, options checked by name."""

import dataclasses
import io
import tracemalloc

import numpy as np
import pytest

import ov_encoder as ov
from ov_encoder.patchify.api import Options, to_batch
from ov_encoder.patchify.cut import cut_patches
from ov_encoder.patchify.select import MAX_SHARE, MIN_SHARE
from tests.clips import encode, moving_object, static, video
from tests.odd_media import animation, odd

H, W = 112, 140
SMALL = {"size": 112, "budget": 400}  # 8 x 10 patches a frame, five frames' worth


@pytest.fixture(scope="module")
def clip():
    return encode(moving_object(40, H, W, radius=18).frames_THW3)


@pytest.fixture(scope="module")
def still():
    return odd("still png").data


def every(T, rows, columns):
    return np.argwhere(np.ones((T, rows, columns), bool))


def same(a, b):
    return (
        np.array_equal(a.patches_ND, b.patches_ND)
        and np.array_equal(a.positions_N3, b.positions_N3)
        and np.array_equal(a.scores_N, b.scores_N, equal_nan=True)
        and (a.lengths_B, a.modes_B, a.grids_B) == (b.lengths_B, b.modes_B, b.grids_B)
        and np.array_equal(a.slot_times_B[0], b.slot_times_B[0])
    )


# --- layouts --------------------------------------------------------------------------------------------------


def test_an_image_is_all_of_its_patches(still):
    batch = ov.patchify(still, size=84)  # 96 x 128 pixels: 6 x 8 patches
    assert (batch.modes_B, batch.grids_B, batch.lengths_B) == (["image"], [(1, 6, 8)], [48])
    assert np.array_equal(batch.positions_N3, every(1, 6, 8))
    assert np.isnan(batch.scores_N).all()
    assert batch.slot_times_B[0].tolist() == [0.0]
    assert batch.patches_ND.shape == (48, 3 * 14 * 14)
    assert batch.patches_ND.dtype == np.uint8


def test_image_mode_shows_the_first_frame_of_a_video(clip):
    made = ov.plan(clip, mode="image", **SMALL)
    assert (made.grid, made.tokens, made.slot_frames_T.tolist()) == ((1, 8, 10), 80, [0])
    difference = made.frames_THWC[0].astype(int) - moving_object(40, H, W, radius=18).frames_THW3[0]
    assert np.abs(difference).mean() < 6


def test_chunks_are_whole_frames_at_their_true_slots(clip):
    batch = ov.patchify(clip, mode="chunk", **SMALL)
    slots = [4, 12, 20, 28, 36]  # the middle of each fifth of 40
    expected = every(5, 8, 10)
    expected[:, 0] = np.array(slots)[expected[:, 0]]
    assert np.array_equal(batch.positions_N3, expected)
    assert (batch.modes_B, batch.grids_B, batch.lengths_B) == (["chunk"], [(40, 8, 10)], [400])
    assert batch.slot_times_B[0] == pytest.approx(np.arange(40) / 25)


def test_a_collage_is_the_same_frames_in_one_tall_picture(clip):
    chunk, collage = (ov.patchify(clip, mode=mode, **SMALL) for mode in ("chunk", "collage"))
    assert np.array_equal(collage.positions_N3, every(1, 5 * 8, 10))
    assert np.array_equal(collage.patches_ND, chunk.patches_ND)
    assert (collage.modes_B, collage.grids_B, collage.lengths_B) == (["collage"], [(1, 40, 10)], [400])
    assert [len(times) for times in collage.slot_times_B] == [1]


def test_chunk_and_collage_show_at_least_one_frame(clip):
    for mode in ("chunk", "collage"):
        assert ov.patchify(clip, mode=mode, size=112, budget=10).lengths_B == [80]


def test_codec_patches_stand_where_they_are_in_the_clip(clip):
    made = ov.plan(clip, **SMALL)
    batch = made.to_batch()
    assert (batch.modes_B, batch.grids_B, batch.lengths_B) == (["codec"], [(40, 8, 10)], [400])
    assert np.array_equal(batch.positions_N3, np.argwhere(made.keep_THW))  # ascending (t, h, w)
    assert np.array_equal(batch.patches_ND, cut_patches(made.frames_THWC, batch.positions_N3, 14))
    t, h, w = batch.positions_N3.T
    assert np.array_equal(batch.scores_N, made.scores_THW[t, h, w], equal_nan=True)
    assert np.isnan(batch.scores_N[t == 0]).all()  # nothing to compare the first frame with
    assert not np.isnan(batch.scores_N[t > 0]).any()
    truth = moving_object(40, H, W, radius=18).frames_THW3
    assert np.abs(made.frames_THWC.astype(int) - truth).mean() < 6
    assert np.flatnonzero(made.anchors_T).tolist() == [0, 20]


def test_auto_is_image_for_one_picture_and_codec_for_more(clip, still):
    one = odd("one frame h264").data
    modes = [ov.plan(source, size=56).mode for source in (still, one, clip, animation("gif").data)]
    assert modes == ["image", "image", "codec", "codec"]


# --- slots ----------------------------------------------------------------------------------------------------


def test_a_short_clip_uses_each_frame_once(clip):
    made = ov.plan(clip, frames=64, **SMALL)
    assert made.slot_frames_T.tolist() == list(range(40))
    assert ov.plan(video(T=64), size=56, budget=64).grid[0] == 64


def test_slots_have_the_times_of_their_frames(clip):
    made = ov.plan(clip, frames=7, size=112, budget=100)
    assert made.slot_frames_T.tolist() == [0, 6, 13, 19, 26, 32, 39]
    assert made.slot_times_T == pytest.approx(made.slot_frames_T / 25)
    assert np.array_equal(made.to_batch().slot_times_B[0], made.slot_times_T)
    uneven = odd("variable frame rate")
    assert ov.plan(uneven.data, size=56).slot_times_T == pytest.approx(uneven.times_T, abs=0.002)


@pytest.mark.parametrize(
    ("size", "grid"), [("native", (8, 10)), ((56, 42), (4, 3)), (56, (4, 5)), (28, (2, 2)), (224, (16, 20))]
)
def test_sizes(clip, size, grid):
    for signals in ("native", "transcode"):
        made = ov.plan(clip, size=size, budget=0.25, frames=8, signals=signals)
        assert made.grid == (8, *grid)
        assert made.frames_THWC.shape == (8, grid[0] * 14, grid[1] * 14, 3)
        assert made.tokens == round(0.25 * 8 * grid[0] * grid[1])


def test_other_patch_sides_and_blocks(clip):
    made = ov.plan(clip, size=112, patch=16, budget=200, block=2)
    assert made.grid == (40, 4 * 2, 4 * 2)[:1] + made.grid[1:]
    assert made.grid[1] % 2 == made.grid[2] % 2 == 0
    T, rows, columns = made.grid
    squares = made.keep_THW.reshape(T, rows // 2, 2, columns // 2, 2)
    assert (squares.all(axis=(2, 4)) == squares.any(axis=(2, 4))).all()
    assert made.to_batch().patches_ND.shape == (200, 3 * 16 * 16)


# --- budget ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("budget", "tokens"), [(1, 1), (77, 77), (0.125, 400), (1.0, 3200), (3200, 3200)])
def test_a_budget_is_met_to_the_token(clip, budget, tokens):
    for source_signals in ("native", "transcode"):
        assert ov.patchify(clip, size=112, budget=budget, signals=source_signals).lengths_B == [tokens]


def test_more_than_there_is_keeps_everything_and_says_so(clip):
    made = ov.plan(clip, size=112, budget=5000)
    assert made.keep_THW.all()
    assert "budget of 5000 tokens is more than the 3200 patches there are: all kept" in made.notes


@pytest.mark.parametrize("scene", ["static", "moving_object", "pan", "four_shots"])
def test_an_automatic_budget_follows_the_stream(scene):
    for codec in ("h264", "vp9"):
        tokens = ov.plan(video(scene, codec), size=56, budget="auto").tokens
        assert round(MIN_SHARE * 1024) <= tokens <= round(MAX_SHARE * 1024)
    assert (
        ov.plan(video("static"), size=56, budget="auto").tokens
        < ov.plan(video("four_shots"), size=56, budget="auto").tokens
    )


def test_fewer_whole_frames_than_asked_for_are_mentioned(clip):
    made = ov.plan(clip, anchors=4, **SMALL)
    assert made.anchors_T.sum() == 3  # two thirds of 400 tokens
    assert made.notes == ["whole frames kept: 3 instead of 4 (at most two thirds of 400 tokens)"]


def test_anchor_rules_reach_the_plan():
    data = encode(moving_object(40, H, W, radius=18).frames_THW3, gop=16)
    kept = {rule: np.flatnonzero(ov.plan(data, anchors=rule, size=112, budget=0.2).anchors_T).tolist()
            for rule in ("none", "first", "scenes", "keyframes")}  # fmt: skip
    assert kept == {"none": [], "first": [0], "scenes": [0], "keyframes": [0, 16, 32]}


# --- the same however it is asked for -----------------------------------------------------------------------------


@pytest.mark.parametrize("mode", ["image", "chunk", "codec", "collage"])
@pytest.mark.parametrize("signals", ["native", "transcode"])
def test_patchify_is_the_plan_cut_and_the_same_every_time(clip, mode, signals, tmp_path):
    options = SMALL | {"mode": mode, "signals": signals, "frames": 24}
    first = ov.patchify(clip, **options)
    path = tmp_path / "clip"
    path.write_bytes(clip)
    for again in (
        ov.patchify(clip, **options),
        to_batch(ov.plan(clip, **options)),
        ov.patchify(path, **options),
        ov.patchify(io.BytesIO(clip), **options),
        ov.patchify(clip, threads=4, **options),
    ):
        assert same(first, again)


@pytest.mark.parametrize(
    ("codec", "signals", "provider", "told"),
    [
        ("h264", "auto", "bitstream", {"motion": "native", "residual": "native", "bits": "native"}),
        ("h264", "native", "native", {"motion": "native", "residual": "derived", "bits": "absent"}),
        ("h264", "transcode", "transcode", {"motion": "derived", "residual": "derived", "bits": "absent"}),
        ("vp9", "auto", "transcode", {"motion": "derived", "residual": "derived", "bits": "absent"}),
    ],
)
def test_provenance_travels_with_the_batch(codec, signals, provider, told):
    data = video("moving_object", codec, T=64)
    (provenance,) = ov.patchify(data, size=56, signals=signals).provenance_B
    assert provenance["source"] == f"<bytes: {len(data)}>"
    assert (provenance["codec"], provenance["provider"], provenance["signals"]) == (codec, provider, told)
    assert provenance["signal"] == "fused"
    assert isinstance(provenance["notes"], list)


def test_a_signal_alone_leaves_the_others_out_of_the_reading(clip):
    motion = ov.plan(clip, signal="motion", **SMALL)
    assert set(motion.maps_THW) == {"motion", "bits"}  # bits cost nothing
    assert motion.provenance["signals"]["residual"] == "absent"
    assert set(ov.plan(clip, **SMALL).maps_THW) == {"motion", "residual", "bits"}


# --- windows --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("signals", ["native", "transcode"])
def test_windows_part_the_clip_and_each_has_its_budget(signals):
    data = video("moving_object", T=64)
    options = {"frames": 10, "size": 56, "budget": 40, "signals": signals}
    batches = list(ov.patchify_windows(data, rate=12.5, **options))
    assert [len(batch.slot_times_B[0]) for batch in batches] == [10, 10, 10, 2]
    times = np.concatenate([batch.slot_times_B[0] for batch in batches])
    assert times == pytest.approx(np.arange(0, 64, 2) / 25)
    assert [batch.lengths_B for batch in batches] == [[40], [40], [40], [32]]  # the last has 2 x 16 patches
    for batch in batches:
        t = batch.positions_N3[:, 0]
        assert 0 <= t.min() <= t.max() < batch.grids_B[0][0]
    made = list(ov.patchify_windows(data, rate=12.5, **options))
    assert all(same(a, b) for a, b in zip(batches, made, strict=True))


@pytest.mark.parametrize("signals", ["native", "transcode"])
def test_one_window_over_everything_is_the_whole_clip(signals):
    data = video("moving_object", T=64)
    (window,) = ov.patchify_windows(data, rate=25, size=56, budget=100, signals=signals)
    assert same(window, ov.patchify(data, size=56, budget=100, signals=signals))


def test_windows_may_start_on_key_frames():
    data = encode(moving_object(24, H, W, radius=18).frames_THW3, gop=8)
    batches = list(ov.patchify_windows(data, rate=25, frames=8, size=112, budget=64))
    assert [batch.lengths_B for batch in batches] == [[64]] * 3


def test_windows_of_a_clip_without_timestamps():
    batches = list(ov.patchify_windows(odd("no timestamps").data, rate=25, frames=5, size=56, budget=8))
    assert [len(batch.slot_times_B[0]) for batch in batches] == [5, 5, 2]


@pytest.mark.parametrize("signals", ["native", "transcode"])
def test_memory_is_flat_in_the_number_of_windows(signals):
    def peak(data):
        tracemalloc.start()
        count = sum(1 for _ in ov.patchify_windows(data, rate=25, frames=8, size=112, budget=64, signals=signals))
        _, most = tracemalloc.get_traced_memory()
        tracemalloc.stop()
        return count, most

    short, long = (encode(moving_object(T, H, W, radius=18).frames_THW3, gop=250) for T in (16, 160))
    peak(short)  # compiled and imported
    (two, small), (twenty, large) = peak(short), peak(long)
    assert (two, twenty) == (2, 20)
    assert large < 1.25 * small


# --- errors ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("option", "message"),
    [
        ({"mode": "film"}, "mode='film'; allowed: auto, image, chunk, codec, collage"),
        ({"signal": "depth"}, "signal='depth'; allowed: fused, motion, residual, bits"),
        ({"signals": "magic"}, "signals='magic'; allowed: auto, bitstream, native, transcode"),
        ({"camera": "drone"}, "camera='drone'; allowed: none, median, similarity, affine"),
        ({"accumulate": "gop"}, "accumulate='gop'; allowed: interval, frame"),
        ({"normalise": "batch"}, "normalise='batch'; allowed: clip, frame"),
        ({"fusion": "min"}, "fusion='min'; allowed: weighted, max, sum, geomean"),
        ({"anchors": "all"}, "anchors='all'; must be .*scenes, keyframes, first, none"),
        ({"anchors": -1}, "anchors=-1; must be .*scenes, keyframes, first, none"),
        ({"budget": 0}, r"budget=0; must be .*token.* share in \(0, 1\].*auto"),
        ({"budget": 1.5}, r"budget=1\.5; must be .*token.* share in \(0, 1\].*auto"),
        ({"budget": "many"}, r"budget='many'; must be .*token.* share in \(0, 1\].*auto"),
        ({"size": "large"}, r'size=\'large\'; must be a short side in pixels, "native" or \(height, width\)'),
        ({"size": -1}, r'size=-1; must be a short side in pixels, "native" or \(height, width\)'),
        ({"frames": 0}, "frames=0; must be a whole number of at least 1"),
        ({"frames": 6.5}, r"frames=6\.5; must be a whole number of at least 1"),
        ({"patch": 0}, "patch=0; must be a whole number of at least 1"),
        ({"block": True}, "block=True; must be a whole number of at least 1"),
        ({"threads": -1}, "threads=-1; must be a whole number of at least 0"),
        ({"slot_floor": -1}, "slot_floor=-1; must be a whole number of at least 0"),
        ({"slot_cap": 0}, "slot_cap=0; must be a whole number of at least 1"),
        ({"slot_cap": 3, "slot_floor": 4}, "slot_cap=3; must be at least slot_floor=4"),
        ({"centre_prior": -0.5}, r"centre_prior=-0\.5; must be 0 or a positive number"),
    ],
)
def test_wrong_options_are_named_with_what_is_allowed(clip, option, message):
    for use in (ov.patchify, ov.plan, lambda *a, **k: list(ov.patchify_windows(*a, rate=1, **k))):
        with pytest.raises(ValueError, match=message):
            use(clip, **option)


@pytest.mark.parametrize("rate", [0, -1, float("nan"), float("inf")])
def test_a_wrong_rate_is_named(clip, rate):
    with pytest.raises(ValueError, match=r"rate=.*; must be a positive number of slots per second"):
        list(ov.patchify_windows(clip, rate=rate))


def test_a_signal_that_the_clip_lacks_is_named(clip):
    with pytest.raises(ValueError, match="signal='bits' is not known for this clip; it has: motion"):
        ov.patchify(clip, signal="bits", signals="native", **SMALL)
    with pytest.raises(ValueError, match="signals='native' is not possible for vp9"):
        ov.patchify(video("static", "vp9"), signals="native")


def test_an_unknown_option_is_a_type_error(clip):
    with pytest.raises(TypeError, match="budgets"):
        ov.patchify(clip, budgets=3)


def test_frames_that_would_not_fit_are_refused_before_decoding(clip):
    need = 40 * H * W * 3
    with pytest.raises(ov.OvEncoderError, match=rf"40 frames of {H}x{W} pixels take {need} bytes; the limit is"):
        ov.plan(clip, size=112, limits=ov.Limits(bytes=need - 1))


def test_options_are_frozen_and_complete():
    assert dataclasses.asdict(Options())["budget"] == 2048
    with pytest.raises(dataclasses.FrozenInstanceError):
        Options().budget = 3


def test_a_still_clip_says_what_it_did():
    made = ov.plan(encode(static(24, H, W).frames_THW3), **SMALL)
    assert made.tokens == 400
    assert "tokens went to whole frames, spread out" in made.notes[0]


def test_an_all_intra_stream_is_scored_by_its_residual():
    scene = moving_object(64, 112, 112, radius=18)
    made = ov.plan(encode(scene.frames_THW3, gop=1), size=112, budget=0.1, anchors=1)
    assert set(made.maps_THW) == {"residual"} and not any("changed" in note for note in made.notes)
    kept = made.keep_THW & ~made.anchors_T[:, None, None]
    on_object = scene.masks_THW[made.slot_frames_T].reshape(64, 8, 14, 8, 14).any(axis=(2, 4))
    assert (kept & on_object).sum() > 0.8 * kept.sum()


def test_a_floor_beyond_the_budget_is_refused():
    with pytest.raises(ValueError, match=r"slot_floor=200 asks for \d+ patches, \d+ tokens are left"):
        ov.plan(video("moving_object"), slot_floor=200, budget=600)
