"""Slots: sampled frames with what happened since the slot before, gathered in one pass with flat memory.

Two ways to know what is new in a slot: `native_slots` adds up the stream's own signals over every frame since the
last slot; `transcoded_slots` re-encodes only the slots' frames, so each is compared with the slot before it.

Shapes: H, W = patch rows and columns, Y, X = rows and columns of codec cells.
"""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from typing import TypeVar

import numba
import numpy as np

from ov_encoder.codec.decode import Resizer
from ov_encoder.codec.read import Reading
from ov_encoder.codec.signals import KIND_INTRA, KIND_SKIP, FrameSignals
from ov_encoder.codec.transcode import transcode
from ov_encoder.patchify.camera import fit_camera

_Item = TypeVar("_Item")
FLAT = 4.0  # grey levels of contrast at which a patch's vectors count half


@dataclass(slots=True)
class Slot:
    """One sampled frame. maps_HW: patch grids, empty where nothing is known (the first slot).

    maps: "motion" (pixels of the encoder's frame travelled since the last slot, camera motion removed, discounted
    where the patch has no texture),
    "residual" (grey levels that prediction missed, root mean square), "bits" (where a provider gives them).
    bits: coded since the last slot, this frame included. intra: largest share of intra cells in a frame of the
    interval, 1 for an I-frame. key: whether a key frame lies in the interval.
    """

    frame: int
    time_s: float
    rgb_YX3: np.ndarray
    maps_HW: dict[str, np.ndarray] = field(default_factory=dict)
    bits: int = 0
    intra: float = 0.0
    key: bool = False


class ToPatches:
    """Area-weighted means of codec cells on the patch grid, exact at borders and for any aspect ratio."""

    def __init__(self, height: int, width: int, cell: int, grid_HW: tuple[int, int]) -> None:
        self.rows_HY = _overlap(height, cell, grid_HW[0])
        self.columns_WX = _overlap(width, cell, grid_HW[1])

    def __call__(self, cells_YX: np.ndarray) -> np.ndarray:
        """[Y, X] -> [H, W] float32."""
        return self.rows_HY @ cells_YX @ self.columns_WX.T


