"""Conversations about media on disk, in the JSON that LLaVA-style training reads. Nothing is decoded here.

A file is a JSON list or JSON lines of
    {"id": "7", "image": "a.jpg" or ["a.jpg", ...], "video": "b.mp4" or [...],
     "conversations": [{"from": "human", "value": "<image>\\nWhat?"}, {"from": "gpt", "value": "A cat."}]}
with paths relative to the file (or to `root`). The reference's prepared videos are read as well: a list of canvas
images with the positions of their patches beside them, {"image": [canvases], "positions_thw": "p.npy"} (reference
1.7); they count as one `<image>` or `<video>` in the text.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from ov_encoder.errors import OvEncoderError
from ov_encoder.lmm.media import Media, load
from ov_encoder.patchify.batch import PatchBatch
from ov_encoder.patchify.cut import cut_patches
from ov_encoder.patchify.exchange import MAX_SLOTS

_ROLES = {"human": "user", "user": "user", "gpt": "assistant", "assistant": "assistant", "system": "system"}


@dataclass(frozen=True, slots=True)
class Conversation:
    """One item: messages in transformers' form, and the files of its media in the order of their placeholders."""

    id: str
    messages: list[dict[str, str]]
    images: list[Path] = field(default_factory=list)
    videos: list[Path] = field(default_factory=list)
    positions: Path | None = None  # then `images` are the canvases of one prepared video

    def media(self, *, patch: int = 14) -> dict[str, list[Media]]:
        """`images` and `videos` for a processor, read from their files.

        Raises:
            OvEncoderError: a file cannot be read, or canvases and positions do not fit together.
        """
        if self.positions is None:
            return {"images": [load(p) for p in self.images], "videos": [load(p) for p in self.videos]}
        kind = "videos" if any("<video>" in m["content"] for m in self.messages) else "images"
        return {kind: [prepared(self.images, self.positions, patch=patch)]}


def read_instructions(path: str | Path, *, root: str | Path | None = None) -> list[Conversation]:
    """All conversations of a .json or .jsonl file.

    Raises:
        OvEncoderError: the file or an item of it is damaged; the message names the item and the field.
    """
    path = Path(path)
    base = Path(root) if root is not None else path.parent
    return [_conversation(item, number, path, base) for number, item in _items(path)]


def prepared(canvases: list[Path], positions: Path, *, patch: int = 14) -> PatchBatch:
    """A video that was prepared as canvases: patches in raster order, their (t, h, w) in an int [K, 3] file.

    Every canvas is a square that holds its share of the K positions. Cells of another size than `patch` pixels are
    resized one by one, because neighbours on a canvas come from different frames. Padding is left out: rows of negative
    positions, and a position that was named before (the reference fills up with its last row). Times of the slots are
    those of a `meta.json` beside the positions (`slot_times`, in seconds); without one they are not known (NaN), and no
    time stamps are written.

    Raises:
        OvEncoderError: a canvas or the positions cannot be read, or their numbers do not fit together.
    """
    from PIL import Image

    try:
        positions_K3 = np.load(positions, allow_pickle=False)
    except (OSError, ValueError, EOFError) as e:
        raise OvEncoderError(f"{positions}: cannot be read as positions: {e}") from e
    if positions_K3.ndim != 2 or positions_K3.shape[1] != 3 or not np.issubdtype(positions_K3.dtype, np.integer):
        raise OvEncoderError(
            f"{positions}: holds {positions_K3.dtype} {list(positions_K3.shape)}; must be whole numbers [K, 3]"
        )
    K, count = len(positions_K3), max(len(canvases), 1)
    side = round((K / count) ** 0.5)
    if K == 0 or side * side * count != K:
        raise OvEncoderError(
            f"{positions}: holds {K} positions for {len(canvases)} canvases; every canvas is a square of as many"
        )
    real_K = (positions_K3 >= 0).all(axis=1)
    repeated_K = np.ones(K, bool)
    repeated_K[np.unique(positions_K3, axis=0, return_index=True)[1]] = False
    real_K &= ~repeated_K
    T = int(positions_K3[real_K, 0].max(initial=-1)) + 1
    if not 1 <= T <= MAX_SLOTS:
        raise OvEncoderError(f"{positions}: names {T} slots; must be 1 to {MAX_SLOTS}")
    frames = []
    for canvas in canvases:
        try:
            with Image.open(canvas) as image:
                cell = max(round((image.width * image.height) ** 0.5 / side), 1)
                if image.size != (side * cell, side * cell):
                    raise ValueError(f"{image.width} x {image.height} pixels are not {side} x {side} square cells")
                frames.append(_resize_cells(np.asarray(image.convert("RGB")), cell, patch))
        except (OSError, ValueError, Image.DecompressionBombError) as e:
            raise OvEncoderError(f"{canvas}: cannot be read as a canvas: {e}") from e
    raster_K3 = np.indices((count, side, side)).reshape(3, -1).T
    patches_KD = cut_patches(np.stack(frames), raster_K3[real_K], patch)
    order_K = np.lexsort(positions_K3[real_K].T[::-1])
    return PatchBatch.from_arrays(
        patches_ND=patches_KD[order_K],
        positions_N3=positions_K3[real_K][order_K],
        lengths_B=[int(real_K.sum())],
        modes_B=["codec"],
        slot_times_B=[_slot_times(positions.parent / "meta.json", T)],
        provenance_B=[{"source": positions.name, "provider": "prepared"}],
    )


