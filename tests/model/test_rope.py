"""What each rotary kind is, and what it is not."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from ov_encoder.model.config import OVEncoderConfig
from ov_encoder.model.rope import angles, apply_rotary, rotary_table
from tests.model import oracle

KINDS = ("reference", "rotation")
position = st.tuples(st.integers(0, 63), st.integers(0, 40), st.integers(0, 40))


def turn(x_NHE, positions, kind, theta=10000.0):
    positions_N3 = torch.as_tensor(np.asarray(positions))
    return apply_rotary(x_NHE, rotary_table(positions_N3, head_dim=x_NHE.shape[-1], theta=theta, kind=kind))


def vectors(tokens, head_dim=64, heads=2, seed=0):
    return torch.from_numpy(np.random.default_rng(seed).normal(size=(tokens, heads, head_dim)).astype(np.float32))


def logit(q, k, at_q, at_k, kind):
    return (turn(q, [at_q], kind) * turn(k, [at_k], kind)).sum(-1)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("head_dim", [32, 64, 96])
def test_equals_the_channel_by_channel_oracle(kind, head_dim):
    config = OVEncoderConfig(hidden_size=2 * head_dim, num_attention_heads=2, rope=kind)
    positions = np.random.default_rng(1).integers(0, 64, (30, 3))
    x = vectors(30, head_dim)
    got = turn(x, positions, kind)
    for head in range(2):
        want = oracle.turn(x[:, head].double().numpy(), oracle.angles(positions, config), config)
        np.testing.assert_allclose(got[:, head], want, atol=2e-5)


def test_angles_split_4_6_6_and_take_fractions():
    f = angles(torch.tensor([[1.0, 0, 0], [0, 1, 0], [0, 0, 1], [0.5, 0, 0]]), head_dim=64, theta=10000.0)
    assert f.dtype == torch.float32 and f.shape == (4, 32)
    assert [row.nonzero().flatten().tolist() for row in f[:3]] == [
        list(range(8)),
        list(range(8, 20)),
        list(range(20, 32)),
    ]
    assert f[0, 0] == 1 and f[1, 8] == 1 and f[2, 20] == 1
    torch.testing.assert_close(f[0, 7], torch.tensor(10000.0 ** (-7 / 8)))
    torch.testing.assert_close(f[3], f[0] / 2)


@pytest.mark.parametrize("kind", KINDS)
def test_position_zero_is_the_identity(kind):
    x = vectors(3)
    assert torch.equal(turn(x, np.zeros((3, 3)), kind), x)


@given(position, st.integers(0, 2**31))
@settings(max_examples=50)
def test_rotation_keeps_norms(at, seed):
    x = vectors(1, seed=seed)
    torch.testing.assert_close(turn(x, [at], "rotation").norm(dim=-1), x.norm(dim=-1))


@given(position, position, position, st.integers(0, 2**31))
@settings(max_examples=50)
def test_rotation_is_shift_invariant(at_q, at_k, shift, seed):
    q, k = vectors(1, seed=seed), vectors(1, seed=seed + 1)
    moved = [tuple(a + s for a, s in zip(at, shift, strict=True)) for at in (at_q, at_k)]
    torch.testing.assert_close(logit(q, k, *moved, "rotation"), logit(q, k, at_q, at_k, "rotation"), atol=2e-3, rtol=0)


def test_reference_changes_norms():
    grid = np.argwhere(np.ones((64, 16, 16)))[::7]
    x = vectors(len(grid), heads=1)
    ratio = (turn(x, grid, "reference").norm(dim=-1) / x.norm(dim=-1)).flatten()
    assert ratio.min() < 0.95 and ratio.max() > 1.05


def test_reference_is_not_shift_invariant():
    q, k = vectors(1), vectors(1, seed=1)
    here, later = (logit(q, k, (t, 3, 4), (t + 2, 5, 1), "reference") for t in (0, 10))
    assert (here - later).abs().max() > 0.5


def test_reference_of_one_pair_is_the_published_matrix():
    """Channels 0 and 1 at t=1 use two different angles, 1 and 10000^(-1/8)."""
    a, b = 1.0, 10000.0 ** (-1 / 8)
    x = torch.zeros(2, 1, 64)
    x[0, 0, 0] = x[1, 0, 1] = 1
    y = turn(x, [(1, 0, 0)] * 2, "reference")[:, 0, :2]
    torch.testing.assert_close(y, torch.tensor([[np.cos(a), np.sin(b)], [-np.sin(a), np.cos(b)]]).float())


def test_bfloat16_is_computed_in_float32():
    x = vectors(4).bfloat16()
    positions = [(63, 15, 15)] * 4
    for kind in KINDS:
        y = turn(x, positions, kind)
        assert y.dtype == torch.bfloat16
        assert torch.equal(y, turn(x.float(), positions, kind).bfloat16())


def test_unknown_kind():
    with pytest.raises(ValueError, match="'spiral'; allowed: 'reference', 'rotation'"):
        turn(vectors(1), [(0, 0, 0)], "spiral")
