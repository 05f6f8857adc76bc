"""One shard against the plain definition in float64; the sharded head is tested in test_cluster_head_sharded.py."""

import math

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.utils._python_dispatch import TorchDispatchMode

from ov_encoder.train import ClusterHead
from ov_encoder.train.sampling import distinct, draw_first, generator_for

from .oracle import plain_loss, reference_loss

D, C = 12, 61


def make_head(**options):
    settings = {"scale": 8.0, "dtype": torch.float64, "tile": 13} | options
    head = ClusterHead(D, C, **settings)
    with torch.no_grad():  # longer than at the start: gradients of a useful size
        head.centres_CD.mul_(50)
    return head


def make_batch(seed=0, samples=7, labels=4):
    generator = torch.Generator().manual_seed(seed)
    x_BD = torch.randn(samples, D, generator=generator, dtype=torch.float64)
    labels_BL = torch.randint(-1, C, (samples, labels), generator=generator)
    labels_BL[2] = -1  # a sample without labels
    labels_BL[3, 1] = labels_BL[3, 0]  # one label twice
    return x_BD.requires_grad_(), labels_BL


def run(head, x_BD, labels_BL):
    """Loss, gradients of embeddings and (dense) centres, and the sampled rows."""
    x_BD.grad = head.centres_CD.grad = None
    loss = head(x_BD, labels_BL)
    loss.backward()
    grad = head.centres_CD.grad
    rows = grad._indices()[0].tolist() if grad.is_sparse else list(range(head.classes))
    return loss.detach(), x_BD.grad, grad.to_dense(), rows


def oracle(head, x_BD, labels_BL, drawn_Bl, rows):
    x_BD, w_CD = x_BD.detach().requires_grad_(), head.centres_CD.detach().requires_grad_()
    loss = plain_loss(
        x_BD,
        w_CD,
        labels_BL,
        drawn_Bl,
        rows,
        margin=head.margin,
        m=head.m,
        scale=head.scale,
        objective=head.objective,
        bias=head.bias,
        threshold=head.filter_threshold,
    )
    loss.backward()
    return loss.detach(), x_BD.grad, w_CD.grad


def drawn_labels(head, labels_BL, step=0):
    """What a head draws at a step: the draw is tested in test_sampling.py, here it is given."""
    if head.labels_per_step is None:
        return labels_BL
    generator = generator_for("labels", seed=head.seed, step=step)
    return draw_first(distinct(labels_BL), generator)[:, : head.labels_per_step]


@pytest.mark.parametrize("objective", ["softmax", "logistic"])
@pytest.mark.parametrize("margin", ["cosface", "arcface", "none"])
@pytest.mark.parametrize(
    ("rate", "threshold", "drawn"), [(1.0, None, None), (0.3, None, None), (1.0, 0.2, 2), (0.3, 0.2, 2)]
)
def test_equals_plain_autograd(objective, margin, rate, threshold, drawn):
    head = make_head(
        objective=objective,
        margin=margin,
        sample_rate=rate,
        filter_threshold=threshold,
        labels_per_step=drawn,
        bias=-1.5 if objective == "logistic" else 0.0,
    )
    x_BD, labels_BL = make_batch()
    loss, dx_BD, dw_CD, rows = run(head, x_BD, labels_BL)
    expected = oracle(head, x_BD, labels_BL, drawn_labels(head, labels_BL), rows)
    torch.testing.assert_close((loss, dx_BD, dw_CD), expected, rtol=1e-10, atol=1e-12)
    assert dw_CD.abs().max() > 1e-4  # the comparison is about something


@settings(max_examples=25)
@given(tile=st.integers(1, 80), seed=st.integers(0, 1000))
def test_tile_size_does_not_matter(tile, seed):
    x_BD, labels_BL = make_batch(seed)
    whole = run(make_head(sample_rate=0.7, tile=1000), x_BD, labels_BL)
    tiled = run(make_head(sample_rate=0.7, tile=tile), x_BD, labels_BL)
    torch.testing.assert_close(tiled, whole, rtol=1e-10, atol=1e-13)


