"""Heads: the attentive one is torch's own attention, the optimizer is torch's own AdamW, a grid is its heads alone."""

from types import SimpleNamespace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from ov_encoder.evaluate.attentive import AttentiveHeads, attention_heads
from ov_encoder.evaluate.heads import HeadsAdamW, Schedule, Tokens, Vectors, losses, predict, train
from ov_encoder.evaluate.linear import LinearHeads

D, C = 128, 5


def cache_of(lengths, width=D, seed=0):
    """A cache in memory, as Tokens takes it."""
    random = torch.Generator().manual_seed(seed)
    kept = {str(i): torch.randn(n, width, generator=random).bfloat16() for i, n in enumerate(lengths)}
    return SimpleNamespace(
        tokens=kept.__getitem__, lengths=lambda ids: [len(kept[i]) for i in ids], width=width, ids=list(kept)
    )


def tokens_of(lengths, **options):
    cache = cache_of(lengths, **options)
    return Tokens(cache, cache.ids)


def loud(heads):
    """Heads whose parameters are all different and large enough to matter."""
    random = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for p in heads.parameters():
            p.add_(0.2 * torch.randn(p.shape, generator=random))
    return heads


class Doubled:
    """Data in float64: what Adam makes of rounding errors does not blur a comparison."""

    def __init__(self, data):
        self.data, self.parts = data, data.parts

    def inputs(self, rows):
        x, *mask = self.data.inputs(rows)
        return x.double(), *mask


class Plain(nn.Module):
    """The head as its authors write it: MultiheadAttention of a probe, MLP, norm, classifier."""

    def __init__(self, heads: AttentiveHeads, g: int) -> None:
        super().__init__()
        own = {name.rsplit("_", 1)[0]: p[g] for name, p in heads.named_parameters()}
        width = own["probe"].shape[0]
        self.probe = nn.Parameter(own["probe"][None, None])
        self.attention = nn.MultiheadAttention(width, attention_heads(width), batch_first=True)
        self.rms, self.norm = nn.RMSNorm(width, eps=1e-6), nn.LayerNorm(width, eps=1e-6)
        self.mlp = nn.Sequential(nn.Linear(width, 4 * width), nn.GELU(), nn.Linear(4 * width, width))
        self.classify = nn.Linear(width, C)
        with torch.no_grad():
            for mine, name in (
                (self.attention.in_proj_weight, "in_weight"), (self.attention.in_proj_bias, "in_bias"),
                (self.attention.out_proj.weight, "out_weight"), (self.attention.out_proj.bias, "out_bias"),
                (self.rms.weight, "rms"), (self.norm.weight, "norm"), (self.norm.bias, "norm_bias"),
                (self.mlp[0].weight, "up"), (self.mlp[0].bias, "up_bias"),
                (self.mlp[2].weight, "down"), (self.mlp[2].bias, "down_bias"),
                (self.classify.weight, "class"), (self.classify.bias, "class_bias"),
            ):  # fmt: skip
                mine.copy_(own[name])
        self.double()

    def forward(self, x_BLD, mask_BL=None):
        y, _ = self.attention(self.probe.expand(len(x_BLD), -1, -1), x_BLD, x_BLD, key_padding_mask=mask_BL)
        y = y[:, 0]
        return self.classify(self.norm(y + self.mlp(self.rms(y))))