def _overlap(length: int, cell: int, patches: int) -> np.ndarray:
    """Share of each patch [patches, cells] that lies in each cell; a last cell past the picture counts in part."""
    cells = -(-length // cell)
    start = np.arange(cells) * cell
    end = np.minimum(start + cell, length)
    lower = np.arange(patches)[:, None] * (length / patches)
    upper = lower + length / patches
    shared = np.clip(np.minimum(end, upper) - np.maximum(start, lower), 0, None)
    return (shared / shared.sum(axis=1, keepdims=True)).astype(np.float32)


def native_slots(
    reading: Reading,
    wanted: np.ndarray,
    grid_HW: tuple[int, int],
    *,
    patch: int,
    camera: str,
    accumulate: str,
    seconds: dict[str, float],
) -> Iterator[Slot]:
    """Slots of a native stream. accumulate: "interval" (all frames since the last slot) or "frame" (its own only).

    What was seen to move or change is carried along with the motion until the slot, so that it lies on the
    content and not on its trail.
    """
    resize = Resizer(grid_HW[0] * patch, grid_HW[1] * patch)
    coded_size: tuple[int, int] | None = None
    gathered = _Gathered(None)
    pending = Slot(0, 0.0, np.empty(0))
    position = 0
    for picture, signals in _timed(reading.pairs, "decode and signals", seconds):
        began = time.perf_counter()
        if coded_size != (picture.frame.height, picture.frame.width):  # also when a stream changes its size
            coded_size = picture.frame.height, picture.frame.width
            height, width = coded_size if picture.rotation % 180 == 0 else coded_size[::-1]
            to_patches = ToPatches(height, width, reading.cell, grid_HW)
            gathered = _Gathered(None)
        if accumulate == "frame":
            gathered = _Gathered(gathered)
        gathered.add(signals, camera, reading.cell)
        seconds["accumulate"] = seconds.get("accumulate", 0.0) + time.perf_counter() - began
        pending.bits += signals.packet_bits
        pending.intra = max(pending.intra, _intra_share(signals))
        pending.key |= picture.key
        if picture.index == wanted[position]:
            began = time.perf_counter()
            pending.frame, pending.time_s, pending.rgb_YX3 = picture.index, picture.time_s, resize(picture)
            if position or picture.index:
                trust_HW = texture_trust(pending.rgb_YX3, patch)
                pending.maps_HW = gathered.maps(to_patches, trust_HW, grid_HW[0] * patch / height)
            seconds["resize"] = seconds.get("resize", 0.0) + time.perf_counter() - began
            yield pending
            pending, position = Slot(0, 0.0, np.empty(0)), position + 1
            gathered.clear()
            if position == len(wanted):
                break


def transcoded_slots(
    reading: Reading,
    wanted: np.ndarray,
    grid_HW: tuple[int, int],
    *,
    patch: int,
    camera: str,
    seconds: dict[str, float],
) -> Iterator[Slot]:
    """Slots of any codec, each compared with the slot before it in an in-memory transcode at the encoder's size."""
    waiting: list[Slot] = []
    to_patches: ToPatches | None = None

    def frames() -> Iterator[np.ndarray]:
        for slot in plain_slots(reading, wanted, grid_HW, patch=patch, seconds=seconds):
            waiting.append(slot)
            yield slot.rgb_YX3

    for found in _timed(transcode(frames()), "decode, resize and transcode", seconds):
        slot, signals = waiting.pop(0), found.signals
        slot.bits, slot.intra = signals.packet_bits, _intra_share(signals)
        if signals.motion_HW2 is not None:
            if to_patches is None:
                height, width, _ = slot.rgb_YX3.shape
                to_patches = ToPatches(height, width, reading.cell, grid_HW)
            gathered = _Gathered(None)
            gathered.add(signals, camera, reading.cell)
            slot.maps_HW = gathered.maps(to_patches, texture_trust(slot.rgb_YX3, patch), 1.0)
        yield slot


def plain_slots(
    reading: Reading, wanted: np.ndarray, grid_HW: tuple[int, int], *, patch: int, seconds: dict[str, float]
) -> Iterator[Slot]:
    """Slots without signals: frames only."""
    resize = Resizer(grid_HW[0] * patch, grid_HW[1] * patch)
    position, bits, key = 0, 0, False
    for picture, signals in _timed(reading.pairs, "decode", seconds):
        bits, key = bits + signals.packet_bits, key or picture.key
        if picture.index == wanted[position]:
            began = time.perf_counter()
            rgb = resize(picture)
            seconds["resize"] = seconds.get("resize", 0.0) + time.perf_counter() - began
            yield Slot(picture.index, picture.time_s, rgb, {}, bits, float(picture.frame_type == "I"), key)
            position, bits, key = position + 1, 0, False
            if position == len(wanted):
                break


def texture_trust(rgb_YX3: np.ndarray, patch: int) -> np.ndarray:
    """How far a vector on each patch can be believed, [H, W] in 0..1: s^2 / (s^2 + FLAT^2), s = its contrast.

    On a flat surface any vector predicts equally well, and encoders take whichever is cheap.
    """
    Y, X, _ = rgb_YX3.shape
    green = rgb_YX3.reshape(Y // patch, patch, X // patch, patch, 3)[:, ::2, :, ::2, 1].astype(np.float32)
    variance_HW = green.var(axis=(1, 3))
    return variance_HW / (variance_HW + np.float32(FLAT * FLAT))


def _intra_share(signals: FrameSignals) -> float:
    if signals.frame_type == "I" or signals.kind_HW is None:
        return float(signals.frame_type == "I")
    return float(np.count_nonzero(signals.kind_HW == KIND_INTRA) / signals.kind_HW.size)


class _Gathered:
    """Motion travelled and energy missed since the last slot, on the codec's cells."""

    def __init__(self, before: _Gathered | None) -> None:
        self.path_YX: np.ndarray | None = None
        self.energy_YX: np.ndarray | None = None
        self.bits_YX: np.ndarray | None = None
        self._motion: np.ndarray | None = before._motion if before else None
        self._camera: np.ndarray | None = before._camera if before else None

    def clear(self) -> None:
        self.path_YX = self.energy_YX = self.bits_YX = None

    def add(self, signals: FrameSignals, camera: str, cell: int) -> None:
        motion_YX2 = signals.motion_HW2
        if motion_YX2 is None:  # an I-frame says nothing about motion: the frame before it stands in
            motion_YX2, weights_6 = self._motion, self._camera
        else:
            valid_YX = None if signals.kind_HW is None else signals.kind_HW != KIND_INTRA
            weights_6 = fit_camera(motion_YX2, valid_YX, model=camera).weights_6
            self._motion, self._camera = motion_YX2, weights_6
        if motion_YX2 is not None:
            path_YX = np.zeros(motion_YX2.shape[:2], np.float32) if self.path_YX is None else self.path_YX
            self.path_YX = _carry(path_YX, motion_YX2, weights_6, cell)
        residual_YX, bits_YX = signals.residual_HW, signals.bits_HW
        if bits_YX is not None:
            if signals.frame_type == "I":  # says how hard it is to code, not what is new
                residual_YX = bits_YX = None
            elif signals.kind_HW is not None:  # what saying "nothing is new here" costs is not news
                bits_YX = np.where(signals.kind_HW == KIND_SKIP, np.float32(0), bits_YX)
        for name, new_YX in (("energy_YX", residual_YX), ("bits_YX", bits_YX)):
            old_YX = getattr(self, name)
            if old_YX is None or new_YX is None:
                setattr(self, name, old_YX if new_YX is None else new_YX)
            else:  # without any motion (an all-intra stream) what was missed stays in place
                moved_YX = old_YX if motion_YX2 is None else _carry(old_YX, motion_YX2, None, cell)
                setattr(self, name, moved_YX + new_YX)

    def maps(self, to_patches: ToPatches, trust_HW: np.ndarray, scale: float) -> dict[str, np.ndarray]:
        """Patch grids of what was gathered; `scale` turns source pixels into the encoder's."""
        maps: dict[str, np.ndarray] = {}
        if self.path_YX is not None:
            maps["motion"] = to_patches(self.path_YX) * trust_HW * np.float32(scale)
        if self.energy_YX is not None:
            maps["residual"] = np.sqrt(to_patches(self.energy_YX))
        if self.bits_YX is not None:
            maps["bits"] = to_patches(self.bits_YX)
        return maps


@numba.njit(cache=True, nogil=True)
def _carry(field_YX, motion_YX2, camera_6, cell):
    """The field moved along with the content: out(x) = field(x + motion(x)), bilinear on cells of `cell` pixels.

    camera_6: weights of a patchify.camera.Camera, or None. With them, the length of the motion that the camera does
    not explain is added.
    """
    Y, X = field_YX.shape
    out = np.empty((Y, X), np.float32)
    per_pixel = np.float32(1 / cell)
    for i in range(Y):
        for j in range(X):
            mx, my = motion_YX2[i, j, 0], motion_YX2[i, j, 1]
            if mx == 0 and my == 0:
                out[i, j] = field_YX[i, j]
            else:
                x = min(max(np.float32(j) + mx * per_pixel, np.float32(0)), np.float32(X - 1))
                y = min(max(np.float32(i) + my * per_pixel, np.float32(0)), np.float32(Y - 1))
                xa, ya = np.int32(x), np.int32(y)
                xb, yb = min(xa + 1, X - 1), min(ya + 1, Y - 1)
                fx, fy = x - np.float32(xa), y - np.float32(ya)
                up = field_YX[ya, xa] + fx * (field_YX[ya, xb] - field_YX[ya, xa])
                low = field_YX[yb, xa] + fx * (field_YX[yb, xb] - field_YX[yb, xa])
                out[i, j] = up + fy * (low - up)
            if camera_6 is not None:
                u, v = j - (X - 1) / 2, i - (Y - 1) / 2  # the camera's coordinates: cells from the centre
                dx = mx - np.float32(camera_6[0] + camera_6[1] * u + camera_6[2] * v)
                dy = my - np.float32(camera_6[3] + camera_6[4] * u + camera_6[5] * v)
                out[i, j] += np.sqrt(dx * dx + dy * dy)
    return out


def _timed(items: Iterable[_Item], stage: str, seconds: dict[str, float]) -> Iterator[_Item]:
    """The items, with the time spent waiting for them added to a stage."""
    source = iter(items)
    while True:
        began = time.perf_counter()
        item = next(source, None)
        seconds[stage] = seconds.get(stage, 0.0) + time.perf_counter() - began
        if item is None:
            return
        yield item
