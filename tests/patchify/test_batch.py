"""PatchBatch: wrong arguments are named, pack and unpack are inverse, files come back exactly or not at all."""

import pickle

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import ov_encoder
import ov_encoder.patchify
from ov_encoder.errors import OvEncoderError
from ov_encoder.patchify.batch import MODES, PatchBatch, pack


def arrays(n=6, *, patch=2, seed=0):
    rng = np.random.default_rng(seed)
    return dict(
        patches_ND=rng.integers(0, 256, (n, 3 * patch * patch), dtype=np.uint8),
        positions_N3=np.stack([np.arange(n), np.arange(n) % 3, np.arange(n) % 2], axis=1).astype(np.int32),
        lengths_B=[n],
    )


def make(lengths=(4, 2), *, patch=2, seed=0, dtype=np.uint8):
    rng = np.random.default_rng(seed)
    n, b = sum(lengths), len(lengths)
    base = arrays(n, patch=patch, seed=seed)
    return PatchBatch.from_arrays(
        patches_ND=base["patches_ND"].astype(dtype),
        positions_N3=base["positions_N3"],
        lengths_B=lengths,
        modes_B=[MODES[i % 4] for i in range(b)],
        grids_B=[(n + i, 3, 2) for i in range(b)],
        slot_times_B=[np.sort(rng.random(n + i)) for i in range(b)],
        scores_N=np.where(rng.random(n) < 0.3, np.nan, rng.random(n)),
        provenance_B=[{"codec": "h264", "sample": i, "notes": ["é"]} for i in range(b)],
    )


def same(a: PatchBatch, b: PatchBatch) -> bool:
    pairs = zip(a.slot_times_B, b.slot_times_B, strict=True)
    return (
        a.patches_ND.dtype == b.patches_ND.dtype
        and np.array_equal(a.patches_ND, b.patches_ND)
        and np.array_equal(a.positions_N3, b.positions_N3)
        and np.array_equal(a.scores_N, b.scores_N, equal_nan=True)
        and (a.lengths_B, a.modes_B, a.grids_B, a.provenance_B) == (b.lengths_B, b.modes_B, b.grids_B, b.provenance_B)
        and all(np.array_equal(s, t) for s, t in pairs)
    )


# --- from_arrays ----------------------------------------------------------------------------------------------


def test_what_is_left_out_is_filled():
    batch = PatchBatch.from_arrays(**arrays())
    assert (batch.modes_B, batch.grids_B, batch.provenance_B) == (["image"], [(6, 3, 2)], [{}])
    assert np.isnan(batch.scores_N).all()
    assert batch.slot_times_B[0].shape == (6,)
    assert (batch.tokens, batch.patch_size, len(batch)) == (6, 2, 1)
    assert "6 tokens" in repr(batch)


def test_dtypes_are_the_promised_ones():
    batch = PatchBatch.from_arrays(**arrays() | {"positions_N3": arrays()["positions_N3"].astype(np.int64)})
    assert batch.positions_N3.dtype == np.int32
    halves = PatchBatch.from_arrays(**arrays() | {"positions_N3": arrays()["positions_N3"] + 0.5})
    assert halves.positions_N3.dtype == np.float32
    assert all(type(n) is int for n in PatchBatch.from_arrays(**arrays() | {"lengths_B": np.array([6])}).lengths_B)


def _with_nan():
    patches = arrays()["patches_ND"].astype(np.float32)
    patches[3, 5] = np.nan
    return patches


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"patches_ND": np.zeros((6, 2, 6), np.uint8)}, r"patches_ND must have shape \[tokens, 3\*P\*P\]"),
        ({"patches_ND": np.zeros((6, 13), np.uint8)}, r"13 values per patch; must be 3\*P\*P \(588 for P=14"),
        ({"patches_ND": np.zeros((6, 0), np.uint8)}, r"0 values per patch"),
        ({"patches_ND": np.zeros((6, 12), np.float64)}, r"must be uint8 \(RGB\) or float32 .*, got float64"),
        ({"patches_ND": _with_nan()}, r"NaN or infinite pixels, first in token 3"),
        ({"patches_ND": np.full((6, 12), np.inf, np.float32)}, r"first in token 0"),
        ({"positions_N3": np.zeros((5, 3), int)}, r"positions_N3 must have shape \(6, 3\) .*, got \(5, 3\)"),
        ({"positions_N3": np.zeros((6, 2), int)}, r"got \(6, 2\)"),
        ({"positions_N3": np.full((6, 3), np.nan)}, r"positions_N3 holds NaN or infinite"),
        ({"lengths_B": [3, 4]}, r"lengths_B must be positive and sum to 6 tokens, got \[3, 4\] \(sum 7\)"),
        ({"lengths_B": [6, 0]}, r"must be positive"),
        ({"lengths_B": [8, -2]}, r"must be positive"),
        ({"lengths_B": []}, r"sum to 6"),
        ({"modes_B": ["film"]}, r"unknown mode 'film'; allowed: image, chunk, codec, collage"),
        ({"modes_B": ["image", "image"]}, r"modes_B has 2 entries for 1 samples"),
        ({"grids_B": [(6, 3, 2), (1, 1, 1)]}, r"grids_B has 2 entries for 1 samples"),
        ({"slot_times_B": []}, r"slot_times_B has 0 entries for 1 samples"),
        ({"provenance_B": [{}, {}]}, r"provenance_B has 2 entries for 1 samples"),
        ({"scores_N": np.zeros(5)}, r"scores_N must have shape \(6,\), got \(5,\)"),
    ],
)
def test_every_wrong_argument_is_named(change, message):
    with pytest.raises(ValueError, match=message):
        PatchBatch.from_arrays(**(arrays() | change))


