"""The H.264 parser against FFmpeg, block for block, on x264 streams that use every tool; energy against pixels.

A pairwise choice of the cross product runs here; `python -m tests.codec.bitstream.cross` runs all of it.
Shapes: H, W = rows and columns of cells; Y, X = pixels; 2 = list 0, list 1.
"""

import numpy as np
import pytest

from ov_encoder.codec.bitstream.parser import Parser, RefusedError
from ov_encoder.codec.compensate import exact_residual
from ov_encoder.codec.signals import KIND_INTRA, KIND_SKIP
from ov_encoder.codec.vectors import VECTOR
from tests.codec.bitstream.h264_streams import decoded, packets, parsed

B3 = "bframes=3:b-adapt=0:b-pyramid=normal"
STREAMS = {
    "cabac P": ("bframes=0:ref=1:weightp=0", "yuv420p"),
    "cavlc P": ("bframes=0:ref=4:cabac=0:8x8dct=0", "yuv420p"),
    "cavlc 8x8dct": ("bframes=0:ref=4:cabac=0:partitions=all", "yuv420p"),
    "cabac spatial": (f"{B3}:direct=spatial:ref=4:partitions=all", "yuv420p"),
    "cabac temporal": (f"{B3}:direct=temporal:ref=4:weightb=1", "yuv420p"),
    "cavlc temporal 4:2:2": (f"{B3}:direct=temporal:ref=4:cabac=0:partitions=all", "yuv422p"),
    "cavlc spatial 4:4:4": (f"{B3}:direct=spatial:cabac=0:8x8dct=1", "yuv444p"),
    "cabac temporal 4:4:4": (f"{B3}:direct=temporal:partitions=all:ref=4", "yuv444p"),
    "16 refs, 8 B": ("bframes=8:b-adapt=2:ref=16:direct=auto:partitions=all", "yuv420p"),
    "1 B, no pyramid, grey": ("bframes=1:b-adapt=0:b-pyramid=none:weightp=2", "gray"),
    "open gop": ("bframes=3:b-adapt=0:keyint=5:open-gop=1:ref=3", "yuv420p"),
    "slices": (f"{B3}:slices=4:direct=temporal", "yuv420p"),
    "slices by size, cavlc": (f"{B3}:slice-max-mbs=7:cabac=0", "yuv420p"),
    "10 bit": (f"{B3}:direct=temporal:partitions=all", "yuv420p10le"),
    "10 bit 4:2:2 cavlc": (f"{B3}:cabac=0:ref=4", "yuv422p10le"),
    "10 bit 4:4:4": ("bframes=0:partitions=all", "yuv444p10le"),
    "intra refresh": ("bframes=0:intra-refresh=1:keyint=6", "yuv420p"),
    "all intra": ("keyint=1:partitions=all", "yuv420p"),
    "all intra cavlc 4:2:2": ("keyint=1:cabac=0", "yuv422p"),
    "lists": (f"{B3}:cqm=jvt:partitions=all", "yuv420p"),
    "qp 1": (f"{B3}:qp=1:partitions=all", "yuv420p"),
    "qp 1 cavlc": (f"{B3}:qp=1:cabac=0", "yuv422p"),
    "qp 50": (f"{B3}:qp=50:direct=temporal", "yuv420p"),
    "lossless": (f"{B3}:qp=0:partitions=all", "yuv420p"),
    "lossless 4:4:4 cavlc": ("bframes=0:qp=0:cabac=0", "yuv444p"),
    "fake interlaced": (f"{B3}:fake-interlaced=1:direct=temporal", "yuv420p"),
    "constrained intra": (f"{B3}:constrained-intra=1", "yuv420p"),
    "intra in B": (f"{B3}:scenecut=0:me=dia:subme=1:crf=12", "yuv420p"),
}


