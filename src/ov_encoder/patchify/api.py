"""From a source to a ClipPlan or a PatchBatch: `plan`, `patchify`, `patchify_windows`. Each step is a room of its own.

Shapes: T = slots, H, W = patch rows and columns.
"""

from __future__ import annotations

import math
import time
from collections.abc import Iterator
from typing import Any

import numpy as np

from ov_encoder.codec.info import MediaInfo
from ov_encoder.codec.limits import Limits
from ov_encoder.codec.media import Source, inspect
from ov_encoder.codec.read import FROM_STREAM, MAX_SIDE, PROVIDERS, Reading, choose_provider, read
from ov_encoder.errors import OvEncoderError
from ov_encoder.patchify.batch import PatchBatch, pack
from ov_encoder.patchify.layouts import collage_batch
from ov_encoder.patchify.options import Options, takes_options
from ov_encoder.patchify.plan import ClipPlan
from ov_encoder.patchify.saliency import score
from ov_encoder.patchify.sampling import chunk_slots, grid_size, rate_slots, uniform_slots
from ov_encoder.patchify.select import anchor_slots, select, token_budget
from ov_encoder.patchify.shots import find_shots
from ov_encoder.patchify.slots import Slot, native_slots, plain_slots, transcoded_slots


@takes_options
def patchify(
    source: Source, *, windows: float | None = None, limits: Limits | None = None, **options: Any
) -> PatchBatch:
    """The patches of a source that are worth encoding.

    source: path, bytes or seekable binary file of an image or video. Options: see `patchify.options.Options`.
    windows: slots per second; then the video is cut into windows of `frames` slots and each is one sample of the
    batch (`patchify_windows` gives them one by one). Without, the whole source is one sample.

    Raises:
        OvEncoderError: the source cannot be read. ValueError: an option that is not allowed.
    """
    if windows is not None:
        return pack(list(patchify_windows(source, rate=windows, limits=limits, **options)))
    return to_batch(plan(source, limits=limits, **options))


@takes_options
def plan(source: Source, *, limits: Limits | None = None, **options: Any) -> ClipPlan:
    """Everything `patchify` decides, before patches are cut: frames, scores, choice, provenance, seconds.

    Raises:
        OvEncoderError: the source cannot be read. ValueError: an option that is not allowed.
    """
    opts, limits = Options(**options), limits or Limits()
    info = inspect(source, limits=limits)
    wanted = uniform_slots(info.frames, 1 if opts.mode == "image" else opts.frames)
    return next(_plans(source, info, [wanted], opts, limits))


@takes_options
def patchify_windows(
    source: Source, *, rate: float, limits: Limits | None = None, **options: Any
) -> Iterator[PatchBatch]:
    """A long video in windows of `frames` slots at `rate` slots per second; one decode pass, flat memory.

    Each window is a sample with its own slots 0..T-1 and its own budget; `slot_times_B` says where it lies.

    Raises:
        OvEncoderError: the source cannot be read. ValueError: an option that is not allowed.
    """
    if not 0 < rate < math.inf:
        raise ValueError(f"rate={rate!r}; must be a positive number of slots per second")
    opts, limits = Options(**options), limits or Limits()
    return _windows(source, rate, opts, limits)


def _windows(source: Source, rate: float, opts: Options, limits: Limits) -> Iterator[PatchBatch]:
    info = inspect(source, limits=limits)
    times = np.sort(info.packet_time_K)
    if not len(times) or np.isnan(times).any():
        times = np.arange(info.frames) / (info.fps or 25)
    wanted = rate_slots(times, rate)
    windows = [wanted[a : a + opts.frames] for a in range(0, len(wanted), opts.frames)]
    for made in _plans(source, info, windows, opts, limits):
        yield to_batch(made)


def to_batch(made: ClipPlan) -> PatchBatch:
    """Cut the kept patches of a plan in its mode's layout."""
    return collage_batch(made) if made.mode == "collage" else made.to_batch()


def _plans(
    source: Source, info: MediaInfo, windows: list[np.ndarray], opts: Options, limits: Limits
) -> Iterator[ClipPlan]:
    mode = opts.mode if opts.mode != "auto" else ("image" if info.frames == 1 else "codec")
    grid_HW = grid_size(info.height, info.width, opts.size, patch=opts.patch, block=opts.block)
    sides = grid_HW[0] * opts.patch, grid_HW[1] * opts.patch
    most = max(len(w) for w in windows)
    need = most * sides[0] * sides[1] * 3
    if need > limits.bytes:
        raise OvEncoderError(
            f"{info.name}: {most} frames of {sides[0]}x{sides[1]} pixels take {need} bytes; the limit is "
            f"{limits.bytes} (a smaller size, fewer frames, or raise Limits.bytes)"
        )
    if max(sides) > MAX_SIDE:
        raise OvEncoderError(
            f"{info.name}: its {info.height}x{info.width} pixels become {sides[0]}x{sides[1]} at size={opts.size!r}; "
            f"at most {MAX_SIDE} a side (give size=(height, width))"
        )
    provider = choose_provider(info, opts.signals) if mode == "codec" else "none"
    with read(
        source,
        signals=provider if provider in FROM_STREAM else "none",
        cell=_cell(info, sides),
        qp=False,
        residual=opts.signal in ("fused", "residual"),
        threads=opts.threads,
        limits=limits,
        info=info,
    ) as reading:
        seconds: dict[str, float] = {}
        for slots in _windows_of_slots(reading, provider, windows, grid_HW, opts, seconds):
            yield _decide(info, reading, provider, mode, slots, grid_HW, opts, seconds)
            seconds.clear()


