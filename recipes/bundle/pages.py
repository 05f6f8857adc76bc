"""Pages of text in many fonts, sizes and colours, for OCR tags. The words on a page are its labels."""

from __future__ import annotations

import functools
from pathlib import Path

import numpy as np
from jobs import Job
from PIL import Image, ImageDraw, ImageFont

LICENCE = "own render; fonts of matplotlib (DejaVu, BaKoMa, STIX: free licences)"
PACKAGES = ("matplotlib", "wordninja==2.0.0")
MOST_WORDS = 12


@functools.cache
def _words() -> list[str]:
    """The most frequent English words of wordninja's list, 3 to 9 letters."""
    import gzip

    import wordninja

    path = Path(wordninja.__file__).parent / "wordninja" / "wordninja_words.txt.gz"
    with gzip.open(path, "rt", encoding="utf-8") as f:
        return [w for w in f.read().split()[:3000] if w.isalpha() and w.isascii() and 3 <= len(w) <= 9]


@functools.cache
def _fonts() -> list[Path]:
    import matplotlib

    folder = Path(matplotlib.get_data_path()) / "fonts" / "ttf"
    return [p for p in sorted(folder.glob("*.ttf")) if not p.stem.startswith(("cm", "STIXSiz", "STIXNonUni"))]


def plan(count: int) -> list[Job]:
    """Jobs whose labels are the words to write, drawn so that frequent words come more often."""
    words, jobs = _words(), []
    for n in range(count):
        chance = Job("pages", "page", n, ()).chance
        drawn = {words[int(len(words) * chance.random() ** 2)] for _ in range(chance.randint(1, MOST_WORDS))}
        jobs.append(Job("pages", "page", n, tuple(sorted(drawn))))
    return jobs


def render(job: Job) -> tuple[np.ndarray, float]:
    """One picture [1, H, W, 3], short side 224."""
    chance = job.chance
    width, height = chance.choice(((224, 224), (224, 320), (320, 224)))
    paper, ink = (chance.randint(190, 255) for _ in range(3)), (chance.randint(0, 90) for _ in range(3))
    page = Image.new("RGB", (width, height), tuple(paper))
    draw, colour = ImageDraw.Draw(page), tuple(ink)
    words = list(job.labels)
    chance.shuffle(words)
    size = chance.randint(18, 40) if len(words) < 5 else chance.randint(16, 26)
    face = ImageFont.truetype(str(chance.choice(_fonts())), size)
    x, y = 8.0, 8.0
    for word in words:
        wide = draw.textlength(word, font=face)
        if x + wide > width - 4:
            x, y = 8.0 + chance.uniform(0, 10), y + size * 1.35
        draw.text((x, y), word, font=face, fill=colour)
        x += wide + size * 0.5
    turned = page.rotate(chance.uniform(-4, 4), resample=Image.Resampling.BICUBIC, fillcolor=page.getpixel((1, 1)))
    return np.asarray(turned)[None], 1.0
