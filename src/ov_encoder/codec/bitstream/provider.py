"""The provider `bitstream`: signals of every picture from the stream's own bits, beside the decoder or without it.

`why_not` asks whether a stream can be read, `beside` adds signals to decoded pictures (the parser works in a second
thread on the same packets), `alone` gives signals only, on closed GOPs in parallel. Both go on after a damaged
picture, whose maps are left out, and raise Stopped when the stream turns out to be one that the parser refuses.
"""

from __future__ import annotations

import heapq
import queue
from collections import deque
from collections.abc import Generator, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import AbstractContextManager, closing
from dataclasses import dataclass, field
from typing import BinaryIO

import numpy as np
from av.container import InputContainer
from av.error import FFmpegError
from av.packet import Packet
from av.video.stream import VideoStream

from ov_encoder.codec.bitstream import library
from ov_encoder.codec.bitstream.convert import PARSER_BYTES, SignalParser, Wanted, display_ranks
from ov_encoder.codec.bitstream.packets import FILTERS, AnnexB, first_units
from ov_encoder.codec.bitstream.parser import Parser, RefusedError
from ov_encoder.codec.decode import Picture, decode
from ov_encoder.codec.info import MediaInfo
from ov_encoder.codec.limits import Limits
from ov_encoder.codec.media import open_video
from ov_encoder.codec.signals import FrameSignals
from ov_encoder.errors import OvEncoderError

_AHEAD_BYTES = 256 << 20  # maps of pictures that wait for their turn
_REORDER = 17  # pictures of a stream without times that may be decoded before they are shown


class Stopped(Exception):  # noqa: N818 - no error: another provider takes over
    """The parser refused the stream after `shown` pictures; the message says why."""

    def __init__(self, why: str, shown: int) -> None:
        super().__init__(why)
        self.shown = shown


@dataclass(slots=True)
class _Damage:
    """Pictures without maps, to be told at the end."""

    count: int = 0
    first: str = ""
    notes: list[str] = field(default_factory=list)

    def add(self, why: str) -> None:
        self.first = self.first or why
        self.count += 1

    def tell(self) -> None:
        if self.count:
            self.notes.append(f"{self.count} pictures without signals: damaged ({self.first})")


def _packets_of(
    file: BinaryIO, info: MediaInfo, limits: Limits
) -> AbstractContextManager[tuple[InputContainer, VideoStream]]:
    """The stream that `info` describes. Of several, which is best is found by decoding some of each."""
    return open_video(file, info.name, limits, pixels=info.streams > 1)


def why_not(file: BinaryIO, info: MediaInfo, limits: Limits) -> str:
    """Why the stream cannot be read by the bitstream parser, from its first picture; "" if it can.

    Raises:
        OvEncoderError: the source cannot be read at all.
    """
    if info.codec not in FILTERS:
        return f"no bitstream reader for {info.codec}"
    if not library.available():
        return library.reason()
    with _packets_of(file, info, limits) as (container, stream):
        try:
            annexb = AnnexB(stream, info.codec)
            with Parser(info.codec, wanted=(), pixels=limits.pixels, memory=PARSER_BYTES) as parser:
                for number, packet in enumerate(container.demux(stream)):
                    if packet.size and any(not f.damaged for f in parser.feed(annexb(packet))):
                        return ""
                    if number >= 64:
                        break
        except RefusedError as e:
            return str(e)
        except FFmpegError as e:
            return e.strerror or str(e)
    return "its first packets hold no picture without damage"


Parsed = tuple[int, tuple[int, ...], FrameSignals | None]  # packet, order of display, what was found


def _parse(parser: SignalParser, number: int, data: bytes, damage: _Damage) -> Parsed:
    """The picture in a packet."""
    found: FrameSignals | None = None
    order = (0, 0)
    for parsed, signals in parser.feed(data, number):
        found, order = signals, (parsed.sequence, parsed.poc)
        if parsed.damaged:
            damage.add(parsed.damaged)
    return number, order, found


# --- beside the decoder -------------------------------------------------------------------------------------------


