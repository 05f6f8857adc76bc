"""Exchange formats: what is written is what is read, and nothing damaged or doubled passes."""

import json
import shutil

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from ov_encoder.errors import OvEncoderError
from ov_encoder.patchify.batch import PatchBatch, pack
from ov_encoder.patchify.cut import cut_patches
from ov_encoder.patchify.exchange import (
    load_mosaics,
    load_visidx,
    positions_from_indices,
    save_mosaics,
    save_visidx,
    to_visible_indices,
)

GRID = (8, 4, 6)
P = 14


def sample(tokens=48, *, seed=0, grid=GRID, patch=P, smooth=False):
    """A codec sample of `tokens` distinct patches in ascending order, every value of it random."""
    rng = np.random.default_rng(seed)
    T, H, W = grid
    if smooth:
        y, x = np.mgrid[0 : H * patch, 0 : W * patch]
        wave = np.stack([127 + 100 * np.sin(x / 30 + c) * np.cos(y / 25) for c in range(3)], axis=-1)
        frames = np.stack([np.roll(wave, 3 * t, axis=1) for t in range(T)]).astype(np.uint8)
    else:
        frames = rng.integers(0, 256, (T, H * patch, W * patch, 3), dtype=np.uint8)
    positions = positions_from_indices(np.sort(rng.choice(T * H * W, tokens, replace=False)), grid)
    return PatchBatch.from_arrays(
        patches_ND=cut_patches(frames, positions, patch),
        positions_N3=positions,
        lengths_B=[tokens],
        modes_B=["codec"],
        grids_B=[grid],
        slot_times_B=[np.sort(rng.random(T))],
        scores_N=rng.random(tokens).astype(np.float32),
        provenance_B=[{"motion": "native", "codec": "h264"}],
    )


def same(a, b, *, pixels=True):
    assert (a.positions_N3 == b.positions_N3).all()
    assert not pixels or (a.patches_ND == b.patches_ND).all()
    assert np.array_equal(a.scores_N, b.scores_N, equal_nan=True)
    assert (a.lengths_B, a.modes_B, a.grids_B) == (b.lengths_B, b.modes_B, b.grids_B)
    assert a.provenance_B == b.provenance_B
    assert all(np.array_equal(s, t) for s, t in zip(a.slot_times_B, b.slot_times_B, strict=True))


# --- indices --------------------------------------------------------------------------------------------------


@given(st.data())
def test_indices_and_positions_are_inverse(data):
    grid = tuple(data.draw(st.integers(1, 12)) for _ in range(3))
    size = int(np.prod(grid))
    indices = np.array(data.draw(st.lists(st.integers(0, size - 1), unique=True, min_size=1, max_size=40)))
    positions = positions_from_indices(indices, grid)
    assert positions.dtype == np.int32
    assert (positions @ np.array([grid[1] * grid[2], grid[2], 1]) == indices).all()
    batch = PatchBatch.from_arrays(
        patches_ND=np.zeros((len(indices), 3), np.uint8),
        positions_N3=positions,
        lengths_B=[len(indices)],
        grids_B=[grid],
    )
    (back,) = to_visible_indices(batch)
    assert back.dtype == np.int64
    assert (back == indices).all()


def test_indices_of_a_packed_batch_come_per_sample():
    parts = [sample(10), sample(7, seed=1, grid=(2, 5, 5))]
    for one, indices in zip(parts, to_visible_indices(pack(parts)), strict=True):
        assert (indices == to_visible_indices(one)[0]).all()


@pytest.mark.parametrize(
    ("indices", "message"),
    [
        ([192], r"192 lies outside a grid of 8 x 4 x 6: 0 to 191"),
        ([3, -1], r"-1 lies outside"),
        ([5, 7, 5], r"\(t, h, w\) = \(0, 0, 5\) is listed 2 times"),
        ([1.5], r"whole numbers of shape \[K\], got float64"),
        ([[1, 2]], r"whole numbers of shape \[K\], got int64 of shape \(1, 2\)"),
    ],
)
def test_wrong_indices_are_named(indices, message):
    with pytest.raises(ValueError, match=message):
        positions_from_indices(np.array(indices), GRID)


def test_positions_that_are_fractional_or_repeat_have_no_index():
    batch = sample(4)
    batch.positions_N3 = batch.positions_N3.astype(np.float32) + 0.5
    with pytest.raises(ValueError, match="must be whole numbers"):
        to_visible_indices(batch)
    batch = sample(4)
    batch.positions_N3 = np.repeat(batch.positions_N3[:1], 4, axis=0)
    with pytest.raises(ValueError, match="listed 4 times"):
        to_visible_indices(batch)
    batch.positions_N3 = np.array([[0, 0, 0], [0, 0, 1], [0, 0, 2], [0, 4, 0]])
    with pytest.raises(ValueError, match=r"\(0, 4, 0\) lies outside the grid \(8, 4, 6\)"):
        to_visible_indices(batch)