@settings(max_examples=25)
@given(seed=st.integers(0, 1000), order=st.permutations(range(4)), length=st.floats(0.01, 100))
def test_order_of_labels_and_length_of_embeddings_do_not_matter(seed, order, length):
    x_BD, labels_BL = make_batch(seed)
    head = make_head(labels_per_step=2)
    loss = head(x_BD, labels_BL)
    head.draws = 0
    torch.testing.assert_close(head(x_BD * length, labels_BL[:, order]), loss)


@pytest.mark.parametrize("drawn", [None, 1])
@pytest.mark.parametrize("objective", ["softmax", "logistic"])
def test_true_classes_of_a_sample_are_never_its_negatives(drawn, objective):
    """One sample with labels 5, 6, 7: nothing of the loss may push it away from any of them."""
    head = make_head(margin="none", labels_per_step=drawn, objective=objective)
    x_BD, labels_BL = make_batch(samples=4)
    x_BD, labels_BL = x_BD[:1].detach().requires_grad_(), torch.tensor([[5, 6, 7]])
    _, _, dw_CD, _ = run(head, x_BD, labels_BL)
    towards_C = (dw_CD * F.normalize(x_BD.detach())).sum(1)  # above 0: a step moves the centre away
    pulled = [k for k in range(C) if towards_C[k] < 0]
    assert set(pulled) <= {5, 6, 7} and len(pulled) == (drawn or 3)
    untouched = {5, 6, 7} - set(pulled)
    assert all(dw_CD[k].abs().max() == 0 for k in untouched)
    assert (towards_C > 0).sum() == C - 3


def test_logits_never_exist_whole():
    class Largest(TorchDispatchMode):
        numel = 0

        def __torch_dispatch__(self, function, types, args=(), kwargs=None):
            result = function(*args, **kwargs or {})
            for tensor in result if isinstance(result, tuple | list) else [result]:
                if isinstance(tensor, torch.Tensor) and not tensor.is_sparse:
                    self.numel = max(self.numel, tensor.numel())
            return result

    head = ClusterHead(4, 3000, sample_rate=0.5, tile=100)
    x_BD = torch.randn(40, 4, requires_grad=True)
    labels_BL = torch.randint(0, 3000, (40, 2))
    with Largest() as largest:
        head(x_BD, labels_BL).backward()
    assert largest.numel < 40 * 1500 / 4  # 60,000 logits; the shard itself has 12,000 numbers
    grad = head.centres_CD.grad
    assert grad.is_sparse and grad._values().shape == (1500, 4)


def test_filter_removes_negatives_and_tells_the_share():
    head = make_head(margin="none", filter_threshold=0.9)
    x_BD, _ = make_batch()
    labels_BL = torch.zeros(len(x_BD), 1, dtype=torch.int64)
    with torch.no_grad():
        head.centres_CD[30] = 3 * x_BD[1]  # too near to be called wrong
    _, _, dw_CD, _ = run(head, x_BD[1:2].detach().requires_grad_(), labels_BL[:1])
    assert dw_CD[30].abs().max() == 0 and dw_CD[31].abs().max() > 0
    assert head.statistics.filtered_share == pytest.approx(1 / (C - 1))
    assert head.statistics.accuracy == 0  # honest: a filtered class still ranks first


def test_statistics():
    head = make_head(margin="cosface")
    x_BD, labels_BL = make_batch()
    head(x_BD, labels_BL)
    cos_BC = F.normalize(x_BD) @ F.normalize(head.centres_CD).T
    first = positives = pairs = 0
    for i, row in enumerate(labels_BL.tolist()):
        own = {j for j in row if j >= 0}
        best = max(cos_BC[i, k].item() for k in range(C) if k not in own)
        for j in own:
            first, positives, pairs = first + (cos_BC[i, j].item() > best), positives + cos_BC[i, j].item(), pairs + 1
    found = head.statistics
    assert found.pairs == pairs and found.filtered_share == 0
    assert found.accuracy == pytest.approx(first / pairs)
    assert found.positive_cosine == pytest.approx(positives / pairs)
    assert not any(value.requires_grad for value in found)


