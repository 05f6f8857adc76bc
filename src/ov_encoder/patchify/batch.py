"""PatchBatch: the one input of the encoder. Patches of many samples, packed without padding.

Only the container lives here: how patches are chosen is in `select`, how they are cut in `cut`.

Shapes: N = tokens of all samples together, B = samples, D = 3*P*P values of a patch in (channel, row, column)
order, T = time slots of a sample.
"""

from __future__ import annotations

import itertools
import json
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from ov_encoder.errors import OvEncoderError

if TYPE_CHECKING:
    import torch

MODES = ("image", "chunk", "codec", "collage")
FORMAT = "ov-encoder.patch-batch/1"


@dataclass(slots=True)
class PatchBatch:
    """Packed patches with their place in the source. Build with `from_arrays`, join with `pack`.

    patches_ND: uint8 RGB (normalised by the encoder on its device) or float32, already normalised.
    positions_N3: int32 or float32 (t, h, w) of the source: slot on the clip's axis, patch row, patch column.
    lengths_B: python ints, so that attention bounds are known on the host without a device sync.
    modes_B: one of MODES. grids_B: (T, H, W) in patches that the sample was chosen from.
    slot_times_B: float64 [T] seconds of each slot. scores_N: float32 saliency, NaN where a token was not scored.
    provenance_B: per sample, what the signals were and where they came from (JSON-able).
    """

    patches_ND: Any
    positions_N3: Any
    lengths_B: list[int]
    modes_B: list[str]
    grids_B: list[tuple[int, int, int]]
    slot_times_B: list[np.ndarray]
    scores_N: Any
    provenance_B: list[dict[str, Any]] = field(default_factory=list)

    @classmethod
    def from_arrays(
        cls,
        *,
        patches_ND: np.ndarray,
        positions_N3: np.ndarray,
        lengths_B: Sequence[int],
        modes_B: Sequence[str] | None = None,
        grids_B: Sequence[tuple[int, int, int]] | None = None,
        slot_times_B: Sequence[np.ndarray] | None = None,
        scores_N: np.ndarray | None = None,
        provenance_B: Sequence[dict[str, Any]] | None = None,
    ) -> PatchBatch:
        """Check shapes, dtypes and values, fill what was left out, and return the batch.

        Raises:
            ValueError: naming the argument, what it is and what it must be.
        """
        patches_ND, positions_N3 = np.ascontiguousarray(patches_ND), np.asarray(positions_N3)
        lengths = [int(n) for n in lengths_B]
        if patches_ND.ndim != 2:
            raise ValueError(f"patches_ND must have shape [tokens, 3*P*P], got {patches_ND.shape}")
        N, D = patches_ND.shape
        side = round((D / 3) ** 0.5)
        if D == 0 or 3 * side * side != D:
            raise ValueError(f"patches_ND has {D} values per patch; must be 3*P*P (588 for P=14, 768 for P=16)")
        if patches_ND.dtype not in (np.uint8, np.float32):
            raise ValueError(f"patches_ND must be uint8 (RGB) or float32 (normalised), got {patches_ND.dtype}")
        if patches_ND.dtype == np.float32 and not np.isfinite(patches_ND).all():
            bad = int(np.flatnonzero(~np.isfinite(patches_ND).all(axis=1))[0])
            raise ValueError(f"patches_ND holds NaN or infinite pixels, first in token {bad}")
        if positions_N3.shape != (N, 3):
            raise ValueError(f"positions_N3 must have shape ({N}, 3) to match patches_ND, got {positions_N3.shape}")
        if not np.isfinite(positions_N3).all():
            raise ValueError("positions_N3 holds NaN or infinite values")
        is_int = np.issubdtype(positions_N3.dtype, np.integer)
        positions_N3 = np.ascontiguousarray(positions_N3, dtype=np.int32 if is_int else np.float32)
        if any(n <= 0 for n in lengths) or sum(lengths) != N:
            raise ValueError(f"lengths_B must be positive and sum to {N} tokens, got {lengths} (sum {sum(lengths)})")
        B = len(lengths)
        bounds = np.cumsum([0, *lengths])
        modes = ["image"] * B if modes_B is None else list(modes_B)
        if bad_modes := [m for m in modes if m not in MODES]:
            raise ValueError(f"unknown mode {bad_modes[0]!r}; allowed: {', '.join(MODES)}")
        if grids_B is None:
            grids = [_extent(positions_N3[a:b]) for a, b in itertools.pairwise(bounds)]
        else:
            grids = [(int(t), int(h), int(w)) for t, h, w in grids_B]
        times = [np.zeros(g[0]) for g in grids] if slot_times_B is None else list(slot_times_B)
        scores = np.full(N, np.nan, np.float32) if scores_N is None else np.asarray(scores_N, np.float32)
        if scores.shape != (N,):
            raise ValueError(f"scores_N must have shape ({N},), got {scores.shape}")
        provenance = [{} for _ in range(B)] if provenance_B is None else list(provenance_B)
        for name, values in (
            ("modes_B", modes),
            ("grids_B", grids),
            ("slot_times_B", times),
            ("provenance_B", provenance),
        ):
            if len(values) != B:
                raise ValueError(f"{name} has {len(values)} entries for {B} samples")
        times = [np.asarray(t, np.float64) for t in times]
        return cls(patches_ND, positions_N3, lengths, modes, grids, times, scores, provenance)

    def __len__(self) -> int:
        return len(self.lengths_B)

    def __repr__(self) -> str:
        kinds = ", ".join(f"{m}:{n}" for m, n in list(zip(self.modes_B, self.lengths_B, strict=True))[:4])
        more = ", ..." if len(self) > 4 else ""
        return f"PatchBatch({len(self)} samples, {self.tokens} tokens [{kinds}{more}], patch {self.patch_size})"

    @property
    def tokens(self) -> int:
        """Number of tokens of all samples together."""
        return int(self.patches_ND.shape[0])

    @property
    def patch_size(self) -> int:
        """Side of a patch in pixels."""
        return round((self.patches_ND.shape[1] / 3) ** 0.5)

    def unpack(self) -> list[PatchBatch]:
        """One PatchBatch per sample, sharing memory with this one."""
        out, a = [], 0
        for i, n in enumerate(self.lengths_B):
            cut = slice(a, a + n)
            out.append(
                PatchBatch(
                    self.patches_ND[cut],
                    self.positions_N3[cut],
                    [n],
                    [self.modes_B[i]],
                    [self.grids_B[i]],
                    [self.slot_times_B[i]],
                    self.scores_N[cut],
                    [self.provenance_B[i]],
                )
            )
            a += n
        return out

    def to(self, device: torch.device | str) -> PatchBatch:
        """The same batch with torch tensors on `device`. Pixels stay uint8: a quarter of the transfer."""
        import torch

        def move(x: Any) -> torch.Tensor:
            return torch.as_tensor(x).to(device, non_blocking=True)

        return replace(
            self,
            patches_ND=move(self.patches_ND),
            positions_N3=move(self.positions_N3),
            scores_N=move(self.scores_N),
        )

    def numpy(self) -> PatchBatch:
        """The same batch with numpy arrays."""

        def host(x: Any) -> np.ndarray:
            return x if isinstance(x, np.ndarray) else x.detach().cpu().numpy()

        return replace(
            self,
            patches_ND=host(self.patches_ND),
            positions_N3=host(self.positions_N3),
            scores_N=host(self.scores_N),
        )

    def save(self, path: str | Path) -> None:
        """Write one safetensors file: three tensors, the slot times, and everything else as a JSON header."""
        from safetensors.numpy import save_file

        host = self.numpy()
        times = np.concatenate([np.asarray(t, np.float64) for t in host.slot_times_B]) if len(host) else np.zeros(0)
        header = {
            "format": FORMAT,
            "lengths_B": json.dumps(host.lengths_B),
            "modes_B": json.dumps(host.modes_B),
            "grids_B": json.dumps(host.grids_B),
            "slots_B": json.dumps([len(t) for t in host.slot_times_B]),
            "provenance_B": json.dumps(host.provenance_B),
        }
        tensors = {
            "patches_ND": np.ascontiguousarray(host.patches_ND),
            "positions_N3": np.ascontiguousarray(host.positions_N3),
            "scores_N": np.ascontiguousarray(host.scores_N),
            "slot_times": times,
        }
        save_file(tensors, str(path), metadata=header)

    @classmethod
    def load(cls, path: str | Path) -> PatchBatch:
        """Read what `save` wrote.

        Raises:
            OvEncoderError: the file is missing, damaged, or not a PatchBatch.
        """
        from safetensors import SafetensorError, safe_open

        try:
            with safe_open(str(path), "numpy") as f:
                header = f.metadata() or {}
                if header.get("format") != FORMAT:
                    raise OvEncoderError(f"{path}: not a saved PatchBatch (format {header.get('format')!r})")
                tensors = {name: f.get_tensor(name) for name in f.keys()}  # noqa: SIM118
            fields = {k: json.loads(v) for k, v in header.items() if k.endswith("_B")}
            if wrong := [k for k, v in fields.items() if not isinstance(v, list)]:
                raise ValueError(f"header field {wrong[0]} is no list")
            slots = np.cumsum([0, *fields["slots_B"]])
            return cls.from_arrays(
                patches_ND=tensors["patches_ND"],
                positions_N3=tensors["positions_N3"],
                lengths_B=fields["lengths_B"],
                modes_B=fields["modes_B"],
                grids_B=[(int(t), int(h), int(w)) for t, h, w in fields["grids_B"]],
                slot_times_B=[tensors["slot_times"][a:b] for a, b in itertools.pairwise(slots)],
                scores_N=tensors["scores_N"],
                provenance_B=fields["provenance_B"],
            )
        except (OSError, SafetensorError, KeyError, TypeError, ValueError) as e:
            raise OvEncoderError(f"{path}: cannot be read as a PatchBatch: {e}") from e


