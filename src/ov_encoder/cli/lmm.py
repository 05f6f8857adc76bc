"""A language model that sees: train it, ask it about images and videos, and measure its answers.

Each command has an example in its --help; start with `ov-encoder lmm ask --help`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, Literal

import tyro

from ov_encoder.bundled import DEFAULT


def ask(
    file: Annotated[tyro.conf.Positional[Path], tyro.conf.arg(metavar="FILE")],
    question: Annotated[tyro.conf.Positional[str], tyro.conf.arg(metavar="QUESTION")],
    *,
    model: Path,
    mode: Literal["codec", "chunk"] | None = None,
    budget: int | None = None,
    max_new_tokens: int = 128,
    show: Path | None = None,
    device: str = "auto",
) -> int:
    """Ask about an image or a video; the answer appears word by word.

    Example: ov-encoder lmm ask clip.mp4 "What is said?" --model run/model --show looked-at.png

    Args:
        file: An image or a video.
        question: What you want to know.
        model: A directory that lmm train wrote (or OVLanguageModel.save and OVProcessor.save_pretrained).
        mode: For a video: codec (patches that carry surprise) or chunk (whole frames); default the model's own.
        budget: Patches of a video to look at; default the model's own.
        max_new_tokens: Longest answer.
        show: Write a picture of what was looked at (PNG).
        device: cpu, cuda, ...; auto takes a GPU if there is one.
    """
    from dataclasses import asdict

    import torch

    from ov_encoder.codec.media import inspect
    from ov_encoder.lmm.evaluate import generate
    from ov_encoder.lmm.model import OVLanguageModel
    from ov_encoder.lmm.processor import OVProcessor
    from ov_encoder.patchify.api import plan, to_batch
    from ov_encoder.viz.overlay import contact_sheet

    if device == "auto":
        device = "cuda" if torch.cuda.is_available() else "cpu"
    changes = _changes(mode, budget)
    kind = "image" if inspect(str(file)).frames == 1 else "video"
    processor = OVProcessor.from_pretrained(model)
    made = plan(str(file), **asdict(processor.options(kind, **changes)))
    batch = to_batch(made)
    text = question if f"<{kind}>" in question else f"<{kind}>\n{question}"
    prompt = processor.apply_chat_template([{"role": "user", "content": text}])
    seeing = OVLanguageModel.load(model, device=device)
    generate(
        seeing,
        processor,
        prompt,
        max_new_tokens=max_new_tokens,
        on_text=lambda piece: print(piece, end="", flush=True),
        images=[batch] if kind == "image" else [],
        videos=[batch] if kind == "video" else [],
    )
    print()
    if show is not None:
        contact_sheet(made).save(show)
        print(f"wrote {show}: {batch.tokens:,} patches of {made.grid[0]} slots were looked at")
    return 0


def eval_(
    questions: Annotated[tyro.conf.Positional[Path], tyro.conf.arg(metavar="QUESTIONS")],
    *,
    model: Path,
    out: Annotated[Path, tyro.conf.arg(aliases=["-o"])],
    mode: Literal["codec", "chunk"] | None = None,
    budget: int | None = None,
    blind: bool = False,
    max_new_tokens: int = 64,
    device: str = "auto",
) -> int:
    """Answer a file of questions and score the answers, with 95 % intervals over the items.

    QUESTIONS is JSON lines: {"video": "a.mp4", "question": "What is said?", "answer": "bin blue"}; with "choices" the
    likeliest is taken; "metric" is exact, anls, bleu, cider or choice, "task" what is scored together. Every answer
    goes to OUT/answers.jsonl as it comes, and a run that was stopped goes on from there; then OUT/summary.json.

    Example: ov-encoder lmm eval held-out.jsonl --model run/model -o scores

    Args:
        questions: A .jsonl file; media paths are relative to it.
        model: A directory that lmm train wrote.
        out: Folder for answers and summary.
        mode: For videos: codec or chunk (whole frames); default the model's own.
        budget: Patches of a video to look at; default the model's own.
        blind: Leave the media out: what the words alone can answer.
        max_new_tokens: Longest answer.
        device: cpu, cuda, ...; auto takes a GPU if there is one.
    """
    import hashlib
    import json

    import torch
    from rich.console import Console
    from rich.progress import track

    from ov_encoder.cli.console import print_table
    from ov_encoder.data.folder import agree_on_options, locked, write_atomically
    from ov_encoder.lmm.evaluate import answer_all, read_questions, summarise
    from ov_encoder.lmm.model import OVLanguageModel
    from ov_encoder.lmm.processor import OVProcessor
    from ov_encoder.model.weights import fingerprint

    if device == "auto":
        device = "cuda" if torch.cuda.is_available() else "cpu"
    changes = _changes(mode, budget)
    asked = read_questions(questions)
    processor = OVProcessor.from_pretrained(model)
    processor.options("video", **changes)  # what the model cannot do is said before it is loaded
    seeing = OVLanguageModel.load(model, device=device)
    with locked(out):
        log = out / "answers.jsonl"
        whole = log.read_bytes().rpartition(b"\n")[0] if log.exists() else b""  # a killed run may leave half a line
        records = [json.loads(line) for line in whole.splitlines()]
        chosen = {
            "questions": hashlib.sha256(questions.read_bytes()).hexdigest(),
            "model": str(model),
            "weights": fingerprint(seeing),
            "changes": changes,
            "blind": blind,
            "max_new_tokens": max_new_tokens,
        }
        agree_on_options(out, chosen, len(records))
        todo = asked[len(records) :]
        answers = answer_all(seeing, processor, todo, blind=blind, max_new_tokens=max_new_tokens, **changes)
        shown = track(answers, total=len(todo), description="answering", console=Console(stderr=True))
        with log.open("wb") as f:
            f.write(whole + b"\n" * bool(whole))
            for record in shown:
                records.append(record)
                f.write(json.dumps(record).encode() + b"\n")
                f.flush()
        summary = summarise(records)
        write_atomically(out / "summary.json", (json.dumps(summary, indent=1) + "\n").encode())
    rows = []
    for task, s in summary.items():
        score = f"{s['score']:.3f}" if "score" in s else "-"
        rows.append((task, s["metric"], f"{s['items']}", f"{s['failed']}", score, _interval(s)))
    print_table(("task", "metric", "items", "failed", "score", "95 % interval"), rows, right=range(2, 6))
    for record in records:
        if "reason" in record:
            print(f"failed: {record['id']}: {record['reason']}")
    return 1 if any("reason" in record for record in records) else 0


def train(
    *,
    data: tyro.conf.UseAppendAction[tuple[str, ...]] = (),
    out: Annotated[Path, tyro.conf.arg(aliases=["-o"])],
    encoder: str = DEFAULT,
    llm: str = "",
    init: Path | None = None,
    stage: Literal["projector", "all"] = "projector",
    lora: int = 0,
    steps: int | None = None,
    set: tyro.conf.UseAppendAction[tuple[str, ...]] = (),
    device: str = "auto",
) -> int:
    """Teach a language model to see: the projector first, then everything (or LoRA adapters).

    Data are conversations in LLaVA's JSON or JSON lines, with `<image>` and `<video>` where files stand; videos are
    read as they are. OUT/model is what lmm ask and lmm eval take. A run that was stopped or killed goes on when the
    command is given again. Several GPUs: torchrun --no-python --nproc-per-node 8 ov-encoder lmm train ...

    Example: ov-encoder lmm train --data talks.jsonl --llm SmolLM2/ -o stage1

    Args:
        data: A file of conversations; may be given several times.
        out: Folder of the run: config, metrics, curves, checkpoints, model.
        encoder: A name (see ov-encoder models), a directory, or a hub id; or another family's tower in its place,
            siglip2:PLACE or qwen3vl:PLACE.
        llm: A causal language model of transformers: a directory, a hub id, or a .gguf file.
        init: Start from OUT/model of an earlier stage instead.
        stage: What learns: the projector, or all.
        lora: Rank of LoRA on the language model (with --stage all); 0 trains its weights.
        steps: Optimizer steps; the schedule stretches with them.
        set: Change a field of the config, such as optim.lr=3e-4, sight.budget=512 or lmm.merge=2; may be repeated.
        device: cpu, cuda; auto takes a GPU if there is one.
    """
    import contextlib
    import signal
    from dataclasses import replace

    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    from ov_encoder.cli.pretrain import report_skipped
    from ov_encoder.data.folder import agree_on_options, locked
    from ov_encoder.lmm.config import LMMConfig
    from ov_encoder.lmm.towers import is_tower
    from ov_encoder.lmm.train_config import LMMTrainConfig, SightConfig
    from ov_encoder.lmm.training import prepare_language_run
    from ov_encoder.train.config import override
    from ov_encoder.train.metrics import draw_curves
    from ov_encoder.train.parallel import start_processes

    start = str(init) if init else None
    config = LMMTrainConfig(data=data, encoder=encoder, llm=llm, init=start, train=stage, lora=lora)
    of_another_family = LMMConfig.load(init).tower is not None if init else is_tower(encoder)
    if of_another_family:
        config = replace(config, sight=SightConfig(modes=("chunk",)))  # towers see whole frames
    if steps is not None:
        optim = replace(config.optim, steps=steps, warmup=min(config.optim.warmup, max(steps - 1, 0)))
        config = replace(config, optim=optim)
    config = override(config, set)
    processes = start_processes(device)
    with contextlib.ExitStack() as stack:
        if processes.first:
            stack.enter_context(locked(out))
            agree_on_options(out, {k: v for k, v in config.to_dict().items() if k != "loop"}, finished=0)
        run = prepare_language_run(config, out, processes)
        if not processes.first:
            run.fit()
            return 0
        learning = sum(p.numel() for p in run.task.module.parameters() if p.requires_grad)
        print(f"{len(run.stream.talks):,} conversations, {learning / 1e6:.1f} M weights learn ({stage}), "
              f"{'going on from' if run.resumed else 'starting at'} step {run.loop.step}")  # fmt: skip
        console = Console(stderr=True)
        columns = (TextColumn("training"), BarColumn(), MofNCompleteColumn(), TextColumn("{task.fields[now]}"),
                   TimeRemainingColumn())  # fmt: skip
        with Progress(*columns, console=console) as progress:
            task = progress.add_task("training", total=config.optim.steps, completed=run.loop.step, now="")

            def on_record(record: dict[str, Any]) -> None:
                now = (f"loss {record['loss']:.3f}, right {record.get('answers/accuracy', 0):.0%}, "
                       f"{record['tokens_per_s']:,.0f} tok/s, waits {record['data_wait']:.0%}")  # fmt: skip
                progress.update(task, completed=record["step"], now=now)
                if not console.is_terminal:
                    print(f"step {record['step']:>6,}  {now}", flush=True)

            run.fit(on_record)
        picture = draw_curves(out)
        print(f"wrote {picture}" if picture else "too few records for a picture")
        report_skipped(out)
        if run.loop.stopped:
            print(f"stopped at step {run.loop.step:,}, which is saved; the same command goes on from there")
            return 128 + signal.SIGTERM
        print(f"done; the model is in {run.finish()}")
    return 0


def _changes(mode: str | None, budget: int | None) -> dict[str, Any]:
    """The options of patchify that were given."""
    return {name: value for name, value in (("mode", mode), ("budget", budget)) if value is not None}


def _interval(summary: dict) -> str:
    return "{:.3f} - {:.3f}".format(*summary["interval"]) if "interval" in summary else "-"


COMMANDS = (train, ask, eval_)
