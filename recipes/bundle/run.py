"""The bundled model from nothing: render, label, train, export, in one command that goes on where it was stopped.

    python recipes/bundle/run.py OUT --renderer-python gen/bin/python

OUT/data      clips, stamps and pages (make.py); --data names another folder that holds them already
OUT/sets      manifests with the licence of every source (sets.py)
OUT/concepts  what a teacher network sees, of clips and pictures (ov-encoder label run)
OUT/motion    what moves (motion.py)
OUT/run       the training run (ov-encoder pretrain bundle_tiny)
OUT/run-2     with --rounds 2: another, from the weights of the first (OUT/model-1)
OUT/model     config, bfloat16 weights, model card, curves (ov-encoder export)

Everything but rendering is done by the library; this file only says in which order and with which options.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal

sys.path.insert(0, str(Path(__file__).parent))  # these files are a recipe, not a package

import tyro
from motion import write_motion_labels
from rich.console import Console
from rich.progress import Progress
from sets import Also, parse_also, write_sets

from ov_encoder.cli import main as ov_encoder
from ov_encoder.data.folder import write_atomically
from ov_encoder.data.manifest import read_manifest
from ov_encoder.errors import OvEncoderError
from ov_encoder.labels.index import list_sources, listing_digest
from ov_encoder.labels.run_kmeans import torchrun
from ov_encoder.labels.stage import Stage, digest, do, why_not

Name = Literal["render", "sets", "label", "motion", "pretrain", "export"]
NAME = "ov-encoder-tiny"
SETS = ("concepts", "videos", "images", "pages", "probe")
SAMPLES = {"image": 24, "video": 16, "motion": 16}  # about as many samples a concept


def _top(k: int) -> int:
    """How many of the nearest of k concepts are labels of a sample; of few concepts, ten would be a blur."""
    return max(min(3, k // 8), 1)


def main(
    out: tyro.conf.Positional[Path],
    *,
    data: Path | None = None,
    scale: float = 1.0,
    renderer_python: str = sys.executable,
    also: tuple[str, ...] = (),
    teacher: str = "efficientnet",
    recipe: str = "bundle_tiny",
    steps: int | None = None,
    rounds: int = 1,
    set: tuple[str, ...] = (),
    results: tuple[Path, ...] = (),
    workers: int = len(os.sched_getaffinity(0)),
    processes: int = 1,
    since: Name = "render",
    until: Name = "export",
    install: bool = False,
) -> int:
    """Make the bundled model. Give the same command again after a kill, a stop or the end: what is done is skipped.

    Rendering needs packages that clash with others (requirements.txt beside this file). Either install them in an
    environment of their own and name its interpreter with --renderer-python, or give --data a folder that make.py
    has filled: where labels.csv is there, which it writes last, nothing is rendered.

    Args:
        out: Folder for everything.
        data: Folder of make.py; OUT/data by default.
        scale: Multiplies the number of rendered clips and pages.
        renderer_python: Interpreter of the environment that renders.
        also: Other sets to train on, as DIR:KIND:LICENCE (KIND: image, video or ocr; DIR: a folder with a manifest).
        teacher: Of the concepts: efficientnet, mobilenet, or a directory (see ov-encoder label run).
        recipe: As ov-encoder pretrain takes it.
        steps: Of the optimizer; the recipe's by default.
        rounds: Training runs, each from the weights of the one before, with new centres and the schedule anew. One more
            may be asked for when all are done: the way to train on without having planned for it.
        set: Changes of the recipe, such as optim.lr=5e-4.
        results: Files probe.json of ov-encoder probe, to be quoted in the model card.
        workers: Processes that render, label and decode.
        processes: Processes that train together and share each batch, one thread each on a CPU.
        since: Begin with this stage; what those before it make is in OUT already (pack.py).
        until: Stop after this stage.
        install: Copy the model into the package of this checkout, where ov.load_model("ov-encoder-tiny") finds it.
    """
    out = out.resolve()
    data = (data or out / "data").resolve()
    others = [parse_also(text) for text in also]
    # A core that trains and is asked to decode for another loses more than it gives: 1.1 s a step against 0.8.
    changes = [f"loop.workers={max(workers // processes - 1, 0)}", *set]

    stages: dict[str, Callable[[], None]] = {
        "render": lambda: _render(data, renderer_python, scale, workers),
        "sets": lambda: _sets(out, data, others, workers),
        "label": lambda: _label(out, teacher, workers),
        "motion": lambda: _motion(out, workers),
        "pretrain": lambda: _pretrain(out, recipe, steps, changes, processes, rounds),
        "export": lambda: _export(_run(out, rounds), out / "model", results),
    }
    names = list(stages)
    for name in names[names.index(since) : names.index(until) + 1]:
        print(f"--- {name}", flush=True)
        stages[name]()
    if install:
        _install(out / "model")
    return 0


def _render(data: Path, python: str, scale: float, workers: int) -> None:
    if (data / "labels.csv").exists():
        print(f"{data / 'labels.csv'} is there: nothing to render")
        return
    make = Path(__file__).with_name("make.py")
    command = [python, str(make), str(data), "--scale", str(scale), "--workers", str(workers)]
    code = subprocess.run(command, check=False).returncode
    if not (data / "labels.csv").exists():
        raise OvEncoderError(
            f"{' '.join(command)}: ended with {code} and no {data / 'labels.csv'}; are the packages of "
            f"{make.with_name('requirements.txt')} installed there? --renderer-python names another interpreter"
        )


def _sets(out: Path, data: Path, others: list[Also], workers: int) -> None:
    def body(progress: Callable[[int, int], None]) -> dict[str, Any]:
        return write_sets(data, others, out / "sets", workers=workers, progress=progress)

    seen = {str(p): listing_digest(list_sources([p])) for p in (data / "labels.csv", *(o.path for o in others))}
    options = {"sources": seen, "also": [[str(o.path), o.kind, o.licence] for o in others]}
    _do(out, Stage("sets", (), tuple(f"sets/{name}{s}" for name in SETS for s in (".csv", ".json")), options, body))


def _label(out: Path, teacher: str, workers: int) -> None:
    looked_at = Counter(s.kind for s in read_manifest(out / "sets/concepts.csv"))
    concepts = {kind: max(looked_at[kind] // SAMPLES[kind], 2) for kind in ("image", "video")}
    toml = f"""out = "concepts"
