"""Vectors and QP of the stock decoder on cells: signs, units, distances, and FFmpeg's traps.

H, W = cell rows and columns, M = vectors.
"""

import io

import av
import numpy as np
import pytest

import ov_encoder as ov
from ov_encoder.codec.signals import KIND_INTER, KIND_INTRA
from ov_encoder.codec.vectors import (
    BOTH,
    FUTURE,
    NONE,
    PAST,
    VECTOR,
    Distances,
    frame_vectors,
    motion_grid,
    qp_grid,
)
from tests.clips import CODECS, encode, moving_object, pan, video

MAPS = ("motion_HW2", "residual_HW", "bits_HW", "qp_HW", "kind_HW")


def vectors(*rows, scale=4):
    """Rows of (source, w, h, dst_x, dst_y, motion_x, motion_y)."""
    made = np.zeros(len(rows), VECTOR)
    for m, row in enumerate(rows):
        for name, value in zip(("source", "w", "h", "dst_x", "dst_y", "motion_x", "motion_y"), row, strict=True):
            made[name][m] = value
    made["motion_scale"] = scale
    return made


def exported(data, thread_type="SLICE", threads=1):
    """Frames as FFmpeg decodes them with vectors and QP exported."""
    with av.open(io.BytesIO(data)) as container:
        context = container.streams.video[0].codec_context
        context.thread_type, context.thread_count = thread_type, threads
        context.options = {"flags2": "+export_mvs", "export_side_data": "venc_params"}
        yield from container.decode(video=0)


# --- hand-made vectors ----------------------------------------------------------------------------------------


def test_a_vector_covers_its_block_and_says_quarter_pixels():
    motion, lists = motion_grid(vectors((-1, 16, 8, 16, 12, -9, 6)), (4, 4), 1, 1)
    expected = np.zeros((4, 4, 2), np.float32)
    expected[1, 1:3] = (-2.25, 1.5)  # the block's centre is (16, 12): columns 8-24, rows 8-16
    assert np.array_equal(motion, expected)
    assert np.array_equal(lists, np.where(expected[..., 0] != 0, PAST, NONE))
    assert motion.dtype == np.float32
    assert lists.dtype == np.uint8


def test_half_pixel_streams_are_scaled_by_their_own_unit():
    motion, _ = motion_grid(vectors((-1, 16, 16, 8, 8, 3, -2), scale=2), (2, 2), 1, 1)
    assert (motion == (1.5, -1.0)).all()


def test_display_distance_divides_and_a_future_reference_turns_the_sign():
    past = motion_grid(vectors((-1, 8, 8, 4, 4, 24, -12)), (1, 1), 3, 1)
    future = motion_grid(vectors((1, 8, 8, 4, 4, 24, -12)), (1, 1), 3, 2)
    assert past[0].tolist() == [[[2.0, -1.0]]]
    assert future[0].tolist() == [[[-3.0, 1.5]]]
    assert (past[1].item(), future[1].item()) == (PAST, FUTURE)


@pytest.mark.parametrize("order", [(0, 1), (1, 0)])
def test_both_lists_give_the_mean_of_both_velocities(order):
    rows = [(-1, 8, 8, 4, 4, 16, 8), (1, 8, 8, 4, 4, -8, 8)]
    motion, lists = motion_grid(vectors(*[rows[i] for i in order]), (1, 1), 2, 1)
    assert motion.tolist() == [[[2.0, -0.5]]]  # ((2, 1) + (2, -2)) / 2
    assert lists.item() == BOTH


@pytest.mark.parametrize("order", [(0, 1), (1, 0)])
@pytest.mark.parametrize(("used", "side"), [(-1, PAST), (1, FUTURE)])
def test_the_zero_of_an_unused_list_is_dropped(order, used, side):
    rows = [(used, 8, 8, 4, 4, 12 * -used, 4 * -used), (-used, 8, 8, 4, 4, 0, 0)]
    motion, lists = motion_grid(vectors(*[rows[i] for i in order]), (1, 1), 1, 1)
    assert motion.tolist() == [[[3.0, 1.0]]]
    assert lists.item() == side


def test_two_zeros_are_no_motion_but_a_prediction():
    motion, lists = motion_grid(vectors((-1, 8, 8, 4, 4, 0, 0), (1, 8, 8, 4, 4, 0, 0)), (1, 1), 1, 1)
    assert not motion.any()
    assert lists.item() == BOTH


