import av
import numpy as np
import pytest

from ov_encoder.viz.movie import slot_rate, write_mp4
from ov_encoder.viz.overlay import side_by_side
from tests.viz.plans import video_plan


def test_written_frames_come_back(tmp_path):
    frames = side_by_side(video_plan(), height=112)
    write_mp4(frames, tmp_path / "out.mp4", fps=6)
    with av.open(str(tmp_path / "out.mp4")) as container:
        stream = container.streams.video[0]
        assert stream.codec_context.name == "h264" and stream.codec_context.pix_fmt == "yuv420p"
        assert float(stream.average_rate) == 6
        back = np.stack([f.to_ndarray(format="rgb24") for f in container.decode(stream)])
    assert back.shape == frames.shape
    assert np.abs(back.astype(int) - frames).mean() < 6  # lossy, but the same picture


@pytest.mark.parametrize("shape", [(0, 8, 8, 3), (2, 7, 8, 3), (2, 8, 7, 3)])
def test_frames_that_cannot_be_written_are_refused(tmp_path, shape):
    with pytest.raises(ValueError, match="even sides"):
        write_mp4(np.zeros(shape, np.uint8), tmp_path / "out.mp4", fps=6)
    with pytest.raises(ValueError, match="fps"):
        write_mp4(np.zeros((2, 8, 8, 3), np.uint8), tmp_path / "out.mp4", fps=0)


def test_slots_play_in_their_own_time_within_bounds():
    assert slot_rate(np.arange(10) / 6) == pytest.approx(6)
    assert slot_rate(np.arange(10) * 30.0) == 2  # an hour in 64 slots is not watched for an hour
    assert slot_rate(np.arange(10) / 120) == 25
    assert slot_rate(np.zeros(1)) == 2 and slot_rate(np.zeros(5)) == 8
