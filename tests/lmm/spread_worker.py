"""What each of two gloo processes does for test_parallel.py: three steps of a small run, DDP or FSDP."""

import os
from pathlib import Path

import torch
import torch.distributed as dist

from ov_encoder.lmm.train_config import LMMTrainConfig, SightConfig
from ov_encoder.lmm.training import prepare_language_run
from ov_encoder.train.config import LoopConfig, OptimConfig
from ov_encoder.train.parallel import start_processes


def run(parts, folder, *, parallel="ddp", accumulate=1, **changes):
    """Four conversations a step; answers are equally long, so that the mean of means is the mean."""
    config = LMMTrainConfig(
        data=(str(Path(parts) / "talks.jsonl"),),
        encoder=str(Path(parts) / "encoder"),
        llm=str(Path(parts) / "llm"),
        sight=SightConfig(image_size=28, video_size=56, frames=4, budget=16, anchors=1),
        samples=4,
        accumulate=accumulate,
        group=1,
        optim=OptimConfig(steps=3, lr=3e-3, warmup=1, clip=1.0, weight_decay=0.0),
        loop=LoopConfig(workers=0, save_every=0, log_every=1, parallel=parallel),
        **changes,
    )
    prepare_language_run(config, Path(folder), start_processes("cpu")).fit()


def main(rank, world, parts, folder, cases, meeting):
    torch.set_num_threads(1)
    os.environ |= {"RANK": str(rank), "WORLD_SIZE": str(world), "LOCAL_RANK": str(rank)}
    dist.init_process_group("gloo", init_method=f"file://{meeting}", rank=rank, world_size=world)
    for name, options in cases.items():
        run(parts, Path(folder) / name, **options)
    dist.destroy_process_group()