# --- index files ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("name", "shape"), [("a.visidx.npy", (48,)), ("a.visidx_thw.npy", (48, 3))])
def test_index_files_round_trip_as_sorted_int32(tmp_path, name, shape):
    batch = sample()
    save_visidx(batch, tmp_path / name)
    raw = np.load(tmp_path / name)
    assert (raw.dtype, raw.shape) == (np.int32, shape)
    assert (load_visidx(tmp_path / name, grid=GRID, tokens=48) == batch.positions_N3).all()


def test_damaged_index_files_are_refused_by_name(tmp_path):
    path = tmp_path / "clip.visidx.npy"
    with pytest.raises(OvEncoderError, match=r"clip\.visidx\.npy: cannot be read"):
        load_visidx(path, grid=GRID)
    save_visidx(sample(), path)
    whole = path.read_bytes()
    for end in range(0, len(whole), 7):
        path.write_bytes(whole[:end])
        with pytest.raises(OvEncoderError, match=r"clip\.visidx\.npy"):
            load_visidx(path, grid=GRID)
    path.write_bytes(whole)
    with pytest.raises(OvEncoderError, match=r"holds 48 tokens, expected 50"):
        load_visidx(path, grid=GRID, tokens=50)
    with pytest.raises(OvEncoderError, match=r"outside a grid of 1 x 4 x 6"):
        load_visidx(path, grid=(1, 4, 6))
    np.save(path, np.zeros(2048, np.int32))  # the reference's mark of a video that failed
    with pytest.raises(OvEncoderError, match=r"listed 2048 times"):
        load_visidx(path, grid=GRID)
    np.save(path, np.array([{"a": 1}]), allow_pickle=True)
    with pytest.raises(OvEncoderError, match=r"clip\.visidx\.npy"):
        load_visidx(path, grid=GRID)
    huge = bytearray(whole)
    huge[: whole.index(b"\n") + 1] = whole[: whole.index(b"\n") + 1].replace(b"(48,), }    ", b"(48000000000,), }")
    path.write_bytes(huge)
    with pytest.raises(OvEncoderError, match=r"clip\.visidx\.npy"):
        load_visidx(path, grid=GRID)