def _cell(info: MediaInfo, sides: tuple[int, int]) -> int:
    """16-pixel cells where the encoder's frame is less than half as large: finer ones would be averaged away."""
    coarse = min(info.height / sides[0], info.width / sides[1]) > 2
    whole = info.rotation == 0 or (info.height % 16 == 0 and info.width % 16 == 0)
    return 16 if coarse and whole else 8


def _windows_of_slots(
    reading: Reading,
    provider: str,
    windows: list[np.ndarray],
    grid_HW: tuple[int, int],
    opts: Options,
    seconds: dict[str, float],
) -> Iterator[list[Slot]]:
    common: dict[str, Any] = {"patch": opts.patch, "seconds": seconds}
    for wanted in windows:
        if provider in FROM_STREAM:
            found = native_slots(reading, wanted, grid_HW, camera=opts.camera, accumulate=opts.accumulate, **common)
        elif provider == "transcode":
            found = transcoded_slots(reading, wanted, grid_HW, camera=opts.camera, **common)
        else:
            found = plain_slots(reading, wanted, grid_HW, **common)
        slots = list(found)
        if len(slots) < len(wanted):
            reading.notes.append(f"the container promised {len(wanted)} slots, the stream gave {len(slots)}")
        if slots:
            yield slots


def _decide(
    info: MediaInfo,
    reading: Reading,
    provider: str,
    mode: str,
    slots: list[Slot],
    grid_HW: tuple[int, int],
    opts: Options,
    seconds: dict[str, float],
) -> ClipPlan:
    began = time.perf_counter()
    T, (H, W) = len(slots), grid_HW
    notes = list(reading.notes)
    maps_THW = _stack_maps(slots, grid_HW)
    scores_THW = np.full((T, H, W), np.nan, np.float32)
    anchors_T, shots = np.zeros(T, bool), [0]
    if mode == "image":
        keep_THW = np.ones((T, H, W), bool)
        anchors_T[:] = True
    else:
        bits_T = np.array([s.bits for s in slots], np.float64)
        intra_T = np.array([s.intra for s in slots])
        K = token_budget(opts.budget, (T, H, W), bits_T, intra_T, block=opts.block)
        if isinstance(opts.budget, int) and opts.budget > T * H * W:
            notes.append(f"budget of {opts.budget} tokens is more than the {T * H * W} patches there are: all kept")
        if mode in ("chunk", "collage"):
            anchors_T[chunk_slots(T, max(K // (H * W), 1))] = True
            keep_THW = np.broadcast_to(anchors_T[:, None, None], (T, H, W)).copy()
        else:
            shots = find_shots(slots)
            room = K // (H * W) if K == T * H * W else 2 * K // (3 * H * W)
            anchored = anchor_slots(
                opts.anchors,
                shots,
                np.array([s.key for s in slots]),
                room=room,
            )
            if isinstance(opts.anchors, int) and len(anchored) < min(opts.anchors, T):
                notes.append(
                    f"whole frames kept: {len(anchored)} instead of {opts.anchors} (at most two thirds of {K} tokens)"
                )
            anchors_T[anchored] = True
            if maps_THW:
                scores_THW = score(
                    maps_THW,
                    shots,
                    signal=opts.signal,
                    normalise=opts.normalise,
                    fusion=opts.fusion,
                    centre_prior=opts.centre_prior,
                )
            keep_THW, fillers = select(
                scores_THW,
                K,
                anchors=anchored,
                shots=shots,
                block=opts.block,
                slot_floor=opts.slot_floor,
                slot_cap=opts.slot_cap,
            )
            if fillers:
                changed = K - fillers - len(anchored) * H * W
                notes.append(f"only {changed} patches changed: {fillers} tokens went to whole frames, spread out")
    seconds["select"] = time.perf_counter() - began
    # A transcode is of the slots, not of the reading, which then gives pictures only.
    known = PROVIDERS[provider][1] if provider == "transcode" else reading.provenance
    signals = {name: known[name] for name in ("motion", "residual", "bits")}
    provenance = {
        "source": info.name,
        "codec": info.codec,
        "provider": provider,
        "signals": signals,
        "signal": opts.signal if mode == "codec" else "none",
        "notes": notes,
    }
    return ClipPlan(
        info=info,
        mode=mode,
        patch_size=opts.patch,
        frames_THWC=np.stack([s.rgb_YX3 for s in slots]),
        slot_frames_T=np.array([s.frame for s in slots]),
        slot_times_T=np.array([s.time_s for s in slots]),
        scores_THW=scores_THW,
        keep_THW=keep_THW,
        anchors_T=anchors_T,
        shots=shots,
        provenance=provenance,
        maps_THW=maps_THW,
        seconds=dict(seconds),
        notes=notes,
    )


def _stack_maps(slots: list[Slot], grid_HW: tuple[int, int]) -> dict[str, np.ndarray]:
    names = dict.fromkeys(name for slot in slots for name in slot.maps_HW)
    unknown = np.full(grid_HW, np.nan, np.float32)
    return {name: np.stack([slot.maps_HW.get(name, unknown) for slot in slots]) for name in names}