# --- pack and unpack ------------------------------------------------------------------------------------------


@given(lengths=st.lists(st.lists(st.integers(1, 5), min_size=1, max_size=3), min_size=1, max_size=4))
def test_pack_and_unpack_are_inverse(lengths):
    parts = [make(tuple(ns), seed=i) for i, ns in enumerate(lengths)]
    packed = pack(parts)
    assert packed.lengths_B == [n for ns in lengths for n in ns]
    singles = packed.unpack()
    assert all(len(one) == 1 for one in singles)
    assert same(pack(singles), packed)
    expected = [one for part in parts for one in part.unpack()]
    assert all(same(a, b) for a, b in zip(singles, expected, strict=True))
    assert singles[0].patches_ND.base is not None  # shares memory


def test_pack_refuses_what_does_not_go_together():
    with pytest.raises(ValueError, match="at least one"):
        pack([])
    with pytest.raises(ValueError, match=r"different patch sizes: \[2, 3\]"):
        pack([make(), make(patch=3)])
    with pytest.raises(ValueError, match=r"different pixel dtypes: \['float32', 'uint8'\]"):
        pack([make(), make(dtype=np.float32)])


# --- torch ----------------------------------------------------------------------------------------------------


def test_to_and_numpy_are_inverse_and_keep_uint8():
    import torch

    batch = make()
    moved = batch.to("cpu")
    assert moved.patches_ND.dtype == torch.uint8
    assert all(type(n) is int for n in moved.lengths_B)
    assert same(moved.numpy(), batch)
    assert (moved.tokens, moved.patch_size) == (batch.tokens, batch.patch_size)
    assert same(pack([moved, moved]), pack([batch, batch]))


# --- files ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", [np.uint8, np.float32])
def test_files_come_back_exactly(tmp_path, dtype):
    batch = make((4, 2, 9), dtype=dtype)
    batch.save(tmp_path / "b.safetensors")
    assert same(PatchBatch.load(tmp_path / "b.safetensors"), batch)
    make((1,)).to("cpu").save(tmp_path / "t.safetensors")
    assert same(PatchBatch.load(tmp_path / "t.safetensors"), make((1,)))


def test_truncated_files_are_refused_and_named(tmp_path):
    path = tmp_path / "b.safetensors"
    make().save(path)
    whole = path.read_bytes()
    for end in range(0, len(whole), 11):
        path.write_bytes(whole[:end])
        with pytest.raises(OvEncoderError, match=r"b\.safetensors: cannot be read as a PatchBatch"):
            PatchBatch.load(path)


def test_a_flipped_byte_gives_a_valid_batch_or_an_error_that_names_the_file(tmp_path):
    """In the pixels a flip cannot be seen; in the header it must never escape as anything else."""
    path = tmp_path / "b.safetensors"
    make().save(path)
    whole = path.read_bytes()
    header_end = 8 + int.from_bytes(whole[:8], "little")
    refused = 0
    for at in range(header_end):
        for flip in (0x01, 0x10):
            damaged = bytearray(whole)
            damaged[at] ^= flip
            path.write_bytes(damaged)
            try:
                batch = PatchBatch.load(path)
            except OvEncoderError as e:
                assert "b.safetensors" in str(e)
                refused += 1
            else:
                assert sum(batch.lengths_B) == batch.tokens
    assert refused > header_end


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("lengths_B", "[null]"),
        ("lengths_B", "6"),
        ("modes_B", "null"),
        ("grids_B", "[[1, 2]]"),
        ("grids_B", "[null, null]"),
        ("slots_B", '{"a": 1}'),
        ("slots_B", '["x"]'),
        ("provenance_B", "7"),
        ("format", "other"),
    ],
)
def test_a_header_of_wrong_types_is_refused_and_named(tmp_path, key, value):
    from safetensors import safe_open
    from safetensors.numpy import save_file

    path = tmp_path / "b.safetensors"
    make().save(path)
    with safe_open(str(path), "numpy") as f:
        header, tensors = f.metadata(), {k: f.get_tensor(k) for k in f.keys()}  # noqa: SIM118
    save_file(tensors, str(path), metadata=header | {key: value})
    with pytest.raises(OvEncoderError, match=r"b\.safetensors"):
        PatchBatch.load(path)


def test_files_that_are_no_batch_are_refused_and_named(tmp_path):
    with pytest.raises(OvEncoderError, match=r"missing\.safetensors"):
        PatchBatch.load(tmp_path / "missing.safetensors")
    with pytest.raises(OvEncoderError, match=str(tmp_path)):
        PatchBatch.load(tmp_path)
    from safetensors.numpy import save_file

    save_file({"x": np.zeros(3)}, str(tmp_path / "weights.safetensors"))
    with pytest.raises(OvEncoderError, match=r"weights.safetensors: not a saved PatchBatch \(format None\)"):
        PatchBatch.load(tmp_path / "weights.safetensors")
    batch = make(dtype=np.float32)
    batch.patches_ND[2, 1] = np.nan
    batch.save(tmp_path / "nan.safetensors")
    with pytest.raises(OvEncoderError, match=r"nan.safetensors: .*NaN or infinite pixels, first in token 2"):
        PatchBatch.load(tmp_path / "nan.safetensors")


# --- the room that is called ----------------------------------------------------------------------------------


def test_the_room_is_callable_and_can_be_sent_to_workers():
    assert callable(ov_encoder.patchify)
    assert pickle.loads(pickle.dumps(ov_encoder.patchify)) is ov_encoder.patchify
    assert ov_encoder.patchify.batch.PatchBatch is ov_encoder.PatchBatch