def pack(batches: Sequence[PatchBatch]) -> PatchBatch:
    """Join batches into one, in order. All must have the same patch size and pixel dtype.

    Raises:
        ValueError: nothing to pack, or patch sizes or dtypes differ.
    """
    if not batches:
        raise ValueError("pack needs at least one PatchBatch")
    hosts = [b.numpy() for b in batches]
    for what, seen in (
        ("patch sizes", {b.patch_size for b in hosts}),
        ("pixel dtypes", {str(b.patches_ND.dtype) for b in hosts}),
    ):
        if len(seen) > 1:
            raise ValueError(f"cannot pack batches with different {what}: {sorted(seen)}")
    return PatchBatch(
        np.concatenate([b.patches_ND for b in hosts]),
        np.concatenate([b.positions_N3 for b in hosts]),
        [n for b in hosts for n in b.lengths_B],
        [m for b in hosts for m in b.modes_B],
        [g for b in hosts for g in b.grids_B],
        [t for b in hosts for t in b.slot_times_B],
        np.concatenate([b.scores_N for b in hosts]),
        [p for b in hosts for p in b.provenance_B],
    )


def _extent(positions_N3: np.ndarray) -> tuple[int, int, int]:
    t, h, w = (int(x) + 1 for x in np.floor(positions_N3.max(axis=0)))
    return t, h, w
