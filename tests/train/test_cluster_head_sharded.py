"""Two and three gloo processes against one process and against plain autograd; one start for all cases."""

import pytest
import torch
import torch.multiprocessing

from ov_encoder.train import CentreAdamW, communication_bytes, reshard
from ov_encoder.train.sampling import distinct, draw_first, generator_for

from . import shard_worker as work
from .oracle import plain_loss, reference_loss

WORLDS = (2, 3)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("shards")
    torch.multiprocessing.spawn(work.main, args=(str(folder),), nprocs=work.WORLD)
    return folder


@pytest.fixture(scope="module")
def found(folder):
    return {
        world: [torch.load(folder / f"world{world}-rank{rank}.pt", weights_only=True) for rank in range(world)]
        for world in WORLDS
    }


@pytest.mark.parametrize("world", WORLDS)
@pytest.mark.parametrize("case", list(work.CASES))
def test_sharded_equals_plain_autograd(found, world, case):
    shards = [rank[case] for rank in found[world]]
    single = work.make_head(case)
    x_BD, labels_BL = work.make_batch(sum(work.sizes_of(case, world)), single.classes)
    x_BD.requires_grad_()
    w_CD = single.centres_CD.detach().clone().requires_grad_()
    rows = torch.cat([shard["rows"] for shard in shards])
    assert torch.equal(rows, rows.unique())
    drawn_Bl = labels_BL
    if single.labels_per_step:
        drawn_Bl = draw_first(distinct(labels_BL), generator_for("labels", seed=0, step=0))[:, : single.labels_per_step]
    if single.arithmetic == "reference":
        keep = (drawn_Bl >= 0).all(1)  # the oracle of the reference knows no missing labels
        assert (drawn_Bl[~keep] == -1).all()
        loss = reference_loss(
            x_BD[keep], w_CD, drawn_Bl[keep], rows.tolist(), limit=70.0, scale=8.0, threshold=single.filter_threshold
        )
    else:
        loss = plain_loss(
            x_BD,
            w_CD,
            labels_BL,
            drawn_Bl,
            rows.tolist(),
            margin=single.margin,
            m=single.m,
            scale=single.scale,
            objective=single.objective,
            threshold=single.filter_threshold,
        )
    loss.backward()
    for shard in shards:
        torch.testing.assert_close(shard["loss"], loss.detach(), rtol=1e-10, atol=1e-12)
        assert shard["statistics"] == shards[0]["statistics"]
    # Averaging over processes, as DDP does, must give the gradient of the mean.
    factor = 1 if single.encoder_gradients == "summed" else world
    torch.testing.assert_close(torch.cat([s["dx"] for s in shards]) / factor, x_BD.grad, rtol=1e-9, atol=1e-12)
    torch.testing.assert_close(torch.cat([s["dcentres"] for s in shards]), w_CD.grad[rows], rtol=1e-9, atol=1e-12)
    assert x_BD.grad.abs().max() > 1e-5


@pytest.mark.parametrize("world", WORLDS)
@pytest.mark.parametrize("case", ["softmax-arcface", "logistic-cosface", "reference"])
def test_sharded_equals_one_process(found, world, case):
    """The very same call on one shard: loss, gradients and statistics (all classes, so nothing is drawn apart)."""
    alone = run_alone(case, world)
    shards = [rank[case] for rank in found[world]]
    torch.testing.assert_close(shards[0]["loss"], alone["loss"], rtol=1e-12, atol=0)
    torch.testing.assert_close(torch.cat([s["dx"] for s in shards]) / world, alone["dx"], rtol=1e-10, atol=1e-13)
    torch.testing.assert_close(torch.cat([s["dcentres"] for s in shards]), alone["dcentres"], rtol=1e-10, atol=1e-13)
    torch.testing.assert_close(torch.stack(shards[0]["statistics"]), torch.stack(alone["statistics"]))


def run_alone(case, world):
    head = work.make_head(case)
    x_BD, labels_BL = work.make_batch(sum(work.sizes_of(case, world)), head.classes)
    x_BD.requires_grad_()
    loss = head(x_BD, labels_BL)
    loss.backward()
    return {
        "loss": loss.detach(),
        "dx": x_BD.grad,
        "dcentres": head.centres_CD.grad,
        "statistics": tuple(head.statistics),
    }


def test_processes_sample_apart(found):
    """Of 34 classes each, the first two processes do not take the same places."""
    first, second = (rank["places"].tolist() for rank in found[3][:2])
    assert len(first) == len(second) == 17 and first != second


@pytest.mark.parametrize("world", WORLDS)
def test_bytes_equal_the_formula(found, world):
    formula = communication_bytes(world=world, rows=4, dim=work.D, labels=3, drawn=2)
    for rank in found[world]:
        assert rank["bytes"]["calls"] == {"all_gather": 3, "all_reduce": 2, "reduce_scatter": 1}
        assert rank["bytes"]["bytes"] == {
            "all_gather": sum(v for k, v in formula.items() if k.endswith("gathered")),
            "all_reduce": sum(v for k, v in formula.items() if k.endswith("reduced")),
            "reduce_scatter": sum(v for k, v in formula.items() if k.endswith("scattered")),
        }


def test_one_process_sends_nothing():
    assert communication_bytes(world=1, rows=4, dim=8, labels=3, drawn=2) == {}


@pytest.mark.parametrize("world", WORLDS)
def test_a_wrong_label_of_one_process_stops_all(found, world):
    assert [rank["wrong label"] for rank in found[world]] == ["label 108: need 0..100, or -1 for none"] * world


def test_reshard_2_to_3_to_1(folder):
    """Seven steps on one process, or three on two, two on three and two on one: the same losses and centres."""
    straight, its_optimizer = work.trained()
    expected = work.train(straight, its_optimizer, range(7))
    two = [torch.load(folder / f"two-{rank}.pt", weights_only=True) for rank in range(2)]
    three = [torch.load(folder / f"three-{rank}.pt", weights_only=True) for rank in range(3)]
    head, optimizer = work.trained()
    work.load(reshard([part["state"] for part in three], world=1)[0], head, optimizer)
    losses = two[0]["losses"] + three[0]["losses"] + work.train(head, optimizer, range(5, 7))
    torch.testing.assert_close(torch.stack(losses), torch.stack(expected), rtol=1e-10, atol=0)
    torch.testing.assert_close(head.centres_CD, straight.centres_CD, rtol=1e-9, atol=1e-12)
    assert torch.equal(optimizer.steps_C, its_optimizer.steps_C)
    assert isinstance(optimizer, CentreAdamW) and head.draws == 7
