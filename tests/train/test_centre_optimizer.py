"""Only sampled rows move, each as torch's AdamW would move it alone; rounding keeps the expectation."""

import pytest
import torch

from ov_encoder.train import CentreAdamW, ClusterHead
from ov_encoder.train.centre_optimizer import round_stochastically

D, C = 6, 40


def make_head(**options):
    return ClusterHead(D, C, **{"scale": 8.0, "dtype": torch.float64} | options)


def backward(head, step):
    generator = torch.Generator().manual_seed(step)
    x_BD = torch.randn(3, D, generator=generator, dtype=torch.float64)
    head(x_BD, torch.randint(0, C, (3, 2), generator=generator)).backward()


def state_of(head, optimizer):
    return [
        head.centres_CD.detach().clone(),
        *(optimizer.state_dict()[k].clone() for k in ("mean_CD", "square_CD", "steps_C")),
    ]


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16])
def test_exactly_the_sampled_rows_are_touched(dtype):
    head = make_head(dtype=dtype, sample_rate=0.25)
    optimizer = CentreAdamW(head, lr=0.01, weight_decay=0.5, moments_dtype=dtype)
    for step in range(3):
        backward(head, step)
        rows = head.centres_CD.grad._indices()[0]
        before = state_of(head, optimizer)
        optimizer.step()
        optimizer.zero_grad()
        sampled_C = torch.zeros(C, dtype=torch.bool).index_fill_(0, rows, True)
        assert 0 < sampled_C.sum() < C
        for old, new in zip(before, state_of(head, optimizer), strict=True):
            changed_C = (old != new).reshape(C, -1).any(1)
            assert torch.equal(changed_C, sampled_C)


@pytest.mark.parametrize("rate", [0.25, 1.0])
def test_each_row_is_adamw_of_its_own(rate):
    """torch.optim.AdamW, one optimizer per row, stepped when the row has a gradient."""
    head = make_head(sample_rate=rate)
    optimizer = CentreAdamW(head, lr=0.01, betas=(0.8, 0.95), weight_decay=0.5)
    plain = [row.clone().requires_grad_() for row in head.centres_CD.detach()]
    adams = [torch.optim.AdamW([row], lr=0.01, betas=(0.8, 0.95), weight_decay=0.5, eps=1e-8) for row in plain]
    for step in range(6):
        backward(head, step)
        grad = head.centres_CD.grad
        dense_CD = grad.to_dense()
        optimizer.lr = 0.01 / (step + 1)
        for k in grad._indices()[0].tolist() if grad.is_sparse else range(C):
            plain[k].grad = dense_CD[k] * 0.5
            adams[k].param_groups[0]["lr"] = optimizer.lr
            adams[k].step()
        optimizer.step(gradient_scale=torch.tensor(0.5))
        optimizer.zero_grad()
    torch.testing.assert_close(head.centres_CD.detach(), torch.stack(plain).detach(), rtol=1e-9, atol=1e-12)
    if rate < 1:
        assert len(set(optimizer.steps_C.tolist())) > 2


def test_gradients_of_several_backwards_add_up():
    """Accumulation: rows of both, values summed where they meet; the norm is that of the sum."""
    head = make_head(sample_rate=0.3)
    optimizer = CentreAdamW(head)
    dense_CD = torch.zeros(C, D, dtype=torch.float64)
    rows = set()
    for step in range(2):
        alone = make_head(sample_rate=0.3)
        alone.draws = step
        backward(alone, step)
        dense_CD += alone.centres_CD.grad.to_dense()
        rows |= set(alone.centres_CD.grad._indices()[0].tolist())
        backward(head, step)
    assert float(optimizer.square_sum()) == pytest.approx(float(dense_CD.square().sum()), rel=1e-12)
    found_rows, values = optimizer.gradient()
    assert found_rows.tolist() == sorted(rows)
    torch.testing.assert_close(values, dense_CD[found_rows])