workers = {workers}

[index]
sources = ["sets/concepts.csv"]

[features]
teacher = {json.dumps(teacher)}
frames = 8

[kmeans]
images = {concepts["image"]}
videos = {concepts["video"]}
init = "k-means++"

[assign]
top = {_top(min(concepts.values()))}

[report]
pixels = false
"""
    write_atomically(out / "label.toml", toml.encode())
    _call("label", "run", str(out / "label.toml"))


def _motion(out: Path, workers: int) -> None:
    clips = read_manifest(out / "sets/videos.csv").samples
    k = max(len(clips) // SAMPLES["motion"], 2)

    def body(progress: Callable[[int, int], None]) -> dict[str, Any]:
        return write_motion_labels(clips, out / "motion", k=k, top=_top(k), workers=workers, progress=progress)

    outputs = tuple(f"motion/{name}" for name in ("statistics", "features", "centres.npz", "labels.parquet"))
    _do(out, Stage("motion", ("sets/videos.csv",), outputs, {"k": k, "top": _top(k)}, body, ("motion/kmeans",)))


def _run(out: Path, number: int) -> Path:
    return out / ("run" if number == 1 else f"run-{number}")


def _pretrain(out: Path, recipe: str, steps: int | None, changes: list[str], processes: int, rounds: int) -> None:
    """The heads of the recipe with their labels; heads that have no data are left out by pretrain, and it says so."""
    videos, images, pages = (out / f"sets/{name}.csv" for name in ("videos", "images", "pages"))
    data = [
        f"video={videos}@{out / 'concepts/video/labels.parquet'}",
        f"motion={videos}@{out / 'motion/labels.parquet'}",
        f"truth={videos}",
        f"object={images}@{out / 'concepts/image/labels.parquet'}",
    ]
    if any(s.labels for s in read_manifest(images) if s.split != "test"):
        data.append(f"thing={images}")
    if len(read_manifest(pages)):
        data.append(f"ocr={pages}")
    files = ["sets/videos.csv", "sets/images.csv", "sets/pages.csv", "motion/labels.parquet"]
    files += [f"concepts/{kind}/labels.parquet" for kind in ("image", "video")]
    now = {name: digest(out, name) for name in files}
    seen = out / "run/data.json"
    if seen.exists() and (changed := [n for n, d in json.loads(seen.read_text()).items() if now[n] != d]):
        raise OvEncoderError(
            f"{out / 'run'}: was begun with other data ({', '.join(changed)} changed since); move it away to train "
            f"anew, or go on from its weights: --set init={out / 'model'}, and another OUT"
        )
    seen.parent.mkdir(parents=True, exist_ok=True)
    write_atomically(seen, (json.dumps(now, indent=1) + "\n").encode())
    arguments = [a for text in data for a in ("--data", text)] + [a for text in changes for a in ("--set", text)]
    if steps is not None:
        arguments += ["--steps", str(steps)]
    if len(read_manifest(out / "sets/probe.csv").splits) > 1:
        arguments += ["--probe", str(out / "sets/probe.csv"), "--held-out", "200"]
    for number in range(1, rounds + 1):
        again: list[str] = []
        if number > 1:
            start = out / f"model-{number - 1}"
            if not (start / "model.safetensors").exists():
                _export(_run(out, number - 1), start, ())
            again = ["--set", f"init={start}", "--set", f"cache={out / 'run/cache'}"]
        _call("pretrain", recipe, *arguments, *again, "-o", str(_run(out, number)), processes=processes)


def _export(run: Path, model: Path, results: tuple[Path, ...]) -> None:
    quoted = ["--results", *map(str, results)] if results else []
    _call("export", str(run), "-o", str(model), "--dtype", "bfloat16", "--title", NAME, *quoted)


def _install(model: Path) -> None:
    """Into src/ov_encoder/bundled, each file whole; the weights last, because they make the model count as there."""
    import ov_encoder.bundled

    folder = Path(ov_encoder.bundled.__file__).parent / NAME
    folder.mkdir(parents=True, exist_ok=True)
    for path in sorted(model.iterdir(), key=lambda p: p.suffix == ".safetensors"):
        shutil.copyfile(path, folder / f".{path.name}.part")
        (folder / f".{path.name}.part").replace(folder / path.name)
    print(f"installed as {folder}")


def _do(out: Path, stage: Stage) -> None:
    """A stage unless it is up to date, with a bar on stderr."""
    if not (reason := why_not(out, stage)):
        print(f"{stage.name}: unchanged")
        return
    with Progress(console=Console(stderr=True)) as bars:
        bar = bars.add_task(f"{stage.name} ({reason})", total=None)
        record = do(out, stage, lambda done, total: bars.update(bar, completed=done, total=total))
    print(f"{stage.name}: {record['summary']} in {record['seconds']:.0f} s")


def _call(*arguments: str, processes: int = 1) -> None:
    """A command of the library; it has printed what went wrong if there is anything."""
    print(f"ov-encoder {' '.join(arguments)}", flush=True)
    if code := ov_encoder(arguments) if processes == 1 else torchrun(processes, *arguments):
        sys.exit(code)


if __name__ == "__main__":
    try:
        sys.exit(tyro.cli(main))
    except (ValueError, OvEncoderError) as e:
        sys.exit(f"error: {e}")
