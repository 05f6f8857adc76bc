"""Examples to one batch for the language model: padded, or packed into one row. Both give the same losses.

Shapes: B = examples, L = tokens of the longest example or of all together.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch

from ov_encoder.lmm.processor import IGNORE, Example
from ov_encoder.patchify.batch import PatchBatch, pack


def pad_examples(examples: Sequence[Example], pad_id: int) -> dict[str, Any]:
    """One row for each example, padded on the right: input_ids, attention_mask, labels [B, L] and vision."""
    L = max(len(e.ids_L) for e in examples)
    return {
        "input_ids": torch.tensor([e.ids_L + [pad_id] * (L - len(e.ids_L)) for e in examples]),
        "attention_mask": torch.tensor([[1] * len(e.ids_L) + [0] * (L - len(e.ids_L)) for e in examples]),
        "labels": torch.tensor([e.labels_L + [IGNORE] * (L - len(e.labels_L)) for e in examples]),
        "vision": _vision(examples),
    }


def pack_examples(examples: Sequence[Example]) -> dict[str, Any]:
    """All examples in one row [1, L] without padding: each sees only itself and its positions start at 0.

    The first token of an example is nobody's next token. `attention_mask` is bool [1, 1, L, L], which transformers
    takes as it is (with its default SDPA attention).
    """
    lengths = torch.tensor([len(e.ids_L) for e in examples])
    owner_L = torch.repeat_interleave(torch.arange(len(examples)), lengths)
    places_L = torch.cat([torch.arange(int(n)) for n in lengths])
    L = len(owner_L)
    sees_LL = (owner_L[:, None] == owner_L) & (torch.arange(L)[:, None] >= torch.arange(L))
    labels = [label for e in examples for label in [IGNORE, *e.labels_L[1:]]]
    return {
        "input_ids": torch.tensor([token for e in examples for token in e.ids_L])[None],
        "attention_mask": sees_LL[None, None],
        "position_ids": places_L[None],
        "labels": torch.tensor(labels)[None],
        "vision": _vision(examples),
    }


def _vision(examples: Sequence[Example]) -> PatchBatch | None:
    batches = [e.vision for e in examples if e.vision is not None]
    return pack(batches) if batches else None
