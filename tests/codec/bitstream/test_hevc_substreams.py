"""HEVC: slices, dependent segments, tiles and wavefronts, in streams of our own that FFmpeg decodes to the sample."""

from __future__ import annotations

import numpy as np
import pytest

from ov_encoder.codec.bitstream import library
from ov_encoder.codec.signals import KIND_INTRA, KIND_SKIP
from tests.codec.bitstream.hevc_encoder import Picture, encode, order_of
from tests.codec.bitstream.hevc_streams import decoded_luma
from tests.codec.bitstream.hevc_writer import Stream
from tests.codec.bitstream.test_hevc import parse

pytestmark = pytest.mark.skipif(not library.available(), reason=library.reason())

H, W = 80, 112  # 5 x 7 CTBs


def stream(tiles: tuple[int, int] | None, wavefront: int) -> Stream:
    return Stream(
        width=W, height=H, min_cb=4, ctb=4, pcm=(8, 4, 4), tiles=tiles, wavefront=wavefront, dependent=1,
        references=(1,), merge_candidates=2, amp=0, temporal_mvp=1,
    )  # fmt: skip


LAYOUTS = {
    "one": (None, 0),
    "wavefront": (None, 1),
    "tiles": ((3, 2), 0),
    "tiles of one column": ((7, 1), 0),
    "tiles with wavefront": ((2, 2), 1),
}
# starts of segments, in order of coding: number of the CTB -> dependent?
CUTS = {
    "one slice": {0: False},
    "slices": {0: False, 9: False, 20: False},
    "dependent segments": {0: False, 3: True, 10: True, 11: True, 30: True},
    "both": {0: False, 5: True, 8: False, 15: True, 28: False, 29: True},
}


def starts_of(stream: Stream, cut: str) -> dict[int, bool]:
    """The cuts, and those that must be (7.4.7.1): a tile starts a slice; a wavefront row starts a segment, and a slice
    if the one before did not start with a row."""
    starts, whole_rows = dict(CUTS[cut]), True
    order = order_of(stream)
    for n in range(1, len(order)):
        if len(CUTS[cut]) == 1:
            break
        new_tile = order[n][2] != order[n - 1][2]
        new_row = new_tile or order[n][0] != order[n - 1][0]
        if stream.tiles and new_tile:
            starts[n] = False
        if stream.wavefront and new_row:
            starts[n] = starts.get(n, True) and whole_rows
        if starts.get(n) is False:
            whole_rows = new_row
    return starts


@pytest.mark.parametrize("cut", CUTS)
@pytest.mark.parametrize("layout", LAYOUTS)
def test_every_cut_into_substreams_is_read(layout: str, cut: str) -> None:
    settings, rng = stream(*LAYOUTS[layout]), np.random.default_rng(5)
    starts = starts_of(settings, cut)
    packets, expected, shown = [], [], np.zeros((H, W), np.uint8)
    for poc, kind in enumerate("IPPP"):
        pcm = np.ones((H // 16, W // 16), bool) if kind == "I" else rng.random((H // 16, W // 16)) < 0.3
        noise = rng.integers(0, 2, (H, W)) * rng.integers(0, 3)
        samples = noise.astype(np.uint8)  # low ones need emulation prevention
        shown = np.where(pcm.repeat(16, 0).repeat(16, 1), samples, shown).astype(np.uint8)
        packets.append(encode(settings, Picture(kind, samples, pcm), poc, starts))
        expected.append((pcm, shown))
    if layout != "tiles with wavefront":  # which FFmpeg 8 does not decode
        for luma, (_, samples) in zip(decoded_luma(packets), expected, strict=True):
            np.testing.assert_array_equal(luma, samples)
    for frame, packet, (pcm, _) in zip(parse(packets, cell=16), packets, expected, strict=True):
        assert frame.damaged == ""
        assert frame.exact_end
        assert frame.slices == len(starts)
        np.testing.assert_array_equal(frame.maps["kind"], np.where(pcm, KIND_INTRA, KIND_SKIP))
        raw = 8 * 384  # bits of a PCM block
        assert (frame.maps["bits"][pcm] >= raw).all()
        assert (frame.maps["bits"][pcm] < raw + 40).all()
        assert (frame.maps["bits"][~pcm] < 20).all()
        assert frame.slice_bits < 8 * len(packet)
