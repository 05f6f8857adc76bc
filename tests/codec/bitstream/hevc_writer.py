"""Writes HEVC streams that no encoder at hand makes: parameter sets of choice, and slice data of random bits.

Every sequence of bits is some sequence of syntax elements to an arithmetic decoder, so random data walk through all
tools that the parameter sets switch on: PCM, small inter blocks, long-term references, reordered lists and so on.
They end early or never, so pictures are damaged, but every decoder must read the same out of what comes before.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

VPS, SPS, PPS, IDR, TRAIL = 32, 33, 34, 19, 1


class Bits:
    """Bits of a payload, first one highest."""

    def __init__(self) -> None:
        self.text = ""

    def u(self, n: int, value: int) -> Bits:
        """n bits."""
        self.text += format(value, f"0{n}b") if n else ""
        return self

    def ue(self, *values: int) -> Bits:
        """Exponential-Golomb codes."""
        for value in values:
            code = format(value + 1, "b")
            self.text += "0" * (len(code) - 1) + code
        return self

    def se(self, *values: int) -> Bits:
        """Signed ones."""
        return self.ue(*(2 * v - 1 if v > 0 else -2 * v for v in values))

    def flags(self, *values: int) -> Bits:
        """One bit each."""
        self.text += "".join(str(int(v)) for v in values)
        return self

    def ended(self) -> bytes:
        """With the stop bit and zeros up to a whole byte."""
        text = self.text + "1"
        text += "0" * (-len(text) % 8)
        return int(text, 2).to_bytes(len(text) // 8, "big")


def escaped(payload: bytes) -> bytes:
    """With emulation prevention."""
    out, zeros = bytearray(), 0
    for byte in payload:
        if zeros == 2 and byte <= 3:
            out.append(3)
            zeros = 0
        out.append(byte)
        zeros = 0 if byte else zeros + 1
    return bytes(out)


def nal(kind: int, payload: bytes) -> bytes:
    """A NAL unit with start code and emulation prevention."""
    return b"\0\0\0\1" + bytes([kind << 1, 1]) + escaped(payload)


@dataclass
class Stream:
    """Parameter sets: defaults are the simplest; sizes are log2. Pictures refer to those before by `references`."""

    width: int = 128
    height: int = 96
    chroma: int = 1
    depth: int = 8
    min_cb: int = 3
    ctb: int = 4
    min_tb: int = 2
    max_tb: int = 4
    depth_inter: int = 1
    depth_intra: int = 1
    amp: int = 1
    sao: int = 0
    pcm: tuple[int, int, int] | None = None  # bits of a sample, log2 of the smallest and largest block
    long_term: int = 0
    temporal_mvp: int = 1
    sign_hiding: int = 0
    transform_skip: int = 0
    cu_qp_delta: int | None = None  # diff_cu_qp_delta_depth
    bypass: int = 0
    lists_modification: int = 0
    parallel_merge: int = 2
    tiles: tuple[int, int] | None = None
    wavefront: int = 0
    dependent: int = 0
    qp: int = 30
    references: tuple[int, ...] = (1, 2)  # distances back
    merge_candidates: int | None = None  # None: random
    extension: int | None = None  # of the SPS: 0 range, 1 multilayer, 2 3D, 3 screen content
    range_flags: tuple[int, ...] | None = None

    @property
    def ctbs(self) -> int:
        """CTBs of a picture."""
        size = 1 << self.ctb
        return -(-self.width // size) * -(-self.height // size)

    def _profile(self, bits: Bits) -> None:
        bits.u(8, 4).u(32, 1 << 27).u(4, 0b1001).u(32, 0).u(12, 0).u(8, 120)

    def parameter_sets(self) -> bytes:
        """VPS, SPS, PPS."""
        vps = Bits().u(4, 0).u(2, 3).u(6, 0).u(3, 0).u(1, 1).u(16, 0xFFFF)
        self._profile(vps)
        vps.flags(1).ue(6, 0, 0).u(6, 0).ue(0).flags(0, 0)
        sps = Bits().u(4, 0).u(3, 0).u(1, 1)
        self._profile(sps)
        sps.ue(0, self.chroma)
        if self.chroma == 3:
            sps.flags(0)
        sps.ue(self.width, self.height).flags(0).ue(self.depth - 8, self.depth - 8, 4).flags(1).ue(6, 0, 0)
        sps.ue(self.min_cb - 3, self.ctb - self.min_cb, self.min_tb - 2, self.max_tb - self.min_tb)
        sps.ue(self.depth_inter, self.depth_intra).flags(0, self.amp, self.sao, self.pcm is not None)
        if self.pcm:
            bits, low, high = self.pcm
            sps.u(4, bits - 1).u(4, bits - 1).ue(low - 3, high - low).flags(1)
        sps.ue(0).flags(self.long_term)
        if self.long_term:
            sps.ue(0)
        sps.flags(self.temporal_mvp, 0, 0)
        kind = 0 if self.range_flags else self.extension
        sps.flags(kind is not None)
        if kind is not None:
            sps.flags(*(i == kind for i in range(4))).u(4, 0).flags(*(self.range_flags or ()))
        pps = Bits().ue(0, 0).flags(self.dependent, 0).u(3, 0).flags(self.sign_hiding, 0).ue(0, 0).se(self.qp - 26)
        pps.flags(0, self.transform_skip, self.cu_qp_delta is not None)
        if self.cu_qp_delta is not None:
            pps.ue(self.cu_qp_delta)
        pps.se(0, 0).flags(0, 0, 0, self.bypass, self.tiles is not None, self.wavefront)
        if self.tiles:
            pps.ue(self.tiles[0] - 1, self.tiles[1] - 1).flags(1, 0)
        pps.flags(0, 1, 0, 1, 0, self.lists_modification).ue(self.parallel_merge - 2).flags(0, 0)
        return nal(VPS, vps.ended()) + nal(SPS, sps.ended()) + nal(PPS, pps.ended())

    def slice_header(
        self, poc: int, kind: str, *, address: int = 0, seed: int = 0, entry_points: Sequence[int] = ()
    ) -> Bits:
        """A slice segment's header. kind: I, P, B, or D for one that depends on the slice before."""
        bits, rng = Bits().flags(address == 0), np.random.default_rng(seed)
        if poc == 0:
            bits.flags(0)
        bits.ue(0)
        if address:
            if self.dependent:
                bits.flags(kind == "D")
            bits.u(int(np.ceil(np.log2(self.ctbs))), address)
        if kind != "D":
            self._slice(bits, poc, kind, rng)
        if self.tiles or self.wavefront:
            bits.ue(len(entry_points))
            if entry_points:
                bits.ue(31)
                for size in entry_points:
                    bits.u(32, size - 1)
        return bits

    def _slice(self, bits: Bits, poc: int, kind: str, rng: np.random.Generator) -> None:
        bits.ue("BPI".index(kind))
        back = [d for d in self.references if d <= poc]
        far = [back.pop()] if self.long_term and len(back) > 1 else []
        if poc:
            bits.u(8, poc & 255).flags(0)
            bits.ue(len(back), 0)
            for before, distance in zip([0, *back], back, strict=False):
                bits.ue(distance - before - 1).flags(1)
            if self.long_term:
                bits.ue(len(far))
                for distance in far:
                    bits.u(8, (poc - distance) & 255).flags(1, 0)
            if self.temporal_mvp:
                bits.flags(1)
        if self.sao:
            bits.flags(1, *([1] if self.chroma else []))
        if kind != "I":
            total = len(back) + len(far)
            active = [total + 1] * (2 if kind == "B" else 1)  # the first reference comes twice
            bits.flags(1).ue(*(n - 1 for n in active))
            if self.lists_modification and total > 1:
                for n in active:
                    bits.flags(1)
                    for _ in range(n):
                        bits.u(int(np.ceil(np.log2(total))), int(rng.integers(total)))
            if kind == "B":
                bits.flags(int(rng.integers(2)))
            if self.temporal_mvp:
                if kind == "B":
                    bits.flags(int(rng.integers(2)))
                if active[0] > 1:
                    bits.ue(int(rng.integers(active[0])))
            bits.ue(int(rng.integers(5)) if self.merge_candidates is None else 5 - self.merge_candidates)
        bits.se(0)

    def slice(self, poc: int, kind: str, data: bytes, *, address: int = 0, seed: int = 0) -> bytes:
        """A slice segment's NAL unit."""
        return nal(TRAIL if poc else IDR, self.slice_header(poc, kind, address=address, seed=seed).ended() + data)

    def random_pictures(self, kinds: str, *, seed: int, size: int = 6000) -> list[bytes]:
        """One packet a picture; parameter sets stand before the first."""
        rng = np.random.default_rng(seed)
        packets = []
        for poc, kind in enumerate(kinds):
            data = rng.integers(0, 256, size, dtype=np.uint8).tobytes()
            packets.append(self.slice(poc, kind, data, seed=seed + poc))
        return [self.parameter_sets() + packets[0], *packets[1:]]
