"""The attention seam: samples do not see each other, no score matrix exists, and fallbacks are said."""

import logging

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from ov_encoder.model import attention
from ov_encoder.model.attention import Segments, attend, choose_kernel
from tests.model import oracle

CPU = torch.device("cpu")


def packed(tokens, heads=2, channels=32, seed=0):
    x = np.random.default_rng(seed).normal(size=(tokens, heads, channels)).astype(np.float32)
    return torch.from_numpy(x)


def naive(q, k, v, q_lengths, k_lengths):
    """Block-diagonal attention with one explicit N x N matrix, in float64."""
    q_owner, k_owner = (np.repeat(np.arange(len(n)), n) for n in (q_lengths, k_lengths))
    allowed = q_owner[:, None] == k_owner[None]
    heads = [oracle.attention(*(x[:, h].double().numpy() for x in (q, k, v)), allowed) for h in range(q.shape[1])]
    return np.stack(heads, axis=1)


@given(st.lists(st.integers(1, 6), min_size=1, max_size=8), st.booleans(), st.integers(0, 99))
@settings(max_examples=60)
def test_equals_masked_attention(lengths, single_query, seed):
    q_lengths = [1] * len(lengths) if single_query else lengths
    q, k, v = packed(sum(q_lengths), seed=seed), packed(sum(lengths), seed=seed + 1), packed(sum(lengths), seed=7)
    got = attend(q, k, v, Segments.of(q_lengths, CPU), Segments.of(lengths, CPU), "sdpa")
    np.testing.assert_allclose(got, naive(q, k, v, q_lengths, lengths), atol=2e-6)


def test_runs_of_equal_neighbours():
    segments = Segments.of([4, 4, 7, 4], CPU)
    assert segments.runs == [(2, 4), (1, 7), (1, 4)]
    assert segments.bounds.tolist() == [0, 4, 8, 15, 19] and segments.longest == 7


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_fused_kernel_is_used(dtype):
    """The plain implementation would build [heads, N, N]; the fused one must be what runs."""
    q = packed(512).to(dtype)
    segments = Segments.of([256, 256], CPU)
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU]) as profile:
        attend(q, q, q, segments, segments, "sdpa")
    ops = {event.key for event in profile.key_averages()}
    assert any("flash" in op for op in ops) and "aten::softmax" not in ops and "aten::bmm" not in ops


def test_cpu_takes_sdpa_without_a_word(caplog):
    with caplog.at_level(logging.WARNING):
        assert choose_kernel("auto", "cpu", torch.float32) == "sdpa"
    assert not caplog.records


def test_gpu_takes_varlen_in_16_bit_and_says_why_not_in_32(caplog):
    attention._say_once.cache_clear()
    if attention.varlen is not None:
        assert choose_kernel("auto", "cuda", torch.bfloat16) == "varlen"
        assert choose_kernel("varlen", "cuda", torch.float16) == "varlen"
    assert choose_kernel("sdpa", "cuda", torch.bfloat16) == "sdpa"
    with caplog.at_level(logging.WARNING):
        assert [choose_kernel("auto", "cuda", torch.float32) for _ in range(3)] == ["sdpa"] * 3
    assert len(caplog.records) == 1


def test_old_torch_is_said(monkeypatch, caplog):
    attention._say_once.cache_clear()
    monkeypatch.setattr(attention, "varlen", None)
    with caplog.at_level(logging.WARNING):
        assert choose_kernel("auto", "cuda", torch.bfloat16) == "sdpa"
    assert "torch >= 2.10" in caplog.text


@pytest.mark.parametrize(
    ("wanted", "device", "dtype", "says"),
    [
        ("flash", "cpu", torch.float32, "'flash'; allowed: 'auto', 'sdpa', 'varlen'"),
        ("varlen", "cpu", torch.bfloat16, "needs an NVIDIA GPU, tokens are on 'cpu'"),
    ],
)
def test_kernels_that_cannot_run(wanted, device, dtype, says):
    with pytest.raises(ValueError, match=says):
        choose_kernel(wanted, device, dtype)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs an NVIDIA GPU")
def test_varlen_agrees_with_sdpa():
    lengths = [33, 33, 128, 1, 70]
    q, k, v = (packed(sum(lengths), channels=64, seed=s).cuda().bfloat16() for s in range(3))
    segments = Segments.of(lengths, q.device)
    probes = Segments.of([1] * len(lengths), q.device)
    for queries, q_used in ((segments, q), (probes, q[: len(lengths)])):
        a, b = (attend(q_used, k, v, queries, segments, kernel).float() for kernel in ("varlen", "sdpa"))
        torch.testing.assert_close(a, b, atol=2e-2, rtol=0)
