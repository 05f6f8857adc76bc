"""How often the heads are right on samples that training leaves out (splits test, val, validation): what was learned,
and not only learned by heart. Accuracy means what it means while training, on views without augmentation.

Not here: probes on other labelled sets (probe.py; studies in `evaluate`). D = width, N = samples, L = label columns.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping

import torch
from torch import Tensor, nn

from ov_encoder.data.manifest import Sample
from ov_encoder.data.training_set import Stream, same_file
from ov_encoder.errors import OvEncoderError
from ov_encoder.patchify.batch import PatchBatch
from ov_encoder.train.cluster_head import ClusterHead
from ov_encoder.train.metrics import HELD_OUT
from ov_encoder.train.probe import pooled, spread

_log = logging.getLogger("ov_encoder")


class HeldOut:
    """Prepared once, measured as often as wanted: `HeldOut(...)(encoder)` -> {"held_out/HEAD": accuracy, ...}."""

    def __init__(
        self,
        heads: Mapping[str, ClusterHead],
        streams: Mapping[str, Stream],
        kinds: Mapping[str, str],
        *,
        most: int,
        read: Callable[[Sample, str], PatchBatch],
    ) -> None:
        """Read the samples; files that two heads share are read and encoded once.

        Args:
            heads: of the run, with the centres that training changes.
            streams: held-out samples with labels of the heads' classes; heads without any are not measured.
            kinds: of the heads: image, video or ocr, which decides how a picture is seen.
            most: samples of a head, spread over its stream.
            read: a sample and its head's kind to its patches. One that fails is left out, and that is said.

        Raises:
            OvEncoderError: no sample is left.
        """
        self.heads = heads
        self.batches: list[PatchBatch] = []
        self.parts: dict[str, tuple[Tensor, Tensor]] = {}
        rows: dict[tuple[str, str, int | None], int | None] = {}
        for name, stream in streams.items():
            places: list[int] = []
            kept: list[int] = []
            for i in spread(len(stream.samples), most):
                sample = stream.samples[i]
                key = kinds[name], *same_file(sample)
                if key not in rows:
                    rows[key] = self._read(sample, kinds[name], read)
                if (row := rows[key]) is not None:
                    places.append(row)
                    kept.append(i)
            if kept:
                self.parts[name] = torch.tensor(places), torch.from_numpy(stream.labels_SL[kept]).long()
        if not self.parts:
            raise OvEncoderError("no held-out sample (split test, val or validation) can be used; set loop.held_out=0")

    def _read(self, sample: Sample, kind: str, read: Callable[[Sample, str], PatchBatch]) -> int | None:
        try:
            self.batches.append(read(sample, kind))
        except OvEncoderError as e:
            _log.warning("left out of the held-out samples: %s: %s", sample.id, e)
            return None
        return len(self.batches) - 1

    @torch.no_grad()
    def __call__(self, encoder: nn.Module) -> dict[str, float]:
        """Share of (sample, label) pairs whose centre is nearer than all that are no label of the sample.

        A collective: every process brings the same samples, so that all of them get the same numbers.
        """
        vectors_ND = pooled(encoder, self.batches)
        found: dict[str, float] = {}
        for name, (rows_n, labels_nL) in self.parts.items():
            head = self.heads[name]
            device, was = head.centres_CD.device, head.training
            head.eval()
            head(vectors_ND[rows_n].to(device), labels_nL.to(device))
            head.train(was)
            assert head.statistics is not None
            found[HELD_OUT + name] = round(float(head.statistics.accuracy), 4)
        return found
