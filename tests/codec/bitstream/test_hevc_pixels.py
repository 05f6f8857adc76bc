"""HEVC: motion and residual energy against pixels.

Streams without loop filters are prediction plus residual, and nothing else. So FFmpeg's pictures minus the prediction
that our vectors and references give are the residual: zero, to the pixel, wherever nothing is coded. One wrong vector,
reference or kind would show.
"""

from __future__ import annotations

from functools import lru_cache

import numpy as np
import pytest

from ov_encoder.codec.bitstream import library
from ov_encoder.codec.bitstream.parser import ParsedFrame
from ov_encoder.codec.signals import KIND_INTRA
from tests.codec.bitstream import hevc_streams as streams
from tests.codec.bitstream.hevc_compensate import predict
from tests.codec.bitstream.test_hevc import parse

pytestmark = pytest.mark.skipif(not library.available(), reason=library.reason())

PLAIN = "no-deblock=1:sao=0:weightp=0:weightb=0"
SETTINGS = {
    "P, one reference": ("bframes=0:ref=1:crf=24", "yuv420p", "medium"),
    "P, four references": ("bframes=0:ref=4:crf=24:rect=1:amp=1", "yuv420p", "slow"),
    "B": ("bframes=3:b-adapt=0:b-pyramid=1:ref=4:rect=1:amp=1:crf=24", "yuv420p", "slow"),
    "10 bit": ("bframes=2:b-adapt=0:crf=24", "yuv420p10le", "medium"),
    "12 bit": ("bframes=2:b-adapt=0:crf=20", "yuv420p12le", "medium"),
    "scaling lists": ("bframes=2:b-adapt=0:crf=18:scaling-list=default", "yuv420p", "medium"),
    "transform skip": ("bframes=2:b-adapt=0:crf=12:tskip=1", "yuv420p", "medium"),
    "lossless": ("bframes=2:b-adapt=0:lossless=1", "yuv420p", "medium"),
    "4:4:4": ("bframes=2:b-adapt=0:crf=24:tskip=1", "yuv444p", "medium"),
}


@lru_cache(maxsize=len(SETTINGS))
def residuals(name: str) -> tuple[list[ParsedFrame], list[np.ndarray]]:
    """Inter pictures with cells of 8, and their exact energies [H / 8, W / 8]."""
    params, pixels, preset = SETTINGS[name]
    packets = streams.x265(f"{PLAIN}:{params}", pixels=pixels, preset=preset)
    frames = parse(packets, cell=4)
    ranks = {poc: rank for rank, poc in enumerate(sorted(f.poc for f in frames))}
    luma = streams.decoded_luma(packets)
    pictures = {f.poc: luma[ranks[f.poc]] for f in frames}
    coarse, energies = [], []
    for fine, frame in zip(frames, parse(packets, cell=8), strict=True):
        if frame.frame_type == "I":
            continue
        predicted = predict(fine.maps, fine.poc, pictures, fine.bit_depth)
        residual = (pictures[fine.poc] - predicted) / 2 ** (fine.bit_depth - 8)
        H8, W8 = frame.maps["kind"].shape
        coarse.append(frame)
        energies.append((residual**2).reshape(H8, 8, W8, 8).sum(axis=(1, 3)))
    return coarse, energies


def inter(frame: ParsedFrame) -> np.ndarray:
    return frame.maps["kind"] != KIND_INTRA


@pytest.mark.parametrize("name", SETTINGS)
def test_prediction_is_the_picture_where_nothing_is_coded(name: str) -> None:
    frames, energies = residuals(name)
    still = 0
    for frame, energy in zip(frames, energies, strict=True):
        uncoded = inter(frame) & (frame.maps["energy"] == 0)
        assert energy[uncoded].max(initial=0) == 0
        still += uncoded.sum()
    assert still > 500 or name == "lossless"


@pytest.mark.parametrize("name", SETTINGS)
def test_energy_is_zero_exactly_where_the_residual_is(name: str) -> None:
    for frame, energy in zip(*residuals(name), strict=True):
        np.testing.assert_array_equal((frame.maps["energy"] == 0)[inter(frame)], (energy == 0)[inter(frame)])


@pytest.mark.parametrize("name", SETTINGS)
def test_energy_is_that_of_the_residual(name: str) -> None:
    """In every cell, of large transform blocks too."""
    pairs = [
        (frame.maps["energy"][inter(frame)], energy[inter(frame)])
        for frame, energy in zip(*residuals(name), strict=True)
    ]
    a, b = (np.concatenate(part).astype(np.float64) for part in zip(*pairs, strict=True))
    assert np.count_nonzero(b) > 300
    assert np.corrcoef(a, b)[0, 1] > 0.9999
    assert np.corrcoef(np.sqrt(a), np.sqrt(b))[0, 1] > 0.999
    np.testing.assert_allclose(a.sum(), b.sum(), rtol=0.01)


def test_lossless_residual_is_exact_in_every_cell() -> None:
    for frame, energy in zip(*residuals("lossless"), strict=True):
        np.testing.assert_allclose(frame.maps["energy"][inter(frame)], energy[inter(frame)], rtol=1e-6)


def test_skipped_blocks_have_no_residual_and_motion() -> None:
    assert any((frame.maps["kind"] == 0).any() for frame in residuals("B")[0])
    for frame in residuals("B")[0]:
        skipped = frame.maps["kind"] == 0
        assert (frame.maps["energy"][skipped] == 0).all()
        assert (frame.maps["valid"][skipped] > 0).all()
        assert (frame.maps["valid"][frame.maps["kind"] == KIND_INTRA] == 0).all()


def test_distances_of_references_in_pictures_and_in_order() -> None:
    """age counts pictures as they were read, poc as they are shown: both name the same reference."""
    frames = parse(streams.x265(f"{PLAIN}:{SETTINGS['B'][0]}", preset="slow"), cell=8)
    order = {f.decode_index: f.poc for f in frames}
    for frame in frames:
        for which in range(2):
            used = (frame.maps["valid"] >> which & 1).astype(bool)
            pairs = set(
                zip(frame.maps["age"][which][used].tolist(), frame.maps["poc"][which][used].tolist(), strict=True)
            )
            for age, poc in pairs:
                assert order[frame.decode_index - age] == frame.poc - poc
                assert age > 0
