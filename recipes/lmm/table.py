"""The numbers of the study: scores of every task and way over seeds, differences on the same questions, examples.

Nothing is trained or asked here; answers come from the files that `ov-encoder lmm eval` wrote.

Shapes: N = questions.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from ov_encoder.data.folder import write_atomically
from ov_encoder.evaluate.paired import paired_difference
from ov_encoder.lmm.metrics import bootstrap

PAIRS = (("codec", "blind"), ("chunk", "blind"), ("codec", "chunk"))
ALL = "all"
Records = list[dict[str, Any]]


def write(out: Path, runs: Mapping[str, Sequence[Path]], questions: Path, chosen: Mapping[str, Any]) -> str:
    """Read the answers of every way and seed (folders of `lmm eval`), write OUT/results.json and OUT/results.md."""
    records = {way: [_read(folder / "answers.jsonl") for folder in folders] for way, folders in runs.items()}
    found = compare(records)
    about = {"format": "ov-encoder.lmm-study/1", "options": dict(chosen)}
    texts = {q["id"]: q["question"] for q in _read(questions)}
    write_atomically(out / "results.json", (json.dumps(about | found, indent=1) + "\n").encode())
    text = markdown(found) + "\n\n" + examples(records, texts) + "\n"
    write_atomically(out / "results.md", text.encode())
    return text


def compare(records: Mapping[str, Sequence[Records]]) -> dict[str, Any]:
    """Scores and differences of each task and of all questions together.

    An item's score is its mean over seeds; intervals are 95 %, over items drawn again (a question that could not be
    answered counts 0, and is counted).
    """
    some = next(iter(records.values()))[0]
    tasks: dict[str, Any] = {}
    for task in (*dict.fromkeys(r["task"] for r in some), ALL):
        by_way = {way: [_scores(one, task) for one in seeds] for way, seeds in records.items()}
        means = {way: {i: float(np.mean([s[i] for s in seeds])) for i in seeds[0]} for way, seeds in by_way.items()}
        entry: dict[str, Any] = {"items": len(next(iter(means.values()))), "ways": {}, "differences": {}}
        entry["metric"] = "mean" if task == ALL else next(r["metric"] for r in some if r["task"] == task)
        for way, seeds in by_way.items():
            scores_N = np.array(list(means[way].values()))
            entry["ways"][way] = {
                "score": float(scores_N.mean()),
                "interval": bootstrap(scores_N),
                "per_seed": [float(np.mean(list(s.values()))) for s in seeds],
                "failed": sum("reason" in r for one in records[way] for r in one if task in (r["task"], ALL)),
            }
        for a, b in PAIRS:
            if a in means and b in means and (difference := paired_difference(means[a], means[b])):
                entry["differences"][f"{a} - {b}"] = difference.to_dict()
        tasks[task] = entry
    return {"tasks": tasks}


def markdown(found: Mapping[str, Any]) -> str:
    """Percent; differences whose interval leaves out 0 are bold."""
    some = found["tasks"][ALL]
    ways, pairs = list(some["ways"]), list(some["differences"])
    lines = ["| task | items | " + " | ".join([*ways, *pairs]) + " |", "|---" * (2 + len(ways) + len(pairs)) + "|"]
    for task, entry in found["tasks"].items():
        cells = [f"{task} ({entry['metric']})", str(entry["items"])]
        cells += [_percent(entry["ways"][way]["score"], entry["ways"][way]["interval"]) for way in ways]
        for pair in pairs:
            low, high = entry["differences"][pair]["interval"]
            text = _percent(entry["differences"][pair]["value"], (low, high), sign="+")
            cells.append(f"**{text}**" if low > 0 or high < 0 else text)
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines)


def examples(records: Mapping[str, Sequence[Records]], texts: Mapping[str, str]) -> str:
    """What the first seed's models said: of each task one question that the first way got right and one it did not."""
    first = {way: {r["id"]: r for r in seeds[0]} for way, seeds in records.items()}
    main = next(iter(first.values()))
    lines = ["| question | right | " + " | ".join(first) + " |", "|---" * (2 + len(first)) + "|"]
    for task in dict.fromkeys(r["task"] for r in main.values()):
        mine = [r for r in main.values() if r["task"] == task and "answer" in r]
        shown = [next((r for r in mine if (r["score"] > 0.99) is right), None) for right in (True, False)]
        for record in filter(None, shown):
            said = [_cell(answers[record["id"]].get("answer", "(failed)")) for answers in first.values()]
            cells = [f"{_cell(texts[record['id']])} ({record['id']})", _cell(record["right"][0]), *said]
            lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines)


def _scores(records: Records, task: str) -> dict[str, float]:
    return {r["id"]: r.get("score", 0.0) for r in records if task in (r["task"], ALL)}


def _read(path: Path) -> Records:
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def _percent(value: float, interval: Sequence[float], sign: str = "") -> str:
    low, high = (100 * x for x in interval)
    return f"{100 * value:{sign}.0f} [{low:{sign}.0f}, {high:{sign}.0f}]"


def _cell(text: str) -> str:
    return " ".join(text.replace("|", "/").split())
