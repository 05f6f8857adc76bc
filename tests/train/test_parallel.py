"""Two processes against one, DDP and FSDP2; checkpoints from two to three processes to one. Two starts for all."""

import shutil

import pytest
import torch
import torch.multiprocessing

from ov_encoder.train import checkpoint
from ov_encoder.train.loop import CHECKPOINTS
from ov_encoder.train.metrics import read_metrics

from . import spread_worker as work

TWO = {
    "ddp": {"steps": 3, "accumulate": 2},
    "fsdp": {"steps": 3, "parallel": "fsdp", "accumulate": 2},
    "moving": {"steps": 2, "parallel": "fsdp"},
}


@pytest.fixture(scope="module")
def folder(small_set, tmp_path_factory):
    """All runs: one process; two; the run called "moving" goes from two (FSDP) to three (DDP) to one process."""
    folder = tmp_path_factory.mktemp("spread")
    work.run(small_set, folder / "alone", steps=3)
    work.run(small_set, folder / "alone to the end", steps=5)

    def start(world, cases):
        arguments = (world, str(small_set), str(folder), cases, str(folder / f"meeting{world}"))
        torch.multiprocessing.spawn(work.main, args=arguments, nprocs=world)

    start(2, TWO)
    shutil.copytree(folder / "moving", folder / "moved")
    start(3, {"moved": {"steps": 3}})
    shutil.copytree(folder / "moved", folder / "moved to one")
    work.run(small_set, folder / "moved to one", steps=5)
    return folder


def course(folder, name, key):
    return [r[key] for r in read_metrics(folder / name)]


def assert_same_course(folder, name, other):
    for key in ("loss", "grad_norm", "side_grad_norm", "object/loss", "video/accuracy", "lr"):
        assert course(folder, name, key) == pytest.approx(course(folder, other, key), rel=3e-4, abs=1e-6), key


@pytest.mark.parametrize("name", [n for n in TWO if n != "moving"])
def test_two_processes_do_what_one_does(folder, name):
    """The same samples, split over processes and micro-batches: losses, accuracies, gradient norms agree."""
    assert len(course(folder, name, "loss")) == 3
    assert_same_course(folder, name, "alone")


def test_a_run_moves_from_two_processes_to_three_to_one(folder):
    assert_same_course(folder, "moved to one", "alone to the end")
    path, about = checkpoint.newest(folder / "moved" / CHECKPOINTS)
    assert about["world"] == 3 and len(about["data"]) == 3 and path.name == "step-00000003"


def test_saved_tensors_are_whole_whoever_saved_them(folder):
    """Centres sharded over three processes and weights of FSDP read back in one piece, close to those of one run."""
    for prefix in ("heads.video.centres_CD", "model.embeddings.patch_embedding.weight", "average.head.probe"):
        shapes = set()
        for name in ("alone", "ddp", "fsdp", "moved"):
            path, _ = checkpoint.newest(folder / name / CHECKPOINTS)
            (found,) = checkpoint.read_tensors(path, prefix).values()
            shapes.add(tuple(found.shape))
            if name == "alone":
                wanted = found
            assert torch.allclose(found, wanted, atol=5e-4), (prefix, name)
        assert len(shapes) == 1
