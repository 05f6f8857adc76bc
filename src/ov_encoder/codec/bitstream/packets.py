"""Packets of a container as Annex B, and what their first NAL units say: parameter sets, and where a closed GOP starts.

Nothing is parsed here beyond NAL unit types.
"""

from __future__ import annotations

import av
from av.packet import Packet
from av.video.stream import VideoStream

FILTERS = {"h264": "h264_mp4toannexb", "hevc": "hevc_mp4toannexb"}
_SETS = {"h264": (7, 8), "hevc": (32, 33, 34)}
_IDR = {"h264": (5,), "hevc": (19, 20)}
_LAST_SLICE = {"h264": 5, "hevc": 31}  # NAL unit types of slices: 1..5, 0..31


class AnnexB:
    """Turns the packets of one stream into Annex B bytes; those that are already pass through."""

    def __init__(self, stream: VideoStream, codec: str) -> None:
        self._filter = av.BitStreamFilterContext(FILTERS[codec], stream)

    def __call__(self, packet: Packet) -> bytes:
        """The packet's bytes. The packet itself stays as it is (the filter would empty it)."""
        return b"".join(bytes(made) for made in self._filter.filter(Packet(bytes(packet))))


def first_units(packet: bytes, codec: str) -> tuple[bytes, bool]:
    """Parameter sets before the first slice, as Annex B, and whether that slice starts a closed GOP (IDR)."""
    sets, at = b"", packet.find(b"\0\0\1")
    while 0 <= at < len(packet) - 3:
        head = packet[at + 3]
        kind = head & 31 if codec == "h264" else head >> 1 & 63
        after = packet.find(b"\0\0\1", at + 3)
        if kind in _SETS[codec]:
            sets += packet[at : after if after >= 0 else len(packet)]
        elif kind <= _LAST_SLICE[codec] and (codec == "hevc" or kind > 0):
            return sets, kind in _IDR[codec]
        at = after
    return sets, False