class _Beside:
    """Parses packets as the decoder takes them: at once, or in a thread of its own."""

    def __init__(self, info: MediaInfo, wanted: Wanted, damage: _Damage, threads: int) -> None:
        self._info, self._damage = info, damage
        self._parser = SignalParser(info, wanted, display_ranks(info))
        self._annexb: AnnexB | None = None
        self._worker = ThreadPoolExecutor(1, "ov-encoder-bitstream") if threads != 1 else None
        self._made: dict[int, Future[FrameSignals | None]] = {}

    def packet(self, stream: VideoStream, number: int, packet: Packet) -> None:
        """A packet on its way to the decoder."""
        if self._annexb is None:
            self._annexb = AnnexB(stream, self._info.codec)
        try:
            data = self._annexb(packet)
        except FFmpegError as e:
            self._damage.add(e.strerror or str(e))
            return
        if self._worker is not None:
            self._made[number] = self._worker.submit(self._parse, number, data)
            return
        made: Future[FrameSignals | None] = Future()
        try:
            made.set_result(self._parse(number, data))
        except RefusedError as e:
            made.set_exception(e)
        self._made[number] = made

    def _parse(self, number: int, data: bytes) -> FrameSignals | None:
        return _parse(self._parser, number, data, self._damage)[2]

    def signals(self, number: int) -> FrameSignals | None:
        """What was found in a packet; asked for once."""
        for old in [n for n in self._made if n < number - 64]:  # packets whose picture was never shown
            self._made.pop(old).exception()
        made = self._made.pop(number, None)
        return None if made is None else made.result()

    def close(self) -> None:
        if self._worker is not None:
            self._worker.shutdown(wait=True, cancel_futures=True)
        self._parser.close()


def beside(
    file: BinaryIO, info: MediaInfo, wanted: Wanted, *, threads: int, notes: list[str]
) -> Generator[tuple[Picture, FrameSignals], None, None]:
    """Decoded pictures in display order, each with what its packet says.

    Raises:
        Stopped: the parser refuses the stream; the pictures so far have been given. OvEncoderError: as `decode`.
    """
    damage = _Damage(notes=notes)
    parsing = _Beside(info, wanted, damage, threads)
    pictures = decode(file, info, limits=wanted.limits, threads=threads, notes=notes, tap=parsing.packet)
    shown = 0
    try:
        for picture in pictures:
            try:
                signals = parsing.signals(picture.packet)
            except RefusedError as e:
                raise Stopped(str(e), shown) from None
            if signals is None:
                signals = FrameSignals(0, 0.0, picture.frame_type, picture.packet_bits)
            signals.index, signals.time_s, signals.frame_type = picture.index, picture.time_s, picture.frame_type
            signals.packet_bits = picture.packet_bits
            yield picture, signals
            shown += 1
    finally:
        pictures.close()
        parsing.close()
        damage.tell()


# --- alone --------------------------------------------------------------------------------------------------------


class _Gop:
    """Packets from one IDR picture to the next, parsed in order by one task, while more of them still arrive."""

    def __init__(
        self, info: MediaInfo, wanted: Wanted, rank_K: np.ndarray | None, sets: bytes, damage: _Damage
    ) -> None:
        self._info, self._wanted, self._rank_K, self._damage = info, wanted, rank_K, damage
        self._sets = sets
        self.packets: queue.SimpleQueue[tuple[int, bytes] | None] = queue.SimpleQueue()
        self.made: queue.SimpleQueue[Parsed | BaseException | None] = queue.SimpleQueue()

    def run(self) -> None:
        """Until the end is in `packets`: one item in `made` for each packet, and None or an error at the end."""
        try:
            with closing(SignalParser(self._info, self._wanted, self._rank_K)) as parser:
                for _ in parser.feed(self._sets, 0):
                    pass  # parameter sets are no pictures
                while (item := self.packets.get()) is not None:
                    self.made.put(_parse(parser, *item, self._damage))
            self.made.put(None)
        except BaseException as e:  # handed over, and raised in the caller's thread
            self.made.put(e)


def _packets(file: BinaryIO, info: MediaInfo, wanted: Wanted, damage: _Damage) -> Iterator[tuple[int, bytes]]:
    """Number and Annex B bytes of each packet; no bytes where it is broken."""
    number = 0
    with _packets_of(file, info, wanted.limits) as (container, stream):
        annexb, demuxed = AnnexB(stream, info.codec), container.demux(stream)
        while number < info.frames:
            try:
                packet = next(demuxed, None)
            except FFmpegError as e:
                damage.notes.append(f"reading stopped after {number} packets: {e.strerror or e}")
                return
            if packet is None:
                return
            if not packet.size:
                continue
            data = b""
            try:
                if packet.is_corrupt:
                    damage.add("cut short in the container")
                else:
                    data = annexb(packet)
            except FFmpegError as e:
                damage.add(e.strerror or str(e))
            yield number, data
            number += 1