@pytest.mark.parametrize("masked", [False, True])
@pytest.mark.parametrize("standardised", [False, True])
def test_attentive_heads_equal_multihead_attention(masked, standardised):
    random = torch.Generator().manual_seed(0)
    x = torch.randn(4, 11, D, generator=random)
    mean, deviation = torch.randn(D, generator=random), 0.5 + torch.rand(D, generator=random)
    moments = {"mean_D": mean, "deviation_D": deviation} if standardised else {}
    heads = loud(AttentiveHeads(3, D, C, seed=0, **moments)).double()
    mask = torch.arange(11) < torch.tensor([11, 3, 1, 7])[:, None] if masked else None
    logits = heads(x.double(), mask)
    shown = (x.double() - mean) / deviation if standardised else x.double()
    for g in range(3):
        plain = Plain(heads, g)
        wanted = plain(shown, None if mask is None else ~mask)
        assert wanted.abs().max() > 0.5
        torch.testing.assert_close(logits[g], wanted, rtol=0, atol=1e-6)
        single = heads.float()(x, mask)[g]
        torch.testing.assert_close(single.double(), wanted, rtol=0, atol=2e-5)
        heads.double()
        logits[g, :, 1].sum().backward(retain_graph=True)
        wanted[:, 1].sum().backward()
        for mine, theirs in (
            (heads.probe_GD, plain.probe[0, 0]), (heads.in_weight_GFD, plain.attention.in_proj_weight),
            (heads.down_GDM, plain.mlp[2].weight),
        ):  # fmt: skip
            theirs_grad = plain.probe.grad[0, 0] if theirs.ndim == 1 else theirs.grad
            torch.testing.assert_close(mine.grad[g], theirs_grad, rtol=0, atol=1e-6)


@pytest.mark.parametrize(("width", "heads"), [(192, 3), (1024, 16), (6, 1), (48, 1), (1280, 20), (200, 2), (97, 1)])
def test_attention_heads_have_64_dims_where_that_divides(width, heads):
    assert attention_heads(width) == heads


def test_heads_start_equal_and_the_classifier_near_zero():
    heads = AttentiveHeads(2, D, C, seed=3)
    assert all(torch.equal(p[0], p[1]) for p in heads.parameters())
    assert 0 < heads.class_GCD.abs().max() < 2e-3  # trunc normal at 2, of 0.02 / 1000, bounded by 2 absolute
    again, other = AttentiveHeads(1, D, C, seed=3), AttentiveHeads(1, D, C, seed=4)
    assert torch.equal(again.probe_GD, heads.probe_GD[:1]) and not torch.equal(other.probe_GD, again.probe_GD)


@settings(max_examples=10)
@given(st.lists(st.tuples(st.floats(1e-4, 1e-1), st.floats(0, 1)), min_size=1, max_size=3), st.booleans())
def test_the_optimizer_is_adamw(grid, clipped):
    G = len(grid)
    random = torch.Generator().manual_seed(0)
    start = torch.randn(G, 4, 3, generator=random, dtype=torch.float64)
    heads = nn.ParameterList([nn.Parameter(start.clone()), nn.Parameter(start[:, 0].clone())])
    mine = HeadsAdamW(heads, *zip(*grid, strict=True), clip=0.5 if clipped else None)
    alone = []
    for g, (rate, decay) in enumerate(grid):
        own = [nn.Parameter(start[g].clone()), nn.Parameter(start[g, 0].clone())]
        alone.append((own, torch.optim.AdamW(own, lr=rate, weight_decay=decay)))
    for step in range(5):
        factor = 1 / (1 + step)
        for i, p in enumerate(heads):
            p.grad = torch.randn(p.shape, generator=random, dtype=torch.float64)
            for g, (own, _) in enumerate(alone):
                own[i].grad = p.grad[g].clone()
        mine.step(factor)
        for (rate, _), (own, optimizer) in zip(grid, alone, strict=True):
            if clipped:
                nn.utils.clip_grad_norm_(own, 0.5)
            optimizer.param_groups[0]["lr"] = rate * factor
            optimizer.step()
    for g, (own, _) in enumerate(alone):
        for i, p in enumerate(heads):
            torch.testing.assert_close(p[g], own[i], rtol=1e-6, atol=1e-7)


def trained(kind, grid, *, multi=False, steps=12, micro=None, monkeypatch=None, lengths=(5,) * 30):
    random = torch.Generator().manual_seed(2)
    rows = np.arange(len(lengths))
    targets = nn.functional.one_hot(torch.randint(0, C, (len(rows),), generator=random), C).float()
    if multi:
        targets[::2, 0] = 1
    if kind == "linear":
        data = Vectors(torch.randn(len(rows), D, generator=random))
        heads = LinearHeads(len(grid), C, mean_D=torch.zeros(D), deviation_D=torch.ones(D))
    else:
        data = tokens_of(lengths)
        heads = AttentiveHeads(len(grid), D, C, seed=0)
    if micro:
        monkeypatch.setattr("ov_encoder.evaluate.heads._MICRO_TOKENS", micro)
    heads, data, targets = heads.double(), Doubled(data), targets.double()
    train(
        heads, data, rows, targets, rates=[r for r, _ in grid], decays=[d for _, d in grid],
        schedule=Schedule(steps, 8), multi=multi, smoothing=0.0 if multi else 0.1, clip=1.0,
    )  # fmt: skip
    return predict(heads, data, rows), targets


