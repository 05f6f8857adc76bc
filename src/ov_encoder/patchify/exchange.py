"""Formats of the reference world, both ways: visible indices, positions files, and mosaics (canvas images).

Only files and index arithmetic live here. What they mean is fixed by others: an index is t*H*W + h*W + w on the
sample's (T, H, W) grid; a mosaic directory holds canvases in raster order with the positions of their patches.

Shapes: K = tokens of one sample, 3 = (t, h, w), P = patch side in pixels, N = canvases, R, C = rows and columns of
patches on a canvas.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from ov_encoder.errors import OvEncoderError
from ov_encoder.patchify.batch import PatchBatch
from ov_encoder.patchify.cut import cut_patches, paste_patches

FORMAT = "ov-encoder.mosaics/1"
SUFFIX = {"png": ".png", "jpeg": ".jpg"}
MAX_PATCH = 64  # pixels: a canvas that implies more is a damaged or hostile header
MAX_SLOTS = 1_000_000  # likewise for a grid


def to_visible_indices(batch: PatchBatch) -> list[np.ndarray]:
    """Per sample, int64 [K]: t*H*W + h*W + w of every token, in token order.

    Raises:
        ValueError: positions that are not whole numbers, repeat, or lie outside the sample's grid.
    """
    return [_indices(np.asarray(one.positions_N3), one.grids_B[0], "positions_N3") for one in batch.numpy().unpack()]


def positions_from_indices(indices_K: np.ndarray, grid: tuple[int, int, int]) -> np.ndarray:
    """(t, h, w) of visible indices on a (T, H, W) grid, in their order: int32 [K, 3].

    Raises:
        ValueError: not one-dimensional whole numbers, a value outside the grid, or a value that repeats.
    """
    indices_K = np.asarray(indices_K)
    if indices_K.ndim != 1 or not np.issubdtype(indices_K.dtype, np.integer):
        raise ValueError(
            f"visible indices must be whole numbers of shape [K], got {indices_K.dtype} of shape {indices_K.shape}"
        )
    T, H, W = grid
    outside_K = (indices_K < 0) | (indices_K >= T * H * W)
    if outside_K.any():
        first = int(indices_K[outside_K][0])
        raise ValueError(f"visible index {first} lies outside a grid of {T} x {H} x {W}: 0 to {T * H * W - 1}")
    positions_K3 = np.stack(np.unravel_index(indices_K.astype(np.int64), (T, H, W)), axis=1).astype(np.int32)
    _refuse_repeats(positions_K3)
    return positions_K3


# --- index files ----------------------------------------------------------------------------------------------


def save_visidx(batch: PatchBatch, path: str | Path) -> None:
    """Write the indices of a one-sample batch: int32 [K], or int32 [K, 3] (t, h, w) if the name says `visidx_thw`.

    Rows are sorted, as readers of `<video>.visidx.npy` and `<sample>.visidx_thw.npy` expect.

    Raises:
        ValueError: more than one sample, or positions as in `to_visible_indices`.
    """
    indices_K = np.sort(to_visible_indices(_one_sample(batch))[0])
    if "visidx_thw" in Path(path).name:
        np.save(path, positions_from_indices(indices_K, batch.grids_B[0]))
    else:
        np.save(path, indices_K.astype(np.int32))


def load_visidx(path: str | Path, *, grid: tuple[int, int, int], tokens: int | None = None) -> np.ndarray:
    """Positions int32 [K, 3] from an index file of either shape, checked against `grid` and the expected count.

    Raises:
        OvEncoderError: the file is missing or damaged, its count is not `tokens`, a row repeats (an all-zero
            file is how the reference marks a failed video), or a row lies outside the grid.
    """
    rows = _load_npy(Path(path))
    try:
        if rows.ndim == 2:
            rows = _indices(rows, grid, "rows")
        positions_K3 = positions_from_indices(rows, grid)
    except ValueError as e:
        raise OvEncoderError(f"{path}: {e}") from e
    if tokens is not None and len(positions_K3) != tokens:
        raise OvEncoderError(f"{path}: holds {len(positions_K3)} tokens, expected {tokens}")
    return positions_K3


# --- mosaics --------------------------------------------------------------------------------------------------


def save_mosaics(
    batch: PatchBatch,
    directory: str | Path,
    *,
    image: str = "png",
    quality: int = 95,
    canvas: tuple[int, int] | None = None,
    frame_ids: Sequence[int] | np.ndarray | None = None,
) -> list[Path]:
    """Write a one-sample batch as canvases `mosaic_000.png`, ... and return their paths.

    Tokens are sorted by (t, h, w), split into equal chunks of R*C, and each chunk fills one canvas in raster
    order. Beside them: `positions_thw.npy` int32 [K, 3], `visible_indices.npy` int64 [K], `scores.npy` float32
    [K], `frame_ids.npy` int64 [T] where they are given, and `meta.json`, written last.

    image: "png" is exact. "jpeg" (4:4:4 at `quality`) is what the reference's readers look for, and changes
    pixels; with P not a multiple of 8 it also mixes neighbouring patches a little. canvas: (R, C), by default
    the rows and columns of the sample's grid. frame_ids: source frame number of each of the T slots.

    Raises:
        ValueError: more than one sample, float pixels, K not a multiple of R*C, bad positions, or an unknown
            image format.
        OvEncoderError: the directory already holds mosaics, or cannot be written.
    """
    from PIL import Image

    if image not in SUFFIX:
        raise ValueError(f"unknown image format {image!r}; allowed: {', '.join(SUFFIX)}")
    one = _one_sample(batch)
    if one.patches_ND.dtype != np.uint8:
        raise ValueError(f"mosaics need uint8 pixels, got {one.patches_ND.dtype} (already normalised)")
    (T, H, W), K, P = one.grids_B[0], one.tokens, one.patch_size
    R, C = canvas or (H, W)
    if K % (R * C):
        raise ValueError(
            f"{K} tokens do not fill canvases of {R} x {C} = {R * C} patches; "
            f"a budget of {K // (R * C) * R * C or R * C} or {-(-K // (R * C)) * R * C} would"
        )
    if frame_ids is not None and len(frame_ids) != T:
        raise ValueError(f"frame_ids has {len(frame_ids)} entries for {T} slots")
    indices_K = to_visible_indices(one)[0]
    order = np.argsort(indices_K)
    canvases = np.empty((K // (R * C), R * P, C * P, 3), np.uint8)
    paste_patches(one.patches_ND[order], np.argwhere(np.ones((len(canvases), R, C), bool)), canvases)
    out = Path(directory)
    try:
        out.mkdir(parents=True, exist_ok=True)
        if any(out.glob("mosaic_*")):
            raise OvEncoderError(f"{out}: already holds mosaics; choose an empty directory")
        paths = []
        for i, pixels in enumerate(canvases):
            paths.append(out / f"mosaic_{i:03d}{SUFFIX[image]}")
            options = {"quality": quality, "subsampling": 0} if image == "jpeg" else {"compress_level": 3}
            Image.fromarray(pixels).save(paths[-1], image, **options)
        np.save(out / "positions_thw.npy", positions_from_indices(indices_K[order], (T, H, W)))
        np.save(out / "visible_indices.npy", indices_K[order])
        np.save(out / "scores.npy", one.scores_N[order])
        if frame_ids is not None:
            np.save(out / "frame_ids.npy", np.asarray(frame_ids, np.int64))
        meta = {
            "version": FORMAT,
            "patch_size": P,
            "grid": [T, H, W],
            "canvas": [R, C],
            "canvases": len(canvases),
            "tokens": K,
            "mode": one.modes_B[0],
            "slot_times": [float(t) for t in one.slot_times_B[0]],
            "provenance": one.provenance_B[0],
        }
        (out / "meta.json").write_text(json.dumps(meta, indent=1))
    except OSError as e:
        raise OvEncoderError(f"{out}: mosaics cannot be written: {e}") from e
    return paths


def load_mosaics(directory: str | Path) -> PatchBatch:
    """Read a directory of mosaics, ours or the reference's, back into a PatchBatch of one sample.

    The patch side follows from the canvas size and the number of positions, so any `meta.json` will do; where
    it does not say (T, H, W), the grid is the canvas's rows and columns and as many slots as `frame_ids.npy` or
    the positions name.

    Raises:
        OvEncoderError: naming the file that is missing, damaged, or disagrees with the others.
    """
    out = Path(directory)
    meta = _load_json(out / "meta.json")
    positions_K3 = _load_npy(out / "positions_thw.npy")
    K = len(positions_K3) if positions_K3.ndim else 0
    paths = sorted(p for p in out.glob("mosaic_*") if p.suffix in SUFFIX.values())
    if not paths or [p.stem for p in paths] != [f"mosaic_{i:03d}" for i in range(len(paths))]:
        raise OvEncoderError(f"{out}: needs mosaic_000, mosaic_001, ... each once, found {[p.name for p in paths]}")
    if len(paths) != meta.get("canvases", len(paths)):
        raise OvEncoderError(f"{out}: meta.json names {meta['canvases']} canvases, found {len(paths)}")
    canvases, P = _load_canvases(paths, K)
    N, R, C = len(canvases), canvases.shape[1] // P, canvases.shape[2] // P
    if meta.get("patch_size", P) != P:
        raise OvEncoderError(
            f"{out}: {K} positions on {N} canvases mean patch size {P}, meta.json says {meta['patch_size']}"
        )
    frame_ids = _load_npy(out / "frame_ids.npy") if (out / "frame_ids.npy").exists() else None
    try:
        slots = len(frame_ids) if frame_ids is not None else int(positions_K3[:, 0].max()) + 1
        T, H, W = (int(n) for n in meta.get("grid", (slots, R, C)))
        if T > MAX_SLOTS:
            raise ValueError(f"{T} slots; at most {MAX_SLOTS} are allowed")
        indices_K = _indices(positions_K3, (T, H, W), "positions_thw.npy")
        batch = PatchBatch.from_arrays(
            patches_ND=cut_patches(canvases, np.argwhere(np.ones((N, R, C), bool)), P),
            positions_N3=positions_K3,
            lengths_B=[K],
            modes_B=[meta.get("mode", "codec")],
            grids_B=[(T, H, W)],
            slot_times_B=[np.asarray(meta["slot_times"], np.float64)] if "slot_times" in meta else None,
            scores_N=_load_npy(out / "scores.npy") if (out / "scores.npy").exists() else None,
            provenance_B=[meta.get("provenance", {})],
        )
    except (ValueError, TypeError, IndexError) as e:
        raise OvEncoderError(f"{out}: {e}") from e
    listed = out / "visible_indices.npy"
    if listed.exists() and not np.array_equal(_load_npy(listed), indices_K):
        raise OvEncoderError(f"{listed}: does not name the same patches as positions_thw.npy on grid {(T, H, W)}")
    return batch


# --- checks ---------------------------------------------------------------------------------------------------


def _one_sample(batch: PatchBatch) -> PatchBatch:
    if len(batch) != 1:
        raise ValueError(f"one sample is written at a time, got {len(batch)}: use batch.unpack()")
    return batch.numpy()


def _indices(positions_K3: np.ndarray, grid: tuple[int, int, int], name: str) -> np.ndarray:
    if positions_K3.ndim != 2 or positions_K3.shape[1] != 3:
        raise ValueError(f"{name} must have shape [K, 3], got {positions_K3.shape}")
    if not np.issubdtype(positions_K3.dtype, np.integer):
        raise ValueError(f"{name} must be whole numbers (t, h, w), got {positions_K3.dtype}")
    outside = ((positions_K3 < 0) | (positions_K3 >= grid)).any(axis=1)
    if outside.any():
        first = tuple(int(x) for x in positions_K3[outside][0])
        raise ValueError(f"{name}: (t, h, w) = {first} lies outside the grid {tuple(grid)}")
    _refuse_repeats(positions_K3)
    return np.ravel_multi_index(tuple(positions_K3.astype(np.int64).T), grid).astype(np.int64)


def _refuse_repeats(positions_K3: np.ndarray) -> None:
    rows, counts = np.unique(positions_K3, axis=0, return_counts=True)
    if (counts > 1).any():
        first = tuple(int(x) for x in rows[counts > 1][0])
        raise ValueError(
            f"patch (t, h, w) = {first} is listed {int(counts[counts > 1][0])} times; each may appear once"
        )


def _load_npy(path: Path) -> np.ndarray:
    try:
        # Mapped first: a header that claims more than the file holds is refused before memory is taken.
        rows = np.load(path, mmap_mode="r", allow_pickle=False)
    except (OSError, ValueError, EOFError, OverflowError) as e:
        raise OvEncoderError(f"{path}: cannot be read as a .npy array: {e}") from e
    if not isinstance(rows, np.ndarray):
        raise OvEncoderError(f"{path}: is an .npz archive, expected one .npy array")
    return np.array(rows)


def _load_json(path: Path) -> dict[str, Any]:
    try:
        meta = json.loads(path.read_text())
    except (OSError, ValueError) as e:
        raise OvEncoderError(f"{path}: cannot be read as JSON: {e}") from e
    if not isinstance(meta, dict):
        raise OvEncoderError(f"{path}: must hold a JSON object, got {type(meta).__name__}")
    return meta


def _load_canvases(paths: list[Path], K: int) -> tuple[np.ndarray, int]:
    """Canvases [N, R*P, C*P, 3] uint8 of one size, and the patch side P that K patches on them imply."""
    from PIL import Image, UnidentifiedImageError

    canvases, size, P = [], None, 0
    for path in paths:
        try:
            with Image.open(path) as picture:
                size = size or picture.size
                width, height = picture.size
                P = round((width * height * len(paths) / max(K, 1)) ** 0.5)
                fits = P and not (width % P or height % P) and width * height * len(paths) == K * P * P
                if picture.size != size or not fits or P > MAX_PATCH:
                    raise OvEncoderError(
                        f"{path}: {width} x {height} pixels; {len(paths)} canvases of one size must hold "
                        f"{K} square patches of at most {MAX_PATCH} pixels"
                    )
                canvases.append(np.asarray(picture.convert("RGB")))
        except (OSError, UnidentifiedImageError, SyntaxError, Image.DecompressionBombError) as e:
            raise OvEncoderError(f"{path}: cannot be read as an image: {e}") from e
    return np.stack(canvases), P