def _in_one_thread(
    packets: Iterator[tuple[int, bytes]], info: MediaInfo, wanted: Wanted, rank_K: np.ndarray | None, damage: _Damage
) -> Iterator[Parsed]:
    """What each packet holds, in this thread: nothing is handed over, so it is the least work."""
    with closing(SignalParser(info, wanted, rank_K)) as parser:
        for number, data in packets:
            yield _parse(parser, number, data, damage)


def _in_threads(
    packets: Iterator[tuple[int, bytes]],
    info: MediaInfo,
    wanted: Wanted,
    rank_K: np.ndarray | None,
    threads: int,
    damage: _Damage,
) -> Iterator[Parsed]:
    """The same by closed GOPs, `threads` at a time, with bounded memory."""
    cells = -(-info.height // wanted.cell) * -(-info.width // wanted.cell)
    most = max(_AHEAD_BYTES // (32 * cells), 16)  # packets under way
    pool = ThreadPoolExecutor(threads, "ov-encoder-bitstream")
    gops: deque[_Gop] = deque()
    waiting, sets, begun, done = 0, b"", 0, False
    try:
        while True:
            while not done and waiting < most:
                item = next(packets, None)
                if item is None:
                    done = True
                    if gops:
                        gops[-1].packets.put(None)
                    break
                found, closed = first_units(item[1], info.codec)
                sets = (sets + found if found not in sets else sets)[-65536:]
                if closed or not gops:
                    if gops:
                        gops[-1].packets.put(None)
                    gops.append(_Gop(info, wanted, rank_K, sets, damage))
                    pool.submit(gops[-1].run)
                gops[-1].packets.put(item)
                waiting += 1
            if not gops:
                return
            made = gops[0].made.get()
            if isinstance(made, BaseException):
                raise made
            if made is None:
                gops.popleft()
                begun += 1
                continue
            waiting -= 1
            number, order, signals = made
            yield number, (begun, *order), signals
    finally:
        for gop in gops:
            gop.packets.put(None)
        pool.shutdown(wait=True, cancel_futures=True)


def alone(file: BinaryIO, info: MediaInfo, wanted: Wanted, *, threads: int, notes: list[str]) -> Iterator[FrameSignals]:
    """Signals of every picture in display order, no pixel decoded.

    threads: that many closed GOPs at a time (0: as many as there are cores).

    Raises:
        Stopped: the parser refuses the stream; the pictures so far have been given.
        OvEncoderError: there is no picture that could be read.
    """
    damage, rank_K, shown = _Damage(notes=notes), display_ranks(info), 0
    threads = threads or len(_cores())
    try:
        packets = _packets(file, info, wanted, damage)
        if threads == 1:
            made = _in_one_thread(packets, info, wanted, rank_K, damage)
        else:
            made = _in_threads(packets, info, wanted, rank_K, threads, damage)
        for number, signals in _in_display_order(made, rank_K):
            seconds = float(info.packet_time_K[number]) if rank_K is not None else shown / (info.fps or 25)
            signals.index, signals.time_s = shown, seconds
            yield signals
            shown += 1
    except RefusedError as e:
        raise Stopped(str(e), shown) from None
    finally:
        damage.tell()
    if not shown:
        raise OvEncoderError(f"{info.name}: no picture of its {info.codec} stream could be read")


def _in_display_order(made: Iterator[Parsed], rank_K: np.ndarray | None) -> Iterator[tuple[int, FrameSignals]]:
    """By the packets' times; in streams without times by picture order count, a few pictures late.

    Where the parser refuses, pictures whose turn has come are given before that is raised.
    """
    heap: list[tuple[tuple[int, ...], int, FrameSignals | None]] = []
    due, refused = 0, None
    timed = rank_K is not None
    while True:
        try:
            number, order, signals = next(made)
        except StopIteration:
            break
        except RefusedError as e:
            refused = e
            break
        if rank_K is not None:
            order = (int(rank_K[number]),)
        elif signals is None:
            continue
        heapq.heappush(heap, (order, number, signals))
        while heap and (heap[0][0][0] <= due if timed else len(heap) > _REORDER):
            order, number, ready = heapq.heappop(heap)
            due = max(due, order[0] + 1)
            if ready is not None:
                yield number, ready
    while heap and not (refused and timed):  # after a refusal the others wait for pictures that never come
        _, number, ready = heapq.heappop(heap)
        if ready is not None:
            yield number, ready
    if refused:
        raise refused


def _cores() -> set[int]:
    import os

    return os.sched_getaffinity(0) if hasattr(os, "sched_getaffinity") else set(range(os.cpu_count() or 1))