# --- mosaics --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("canvas", [None, (2, 6), (12, 4)])
def test_png_mosaics_round_trip_exactly(tmp_path, canvas):
    batch = sample()
    paths = save_mosaics(batch, tmp_path / "a", canvas=canvas, frame_ids=range(0, 80, 10))
    R, C = canvas or GRID[1:]
    assert [p.name for p in paths] == [f"mosaic_{i:03d}.png" for i in range(48 // (R * C))]
    assert Image.open(paths[0]).size == (C * P, R * P)
    same(batch, load_mosaics(tmp_path / "a"))
    assert (np.load(tmp_path / "a" / "frame_ids.npy") == np.arange(0, 80, 10)).all()
    indices = np.load(tmp_path / "a" / "visible_indices.npy")
    assert (indices.dtype, np.load(tmp_path / "a" / "positions_thw.npy").dtype) == (np.int64, np.int32)
    assert (indices == to_visible_indices(batch)[0]).all()


def test_canvases_hold_patches_in_raster_order(tmp_path):
    batch = sample()
    paths = save_mosaics(batch, tmp_path)
    patch = batch.patches_ND[24 + 1 * 6 + 2].reshape(3, P, P).transpose(1, 2, 0)
    canvas = np.asarray(Image.open(paths[1]))
    assert (canvas[P : 2 * P, 2 * P : 3 * P] == patch).all()


def test_tokens_in_any_order_are_written_in_order(tmp_path):
    batch = sample()
    order = np.random.default_rng(3).permutation(48)
    shuffled = PatchBatch.from_arrays(
        patches_ND=batch.patches_ND[order],
        positions_N3=batch.positions_N3[order],
        lengths_B=[48],
        modes_B=["codec"],
        grids_B=[GRID],
        slot_times_B=batch.slot_times_B,
        scores_N=batch.scores_N[order],
        provenance_B=batch.provenance_B,
    )
    save_mosaics(shuffled, tmp_path)
    same(batch, load_mosaics(tmp_path))


def test_jpeg_mosaics_keep_everything_but_pixels_and_those_nearly(tmp_path):
    batch = sample(smooth=True, patch=16)
    paths = save_mosaics(batch, tmp_path, image="jpeg", quality=95)
    assert paths[0].suffix == ".jpg"
    loaded = load_mosaics(tmp_path)
    same(batch, loaded, pixels=False)
    error = np.abs(loaded.patches_ND.astype(int) - batch.patches_ND)
    assert 0 < error.mean() < 2


def test_a_directory_of_the_reference_is_read(tmp_path):
    """Its meta.json has other keys, and there is neither a grid nor scores."""
    batch = sample(patch=16)
    save_mosaics(batch, tmp_path, frame_ids=range(8))
    (tmp_path / "meta.json").write_text(json.dumps({"version": "other", "square_size": 96}))
    (tmp_path / "scores.npy").unlink()
    loaded = load_mosaics(tmp_path)
    assert (loaded.patches_ND == batch.patches_ND).all()
    assert (loaded.positions_N3 == batch.positions_N3).all()
    assert loaded.grids_B == [GRID]
    assert np.isnan(loaded.scores_N).all()


def test_what_cannot_be_a_mosaic_is_a_value_error(tmp_path):
    with pytest.raises(ValueError, match=r"50 tokens do not fill canvases of 4 x 6 = 24 patches; a budget of 48 or 72"):
        save_mosaics(sample(50), tmp_path)
    with pytest.raises(ValueError, match=r"one sample is written at a time, got 2"):
        save_mosaics(pack([sample(), sample()]), tmp_path)
    with pytest.raises(ValueError, match=r"unknown image format 'tiff'; allowed: png, jpeg"):
        save_mosaics(sample(), tmp_path, image="tiff")
    with pytest.raises(ValueError, match=r"frame_ids has 3 entries for 8 slots"):
        save_mosaics(sample(), tmp_path, frame_ids=[1, 2, 3])
    floats = sample()
    floats.patches_ND = floats.patches_ND.astype(np.float32)
    with pytest.raises(ValueError, match=r"mosaics need uint8 pixels, got float32"):
        save_mosaics(floats, tmp_path)
    assert not list(tmp_path.iterdir())


def test_an_existing_mosaic_is_never_mixed_with_a_new_one(tmp_path):
    save_mosaics(sample(), tmp_path)
    with pytest.raises(OvEncoderError, match="already holds mosaics"):
        save_mosaics(sample(24), tmp_path)
    (tmp_path / "file").write_text("")
    with pytest.raises(OvEncoderError, match="cannot be written"):
        save_mosaics(sample(), tmp_path / "file")


def _remove(name):
    return lambda d: (d / name).unlink()


def _resave(name, change):
    return lambda d: np.save(d / name, change(np.load(d / name)))


def _meta(**values):
    def change(d):
        meta = json.loads((d / "meta.json").read_text())
        (d / "meta.json").write_text(json.dumps(meta | values))

    return change


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (_remove("mosaic_000.png"), r"mosaic_000, mosaic_001, \.\.\. each once, found \['mosaic_001.png'\]"),
        (_remove("mosaic_001.png"), r"meta.json names 2 canvases, found 1"),
        (lambda d: shutil.copy(d / "mosaic_000.png", d / "mosaic_000.jpg"), r"each once"),
        (_remove("positions_thw.npy"), r"positions_thw.npy: cannot be read"),
        (_remove("meta.json"), r"meta.json: cannot be read as JSON"),
        (lambda d: (d / "meta.json").write_text("[]"), r"meta.json: must hold a JSON object, got list"),
        (
            _resave("positions_thw.npy", lambda p: p[:-1]),
            r"mosaic_000.png: 84 x 56 pixels; .* hold 47 square patches",
        ),
        (_resave("positions_thw.npy", lambda p: p[:, :2]), r"must have shape \[K, 3\], got \(48, 2\)"),
        (_resave("positions_thw.npy", lambda p: p + 8), r"lies outside the grid \(8, 4, 6\)"),
        (_resave("positions_thw.npy", lambda p: np.vstack([p[:-1], p[:1]])), r"is listed 2 times"),
        (_resave("positions_thw.npy", lambda p: p * 1.0), r"whole numbers \(t, h, w\), got float64"),
        (_resave("visible_indices.npy", lambda i: i[::-1]), r"visible_indices.npy: does not name the same"),
        (_resave("scores.npy", lambda s: s[:-1]), r"scores_N must have shape \(48,\)"),
        (_meta(patch_size=16), r"mean patch size 14, meta.json says 16"),
        (_meta(grid=[8, 4]), r"not enough values to unpack"),
        (_meta(grid=[10**12, 4, 6]), r"1000000000000 slots"),
        (_meta(mode="film"), r"unknown mode 'film'"),
        (lambda d: Image.new("RGB", (84, 42)).save(d / "mosaic_001.png"), r"mosaic_001.png: 84 x 42 pixels"),
        (lambda d: (d / "mosaic_001.png").write_text("no image"), r"mosaic_001.png: cannot be read as an image"),
    ],
)
def test_damaged_mosaics_are_refused_and_named(tmp_path, damage, message):
    save_mosaics(sample(), tmp_path)
    damage(tmp_path)
    with pytest.raises(OvEncoderError, match=message) as error:
        load_mosaics(tmp_path)
    assert str(tmp_path) in str(error.value)


@pytest.mark.parametrize("name", ["mosaic_000.png", "mosaic_000.jpg", "positions_thw.npy", "meta.json"])
def test_truncated_files_of_a_mosaic_are_refused(tmp_path, name):
    save_mosaics(sample(), tmp_path, image="jpeg" if name.endswith("jpg") else "png")
    whole = (tmp_path / name).read_bytes()
    for end in np.linspace(0, len(whole) - 24, 25).astype(int):  # the last bytes of an image are only its end mark
        (tmp_path / name).write_bytes(whole[:end])
        with pytest.raises(OvEncoderError, match=name.replace(".", r"\.")):
            load_mosaics(tmp_path)
