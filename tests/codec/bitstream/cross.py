"""Every combination of x264's tools against FFmpeg, block for block: not part of the tests, because it takes long.

    python -m tests.codec.bitstream.cross [SHARE]

SHARE (0 to 1, default 1) of the combinations, evenly spread, is run. Prints each mismatch and, at the end, the counts.
"""

from __future__ import annotations

import itertools
import sys

import av

from tests.codec.bitstream.h264_streams import packets
from tests.codec.bitstream.test_h264 import compare

TOOLS = {
    "entropy": ("", "cabac=0"),
    "b": ("bframes=0", "bframes=3:b-adapt=0:b-pyramid=none", "bframes=3:b-adapt=0:b-pyramid=normal",
          "bframes=8:b-adapt=2:b-pyramid=strict"),
    "refs": ("ref=1", "ref=4", "ref=16"),
    "direct": ("direct=spatial", "direct=temporal"),
    "weights": ("weightp=0:weightb=0", "weightp=2:weightb=1"),
    "blocks": ("8x8dct=0:partitions=none", "8x8dct=1:partitions=i4x4,p8x8,b8x8", "8x8dct=1:partitions=all"),
    "rate": ("crf=24", "qp=0"),
    "slices": ("", "slices=4"),
    "refresh": ("", "intra-refresh=1:keyint=5"),
}  # fmt: skip
FORMATS = ("yuv420p", "yuv422p", "yuv444p", "yuv420p10le")


def main(share: float) -> int:
    """The number of combinations that differ."""
    combinations = list(itertools.product(*TOOLS.values(), FORMATS))
    chosen = combinations[:: max(round(1 / share), 1)]
    totals: dict[str, int] = {}
    wrong = 0
    for n, (*tools, pix_fmt) in enumerate(chosen):
        params = ":".join(filter(None, tools))
        try:
            counts = compare(packets.__wrapped__(params, pix_fmt, size=(8, 64, 80)))
        except (AssertionError, av.FFmpegError) as e:
            wrong += 1
            print(f"{params} {pix_fmt}: {type(e).__name__} {e}", flush=True)
            continue
        for name, count in counts.items():
            totals[name] = totals.get(name, 0) + count
        if n % 500 == 0:
            print(f"{n} of {len(chosen)}", file=sys.stderr, flush=True)
    print(f"{len(chosen)} streams, {wrong} differ; {totals}")
    return wrong


if __name__ == "__main__":
    raise SystemExit(main(float(sys.argv[1]) if len(sys.argv) > 1 else 1.0) > 0)
