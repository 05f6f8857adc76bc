"""Encoders with formula weights and batches with formula pixels, shared by the tests of this room."""

import itertools

import numpy as np
import torch

from ov_encoder.model.config import OVEncoderConfig
from ov_encoder.model.encoder import OVEncoder
from ov_encoder.patchify.batch import PatchBatch
from tests.model.oracle import SMALL, formula_pixels, formula_weights

# Lengths on purpose: neighbours that are equal, one that differs, an equal one that is no neighbour, a single token.
LENGTHS = [9, 9, 20, 9, 1]


def make_encoder(**changes) -> OVEncoder:
    model = OVEncoder(OVEncoderConfig(**{**SMALL, **changes}))
    weights = formula_weights({k: t.shape for k, t in model.state_dict().items()})
    model.load_state_dict({k: torch.from_numpy(w) for k, w in weights.items()})
    return model.eval()


def numpy_weights(model: torch.nn.Module) -> dict[str, np.ndarray]:
    return {k: t.numpy() for k, t in model.state_dict().items()}


def make_batch(lengths=LENGTHS, *, seed: str = "a") -> PatchBatch:
    """Sparse samples: every sample keeps some cells of a 64 x 16 x 16 grid, in ascending order."""
    positions = []
    for i, n in enumerate(lengths):
        cells = np.sort(np.random.default_rng([n, i]).choice(64 * 256, n, replace=False))
        positions.append(np.stack((cells // 256, cells // 16 % 16, cells % 16), axis=1))
    return PatchBatch.from_arrays(
        patches_ND=formula_pixels(f"pixels {seed}", sum(lengths)),
        positions_N3=np.concatenate(positions),
        lengths_B=lengths,
    )


def bounds(batch: PatchBatch) -> list[tuple[int, int]]:
    return list(itertools.pairwise(np.cumsum([0, *batch.lengths_B]).tolist()))
