"""A cache in memory with known truth: two Gaussians. As a program: one process of groups of one, two and three
runs a probe on it."""

import numpy as np
import torch

from ov_encoder.data.manifest import Sample

WIDTH, LENGTH = 16, 4


class Gaussians:
    """What the probes need of a FeatureCache. The classes' means are `distance` apart, in units of the deviation of the
    pooled vector and of the mean of the tokens. several: a second, independent label beside. blind_pooled: the pooled
    vector is noise."""

    def __init__(self, count, *, distance, several=False, blind_pooled=False):
        random = np.random.default_rng(7)
        y_N2 = random.integers(0, 2, (count, 2))
        x_ND = random.standard_normal((count, WIDTH))
        x_ND[:, :2] += distance * (y_N2 - 0.5) * (1, several)
        spread = random.standard_normal((count, LENGTH, WIDTH))
        tokens = x_ND[:, None] + 0.1 * (spread - spread.mean(axis=1, keepdims=True))
        self._tokens = torch.from_numpy(tokens).bfloat16()
        self._pooled = torch.from_numpy(random.standard_normal(x_ND.shape) if blind_pooled else x_ND).float()
        names = [(f"c{a}", f"d{b}") if several else (f"c{a}",) for a, b in y_N2]
        self.samples = [Sample(str(i), f"{i}.mp4", "video", labels) for i, labels in enumerate(names)]
        self.ids = [s.id for s in self.samples]
        self.failures = {}
        self.has_tokens = True
        self.width = WIDTH

    def pooled(self, ids):
        return self._pooled[[int(i) for i in ids]]

    def tokens(self, name):
        return self._tokens[int(name)]

    def lengths(self, ids):
        return [LENGTH] * len(ids)


def split(cache, train):
    return cache.samples[:train], cache.samples[train:]


if __name__ == "__main__":
    import json
    import sys

    import torch.distributed as dist

    from ov_encoder.evaluate.protocol import make_task, run_probe

    torch.set_num_threads(1)
    rank, meeting = int(sys.argv[1]), sys.argv[2]
    cache = Gaussians(60 + 37, distance=2.0)
    task = make_task(*split(cache, 60), cache)
    for world in range(rank + 1, 4):  # this process takes part in groups of up to three
        dist.init_process_group("gloo", init_method=f"file://{meeting}-{world}", rank=rank, world_size=world)
        result = run_probe("linear", cache, task, seeds=3, epochs=3)
        dist.destroy_process_group()
        found = {"seeds": result.seeds, "top1": result.best["top1"].value, "counted": len(result.right_N)}
        print(json.dumps(found))