def test_blocks_outside_the_picture_are_clipped():
    rows = [(-1, 16, 16, x, y, 4, 8) for x in (-8, 0, 24, 40) for y in (-8, 0, 16, 32)]
    motion, lists = motion_grid(vectors(*rows), (2, 3), 1, 1)
    expected = np.array([[PAST, NONE, PAST], [PAST, NONE, PAST]])  # blocks at 0 and 24 reach columns 0 and 2
    assert np.array_equal(lists, expected)
    assert np.array_equal(motion[..., 1] == 2, expected == PAST)


def test_no_vectors_mean_intra_everywhere():
    motion, lists = motion_grid(np.empty(0, VECTOR), (2, 3), 1, 1)
    assert motion.shape == (2, 3, 2)
    assert not motion.any()
    assert not lists.any()


# --- streams --------------------------------------------------------------------------------------------------


def test_vectors_are_ffmpeg_s_own():
    for frame in exported(video("pan", "h264", bframes=True, T=8)):
        ours = frame_vectors(frame.side_data)
        theirs = frame.side_data.get("MOTION_VECTORS")
        assert len(ours) == (0 if theirs is None else len(theirs))
        if theirs is not None:
            told = theirs.to_ndarray()
            for name in ("source", "w", "h", "src_x", "src_y", "dst_x", "dst_y", "motion_x", "motion_y"):
                assert np.array_equal(ours[name], told[name]), name


def test_threads_change_nothing():
    data = video("pan", "h264", bframes=True)
    one, four = ov.read_signals(data), ov.read_signals(data, threads=4)
    assert len(one) == len(four) == 64
    for a, b in zip(one, four, strict=True):
        assert (a.frame_type, a.packet_bits, a.time_s) == (b.frame_type, b.packet_bits, b.time_s)
        for name in MAPS:
            x, y = getattr(a, name), getattr(b, name)
            assert (x is None) == (y is None), name
            assert x is None or np.array_equal(x, y), (name, a.index)


@pytest.mark.parametrize(
    ("codec", "bframes", "step"),
    [("h264", False, 0.25), ("mpeg4", False, 0.5), ("mpeg2", False, 0.5), ("mpeg2", True, 0.5)],
)
@pytest.mark.parametrize(("dx", "dy"), [(2.0, 0.75), (-3.0, 0.0), (0.0, -1.5)])
def test_a_pan_fixes_sign_and_unit(codec, bframes, step, dx, dy):
    scene = pan(16, 96, 128, dx=dx, dy=dy, with_object=False)
    clip = ov.read_signals(encode(scene.frames_THW3, codec=codec, bframes=bframes), residual=False)
    moved = [frame.motion_HW2 for frame in clip if frame.motion_HW2 is not None]
    # FFmpeg exports nothing for the last frame of MPEG-2, which it gives out when it is flushed: not known, not intra.
    assert len(moved) == (14 if codec == "mpeg2" else 15)
    if codec == "mpeg2":
        assert clip[-1].kind_HW is None and clip[-1].qp_HW is None
    for motion_HW2 in moved:  # content that moves right came from the left: the vector is minus the step
        assert np.median(motion_HW2, axis=(0, 1)) == pytest.approx((-dx, -dy), abs=step)
    overall = np.mean([np.median(m, axis=(0, 1)) for m in moved], axis=0)
    assert overall == pytest.approx((-dx, -dy), abs=step / 2)


@pytest.mark.parametrize("pyramid", ["none", "normal"])
def test_motion_of_b_frames_is_per_frame_too(pyramid):
    scene = pan(17, 96, 128, with_object=False)
    options = {"x264-params": f"keyint=32:scenecut=0:b-pyramid={pyramid}:ref=1"}
    clip = ov.read_signals(encode(scene.frames_THW3, bframes=True, options=options), residual=False)
    kinds = [frame.frame_type for frame in clip]
    assert kinds[:5] == ["I", "B", "B", "B", "P"]
    for frame in clip:
        if frame.frame_type != "I":
            assert np.median(frame.motion_HW2, axis=(0, 1)) == pytest.approx((-2, -0.75), abs=0.3), frame.index


def test_an_i_frame_has_no_motion_and_is_intra_everywhere():
    clip = ov.read_signals(encode(moving_object(12, 96, 128).frames_THW3, gop=4), signals="native")
    assert [frame.frame_type for frame in clip] == list("IPPP" * 3)
    for frame in clip:
        if frame.frame_type == "I":
            assert frame.motion_HW2 is None
            assert (frame.kind_HW == KIND_INTRA).all()
        else:
            assert frame.motion_HW2.shape == (12, 16, 2)
            assert (frame.kind_HW == KIND_INTER).mean() > 0.9  # a still background is predicted


