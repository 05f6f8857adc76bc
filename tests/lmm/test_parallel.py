"""Two processes against one: DDP and FSDP2, the projector alone and everything. One start for all of them."""

import json

import pytest
import torch
import torch.multiprocessing
from PIL import Image

from ov_encoder.lmm.media import as_bytes
from ov_encoder.model.weights import save_model
from ov_encoder.train import checkpoint
from ov_encoder.train.loop import CHECKPOINTS
from ov_encoder.train.metrics import read_metrics
from tests.lmm.conftest import make, make_llm, make_tokenizer

from . import spread_worker as work

CASES = {
    "projector, ddp": ("projector", {}),
    "projector, in two parts": ("projector", {"accumulate": 2}),
    "all, ddp": ("all", {"train": "all"}),
    "all, fsdp": ("all", {"train": "all", "parallel": "fsdp"}),
    "adapters, ddp": ("adapters", {"train": "all", "lora": 2}),
}
ALONE = {"projector": {}, "all": {"train": "all"}, "adapters": {"train": "all", "lora": 2}}


@pytest.fixture(scope="module")
def folder(tmp_path_factory, movie):
    """Pictures, a clip and two conversations of text alone; every case in two processes, its like in one."""
    folder = tmp_path_factory.mktemp("spread")
    make_llm().save_pretrained(folder / "llm")
    make_tokenizer().save_pretrained(folder / "llm")
    save_model(make()[0].encoder, folder / "encoder")
    (folder / "clip.mkv").write_bytes(as_bytes(movie))
    media = [{"video": "clip.mkv"}, {}, {}]
    for i in range(5):
        Image.new("RGB", (56, 56), (40 * i,) * 3).save(folder / f"{i}.png")
        media.append({"image": f"{i}.png"})
    lines = []
    for i, one in enumerate(media):
        asked = "".join(f"<{kind}>" for kind in one) + " which?" + "?" * i
        turns = [{"from": "human", "value": asked}, {"from": "gpt", "value": "abcdefgh"[i]}]
        lines.append(json.dumps({"id": str(i), **one, "conversations": turns}))
    (folder / "talks.jsonl").write_text("\n".join(lines))
    for name, options in ALONE.items():
        work.run(folder, folder / f"{name}, alone", **options)
    cases = {name: options for name, (_, options) in CASES.items()}
    arguments = (2, str(folder), str(folder), cases, str(folder / "meeting"))
    torch.multiprocessing.spawn(work.main, args=arguments, nprocs=2)
    return folder


def saved(folder):
    path, _ = checkpoint.newest(folder / CHECKPOINTS)
    return checkpoint.read_tensors(path, "model.")


@pytest.mark.parametrize("name", CASES)
def test_two_processes_learn_what_one_does(folder, name):
    """Gradient norms of every step and all weights at the end, those that never learnt among them."""
    alone = f"{CASES[name][0]}, alone"
    norms = [[r["grad_norm"] for r in read_metrics(folder / run)] for run in (name, alone)]
    assert len(norms[0]) == 3 and norms[0] == pytest.approx(norms[1], rel=1e-3)
    found, wanted = saved(folder / name), saved(folder / alone)
    assert found.keys() == wanted.keys()
    for key, tensor in wanted.items():
        assert torch.allclose(found[key], tensor, atol=5e-4), key