def compare(stream: list[bytes]) -> dict[str, int]:
    """Assert that every picture agrees with FFmpeg; counts of what was compared."""
    counts = dict.fromkeys(("frames", "vectors", "spurious", "macroblocks"), 0)
    for mine, theirs in zip(parsed(stream), decoded(stream), strict=True):
        rows = len(theirs.qp_HW)  # FFmpeg leaves out macroblocks that are cropped away
        maps = {name: values[..., :rows, :] for name, values in mine.maps.items() if name not in ("motion", "bits")}
        motion_2HW2 = mine.maps["motion"][:, :rows]
        assert (mine.damaged, mine.exact_end, mine.frame_type) == ("", True, theirs.frame_type)
        for side in range(2):
            used = (maps["valid"] >> side & 1).astype(bool)
            known = (theirs.lists_HW >> side & 1).astype(bool)
            assert (known | ~used).all()  # FFmpeg has every vector that we have
            assert np.array_equal(motion_2HW2[side][used], theirs.motion_2HW2[side][used])
            # what it has besides are zeros in lists that a partition does not use
            assert not theirs.motion_2HW2[side][known & ~used].any()
            assert not motion_2HW2[side][~used].any()
            counts["vectors"] += int(used.sum())
            counts["spurious"] += int((known & ~used).sum())
        offset = 6 * (mine.bit_depth - 8)  # FFmpeg counts from 0 at every depth, and calls PCM 0
        qp_HW = maps["qp"] + offset
        assert ((qp_HW == theirs.qp_HW) | ((theirs.qp_HW == 0) & (maps["qp"] == 0))).all()
        assert ((maps["kind"] == KIND_INTRA) == (maps["valid"] == 0)).all()
        assert mine.maps["bits"].sum(dtype=np.float64) == mine.slice_bits
        assert (maps["energy"][maps["kind"] == KIND_SKIP] == 0).all()
        counts["frames"] += 1
        counts["macroblocks"] += maps["qp"].size // 4
    return counts


@pytest.mark.parametrize("name", STREAMS)
def test_vectors_qp_types_and_ends_equal_ffmpeg_s(name):
    counts = compare(packets(*STREAMS[name]))
    assert counts["frames"] == 12
    assert counts["vectors"] > 500 or "intra" in name


@pytest.mark.parametrize("pix_fmt", ["yuv420p", "yuv422p10le"])
def test_interlaced_streams_are_refused_by_name(pix_fmt):
    with Parser("h264") as parser, pytest.raises(RefusedError, match="interlaced"):
        for packet in packets("interlaced=1", pix_fmt):
            list(parser.feed(packet))


def test_a_picture_beyond_the_limit_is_refused_with_its_size():
    stream = packets("bframes=0")
    with Parser("h264", pixels=80 * 112 - 1) as parser, pytest.raises(RefusedError, match="112 x 80 pixels; the limit"):
        list(parser.feed(stream[0]))
    with Parser("h264", memory=100_000) as parser, pytest.raises(RefusedError, match="limit of 100000 bytes"):
        for packet in stream:
            list(parser.feed(packet))


# --- references ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("params", ["bframes=0:ref=4", f"{B3}:ref=4:direct=temporal", "bframes=8:b-adapt=2:ref=16"])
def test_distances_of_references_are_those_of_pictures(params):
    """POC distances are twice the display distance of the picture that `age` names."""
    frames = parsed(packets(params))
    order = sorted(range(len(frames)), key=lambda d: (frames[d].sequence, frames[d].poc))
    shown = {d: rank for rank, d in enumerate(order)}
    assert [frames[d].poc for d in order] == list(range(0, 2 * len(frames), 2))
    distances = set()
    for d, frame in enumerate(frames):
        for side in range(2):
            used = (frame.maps["valid"] >> side & 1).astype(bool)
            for age, poc in set(zip(frame.maps["age"][side][used], frame.maps["poc"][side][used], strict=True)):
                assert poc == 2 * (shown[d] - shown[d - age])
                distances.add(int(poc))
    assert len(distances) > 2 and (min(distances) < 0) == ("bframes=0" not in params)


# --- energy, and vectors below 8x8, against pixels ------------------------------------------------------------------

PLAIN = "ref=1:bframes=0:weightp=0:no-deblock=1:keyint=100:scenecut=0"


