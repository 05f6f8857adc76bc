"""Make training conversations and held-out questions for a small vision language model.

    python recipes/lmm/make_data.py OUT --grid-dir DIR --signs-dir DIR --insects-dir DIR --receipts-dir DIR
        --robots-dir DIR --street-dir DIR

Writes OUT/train.jsonl (conversations for `ov-encoder lmm train`), OUT/heldout.jsonl (questions for `ov-encoder lmm
eval`), and rendered pictures and clips (clips.py) below OUT. Folders are manifests (labels.csv with path, label, split
and, for GRID and receipts, further columns); those that are not given are left out. What is rendered needs nothing.
The same arguments give the same files.
"""

from __future__ import annotations

import csv
import io
import json
import os
import random
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import tyro
from PIL import Image, ImageDraw, ImageFont

import clips

WORDS = "apple bread chair dance eagle flame grape house igloo jelly knife lemon mouse night ocean piano queen".split()  # noqa: SIM905
COLOURS = {"red": "#c0392b", "green": "#27803d", "blue": "#2b5fb4", "orange": "#e08a1e", "purple": "#7d3c98"}
SIDE = 112  # pixels of a rendered picture: 8 x 8 patches


@dataclass(frozen=True)
class Item:
    """One question about one file. choices: only where the answer is one of a known few."""

    kind: str
    path: Path
    question: str
    answer: str
    held_out: bool
    task: str
    metric: str = "exact"
    choices: tuple[str, ...] = ()


def rows(folder: Path) -> list[dict[str, str]]:
    """The manifest of a folder, with all its columns."""
    with (folder / "labels.csv").open(newline="", encoding="utf-8") as f:
        return list(csv.DictReader(f))


def grid(folder: Path) -> Iterator[Item]:
    """GRID clips: the spoken command word as a choice of four."""
    table = rows(folder)
    commands = tuple(sorted({row["label"] for row in table}))
    for row in table:
        question = f"Which word does the person say first: {', '.join(commands)}?"
        yield Item("video", folder / row["path"], question, row["label"], row["split"] == "test", "grid command",
                   "choice", commands)  # fmt: skip


def signs(folder: Path) -> Iterator[Item]:
    """Sign clips: the word, from the view that training did not see."""
    for row in rows(folder):
        question = "Which word is signed? Answer with the Slovak word."
        yield Item("video", folder / row["path"], question, row["label"], row["split"] == "test", "sign word")


def insects(folder: Path) -> Iterator[Item]:
    """Photos of ants and bees."""
    for row in rows(folder):
        question = "Are there ants or bees in the picture?"
        yield Item("image", folder / row["path"], question, row["label"], row["split"] != "train", "ants or bees",
                   "choice", ("ants", "bees"))  # fmt: skip


def robots(folder: Path) -> Iterator[Item]:
    """Simulated robot clips: the task, in words."""
    for row in rows(folder):
        yield Item("video", folder / row["path"], "What does the robot do?", row["label"].replace("-", " "),
                   row["split"] == "test", "robot task")  # fmt: skip