def test_eval_uses_all_classes_and_labels_and_draws_nothing():
    x_BD, labels_BL = make_batch()
    head = make_head(sample_rate=0.2, labels_per_step=1).eval()
    everything = make_head()
    torch.testing.assert_close(head(x_BD, labels_BL), everything(x_BD, labels_BL))
    assert head.draws == 0


@pytest.mark.parametrize("eightfold", [False, True])
def test_reference_arithmetic(eightfold):
    """Eight columns, each with its own softmax; on request gradients of their sum instead of their mean."""
    head = ClusterHead.reference(
        D, C, eightfold=eightfold, sample_rate=0.5, labels_per_step=3, dtype=torch.float64, tile=7
    )
    x_BD, _ = make_batch(samples=9)
    labels_BL = torch.rand(9, C, generator=torch.Generator().manual_seed(1)).argsort(1)[:, :3]
    labels_BL[0] = torch.tensor([1, 2, 3])
    with torch.no_grad():
        head.centres_CD.mul_(50)
        head.centres_CD[40] = x_BD[1]  # filtered where sampled
        head.centres_CD[2] = x_BD[0]  # a true label above the threshold, a negative of the other two columns
        head.centres_CD[1] = -x_BD[0]  # a pair beyond the limit of the printed loss
    labels_BL[5] = torch.tensor([40, 41, 42])  # so that it is sampled
    loss, dx_BD, dw_CD, rows = run(head, x_BD, labels_BL)
    z_BD, w_CD = x_BD.detach().requires_grad_(), head.centres_CD.detach().requires_grad_()
    printed = reference_loss(z_BD, w_CD, labels_BL, rows, limit=-math.log(1e-30))
    torch.testing.assert_close(loss, printed.detach(), rtol=1e-12, atol=0)
    # The reference's backward is softmax - onehot beyond the limit too: that of the loss without limit.
    whole = reference_loss(z_BD, w_CD, labels_BL, rows, limit=math.inf)
    assert whole > printed
    (whole * (3 if eightfold else 1)).backward()
    torch.testing.assert_close((dx_BD, dw_CD), (z_BD.grad, w_CD.grad), rtol=1e-9, atol=1e-11)
    assert head.statistics.filtered_share > 0


def test_arcface_falls_as_the_angle_grows_beyond_pi():
    from ov_encoder.train.margin import margined_logits

    cos = torch.cos(torch.linspace(0, torch.pi, 1001, dtype=torch.float64))
    logits = margined_logits(cos, margin="arcface", m=0.3, scale=64.0)
    assert (logits[1:] <= logits[:-1]).all()


def test_resumed_draws_are_the_same():
    x_BD, labels_BL = make_batch()
    straight = make_head(sample_rate=0.3, labels_per_step=2)
    losses = [run(straight, x_BD, labels_BL)[0] for _ in range(4)]
    saved = make_head(sample_rate=0.3, labels_per_step=2)
    for _ in range(2):
        run(saved, x_BD, labels_BL)
    resumed = make_head(sample_rate=0.3, labels_per_step=2)
    resumed.load_state_dict(saved.state_dict())
    assert [run(resumed, x_BD, labels_BL)[0] for _ in range(2)] == losses[2:]
    assert len({float(loss) for loss in losses}) == 4


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_narrow_centres(dtype):
    """float32 and bfloat16 centres: the loss of the same numbers in float64, to the rounding of the arithmetic."""
    x_BD, labels_BL = make_batch()
    head = make_head(dtype=dtype, sample_rate=0.5)
    exact = make_head(sample_rate=0.5)
    with torch.no_grad():
        exact.centres_CD.copy_(head.centres_CD)
    loss, dx_BD, dw_CD, _ = run(head, x_BD, labels_BL)
    expected = run(exact, x_BD, labels_BL)
    assert dw_CD.dtype == dtype
    assert float(loss) == pytest.approx(float(expected[0]), rel=1e-6)
    torch.testing.assert_close(dx_BD, expected[1], rtol=1e-4, atol=1e-6)
    torch.testing.assert_close(dw_CD.double(), expected[2], rtol=1e-4 if dtype == torch.float32 else 2**-8, atol=1e-6)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_autocast_around_it_changes_nothing(dtype):
    x_BD, labels_BL = make_batch()
    expected = run(make_head(dtype=dtype), x_BD, labels_BL)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        found = run(make_head(dtype=dtype), x_BD, labels_BL)
    torch.testing.assert_close(found, expected, rtol=0, atol=0)