@pytest.mark.parametrize("multi", [False, True])
@pytest.mark.parametrize("kind", ["linear", "attentive"])
def test_a_grid_equals_its_heads_alone(kind, multi):
    grid = [(1e-3, 0.0), (3e-3, 0.1), (1e-2, 1.0)]
    together, targets = trained(kind, grid, multi=multi)
    assert np.ptp(together, axis=0).max() > 0.05  # the points do differ
    for g, point in enumerate(grid):
        alone, _ = trained(kind, [point], multi=multi)
        np.testing.assert_allclose(together[g], alone[0], rtol=0, atol=1e-9)
    assert losses(together, targets, multi=multi).shape == (3,)


@pytest.mark.parametrize("lengths", [(5,) * 20, tuple(range(1, 21))])
def test_parts_of_a_batch_add_up_to_it(monkeypatch, lengths):
    whole, _ = trained("attentive", [(1e-3, 0.1)], lengths=lengths, steps=6)
    parts, _ = trained("attentive", [(1e-3, 0.1)], lengths=lengths, steps=6, micro=23, monkeypatch=monkeypatch)
    np.testing.assert_allclose(whole, parts, rtol=0, atol=1e-9)


@given(st.lists(st.integers(1, 9), min_size=1, max_size=8), st.randoms(use_true_random=False))
@settings(max_examples=25)
def test_padding_is_never_seen(lengths, dice):
    data = tokens_of(lengths, width=8)
    rows = np.array([dice.randrange(len(lengths)) for _ in range(5)])
    heads = loud(AttentiveHeads(2, 8, C, seed=0))
    together = heads(*data.inputs(rows))
    for place, row in enumerate(rows):
        torch.testing.assert_close(together[:, place], heads(*data.inputs(np.array([row])))[:, 0], rtol=1e-4, atol=1e-5)
    scores = predict(heads, data, rows)
    assert scores.shape == (2, 5, C)


def test_moments_and_means_are_those_of_all_tokens():
    data = tokens_of((3, 7, 1), width=8)
    everything = torch.cat([data.cache.tokens(i) for i in data.ids]).double()
    mean, deviation = data.moments(np.arange(3))
    torch.testing.assert_close(mean, everything.mean(dim=0).float())
    torch.testing.assert_close(deviation, everything.std(dim=0, correction=0).float())
    torch.testing.assert_close(data.means()[1], data.cache.tokens("1").float().mean(dim=0))
    flat = Vectors(torch.tensor([[1.0, 5.0], [3.0, 5.0]]))
    mean, deviation = flat.moments(np.arange(2))
    assert mean.tolist() == [2, 5] and deviation.tolist() == [1, 1]  # a feature that never changes is left alone


def test_schedules():
    linear = Schedule(10, 4, "linear", warmup=0.0, floor=1e-3)
    assert linear.factor(0) == 1 and linear.factor(9) == pytest.approx(1 - 0.9 * 0.999)
    cosine = Schedule(100, 4)
    assert [cosine.factor(s) for s in range(5)] == pytest.approx([0.2, 0.4, 0.6, 0.8, 1.0])
    falling = [cosine.factor(s) for s in range(5, 100)]
    assert falling[0] == 1 and falling == sorted(falling, reverse=True) and 0 < falling[-1] < 1e-3


def test_nobody_to_train_on():
    data = Vectors(torch.zeros(0, 3))
    heads = LinearHeads(1, 2, mean_D=torch.zeros(3), deviation_D=torch.ones(3))
    with pytest.raises(ValueError, match="no samples to train on"):
        train(heads, data, np.arange(0), torch.zeros(0, 2), rates=[1], decays=[0], schedule=Schedule(1, 1))