def scenes(folders: dict[str, Path], each: int) -> Iterator[Item]:
    """What a clip shows, of a few kinds; `each`: at most so many clips of a kind to learn from, a third to answer."""
    question = f"What does the clip show: {', '.join(folders)}?"
    for kind, folder in folders.items():
        for test, most in ((False, each), (True, each // 3)):
            table = [row for row in rows(folder) if (row["split"] == "test") is test]
            for row in random.Random(kind).sample(table, min(most, len(table))):
                yield Item("video", folder / row["path"], question, kind, test, "scene", "choice", tuple(folders))


def receipts(folder: Path) -> Iterator[Item]:
    """Scanned receipts: total and company."""
    for row in rows(folder):
        for field, question in (("total", "What is the total on this receipt?"), ("label", "Which company issued it?")):
            if row[field].strip():
                task = "receipt company" if field == "label" else "receipt total"
                yield Item("image", folder / row["path"], question, row[field], row["split"] == "test", task, "anls")


def rendered(out: Path, count: int, seed: int) -> Iterator[Item]:
    """Words, numbers and bar charts drawn by Pillow: as many as one likes, the last tenth held out."""
    draw_one = (_word, _number, _chart)
    for i in range(count):
        source = random.Random(f"{seed}/{i}")
        image, question, answer, task = draw_one[i % len(draw_one)](source)
        png = io.BytesIO()
        image.save(png, "PNG")
        path = _write(out / f"{i:05d}.png", png.getvalue())
        yield Item("image", path, question, answer, i >= count - count // 10, task)


def moving(out: Path, count: int, seed: int) -> Iterator[Item]:
    """Clips of clips.py: which way, and which colour for a moment; the last fifth held out."""
    kinds = ((clips.moving, "which way", tuple(clips.WAYS)), (clips.flash, "short flash", tuple(clips.COLOURS)))
    for i in range(count):
        make, task, choices = kinds[i % len(kinds)]
        clip, question, answer = make(random.Random(f"{seed}/clip/{i}"))
        path = _write(out / f"{i:05d}.mp4", clip)
        yield Item("video", path, question, answer, i >= count - count // 5, task, "choice", choices)


def _write(path: Path, content: bytes) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_suffix(".part")
    part.write_bytes(content)
    part.replace(path)
    return path


def _page(source: random.Random) -> tuple[Image.Image, ImageDraw.ImageDraw]:
    shade = source.randint(225, 255)
    image = Image.new("RGB", (SIDE, SIDE), (shade, shade, shade - source.randint(0, 15)))
    return image, ImageDraw.Draw(image)


def _text(source: random.Random, text: str) -> Image.Image:
    image, draw = _page(source)
    face = ImageFont.load_default(size=source.randint(24, 34))
    width = draw.textlength(text, font=face)
    at = (source.uniform(2, max(SIDE - width - 2, 2)), source.uniform(10, SIDE - 48))
    draw.text(at, text, font=face, fill=(source.randint(0, 60),) * 3)
    return image


def _word(source: random.Random) -> tuple[Image.Image, str, str, str]:
    word = source.choice(WORDS)
    return _text(source, word), "Which word is written here?", word, "rendered word"


def _number(source: random.Random) -> tuple[Image.Image, str, str, str]:
    number = str(source.randint(0, 99))
    return _text(source, number), "Which number is written here?", number, "rendered number"


def _chart(source: random.Random) -> tuple[Image.Image, str, str, str]:
    image, draw = _page(source)
    names = source.sample(sorted(COLOURS), 3)
    heights = source.sample(range(20, 95, 15), 3)
    for i, (name, height) in enumerate(zip(names, heights, strict=True)):
        draw.rectangle((12 + 34 * i, 104 - height, 34 + 34 * i, 104), fill=COLOURS[name])
    draw.line((6, 104, 108, 104), fill="#333333", width=2)
    return image, "Which colour is the tallest bar?", names[heights.index(max(heights))], "chart"


def main(
    out: tyro.conf.Positional[Path],
    *,
    grid_dir: Path | None = None,
    signs_dir: Path | None = None,
    insects_dir: Path | None = None,
    receipts_dir: Path | None = None,
    robots_dir: Path | None = None,
    street_dir: Path | None = None,
    pictures: int = 1200,
    moving_clips: int = 1200,
    scene_clips: int = 45,
    seed: int = 0,
) -> None:
    """Write OUT/train.jsonl and OUT/heldout.jsonl.

    Args:
        out: Folder for both files and the rendered pictures.
        grid_dir: Manifest folder of GRID clips.
        signs_dir: Manifest folder of sign clips.
        insects_dir: Manifest folder of ants and bees.
        receipts_dir: Manifest folder of receipts.
        robots_dir: Manifest folder of simulated robot clips.
        street_dir: Manifest folder of street cameras' clips.
        pictures: How many documents and charts to draw.
        moving_clips: How many clips to draw.
        scene_clips: How many clips of each kind to ask "What does the clip show?" about.
        seed: Of what is drawn.
    """
    items: list[Item] = list(rendered(out / "rendered", pictures, seed))
    items += moving(out / "clips", moving_clips, seed)
    given = ((grid, grid_dir), (signs, signs_dir), (insects, insects_dir), (receipts, receipts_dir),
             (robots, robots_dir))  # fmt: skip
    for maker, folder in given:
        if folder is not None:
            items += maker(folder.resolve())
    shown = {"speech": grid_dir, "signing": signs_dir, "street": street_dir, "robot": robots_dir}
    items += scenes({kind: folder.resolve() for kind, folder in shown.items() if folder is not None}, scene_clips)
    for name, wanted in (("train", False), ("heldout", True)):
        chosen = [item for item in items if item.held_out is wanted]
        lines = [_question(item, out) if wanted else _conversation(item, out) for item in chosen]
        (out / f"{name}.jsonl").write_text("".join(json.dumps(line, ensure_ascii=False) + "\n" for line in lines))
        print(f"{out / name}.jsonl: {len(lines)} items")


def _question(item: Item, out: Path) -> dict[str, Any]:
    line = {"id": _id(item), item.kind: _relative(item.path, out), "question": item.question, "answer": item.answer}
    return line | {"metric": item.metric, "task": item.task} | ({"choices": item.choices} if item.choices else {})


def _conversation(item: Item, out: Path) -> dict[str, Any]:
    turns = [
        {"from": "human", "value": f"<{item.kind}>\n{item.question}"},
        {"from": "gpt", "value": item.answer},
    ]
    return {"id": _id(item), item.kind: _relative(item.path, out), "conversations": turns}


def _id(item: Item) -> str:
    return f"{item.task}/{item.path.stem}"


def _relative(path: Path, out: Path) -> str:
    return os.path.relpath(path.resolve(), out.resolve())


if __name__ == "__main__":
    tyro.cli(main)
