"""What each of three gloo processes does for test_cluster_head_sharded.py: all cases in one start."""

from collections import Counter
from pathlib import Path

import torch
import torch.distributed as dist

from ov_encoder.train import CentreAdamW, ClusterHead, reshard

D, C, WORLD = 10, 101, 3
COLLECTIVES = {  # names (those before torch 2.13 too) and which argument is the whole tensor
    "all_gather_single": 0,
    "all_gather_into_tensor": 0,
    "all_reduce": 0,
    "reduce_scatter_single": 1,
    "reduce_scatter_tensor": 1,
}
BATCH = {2: (4, 4), 3: (4, 4, 4)}
UNEQUAL = {2: (5, 2), 3: (5, 0, 2)}

CASES: dict[str, dict] = {
    f"{objective}-{margin}": {"objective": objective, "margin": margin}
    for objective in ("softmax", "logistic")
    for margin in ("cosface", "arcface", "none")
} | {
    "sampled": {"sample_rate": 0.5},
    "sampled, drawn, filtered": {"sample_rate": 0.5, "labels_per_step": 2, "filter_threshold": 0.3},
    "logistic sampled, drawn, filtered": {
        "objective": "logistic",
        "sample_rate": 0.5,
        "labels_per_step": 2,
        "filter_threshold": 0.3,
    },
    "unequal batches": {"sample_rate": 0.5},
    "summed": {"encoder_gradients": "summed"},
    "reference": {"arithmetic": "reference", "filter_threshold": 0.3, "labels_per_step": 2},
    "two classes": {"classes": 2},  # a process without any class
}


def make_head(case, group=None):
    options = {"scale": 8.0, "dtype": torch.float64, "tile": 5, "classes": C} | CASES[case]
    head = ClusterHead(D, options.pop("classes"), group=group, **options)
    with torch.no_grad():
        head.centres_CD.mul_(50)
    return head


def make_batch(samples, classes, seed=0):
    """Of all processes together."""
    generator = torch.Generator().manual_seed(seed)
    x_BD = torch.randn(samples, D, generator=generator, dtype=torch.float64)
    labels_BL = torch.randint(-1, classes, (samples, 3), generator=generator)
    labels_BL[1] = -1
    return x_BD, labels_BL


def sizes_of(case, world):
    return (UNEQUAL if case == "unequal batches" else BATCH)[world]


def run_case(case, rank, world, group):
    sizes = sizes_of(case, world)
    head = make_head(case, group)
    x_BD, labels_BL = make_batch(sum(sizes), head.classes)
    x_bD = x_BD.split(sizes)[rank].clone().requires_grad_(sizes[rank] > 0)  # nothing to train on: no gradient asked
    loss = head(x_bD, labels_BL.split(sizes)[rank])
    loss.backward()
    grad = head.centres_CD.grad
    rows = grad._indices()[0] if grad.is_sparse else torch.arange(len(grad))
    return {
        "loss": loss.detach(),
        "dx": x_bD if x_bD.grad is None else x_bD.grad,
        "rows": rows + head.start,
        "dcentres": grad.to_dense()[rows],
        "statistics": tuple(head.statistics),
    }


def count_bytes(rank, group):
    """Bytes and calls of every collective of one forward and backward."""
    found: Counter = Counter()
    calls: Counter = Counter()

    def counted(name, which):
        original = getattr(dist, name)

        def wrapper(*args, **kwargs):
            tensor = args[which]
            kind = "_".join(name.split("_")[:2])
            found[kind] += tensor.numel() * tensor.element_size()
            calls[kind] += 1
            return original(*args, **kwargs)

        return original, wrapper

    originals = {}
    for name, which in COLLECTIVES.items():
        if not hasattr(dist, name):
            continue
        originals[name], wrapper = counted(name, which)
        setattr(dist, name, wrapper)
    try:
        head = ClusterHead(D, C, sample_rate=0.5, labels_per_step=2, group=group)
        x_bD = torch.randn(4, D, requires_grad=True)
        head(x_bD, torch.zeros(4, 3, dtype=torch.int64)).backward()
    finally:
        for name, original in originals.items():
            setattr(dist, name, original)
    return {"bytes": dict(found), "calls": dict(calls)}


def wrong_label(rank, group):
    """Only one process brings it: all must say so, none may wait for the others."""
    head = ClusterHead(D, C, group=group)
    labels = torch.tensor([[C + 7 if rank == 1 else 0]])
    try:
        head(torch.randn(1, D), labels)
    except ValueError as error:
        return str(error)
    return "nothing"


def sampled_places(group):
    """Without a label nothing has to be sampled: only chance tells the places."""
    head = ClusterHead(D, C, sample_rate=0.5, group=group)
    head(torch.randn(1, D), torch.tensor([[-1]])).backward()
    return head.centres_CD.grad._indices()[0]


def train(head, optimizer, steps, rank=0, world=1):
    """Global batch of 6, cut for `world` processes."""
    losses = []
    for step in steps:
        x_BD, labels_BL = make_batch(6, head.classes, seed=step)
        loss = head(x_BD.chunk(world)[rank], labels_BL.chunk(world)[rank])
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        losses.append(loss.detach())
    return losses


def trained(group=None):
    head = ClusterHead(D, C, scale=8.0, dtype=torch.float64, labels_per_step=2, group=group)
    return head, CentreAdamW(head, lr=0.05)


def state_of(head, optimizer):
    return {"head": head.state_dict(), "optimizer": optimizer.state_dict()}


def load(state, head, optimizer):
    head.load_state_dict(state["head"])
    optimizer.load_state_dict(state["optimizer"])


def main(rank, folder):
    torch.set_num_threads(1)
    folder = Path(folder)
    dist.init_process_group("gloo", init_method=f"file://{folder}/meeting", rank=rank, world_size=WORLD)
    pair = dist.new_group([0, 1])
    for world, group in ((2, pair), (3, None)):
        if rank < world:
            result = {case: run_case(case, rank, world, group) for case in CASES}
            result["bytes"] = count_bytes(rank, group)
            result["wrong label"] = wrong_label(rank, group)
            result["places"] = sampled_places(group)
            torch.save(result, folder / f"world{world}-rank{rank}.pt")
    # 2 -> 3: two processes train three steps, three go on for two; the test goes on alone.
    if rank < 2:
        head, optimizer = trained(pair)
        losses = train(head, optimizer, range(3), rank, 2)
        torch.save({"losses": losses, "state": state_of(head, optimizer)}, folder / f"two-{rank}.pt")
    dist.barrier()
    states = [torch.load(folder / f"two-{r}.pt", weights_only=True)["state"] for r in range(2)]
    head, optimizer = trained()
    load(reshard(states, world=3)[rank], head, optimizer)
    losses = train(head, optimizer, range(3, 5), rank, 3)
    torch.save({"losses": losses, "state": state_of(head, optimizer)}, folder / f"three-{rank}.pt")
    dist.destroy_process_group()
