"""A stage of a run: done once, skipped while its inputs and options stay the same, begun again when they change.

What a stage saw and made is in OUT/stages/NAME.json. Contents decide: an input that was made again with the same bytes
is the same input. Files whose size and time of change are those of the record are taken as unchanged without reading.
"""

from __future__ import annotations

import hashlib
import json
import shutil
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ov_encoder.data.folder import LOCK, PART, RUN, write_atomically

RECORDS = "stages"
FORMAT = "ov-encoder.stage/1"
Progress = Callable[[int, int], None]  # samples done, samples in all


@dataclass(frozen=True)
class Stage:
    """name: of the record. inputs, outputs: files or folders below OUT. options: all else that decides the outputs
    (JSON-able). body: makes the outputs, goes on where a killed run stopped, returns a summary for people. scratch:
    what it needs for going on, of no use afterwards."""

    name: str
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    options: dict[str, Any]
    body: Callable[[Progress], dict[str, Any]] = field(compare=False)
    scratch: tuple[str, ...] = ()


def why_not(out: Path, stage: Stage) -> str:
    """ "" if the stage's outputs are there and up to date, else what is new, in words."""
    record = _record(out, stage)
    if record is None:
        return "continues" if _begun(out, stage) == _key(out, stage) else "not done yet"
    if record["options"] != json.loads(json.dumps(stage.options)):
        names = {*record["options"], *stage.options}
        changed = sorted(n for n in names if record["options"].get(n) != json.loads(json.dumps(stage.options.get(n))))
        return f"{', '.join(changed)} changed"
    for name in stage.inputs:
        if record["inputs"].get(name) != digest(out, name):
            return f"{name} changed"
    for name in stage.outputs:
        if not (out / name).exists():
            return f"{name} is gone"
        if record["outputs"][name] != digest(out, name):
            return f"{name} was changed by others"
    return ""


def do(out: Path, stage: Stage, progress: Progress) -> dict[str, Any]:
    """Run the stage and record it; returns the record. Outputs of other inputs or options are deleted first."""
    folder = out / RECORDS
    folder.mkdir(parents=True, exist_ok=True)
    key = _key(out, stage)
    if _begun(out, stage) != key:
        (folder / f"{stage.name}.json").unlink(missing_ok=True)
        for name in stage.outputs + stage.scratch:
            _remove(out / name)
        write_atomically(folder / f"{stage.name}.begun", key.encode())
    began = time.monotonic()
    summary = stage.body(progress)
    record = {
        "format": FORMAT,
        "stage": stage.name,
        "options": stage.options,
        "inputs": {name: digest(out, name) for name in stage.inputs},
        "outputs": {name: digest(out, name) for name in stage.outputs},
        "seconds": round(time.monotonic() - began, 2),
        "summary": summary,
    }
    write_atomically(folder / f"{stage.name}.json", (json.dumps(record, indent=1) + "\n").encode())
    (folder / f"{stage.name}.begun").unlink()
    for name in stage.scratch:
        _remove(out / name)
    return record


def summary_of(out: Path, stage: Stage) -> dict[str, Any]:
    """What the stage said when it was done."""
    record = _record(out, stage)
    return record["summary"] if record else {}


def digest(out: Path, name: str) -> str:
    """SHA-256 of a file, or of the names and contents of a folder's files; "" if there is none.

    Contents are read once for each size and time of change: OUT/stages/digests.json remembers.
    """
    path = out / name
    if path.is_file():
        return _remembered(out, name, [path])
    files = sorted(p for p in path.rglob("*") if p.is_file() and _counts(p)) if path.is_dir() else []
    return _remembered(out, name, files) if files else ""


def _remembered(out: Path, name: str, files: list[Path]) -> str:
    stats = [(str(f.relative_to(out)), f.stat().st_size, f.stat().st_mtime_ns) for f in files]
    state = hashlib.sha256(json.dumps(stats).encode()).hexdigest()
    memory = out / RECORDS / "digests.json"
    known = json.loads(memory.read_text()) if memory.exists() else {}
    if known.get(name, {}).get("state") != state:
        whole = hashlib.sha256()
        for file in files:
            with file.open("rb") as f:
                content = hashlib.file_digest(f, "sha256").hexdigest()
            whole.update(f"{file.relative_to(out)} {content}\n".encode())
        known[name] = {"state": state, "digest": whole.hexdigest()}
        memory.parent.mkdir(parents=True, exist_ok=True)
        write_atomically(memory, json.dumps(known, indent=1).encode())
    return known[name]["digest"]


def _counts(path: Path) -> bool:
    """Whether a file is a result: not a lock, a note, a half-written file or the record of options (it has a date)."""
    return not path.name.startswith(".") and path.name not in (LOCK, RUN) and path.suffix != PART


def _key(out: Path, stage: Stage) -> str:
    """What decides the outputs, as one hash."""
    seen = {name: digest(out, name) for name in stage.inputs}
    return hashlib.sha256(json.dumps([stage.options, seen], sort_keys=True).encode()).hexdigest()


def _begun(out: Path, stage: Stage) -> str:
    note = out / RECORDS / f"{stage.name}.begun"
    return note.read_text() if note.exists() else ""


def _record(out: Path, stage: Stage) -> dict[str, Any] | None:
    path = out / RECORDS / f"{stage.name}.json"
    return json.loads(path.read_text()) if path.exists() else None


def _remove(path: Path) -> None:
    if path.is_dir():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)