@pytest.mark.parametrize("codec", CODECS)
def test_packet_bits_reach_the_frames_whole(codec):
    data = encode(pan(12, 96, 128).frames_THW3, codec=codec, bframes=codec in ("h264", "mpeg2", "hevc"))
    with av.open(io.BytesIO(data)) as container:
        packets = [8 * packet.size for packet in container.demux(video=0) if packet.size]
    frames = list(ov.iter_signals(data, signals="none"))
    if codec not in ("vp9", "av1"):
        assert sorted(frame.packet_bits for frame in frames) == sorted(packets)
    assert len(frames) == 12
    assert sum(frame.packet_bits for frame in frames) == sum(packets)


# --- quantiser ------------------------------------------------------------------------------------------------


def test_a_constant_quantiser_is_read_back():
    options = {"crf": "-1", "qp": "27", "x264-params": "keyint=32:aq-mode=0:mbtree=0:ipratio=1:pbratio=1"}
    data = encode(pan(6, 90, 122).frames_THW3, bframes=True, options=options)
    for frame in ov.read_signals(data, residual=False):
        assert frame.qp_HW.shape == (12, 16)  # 90 and 122 pixels, rounded up to cells
        assert (frame.qp_HW == 27).all()


def test_qp_is_what_pyav_says_block_by_block():
    varied = 0
    for frame in exported(encode(moving_object(6, 96, 128).frames_THW3)):
        told = np.asarray(frame.side_data.get("VIDEO_ENC_PARAMS").qp_map())
        ours = qp_grid(frame.side_data, (12, 16))
        assert np.array_equal(ours, np.kron(told, np.ones((2, 2))))
        varied += len(np.unique(ours)) > 1
    assert varied >= 3  # adaptive quantisation: a constant map would prove little


def test_no_quantiser_where_the_decoder_exports_none():
    frame = next(exported(video("pan", "hevc", T=8)))
    assert qp_grid(frame.side_data, (28, 28)) is None
    assert len(frame_vectors(frame.side_data)) == 0


# --- display distance -----------------------------------------------------------------------------------------


def distances(order):
    """order: [(display time, type)] in decode order -> {display place: (past, future)}."""
    measure = Distances(np.array([time for time, _ in order], float))
    shown = sorted(range(len(order)), key=lambda k: order[k][0])
    return [(order[k][1], *measure(k, order[k][1])) for k in shown]


def test_distances_of_a_stream_without_reordering_are_one():
    told = distances([(t, "I" if t == 0 else "P") for t in range(5)])
    assert [(past, future) for _, past, future in told] == [(1, 1)] * 5


def test_distances_of_two_b_frames_between_references():
    told = distances([(0, "I"), (3, "P"), (1, "B"), (2, "B"), (6, "P"), (4, "B"), (5, "B")])
    assert told == [
        ("I", 1, 1), ("B", 1, 2), ("B", 2, 1), ("P", 3, 1), ("B", 1, 2), ("B", 2, 1), ("P", 3, 1)
    ]  # fmt: skip


def test_distances_inside_a_pyramid():
    told = distances([(0, "I"), (4, "P"), (2, "B"), (1, "B"), (3, "B")])
    assert told[1:] == [("B", 1, 1), ("B", 2, 2), ("B", 1, 1), ("P", 4, 1)]  # the P was decoded before the B's


def test_vectors_of_mpeg4_b_frames_are_not_known():
    """FFmpeg fills them with zeros, whatever moved."""
    scene = pan(12, 96, 128, with_object=False)
    clip = ov.read_signals(encode(scene.frames_THW3, codec="mpeg4", bframes=True))
    kinds = "".join(frame.frame_type for frame in clip)
    assert "B" in kinds
    for frame in clip:
        if frame.frame_type == "B":
            assert frame.motion_HW2 is None and frame.kind_HW is None
            assert frame.residual_HW is not None  # predicted with the motion of the frame before it


def test_distances_count_frames_not_seconds():
    uneven = distances([(0.0, "I"), (7.5, "P"), (0.1, "B"), (3.0, "B")])
    assert uneven == [("I", 1, 1), ("B", 1, 2), ("B", 2, 1), ("P", 3, 1)]


def test_without_times_the_order_is_taken_as_it_comes():
    measure = Distances(np.full(4, np.nan))
    assert [measure(k, "P") for k in range(4)] == [(1, 1)] * 4
