"""Pictures of real things: cut-out photographs (Tux Paint's stamps) before photographs or noise. Debian packages.

The other sources are drawn worlds; these are what fur, feathers, leaves and metal look like. Cartoons, letters and
mirrored copies are left out.
"""

from __future__ import annotations

import functools
import math
import random
from pathlib import Path

import numpy as np
from jobs import Job, shares
from PIL import Image

LICENCE = "own render; stamps and backgrounds are GPL-2.0 or later, some photographs CC BY-SA 4.0"
PACKAGES = ("tuxpaint-stamps-default (Debian)", "mate-backgrounds (Debian)")
STAMPS, BACKGROUNDS = Path("/usr/share/tuxpaint/stamps"), Path("/usr/share/backgrounds/mate/nature")
SIDE = 224


@functools.cache
def names() -> list[str]:
    """Stamps, relative to STAMPS, without suffix."""
    left_out = ("symbols", "cartoon", "seasonal", "_mirror", "plastic")
    found = [p.relative_to(STAMPS).with_suffix("").as_posix() for p in sorted(STAMPS.rglob("*.png"))]
    kept = [name for name in found if not any(word in name for word in left_out)]
    if not kept:
        raise OSError(f"{STAMPS}: no stamps; install the Debian package tuxpaint-stamps-default")
    return kept


def labels(name: str) -> tuple[str, str]:
    """The thing itself, and its family ("animals/birds")."""
    return f"thing {name.rsplit('/', 1)[-1]}", f"family {'/'.join(name.split('/')[:-1][:2])}"


def plan(count: int) -> list[Job]:
    """Jobs spread over the stamps."""
    return [Job("stamps", name.replace("/", "-"), n, labels(name)) for name, n in shares(count, names())]


def render(job: Job) -> tuple[np.ndarray, float]:
    """One picture [1, 224, 224, 3]: a thing large before a background, sometimes cut off."""
    chance = job.chance
    scene = background(SIDE, chance, job.noise)
    stamp = sprite(stamp_of(job), round(SIDE * chance.uniform(0.45, 1.1)), chance)
    room = (SIDE - stamp.width, SIDE - stamp.height)
    x, y = (round(r / 2 + chance.uniform(-0.5, 0.5) * (abs(r) + 40)) for r in room)
    scene.paste(stamp, (x, y), stamp)
    return np.asarray(scene)[None], 1.0


def stamp_of(job: Job) -> str:
    """The stamp that a job's subject begins with."""
    subject = job.what.split("+")[0]
    return next(name for name in names() if name.replace("/", "-") == subject)


def sprite(name: str, longest: int, chance: random.Random) -> Image.Image:
    """A stamp, `longest` pixels along its longer side, mirrored or not, a little turned."""
    stamp = _open(name)
    scale = longest / max(stamp.size)
    stamp = stamp.resize((max(round(stamp.width * scale), 4), max(round(stamp.height * scale), 4)))
    if chance.random() < 0.5:
        stamp = stamp.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
    return stamp.rotate(chance.gauss(0, 8), resample=Image.Resampling.BICUBIC, expand=True)


def background(side: int, chance: random.Random, noise: np.random.Generator) -> Image.Image:
    """A part of a photograph, or of noise in two colours: [side, side]."""
    photos = sorted(BACKGROUNDS.glob("*.jpg"))
    if not photos or chance.random() < 0.3:
        return wall(side, noise)
    photo = _photo(chance.choice(photos))
    part = round(min(photo.size) * math.sqrt(chance.uniform(0.05, 0.8)))
    x, y = (chance.randint(0, size - part) for size in photo.size)
    return photo.resize((side, side), Image.Resampling.BILINEAR, box=(x, y, x + part, y + part))


def wall(side: int, noise: np.random.Generator) -> Image.Image:
    """Noise at four scales in two colours."""
    field = np.zeros((side, side), np.float32)
    for cells, weight in ((3, 1.0), (8, 0.6), (24, 0.4), (80, 0.25)):
        small = Image.fromarray(noise.random((cells, cells)).astype(np.float32))
        field += weight * np.asarray(small.resize((side, side), Image.Resampling.BICUBIC))
    field = (field - field.min()) / np.ptp(field)
    colours = noise.integers(20, 236, (2, 3))
    return Image.fromarray((colours[0] + field[..., None] * (colours[1] - colours[0])).astype(np.uint8))


@functools.lru_cache(maxsize=64)
def _open(name: str) -> Image.Image:
    stamp = Image.open(STAMPS / f"{name}.png").convert("RGBA")
    stamp = stamp.crop(stamp.getchannel("A").getbbox())
    stamp.thumbnail((320, 320))
    return stamp


@functools.lru_cache(maxsize=16)
def _photo(path: Path) -> Image.Image:
    photo = Image.open(path).convert("RGB")
    photo.thumbnail((1400, 1400))
    return photo
