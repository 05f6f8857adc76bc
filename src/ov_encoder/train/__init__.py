"""Training: the million-class head and its optimizer, the objective, schedule, loop, checkpoints and recipes.

    from ov_encoder.train import CentreAdamW, ClusterHead
    head = ClusterHead(1024, 1_000_000, sample_rate=0.1, labels_per_step=8)
    loss = head(embeddings_BD, labels_BL)       # labels: int64, -1 for none

Names are loaded on first use: importing this package imports no torch.
"""

import importlib
from typing import TYPE_CHECKING

_EXPORTS = {
    "CentreAdamW": "ov_encoder.train.centre_optimizer",
    "ClusterHead": "ov_encoder.train.cluster_head",
    "HeadStatistics": "ov_encoder.train.cluster_head",
    "class_range": "ov_encoder.train.shards",
    "communication_bytes": "ov_encoder.train.exchange",
    "reshard": "ov_encoder.train.shards",
}
__all__ = sorted(_EXPORTS)


def __getattr__(name: str):
    if name in _EXPORTS:
        return getattr(importlib.import_module(_EXPORTS[name]), name)
    raise AttributeError(f"module 'ov_encoder.train' has no attribute {name!r}; public names: {', '.join(__all__)}")


def __dir__() -> list[str]:
    return __all__


if TYPE_CHECKING:
    from ov_encoder.train.centre_optimizer import CentreAdamW as CentreAdamW
    from ov_encoder.train.cluster_head import ClusterHead as ClusterHead
    from ov_encoder.train.cluster_head import HeadStatistics as HeadStatistics
    from ov_encoder.train.exchange import communication_bytes as communication_bytes
    from ov_encoder.train.shards import class_range as class_range
    from ov_encoder.train.shards import reshard as reshard
