"""What each of two or three gloo processes does for test_parallel.py: a few steps of the small run, DDP or FSDP."""

import os
from dataclasses import replace
from pathlib import Path

import torch
import torch.distributed as dist

from ov_encoder.train.parallel import start_processes
from ov_encoder.train.pretrain import prepare_run
from tests.train.small import small_config


def run(small_set, folder, *, steps, parallel="ddp", **batch):
    """Train up to `steps` of six and save; the schedule is that of six."""
    config = small_config(Path(small_set), parallel=parallel)
    config = replace(config, batch=replace(config.batch, samples=12, **batch), loop=replace(config.loop, save_every=0))
    made = prepare_run(config, Path(folder), start_processes("cpu"))

    def stop(record):
        made.loop.stopped = record["step"] >= steps

    made.fit(stop)
    return made


def main(rank, world, small_set, folder, cases, port_file):
    torch.set_num_threads(1)
    os.environ |= {"RANK": str(rank), "WORLD_SIZE": str(world), "LOCAL_RANK": str(rank)}
    dist.init_process_group("gloo", init_method=f"file://{port_file}", rank=rank, world_size=world)
    for name, options in cases.items():
        run(small_set, Path(folder) / name, **options)
    dist.destroy_process_group()
