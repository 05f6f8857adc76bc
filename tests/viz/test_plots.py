import numpy as np
import pytest

from ov_encoder.errors import OvEncoderError
from ov_encoder.viz.plots import bit_rate, curve, plot_bits
from tests.viz.plans import media_info


def test_packets_are_put_in_order_of_time():
    info = media_info(
        packet_bits_K=np.array([9, 3, 1]),
        packet_time_K=np.array([0.0, 0.2, 0.1]),
        packet_key_K=np.array([True, False, False]),
    )
    times, bits, keys = curve(info)
    assert times.tolist() == [0, 0.1, 0.2] and bits.tolist() == [9, 1, 3] and keys.tolist() == [True, False, False]


def test_packets_without_times_are_counted():
    times, bits, _ = curve(media_info(packet_time_K=np.full(48, np.nan)))
    assert times[-1] == pytest.approx(47 / 24) and bits.sum() == media_info().packet_bits_K.sum()


def test_bit_rate_keeps_every_bit():
    rng = np.random.default_rng(1)
    for K, fps in ((2, 1.0), (48, 24.0), (1000, 30.0), (20_000, 60.0)):
        bits = rng.integers(1, 10_000, K)
        rate, edges = bit_rate(np.arange(K) / fps, bits)
        assert (rate[:-1] * np.diff(edges)).sum() * 1e3 == pytest.approx(bits.sum())
        assert edges[-1] == pytest.approx(K / fps)


@pytest.mark.parametrize("K", [2, 48, 5000])
def test_plot_has_one_bar_a_packet_or_group(K):
    info = media_info(
        packet_bits_K=np.full(K, 800), packet_time_K=np.arange(K) / 24, packet_key_K=np.arange(K) % 12 == 0
    )
    figure = plot_bits(info)
    bars = [len(lines.get_segments()) for lines in figure.axes[0].collections]
    assert sum(bars) == (K if K <= 1200 else -(-K // -(-K // 1200)))


def test_an_image_has_no_curve():
    with pytest.raises(OvEncoderError, match=r"photo\.png.*no curve"):
        plot_bits(media_info(name="photo.png", packet_bits_K=np.zeros(1), packet_time_K=np.zeros(1),
                             packet_key_K=np.ones(1, bool)))  # fmt: skip
