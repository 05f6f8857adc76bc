"""What is new in a slot: everything since the slot before, on the patch grid, where the content now lies.

H, W = patch rows and columns, Y, X = rows and columns of codec cells.
"""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import ov_encoder as ov
from ov_encoder.codec.media import inspect
from ov_encoder.codec.read import read
from ov_encoder.patchify.camera import Camera
from ov_encoder.patchify.slots import (
    FLAT,
    ToPatches,
    _carry,
    native_slots,
    plain_slots,
    texture_trust,
    transcoded_slots,
)
from tests.clips import Mover, encode, moving_object, pan, render
from tests.odd_media import resolution_change, turned

# --- resampling -----------------------------------------------------------------------------------------------


def by_pixels(cells_YX, height, width, cell, grid_HW):
    """The same means the slow way: every pixel takes its cell's value and is split into H x W equal parts."""
    pixels = np.repeat(np.repeat(cells_YX.astype(float), cell, axis=0), cell, axis=1)[:height, :width]
    H, W = grid_HW
    rows = np.repeat(pixels, H, axis=0).reshape(H, height, width).mean(axis=1)
    return np.repeat(rows, W, axis=1).reshape(H, W, width).mean(axis=2)


@settings(max_examples=60)
@given(
    height=st.integers(1, 90),
    width=st.integers(1, 90),
    cell=st.sampled_from([4, 8, 16]),
    H=st.integers(1, 12),
    W=st.integers(1, 12),
    seed=st.integers(0, 2**32 - 1),
)
def test_patches_are_area_weighted_means_of_cells(height, width, cell, H, W, seed):
    cells = np.random.default_rng(seed).random((-(-height // cell), -(-width // cell))).astype(np.float32)
    to_patches = ToPatches(height, width, cell, (H, W))
    assert to_patches.rows_HY.sum(axis=1) == pytest.approx(np.ones(H), abs=1e-6)
    assert to_patches.columns_WX.sum(axis=1) == pytest.approx(np.ones(W), abs=1e-6)
    patches = to_patches(cells)
    assert (patches.shape, patches.dtype) == ((H, W), np.float32)
    assert patches == pytest.approx(by_pixels(cells, height, width, cell, (H, W)), abs=1e-5)
    assert to_patches(np.full_like(cells, 7)) == pytest.approx(np.full((H, W), 7), rel=1e-6)


# --- carrying -------------------------------------------------------------------------------------------------


def test_a_blob_is_carried_along_with_the_content():
    field = np.zeros((6, 8), np.float32)
    field[2, 3] = 5
    motion = np.broadcast_to(np.float32([-16, 8]), (6, 8, 2)).copy()  # it came from 2 cells left, 1 cell below
    carried = _carry(field, motion, None, 8)
    expected = np.zeros((6, 8), np.float32)
    expected[1, 5] = 5
    assert np.array_equal(carried, expected)


def test_half_a_cell_shares_the_blob_and_rest_keeps_it():
    field = np.zeros((3, 5), np.float32)
    field[1, 2] = 4
    half = np.broadcast_to(np.float32([4, 0]), (3, 5, 2)).copy()
    assert _carry(field, half, None, 8)[1].tolist() == [0, 2, 2, 0, 0]
    assert np.array_equal(_carry(field, np.zeros((3, 5, 2), np.float32), None, 8), field)


def test_content_from_outside_takes_the_border_s_value():
    field = np.tile(np.arange(4, dtype=np.float32), (2, 1))
    far = np.broadcast_to(np.float32([-800, 0]), (2, 4, 2)).copy()
    assert not _carry(field, far, None, 8).any()
    assert (_carry(field, -far, None, 8) == 3).all()


def test_motion_that_the_camera_does_not_explain_is_added_to_the_path():
    rng = np.random.default_rng(5)
    field, motion = rng.random((9, 7), np.float32), rng.normal(0, 4, (9, 7, 2)).astype(np.float32)
    motion[rng.random((9, 7)) < 0.3] = 0
    weights = rng.normal(0, 1, 6)
    rest = motion - Camera(weights, "affine", 1.0).field(9, 7)
    expected = _carry(field, motion, None, 8) + np.linalg.norm(rest, axis=-1)
    assert _carry(field, motion, weights, 8) == pytest.approx(expected, abs=1e-4)


def test_vectors_count_by_the_contrast_of_their_patch():
    picture = np.full((16, 24, 3), 100, np.uint8)
    picture[:8, ::4, 1] += 10  # of the pixels that are looked at, half: a standard deviation of 5
    picture[8:, :8, 0] = np.arange(64).reshape(8, 8)  # red alone is no luma
    trust = texture_trust(picture, 8)
    assert trust.shape == (2, 3)
    assert trust[0] == pytest.approx(np.full(3, 25 / (25 + FLAT**2)))
    assert (trust[1] == 0).all()


# --- slots of a stream ----------------------------------------------------------------------------------------


def slots_of(data, wanted, grid=(7, 7), *, patch=14, kind="native", camera="none", accumulate="interval"):
    wanted, seconds = np.asarray(wanted), {}
    with read(data, signals="native" if kind == "native" else "none") as reading:
        if kind == "native":
            more = {"camera": camera, "accumulate": accumulate}
            return list(native_slots(reading, wanted, grid, patch=patch, seconds=seconds, **more))
        if kind == "transcode":
            return list(transcoded_slots(reading, wanted, grid, patch=patch, seconds=seconds, camera=camera))
        return list(plain_slots(reading, wanted, grid, patch=patch, seconds=seconds))


def hop(T=33, *, still_until=10, still_from=15, step=6.0):
    """A disc that rests, moves 5 * step pixels right between two slots, and rests again."""
    x = 30 + step * np.clip(np.arange(T) - still_until, 0, still_from - still_until)
    return render(T, 98, 98, seed=31, movers=[Mover(np.stack([x, np.full(T, 49.0)], axis=-1), 13, 32)])


@pytest.mark.parametrize("bframes", [False, True])
def test_what_happened_between_slots_counts(bframes):
    data = encode(hop().frames_THW3, bframes=bframes, gop=64)
    wanted = [0, 8, 24, 32]  # the disc moves between 8 and 24 and rests at both
    interval = slots_of(data, wanted)
    frame = slots_of(data, wanted, accumulate="frame")
    home = (3, 4)  # the patch that the disc came to rest on
    assert hop().masks_THW[24].reshape(7, 14, 7, 14).mean(axis=(1, 3))[home] > 0.9
    moved = interval[2].maps_HW["motion"]
    assert moved[home] > 10  # 30 pixels in all; carried along with the disc
    assert (moved[[0, 1, 5, 6]] == 0).all()  # and nothing far from its path
    assert interval[2].maps_HW["residual"][home] > 1
    assert max(float(slot.maps_HW["motion"].max()) for slot in frame[1:]) < 0.5
    assert float(interval[1].maps_HW["motion"].max()) < 0.5
    assert float(interval[3].maps_HW["motion"].max()) < 0.5


def test_path_lengths_add_up_over_the_interval_in_the_encoder_s_pixels():
    data = encode(pan(25, 112, 112, dx=2.0, dy=1.5, with_object=False).frames_THW3, gop=64)
    for grid, scale in (((8, 8), 1.0), ((4, 4), 0.5)):
        slots = slots_of(data, [0, 4, 12, 24], grid)
        for slot, frames in zip(slots[1:], (4, 8, 12), strict=True):
            assert np.median(slot.maps_HW["motion"]) == pytest.approx(2.5 * frames * scale, rel=0.1)
    compensated = slots_of(data, [0, 4, 12, 24], (8, 8), camera="median")
    assert max(np.median(slot.maps_HW["motion"]) for slot in compensated[1:]) < 1


def test_every_packet_s_bits_land_in_one_slot():
    data = encode(moving_object(30, 98, 98, radius=15).frames_THW3, bframes=True, gop=12)
    bits = sorted(inspect(data).packet_bits_K.tolist())
    for kind in ("native", "plain"):
        slots = slots_of(data, [0, 7, 20, 29], kind=kind)
        assert sum(slot.bits for slot in slots) == sum(bits)
        assert [slot.frame for slot in slots] == [0, 7, 20, 29]
        assert [slot.time_s for slot in slots] == pytest.approx([0, 0.28, 0.8, 1.16])
        assert [slot.key for slot in slots] == [True, False, True, True]  # keys at 0, 12, 24
        assert all(slot.rgb_YX3.shape == (98, 98, 3) for slot in slots)
    assert slots_of(data, [0, 7, 20, 29])[2].intra == 1


def test_the_first_slot_knows_nothing_and_a_later_start_does():
    data = encode(moving_object(12, 98, 98, radius=15).frames_THW3)
    assert slots_of(data, [0, 5])[0].maps_HW == {}
    assert set(slots_of(data, [3, 5])[0].maps_HW) == {"motion", "residual"}
    assert slots_of(data, [3, 5], kind="transcode")[0].maps_HW == {}  # nothing to compare with
    assert all(slot.maps_HW == {} for slot in slots_of(data, [0, 5], kind="plain"))


def test_transcoded_slots_compare_each_with_the_slot_before():
    scene = hop()
    for codec in ("h264", "vp9"):
        slots = slots_of(encode(scene.frames_THW3, codec=codec), [0, 8, 24, 32], kind="transcode")
        energy = [float(slot.maps_HW["residual"].max()) for slot in slots[1:]]
        assert energy[1] > 5 * max(energy[0], energy[2], 1)
        assert all(slot.bits > 0 for slot in slots)


def test_slots_that_the_stream_does_not_reach_are_left_out():
    data = encode(moving_object(12, 98, 98, radius=15).frames_THW3)
    for kind in ("native", "transcode", "plain"):
        assert [slot.frame for slot in slots_of(data, [0, 5, 11, 40], kind=kind)] == [0, 5, 11]


def test_a_rotated_video_gives_rotated_slots():
    data = encode(moving_object(12, 96, 128, speed=3.0, radius=18).frames_THW3)
    flat = slots_of(data, [0, 5, 11], (6, 8), patch=16)
    for degrees in (90, 180, 270):
        grid = (8, 6) if degrees % 180 else (6, 8)
        for a, b in zip(flat, slots_of(turned(data, degrees), [0, 5, 11], grid, patch=16), strict=True):
            for name, value in a.maps_HW.items():
                # texture is judged on every other pixel, which turning does not keep
                assert b.maps_HW[name] == pytest.approx(np.rot90(value, -degrees // 90), rel=0.1, abs=1e-4), name
            assert np.abs(b.rgb_YX3.astype(int) - np.rot90(a.rgb_YX3, -degrees // 90)).mean() < 1


def test_a_stream_that_changes_its_size_goes_on():
    slots = slots_of(resolution_change().data, range(12), (6, 8), patch=16)
    assert [slot.frame for slot in slots] == list(range(12))
    assert {slot.rgb_YX3.shape for slot in slots} == {(96, 128, 3)}
    assert all(value.shape == (6, 8) for slot in slots for value in slot.maps_HW.values())


def test_time_is_told_per_stage():
    made = ov.plan(encode(moving_object(12, 98, 98, radius=15).frames_THW3), size=98)
    assert set(made.seconds) == {"decode and signals", "accumulate", "resize", "select"}
    assert all(seconds >= 0 for seconds in made.seconds.values())