def test_nothing_happens_without_a_gradient():
    head = make_head()
    optimizer = CentreAdamW(head)
    before = state_of(head, optimizer)
    optimizer.step()
    assert optimizer.square_sum() == 0 and optimizer.rounds == 0
    assert all(torch.equal(a, b) for a, b in zip(before, state_of(head, optimizer), strict=True))


@pytest.mark.parametrize("value", [1.0 + 0.3 * 2**-7, -1.0 - 0.3 * 2**-7, 3e-5 * (1 + 0.7 * 2**-7), -2.7e9])
def test_rounding_is_unbiased(value):
    x = torch.full((40001,), value)
    rounded = round_stochastically(x, generator=torch.Generator().manual_seed(0))
    around = sorted({float(v) for v in rounded})
    assert len(around) == 2 and around[0] < float(x[0]) < around[1]
    gap = around[1] - around[0]
    assert gap <= 2**-7 * abs(value)  # the two neighbours
    share = (float(x[0]) - around[0]) / gap
    spread = (share * (1 - share) / len(x)) ** 0.5 * gap
    assert abs(float(rounded.double().mean()) - float(x[0])) < 5 * spread


def test_rounding_leaves_bfloat16_numbers_alone():
    x = torch.cat([torch.randn(1000).bfloat16().float(), torch.tensor([0.0, -0.0, torch.inf, -torch.inf])])
    rounded = round_stochastically(x, generator=torch.Generator().manual_seed(0))
    assert torch.equal(rounded.float(), x)


def test_small_updates_of_bfloat16_are_not_lost():
    """Steps of 1e-4 near 1, a fortieth of a bfloat16 step there: after 200 they have moved as far as in float32."""
    moved = {}
    for dtype in (torch.float32, torch.bfloat16):
        head = make_head(dtype=dtype)
        with torch.no_grad():
            head.centres_CD.fill_(1.0)
        optimizer = CentreAdamW(head, lr=1e-4, weight_decay=0.0, moments_dtype=dtype)
        for _ in range(200):
            head.centres_CD.grad = torch.ones_like(head.centres_CD)
            optimizer.step()
        moved[dtype] = 1 - float(head.centres_CD.detach().double().mean())
    assert moved[torch.float32] == pytest.approx(0.02, rel=1e-3)
    assert moved[torch.bfloat16] == pytest.approx(0.02, rel=0.1)


def test_resume_is_bit_exact():
    options = {"dtype": torch.bfloat16, "sample_rate": 0.3, "labels_per_step": 1}

    def trainer():
        head = make_head(**options)
        return head, CentreAdamW(head, lr=0.01, moments_dtype=torch.bfloat16)

    def train(head, optimizer, steps):
        for step in steps:
            backward(head, step)
            optimizer.step()
            optimizer.zero_grad()
        return state_of(head, optimizer)

    straight = train(*trainer(), range(5))
    head, optimizer = trainer()
    train(head, optimizer, range(2))
    again, its_optimizer = trainer()
    again.load_state_dict(head.state_dict())
    its_optimizer.load_state_dict(optimizer.state_dict())
    resumed = train(again, its_optimizer, range(2, 5))
    assert all(torch.equal(a, b) for a, b in zip(straight, resumed, strict=True))


def test_wrong_state_and_options():
    optimizer = CentreAdamW(make_head())
    state = optimizer.state_dict() | {"steps_C": torch.zeros(3, dtype=torch.int32)}
    with pytest.raises(ValueError, match=r"steps_C of shape \(3,\): this shard has \(40,\)"):
        optimizer.load_state_dict(state)
    with pytest.raises(ValueError, match=r"need torch\.float64 or torch\.bfloat16"):
        CentreAdamW(make_head(), moments_dtype=torch.float16)
    with pytest.raises(ValueError, match="betas"):
        CentreAdamW(make_head(), betas=(0.9, 1.0))