def test_missing_labels_do_not_count_as_right():
    """All negatives at cosine -1, the true class too: a missing label's place must not pass as cosine 0."""
    head = make_head()
    x_BD = torch.ones(1, D, dtype=torch.float64)
    with torch.no_grad():
        head.centres_CD.copy_(-x_BD.expand(C, D))
    head(x_BD, torch.tensor([[0, -1, -1]]))
    assert head.statistics.accuracy == 0 and head.statistics.pairs == 1


def test_no_label_anywhere_and_no_sample():
    head = make_head(sample_rate=0.5)
    for samples in (3, 0):
        x_BD = torch.randn(samples, D, dtype=torch.float64, requires_grad=True)
        loss, dx_BD, dw_CD, _ = run(head, x_BD, torch.full((samples, 2), -1))
        assert loss == 0 and dw_CD.abs().sum() == 0 and dx_BD.abs().sum() == 0


def test_every_class_is_a_label():
    """No negative is left: nothing to learn, and no NaN."""
    head = ClusterHead(D, 3, dtype=torch.float64)
    x_BD = torch.randn(2, D, dtype=torch.float64, requires_grad=True)
    loss, dx_BD, dw_CD, _ = run(head, x_BD, torch.tensor([[0, 1, 2], [2, 1, 0]]))
    assert loss == 0 and dx_BD.abs().max() == 0 and dw_CD.abs().max() == 0


def test_frozen_encoder_and_frozen_centres():
    x_BD, labels_BL = make_batch()
    head = make_head()
    head(x_BD.detach(), labels_BL).backward()
    assert head.centres_CD.grad.abs().max() > 0
    head.centres_CD.requires_grad_(False)
    head(x_BD, labels_BL).backward()
    assert x_BD.grad.abs().max() > 0


def test_nan_reaches_the_loss():
    x_BD, labels_BL = make_batch()
    with torch.no_grad():
        x_BD[0, 0] = torch.nan
    assert make_head()(x_BD, labels_BL).isnan()


@pytest.mark.parametrize("wrong", [C, -2])
def test_label_out_of_range(wrong):
    x_BD, labels_BL = make_batch()
    labels_BL[4, 2] = wrong
    with pytest.raises(ValueError, match=rf"label {wrong}: need 0..{C - 1}, or -1"):
        make_head()(x_BD, labels_BL)


@pytest.mark.parametrize(
    ("x", "labels", "message"),
    [
        (
            torch.zeros(2, 5),
            torch.zeros(2, 1, dtype=torch.int64),
            r"embeddings of shape \(2, 5\): need \[samples, 12\]",
        ),
        (torch.zeros(2, D), torch.zeros(2, 1), "float32: need int64"),
        (torch.zeros(2, D), torch.zeros(3, 1, dtype=torch.int64), r"shape \(3, 1\).*need int64 \[2,"),
    ],
)
def test_wrong_shapes(x, labels, message):
    with pytest.raises(ValueError, match=message):
        make_head()(x, labels)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"margin": "cos"}, "margin='cos': need one of cosface, arcface, none"),
        ({"objective": "triplet"}, "need one of softmax, logistic"),
        ({"sample_rate": 0.0}, "sample_rate=0.0: need a number above 0, at most 1"),
        ({"sample_rate": 1.5}, "sample_rate=1.5"),
        ({"labels_per_step": 0}, "labels_per_step=0"),
        ({"dtype": torch.float16}, "dtype=torch.float16"),
        ({"arithmetic": "reference", "objective": "logistic"}, "is a softmax"),
    ],
)
def test_wrong_options(options, message):
    with pytest.raises(ValueError, match=message):
        ClusterHead(D, C, **options)