def _resize_cells(canvas_YX3: np.ndarray, cell: int, patch: int) -> np.ndarray:
    """Every cell of cell x cell pixels by itself to patch x patch, bicubic; uint8 in and out."""
    if cell == patch:
        return canvas_YX3
    from PIL import Image

    unit = Image.fromarray(np.eye(cell, dtype=np.float32))  # Pillow's own weights, as a matrix
    weights_pc = np.asarray(unit.resize((cell, patch), Image.Resampling.BICUBIC))
    side = canvas_YX3.shape[0] // cell
    cells = canvas_YX3.reshape(side, cell, side, cell, 3).astype(np.float32)
    small = np.einsum("pc,RcSdk,qd->RpSqk", weights_pc, cells, weights_pc, optimize=True)
    return np.clip(np.rint(small), 0, 255).astype(np.uint8).reshape(side * patch, side * patch, 3)


def _slot_times(meta: Path, slots: int) -> np.ndarray:
    """Seconds of each slot, NaN where no meta.json tells."""
    if not meta.exists():
        return np.full(slots, np.nan)
    try:
        values = json.loads(meta.read_text(encoding="utf-8"))
        times_T = np.array(values.get("slot_times", [np.nan] * slots), np.float64)
        if times_T.ndim != 1 or len(times_T) < slots:
            raise ValueError(f"slot_times has {len(times_T)} entries for {slots} slots")
        return times_T
    except (OSError, ValueError, TypeError, AttributeError) as e:
        raise OvEncoderError(f"{meta}: cannot be read as facts about canvases: {e}") from e


def _items(path: Path) -> Iterator[tuple[int, Any]]:
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as e:
        raise OvEncoderError(f"{path}: cannot be read: {e}") from e
    if path.suffix == ".jsonl":
        for number, line in enumerate(text.splitlines(), start=1):
            if line.strip():
                try:
                    yield number, json.loads(line)
                except ValueError as e:
                    raise OvEncoderError(f"{path}: line {number} is not JSON: {e}") from e
        return
    try:
        items = json.loads(text)
    except ValueError as e:
        raise OvEncoderError(f"{path}: is not JSON: {e} (one object a line: call it .jsonl)") from e
    if not isinstance(items, list):
        raise OvEncoderError(f"{path}: must be a JSON list of conversations, is a {type(items).__name__}")
    yield from enumerate(items, start=1)


def _conversation(item: Any, number: int, path: Path, base: Path) -> Conversation:
    def wrong(what: str) -> OvEncoderError:
        return OvEncoderError(f"{path}: item {number}: {what}")

    if not isinstance(item, dict):
        raise wrong(f"is a {type(item).__name__}, must be an object")
    turns = item.get("conversations", item.get("messages"))
    if not isinstance(turns, list) or not turns:
        raise wrong("has no 'conversations' (a list of turns)")
    messages = []
    for turn in turns:
        role, text = turn.get("from", turn.get("role")), turn.get("value", turn.get("content"))
        if role not in _ROLES:
            raise wrong(f"a turn is from {role!r}; allowed: {', '.join(_ROLES)}")
        if not isinstance(text, str) or (_ROLES[role] == "assistant" and not text.strip()):
            raise wrong(f"a turn of {role!r} is empty")
        messages.append({"role": _ROLES[role], "content": text})
    images, videos = (_paths(item.get(kind), base) for kind in ("image", "video"))
    positions = item.get("positions_thw")
    return Conversation(
        str(item.get("id", number)), messages, images, videos, base / positions if positions is not None else None
    )


def _paths(value: str | list[str] | None, base: Path) -> list[Path]:
    return [base / p for p in ([value] if isinstance(value, str) else value or [])]
