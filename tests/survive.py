"""Run hostile sources in a child process, so that a crash, a hang or a bomb is an outcome and not the end of pytest.

`survey` hands picklable sources to a child that has a memory limit and a clock per source. A child that dies is
restarted behind the source that killed it. Also here: file objects that misbehave.
"""

from __future__ import annotations

import faulthandler
import io
import json
import os
import pickle
import resource
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[1]
MEMORY = 1 << 30  # address space that one source may add
HANG_S = 30  # the slowest takes well under a second: longer is a hang, on a busy machine too


@dataclass(frozen=True)
class Outcome:
    """kind: "result", the name of the exception, "crash" or "hang". grown_mb: rise of the peak resident memory."""

    kind: str
    message: str = ""
    grown_mb: float = 0.0


class Overlong(io.BytesIO):
    """Gives more bytes than it is asked for."""

    def read(self, size: int | None = -1) -> bytes:
        return super().read(-1)


class Failing(io.BytesIO):
    """A disk that breaks: reading past `reach` bytes raises OSError."""

    reach = 3000

    def read(self, size: int | None = -1) -> bytes:
        if self.tell() >= self.reach:
            raise OSError(5, "Input/output error")
        return super().read(self.reach if size is None or size < 0 else min(size, self.reach - self.tell()))


class Wordless(io.BytesIO):
    """Answers None, as a non-blocking file does when nothing has come yet."""

    def read(self, size: int | None = -1) -> Any:
        return None


class Endless(io.RawIOBase):
    """A seekable file that repeats a chunk for ever, and counts what is read from it."""

    name = "endless.bin"

    def __init__(self, chunk: bytes) -> None:
        self.chunk, self.at, self.given = chunk, 0, 0

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def tell(self) -> int:
        return self.at

    def seek(self, offset: int, whence: int = 0) -> int:
        self.at = (0, self.at, 1 << 62)[whence] + offset
        return self.at

    def read(self, size: int = -1) -> bytes:
        assert size >= 0, "asked for all of an endless file"
        assert self.given < 200_000_000, "read 200 MB of an endless file"
        start = self.at % len(self.chunk)
        data = (self.chunk[start:] + self.chunk * (size // len(self.chunk) + 1))[:size]
        self.at += len(data)
        self.given += len(data)
        return data


def survey(sources: Mapping[str, Any], work: Path, *, options: Mapping[str, Any] | None = None) -> dict[str, Outcome]:
    """What patchify and read_signals make of each source: the first exception, or "result"."""
    left, outcomes = dict(sources), {}
    while left:
        (work / "sources.pickle").write_bytes(pickle.dumps((left, dict(options or {}))))
        child = subprocess.run(
            [sys.executable, "-m", "tests.survive", str(work / "sources.pickle")],
            cwd=ROOT,
            env=os.environ | {"OMP_NUM_THREADS": "1"},
            capture_output=True,
            text=True,
            timeout=300,
        )
        for line in child.stdout.splitlines():
            name, *values = json.loads(line)
            outcomes[name] = Outcome(*values)
            del left[name]
        if left:  # the child died over the first source that has no outcome
            name = next(iter(left))
            kind = "hang" if "Timeout (" in child.stderr else "crash"
            outcomes[name] = Outcome(kind, f"exit {child.returncode}: {child.stderr[-2000:]}")
            del left[name]
    return outcomes


def _child(path: str) -> None:
    import ov_encoder as ov
    from tests.clips import encode, moving_object

    faulthandler.enable()
    for codec in ("h264", "ffv1"):  # compile, and load every library, before the limit is set
        ov.patchify(encode(moving_object(6, 48, 64, radius=8).frames_THW3, codec=codec), size=56)
    sources, options = pickle.loads(Path(path).read_bytes())
    if sys.platform == "linux":
        used = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
        resource.setrlimit(resource.RLIMIT_AS, (used + MEMORY, used + MEMORY))
    for name, source in sources.items():
        faulthandler.dump_traceback_later(HANG_S, exit=True)
        peak = _peak_mb()
        kind, message = "result", ""
        for use in (lambda s: ov.patchify(s, **{"budget": 0.3, "size": 56} | options), ov.read_signals):
            try:
                use(source)
            except Exception as e:  # any exception is an outcome here; the tests judge it
                kind, message = type(e).__name__, str(e)
                if kind not in ("OvEncoderError", "ValueError"):
                    break
        faulthandler.cancel_dump_traceback_later()
        print(json.dumps([name, kind, message, _peak_mb() - peak]), flush=True)


def _peak_mb() -> float:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / (1024 if sys.platform == "linux" else 1 << 20)


if __name__ == "__main__":
    _child(sys.argv[1])
