"""Hostile bytes: fixed-seed mutations of small streams under the address and undefined-behaviour sanitizers.

The same body runs for hours under libFuzzer (`make fuzz`); what it found is kept in REGRESSIONS.
"""

import shutil
import subprocess
from pathlib import Path

import numpy as np
import pytest
from fuzz.seeds import X264, X265, encode

from ov_encoder.codec.bitstream import library
from ov_encoder.codec.bitstream.parser import Parser, RefusedError

ROOT = Path(__file__).parents[3]
CSRC = ROOT / "src/ov_encoder/codec/bitstream/csrc"
SEEDS = [
    *[("libx264", "h264", params, fmt) for params in X264.values() for fmt in ("yuv420p",)],
    *[("libx264", "h264", X264["cavlc-b"], fmt) for fmt in ("yuv422p", "yuv444p", "gray", "yuv420p10le")],
    *[("libx265", "hevc", params, "yuv420p") for params in X265.values()],
]
# first byte as in ovb_fuzz.c, then Annex B
REGRESSIONS = {"ue(v) past the end of a parameter set": bytes.fromhex("000000010700000063110000")}


@pytest.fixture(scope="session")
def seeds(tmp_path_factory) -> list[Path]:
    folder = tmp_path_factory.mktemp("seeds")
    files = []
    for number, (encoder, codec, params, fmt) in enumerate(SEEDS):
        files.append(folder / f"{number}")
        files[-1].write_bytes(bytes([codec == "hevc"]) + encode(encoder, params, fmt))
    for number, data in enumerate(REGRESSIONS.values()):
        files.append(folder / f"regression{number}")
        files[-1].write_bytes(data)
    return files


def test_mutated_streams_break_nothing(seeds, tmp_path):
    compiler = next((c for c in ("gcc", "clang", "cc") if shutil.which(c)), None)
    if compiler is None:
        pytest.skip("no C compiler")
    program = tmp_path / "round"
    sources = [*map(str, sorted(CSRC.glob("*.c"))), str(ROOT / "fuzz/ovb_fuzz.c")]
    flags = ["-std=c11", "-O1", "-g", "-DOVB_ROUND", "-fsanitize=address,undefined", "-fno-sanitize-recover=all"]
    built = subprocess.run([compiler, *flags, f"-I{CSRC}", *sources, "-o", program], capture_output=True, text=True)
    if "cannot find" in built.stderr:
        pytest.skip("the compiler has no sanitizers")
    assert built.returncode == 0, built.stderr
    done = subprocess.run([program, "12", "1", *map(str, seeds)], capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr[-3000:]


@pytest.mark.parametrize("codec", ["h264", "hevc"])
def test_noise_gives_nothing_or_a_reason(codec):
    rng = np.random.default_rng(0)
    assert library.available()
    for size in (0, 1, 3, 5, 50, 5000):
        with Parser(codec) as parser:
            noise = rng.integers(0, 256, size, dtype=np.uint8).tobytes()
            for data in (noise, b"\0\0\1" + noise, b"\0\0\1" * size, bytes(size)):
                try:
                    assert list(parser.feed(data)) == []
                except RefusedError as e:
                    assert str(e)
                    break


def test_a_closed_parser_may_be_closed_again():
    parser = Parser("h264")
    parser.close()
    parser.close()