def residual_and_energy(stream: list[bytes]):
    """Energy of every inter cell: of the exact residual (6-tap filter, our own 4x4 vectors), and the parser's."""
    exact, mine, before = [], [], None
    for fine, frame, theirs in zip(parsed(stream, cell=4), parsed(stream), decoded(stream), strict=True):
        if frame.frame_type == "P":
            i, j = np.nonzero(fine.maps["valid"] == 1)
            vectors = np.zeros(len(i), VECTOR)
            vectors["w"] = vectors["h"] = 4
            vectors["dst_x"], vectors["dst_y"] = 4 * j + 2, 4 * i + 2
            vectors["motion_x"], vectors["motion_y"] = fine.maps["motion"][0, i, j].T
            residual_YX, _ = exact_residual(theirs.luma_YX, before, vectors)
            Y, X = residual_YX.shape
            energy_HW = (residual_YX.astype(np.float64) ** 2).reshape(Y // 8, 8, X // 8, 8).sum(axis=(1, 3))
            inter = frame.maps["kind"] != KIND_INTRA
            exact.append(energy_HW[inter])
            mine.append(frame.maps["energy"][inter])
        before = theirs.luma_YX
    return np.concatenate(exact), np.concatenate(mine)


@pytest.mark.parametrize("crf", [18, 30, 42])
@pytest.mark.parametrize("tools", ["", "cabac=0", "8x8dct=0", "cqm=jvt", "partitions=all", "partitions=all:cabac=0"])
def test_energy_is_that_of_the_exact_residual(tools, crf):
    exact, mine = residual_and_energy(packets(f"{PLAIN}:crf={crf}:{tools}"))
    rounded = (exact == 0) & (mine > 0)  # every pixel's residual is below a half, so it is rounded to 0
    assert ((exact == 0) == (mine == 0))[~rounded].all()
    assert mine[rounded].max(initial=0) < 64 * 0.5**2 and rounded.mean() < 0.01
    assert np.corrcoef(exact, mine)[0, 1] >= 0.999
    assert mine.sum() == pytest.approx(exact.sum(), rel=0.01)


def test_partitions_below_8x8_are_there_and_have_vectors_of_their_own():
    """What FFmpeg does not export: the energy test above checks those vectors by pixels."""
    frames = parsed(packets(f"{PLAIN}:crf=18:partitions=all"), cell=4)
    motion = [f.maps["motion"][0].reshape(10, 2, 14, 2, 2) for f in frames[1:]]
    assert sum(int((m != m[:, :1, :, :1]).any(axis=(1, 3, 4)).sum()) for m in motion) > 20


def test_lossless_energy_is_the_residual_itself():
    exact, mine = residual_and_energy(packets(f"{PLAIN}:qp=0"))
    assert np.array_equal(exact, mine)


# --- bytes and packets ---------------------------------------------------------------------------------------------


def test_a_stream_in_one_piece_gives_the_same_pictures():
    stream = packets(f"{B3}:slices=2:aud=1")
    with Parser("h264") as parser:
        whole = list(parser.feed(b"".join(stream)))
    for a, b in zip(whole, parsed(stream), strict=True):
        assert (a.poc, a.sequence, a.slice_bits) == (b.poc, b.sequence, b.slice_bits)
        assert all(np.array_equal(a.maps[name], b.maps[name]) for name in a.maps)


def test_a_lost_reference_is_said_and_decoding_goes_on():
    stream = packets("bframes=0:ref=1")
    with Parser("h264") as parser:
        frames = [f for number, packet in enumerate(stream) if number != 3 for f in parser.feed(packet)]
    assert len(frames) == 11
    assert not any(f.damaged for f in frames[:3]) and "frame_num jumps from 2 to 4" in frames[3].damaged
    assert not any(f.damaged for f in frames[4:])


def test_starting_in_the_middle_marks_what_cannot_be_known():
    stream = packets("bframes=0:ref=1:keyint=6")
    with Parser("h264") as parser:
        assert list(parser.feed(stream[2])) == []  # no parameter sets yet
    with Parser("h264") as parser:
        frames = [f for packet in stream[6:] for f in parser.feed(packet)]
    assert len(frames) == 6 and not any(f.damaged for f in frames) and frames[0].idr


def test_a_cut_packet_is_damaged_and_the_next_key_frame_is_not():
    stream = list(packets("keyint=4:slices=2:bframes=0"))
    stream[1] = stream[1][: len(stream[1]) * 2 // 3]
    with Parser("h264") as parser:
        frames = [f for packet in stream for f in parser.feed(packet)]
    assert frames[1].damaged and (frames[1].maps["kind"] == 255).any()
    assert not any(f.damaged for f in frames[4:])


def test_wrong_arguments_are_named():
    with pytest.raises(ValueError, match="codec='vp9'; allowed: h264, hevc"):
        Parser("vp9")
    with pytest.raises(ValueError, match="cell=5; allowed: 4, 8, 16"):
        Parser("h264", cell=5)
    with pytest.raises(ValueError, match=r"wanted=\['speed'\]; allowed: motion, poc"):
        Parser("h264", wanted=("speed",))
