"""HEVC tools that no encoder at hand uses: slice data of random bits, read by us and by FFmpeg.

FFmpeg's pictures minus our prediction must be zero wherever we say that an inter block has no residual. One bin read
otherwise anywhere before, and everything after it would be noise.
"""

from __future__ import annotations

import av
import numpy as np
import pytest

from ov_encoder.codec.bitstream import library
from ov_encoder.codec.bitstream.parser import KIND_MISSING
from ov_encoder.codec.signals import KIND_INTRA
from tests.codec.bitstream.hevc_compensate import predict
from tests.codec.bitstream.hevc_streams import luma_of
from tests.codec.bitstream.hevc_writer import Stream
from tests.codec.bitstream.test_hevc import parse

pytestmark = pytest.mark.skipif(not library.available(), reason=library.reason())

WALKS = {
    "simplest": Stream(),
    "no AMP": Stream(amp=0),
    "PCM": Stream(pcm=(7, 3, 4)),
    "PCM of 5 bits up to 32": Stream(pcm=(5, 3, 5), ctb=5, max_tb=5),
    "inter NxN": Stream(min_cb=4, ctb=5, max_tb=5),
    "merge regions of 16": Stream(parallel_merge=4, ctb=5),
    "merge regions of 64": Stream(parallel_merge=6, ctb=6, max_tb=5),
    "long-term": Stream(long_term=1, references=(1, 2, 3)),
    "reordered lists": Stream(lists_modification=1, references=(1, 2, 3)),
    "reordered long-term": Stream(long_term=1, lists_modification=1, references=(1, 2, 3)),
    "bypass": Stream(bypass=1),
    "transform skip, sign hiding": Stream(transform_skip=1, sign_hiding=1),
    "flat transform trees": Stream(depth_inter=0, depth_intra=0, ctb=5),
    "deep transform trees": Stream(depth_inter=3, depth_intra=3, ctb=6, max_tb=5),
    "transforms from 8": Stream(min_cb=4, min_tb=3, ctb=5, max_tb=5),
    "4:2:2": Stream(chroma=2),
    "4:4:4": Stream(chroma=3, transform_skip=1),
    "4:0:0": Stream(chroma=0),
    "10 bit, PCM": Stream(depth=10, pcm=(9, 3, 3)),
    "edges inside a CTB": Stream(width=136, height=104, ctb=6, max_tb=5),
    "no temporal vectors": Stream(temporal_mvp=0),
}


def decoded(packets: list[bytes]) -> list[np.ndarray] | None:
    """FFmpeg's luma by picture; None where it drops one."""
    decoder = av.CodecContext.create("hevc", "r")
    assert isinstance(decoder, av.VideoCodecContext)
    decoder.thread_type, decoder.thread_count = "NONE", 1
    try:
        frames = [f for packet in packets for f in decoder.decode(av.Packet(packet))] + decoder.decode(None)
    except av.error.InvalidDataError:
        return None
    return [luma_of(f) for f in frames] if len(frames) == len(packets) else None


@pytest.mark.parametrize("name", WALKS)
def test_random_bits_mean_the_same_to_ffmpeg(name: str) -> None:
    stream, compared, blocks = WALKS[name], 0, 0
    for seed in (0, 2, 3):
        packets = stream.random_pictures("IPBB", seed=seed)
        luma = decoded(packets)
        if luma is None:
            continue
        pictures = dict(enumerate(luma))
        for frame in parse(packets, cell=4):
            if frame.frame_type == "I" or "contradict" in frame.damaged:
                continue
            assert "missing" not in frame.damaged
            predicted = predict(frame.maps, frame.poc, pictures, frame.bit_depth)
            uncoded = (frame.maps["energy"] == 0) & (frame.maps["kind"] < KIND_INTRA)
            difference = pictures[frame.poc] - predicted
            assert not difference[uncoded.repeat(4, 0).repeat(4, 1)].any(), (seed, frame.poc)
            compared += 1
            blocks += uncoded.sum()
    assert compared >= 5
    assert blocks > 400


def test_damaged_pictures_say_what_is_missing() -> None:
    frames = parse(Stream().random_pictures("IPBBPB", seed=3))
    assert len(frames) == 6
    for frame in frames:
        assert frame.damaged
        assert not frame.exact_end
    assert any((frame.maps["kind"] == KIND_MISSING).any() for frame in frames)
