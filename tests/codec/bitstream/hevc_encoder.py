"""A HEVC encoder for tests of slices, tiles and wavefronts: every CTB of 16x16 is PCM or skipped, nothing else.

It makes streams that are whole, with any cut into slice segments and substreams; FFmpeg must decode them to the samples
that were put in. Arithmetic encoding as in H.265 9.3.4.4 (informative); its tables are those of csrc/cabac.c.

Shapes: H, W = luma samples, multiples of 16.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

import numpy as np

import ov_encoder.codec.bitstream
from tests.codec.bitstream.hevc_writer import IDR, TRAIL, Stream, escaped, nal

SOURCE = (Path(ov_encoder.codec.bitstream.__file__).parent / "csrc" / "cabac.c").read_text()


def _table(name: str) -> list[int]:
    body = re.search(name + r"[^=]*= *\{(.*?)\};", SOURCE, re.DOTALL)
    assert body
    return [int(n) for n in re.findall(r"\d+", re.sub(r"/\*.*?\*/", "", body[1]))]


LPS, NEXT = np.array(_table("ovb_cabac_lps")).reshape(4, 128), _table("ovb_cabac_next")
INITIAL = {"I": {"part": 184}, "P": {"part": 154, "skip0": 197, "skip1": 185, "skip2": 201, "mode": 149, "merge": 122}}


def contexts(kind: str, qp: int) -> dict[str, int]:
    """Initial states, pStateIdx << 1 | valMps (9.3.2.2)."""
    out = {}
    for name, value in INITIAL[kind].items():
        state = min(max((((value >> 4) * 5 - 45) * qp >> 4) + ((value & 15) << 3) - 16, 1), 126)
        out[name] = (state - 64) << 1 | 1 if state >= 64 else (63 - state) << 1
    return out


class Arithmetic:
    """Bins to bits."""

    def __init__(self) -> None:
        self.low, self.range, self.first, self.outstanding, self.text = 0, 510, True, 0, ""

    def _put(self, bit: int) -> None:
        if self.first:
            self.first = False
        else:
            self.text += str(bit)
        self.text += str(1 - bit) * self.outstanding
        self.outstanding = 0

    def _renormalise(self) -> None:
        while self.range < 256:
            if self.low < 256:
                self._put(0)
            elif self.low >= 512:
                self.low -= 512
                self._put(1)
            else:
                self.low -= 256
                self.outstanding += 1
            self.range, self.low = self.range * 2, self.low * 2

    def bin(self, states: dict[str, int], name: str, value: int) -> None:
        """One with a context, whose state moves on."""
        state = states[name]
        lps = int(LPS[self.range >> 6 & 3, state])
        self.range -= lps
        if value != state & 1:
            self.low, self.range = self.low + self.range, lps
        states[name] = NEXT[128 + state if value == state & 1 else 127 - state]
        self._renormalise()

    def terminate(self, value: int) -> None:
        """A terminating bin; after a 1 the bits end with the stop bit."""
        self.range -= 2
        if value:
            self.low, self.range = self.low + self.range, 2
        self._renormalise()
        if value:
            self._put(self.low >> 9 & 1)
            self.text += format(self.low >> 7 & 3 | 1, "02b")

    def aligned(self) -> str:
        """The bits so far, with zeros up to a whole byte."""
        return self.text + "0" * (-len(self.text) % 8)


@dataclass
class Picture:
    """What is put in: kind of slices, and per CTB whether it is PCM (else skipped), in raster order."""

    kind: str
    samples: np.ndarray  # uint8 [H, W]
    pcm: np.ndarray  # bool [H / 16, W / 16]


def _borders(n: int, total: int) -> list[int]:
    return [i * total // n for i in range(n + 1)]


def order_of(stream: Stream) -> list[tuple[int, int, int]]:
    """(row, column, tile) of the CTBs in the order of coding."""
    rows, columns = stream.height // 16, stream.width // 16
    across, down = stream.tiles or (1, 1)
    out, tile = [], 0
    for top, bottom in zip(_borders(down, rows), _borders(down, rows)[1:], strict=False):
        for left, right in zip(_borders(across, columns), _borders(across, columns)[1:], strict=False):
            out += [(r, c, tile) for r in range(top, bottom) for c in range(left, right)]
            tile += 1
    return out


def encode(stream: Stream, picture: Picture, poc: int, starts: dict[int, bool]) -> bytes:
    """One picture. starts: number of the CTB (in order of coding) where a segment starts -> is it a dependent one?"""
    order = order_of(stream)
    tile_of = {(r, c): tile for r, c, tile in order}
    slice_of: dict[tuple[int, int], int] = {}
    kept: dict[str, dict[str, int]] = {}
    states: dict[str, int] = {}
    out, substreams, coder, slice_at = b"", [], Arithmetic(), 0
    chroma = "10000000" * (128 if stream.chroma else 0)

    def same(r: int, c: int, other: tuple[int, int]) -> bool:
        return slice_of.get(other) == slice_at and tile_of.get(other) == tile_of[r, c]

    def skipped(r: int, c: int, other: tuple[int, int]) -> bool:
        return same(r, c, other) and not picture.pcm[other]

    for n, (r, c, tile) in enumerate(order):
        begins = n in starts
        dependent = starts.get(n, False)
        if begins and not dependent:
            slice_at = n
        slice_of[r, c] = slice_at
        new_tile = n == 0 or order[n - 1][2] != tile
        new_row = bool(stream.wavefront) and tile_of.get((r, c - 1)) != tile
        if n == 0 or begins or new_tile or new_row:
            coder = Arithmetic()
            if new_tile:
                states = contexts(picture.kind, stream.qp)
            elif new_row and same(r, c, (r - 1, c + 1)):
                states = dict(kept["row"])
            elif dependent and not new_row:
                states = dict(kept["segment"])
            else:
                states = contexts(picture.kind, stream.qp)
        if picture.kind == "P":
            context = skipped(r, c, (r, c - 1)) + skipped(r, c, (r - 1, c))
            coder.bin(states, f"skip{context}", int(not picture.pcm[r, c]))
        if picture.pcm[r, c]:
            if picture.kind == "P":
                coder.bin(states, "mode", 1)
            coder.bin(states, "part", 1)
            coder.terminate(1)
            block = picture.samples[16 * r : 16 * r + 16, 16 * c : 16 * c + 16]
            done = coder.aligned() + "".join(format(v, "08b") for v in block.ravel()) + chroma
            coder = Arithmetic()
            coder.text, coder.first = done, True
        else:
            coder.bin(states, "merge", 0)
        if tile_of.get((r, c - 1)) == tile and tile_of.get((r, c - 2)) != tile:
            kept["row"] = dict(states)
        last = n + 1 == len(order) or n + 1 in starts
        coder.terminate(int(last))
        following = order[n + 1] if n + 1 < len(order) else None
        row_ends = following is not None and (
            following[2] != tile or (stream.wavefront and tile_of.get((following[0], following[1] - 1)) != following[2])
        )
        if not last and row_ends:
            coder.terminate(1)
        if last or row_ends:
            bits = coder.aligned()
            substreams.append(int(bits, 2).to_bytes(len(bits) // 8, "big"))
        if last:
            kept["segment"] = dict(states)
            first = max(at for at in starts if at <= n)
            row, column, _ = order[first]
            header = stream.slice_header(
                poc,
                "D" if starts[first] else picture.kind,
                address=row * (stream.width // 16) + column,
                entry_points=[len(escaped(s)) for s in substreams[:-1]],
            )
            out += nal(TRAIL if poc else IDR, header.ended() + b"".join(substreams))
            substreams = []
    return (stream.parameter_sets() if poc == 0 else b"") + out
