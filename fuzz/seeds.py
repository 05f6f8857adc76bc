"""Seeds for fuzzing: small clips of many kinds, one file each, in the form that ovb_fuzz.c reads.

python fuzz/seeds.py OUT_FOLDER
"""

from __future__ import annotations

import sys
from fractions import Fraction
from pathlib import Path

import av
import numpy as np

sys.path.insert(0, str(Path(__file__).parents[1]))
from tests.clips import pan

X264 = {
    "cabac": "",
    "cavlc": "cabac=0",
    "temporal": "bframes=3:b-adapt=0:b-pyramid=normal:direct=temporal:ref=4",
    "spatial": "bframes=3:b-adapt=0:direct=spatial:partitions=all:weightb=1",
    "cavlc-b": "cabac=0:bframes=3:b-adapt=0:direct=temporal:partitions=all:ref=4",
    "slices": "slices=3:bframes=1:b-adapt=0",
    "lists": "cqm=jvt:8x8dct=1",
    "lossless": "qp=0",
    "tiny-qp": "qp=2",
    "refresh": "intra-refresh=1:keyint=4",
    "fields": "interlaced=1",
}
X265 = {
    "plain": "",
    "tools": "amp=1:rect=1:tskip=1:ref=4:bframes=3:b-adapt=0:b-pyramid=1",
    "ctu16": "ctu=16:min-cu-size=8:wpp=1:slices=2",
    "lossless": "lossless=1",
    "lists": "scaling-list=default:qp=12:aq-mode=3",
}
FORMATS = ("yuv420p", "yuv422p", "yuv444p", "gray", "yuv420p10le")


def encode(encoder: str, params: str, pix_fmt: str) -> bytes:
    """Four small frames as Annex B: small, so that many are tried."""
    height, width = (32, 48) if encoder == "libx264" else (64, 64)  # x265 breaks below its block of 64x64
    context = av.CodecContext.create(encoder, "w")
    context.width, context.height, context.pix_fmt = width, height, pix_fmt
    context.time_base, context.thread_count, context.thread_type = Fraction(1, 25), 1, "NONE"
    quiet = {"x264-params": params} if encoder == "libx264" else {"x265-params": f"log-level=none:pools=1:{params}"}
    context.options = {"preset": "medium", "crf": "24"} | quiet
    packets = []
    for t, picture in enumerate(pan(4, height, width).frames_THW3):
        frame = av.VideoFrame.from_ndarray(np.ascontiguousarray(picture), format="rgb24").reformat(format=pix_fmt)
        frame.pts, frame.pict_type = t, 0
        packets += context.encode(frame)
    return b"".join(bytes(p) for p in [*packets, *context.encode(None)])


def main(out: Path) -> None:
    """Write every combination that the encoders take."""
    out.mkdir(parents=True, exist_ok=True)
    for first, encoder, kinds in ((0, "libx264", X264), (1, "libx265", X265)):
        for name, params in kinds.items():
            for pix_fmt in FORMATS:
                try:
                    stream = encode(encoder, params, pix_fmt)
                except av.FFmpegError as e:
                    print(f"{encoder} {name} {pix_fmt}: {e}", file=sys.stderr)
                    continue
                (out / f"{encoder}-{name}-{pix_fmt}").write_bytes(bytes([first]) + stream)


if __name__ == "__main__":
    if len(sys.argv) != 2:
        raise SystemExit(__doc__)
    main(Path(sys.argv[1]))
