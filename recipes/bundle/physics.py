"""Things that fall, bounce, roll, swing and collide before a textured wall (pymunk), seen by a camera that may move.

What moves, how, and how the camera moves are drawn independently, so that motion cannot be told from looks: the
label names the motion and the camera, not the thing.
"""

from __future__ import annotations

import math
import random

import numpy as np
import pymunk
import stamps
from jobs import Job, shares
from PIL import Image, ImageDraw

LICENCE = "own render; pymunk is MIT"
PACKAGES = ("pymunk==7.3.1",)
MOTIONS = ("fall", "bounce", "roll left", "roll right", "swing", "collide", "rise", "orbit", "shake", "still", "grow",
           "spin")  # fmt: skip
CAMERAS = ("still camera", "pan left", "pan right", "tilt up", "tilt down", "zoom in", "zoom out")
SIDE, MARGIN = 224, 96  # the wall is larger than the picture by the margin on each side


def plan(count: int) -> list[Job]:
    """Jobs spread over motion x camera."""
    pairs = [f"{m}+{c}".replace(" ", "-") for m in MOTIONS for c in CAMERAS]
    named = {f"{m}+{c}".replace(" ", "-"): (f"motion {m}", c) for m in MOTIONS for c in CAMERAS}
    return [Job("physics", pair, n, named[pair]) for pair, n in shares(count, pairs)]


def render(job: Job) -> tuple[np.ndarray, float]:
    """64 to 80 frames [T, 224, 224, 3] at 25 frames a second."""
    chance, noise = job.chance, job.noise
    length = chance.randint(64, 80)
    wall = stamps.wall(SIDE + 2 * MARGIN, noise)
    looks = [_thing(noise, chance) for _ in range(2 if job.labels[0] == "motion collide" else 1)]
    return film(job, chance, wall, looks, length), 25.0


def film(job: Job, chance: random.Random, wall: Image.Image, looks: list[Image.Image], length: int = 72) -> np.ndarray:
    """[length, 224, 224, 3]: things that move as the job says, before a wall, seen by its camera."""
    motion, camera = job.labels[0].removeprefix("motion "), job.labels[1]
    tracks = _tracks(motion, length, chance)
    speed = chance.uniform(0.4, 1.0)
    frames = []
    for t in range(length):
        scene = wall.copy()
        for look, track in zip(looks, tracks, strict=True):
            x, y, angle, scale = track[t]
            sprite = look.rotate(angle, resample=Image.Resampling.BILINEAR, expand=True)
            if scale != 1:
                sprite = sprite.resize((max(int(sprite.width * scale), 2), max(int(sprite.height * scale), 2)))
            scene.paste(sprite, (round(MARGIN + x - sprite.width / 2), round(MARGIN + y - sprite.height / 2)), sprite)
        frames.append(_look(scene, camera, (t / (length - 1) - 0.5) * speed))
    return np.stack(frames)


def _thing(noise: np.random.Generator, chance) -> Image.Image:
    """A ball, box, triangle or star with a stripe, so that its rotation shows."""
    side = chance.randint(26, 52)
    thing = Image.new("RGBA", (side, side))
    draw = ImageDraw.Draw(thing)
    fill, stripe = (tuple(int(c) for c in noise.integers(0, 256, 3)) for _ in range(2))
    corners = chance.choice((0, 3, 4, 5, 7))
    if corners == 0:
        draw.ellipse((0, 0, side - 1, side - 1), fill=fill)
    else:
        turns = [2 * math.pi * i / corners for i in range(corners)]
        draw.polygon([(side / 2 * (1 + math.cos(a)), side / 2 * (1 + math.sin(a))) for a in turns], fill=fill)
    draw.line((side * 0.3, side / 2, side * 0.7, side / 2), fill=stripe, width=max(side // 7, 2))
    return thing


def _tracks(motion: str, length: int, chance) -> list[list[tuple[float, float, float, float]]]:
    """(x, y, angle, scale) of every thing in every frame, in pixels of the picture."""
    if motion in ("orbit", "shake", "still", "grow", "spin", "rise"):
        return [_drawn(motion, length, chance)]
    space = pymunk.Space()
    space.gravity = (0, 0 if motion in ("roll left", "roll right") else 500)
    ground = pymunk.Segment(space.static_body, (-400, 190), (700, 190), 4)
    ground.elasticity, ground.friction = (0.9 if motion == "bounce" else 0.05), 1.0
    space.add(ground)
    bodies = []
    for i in range(2 if motion == "collide" else 1):
        body = pymunk.Body(1, 200)
        shape = pymunk.Circle(body, 18)
        shape.elasticity, shape.friction = (0.85 if motion == "bounce" else 0.3), 0.9
        side = 1 if i == 0 else -1
        body.position, body.velocity = {
            "fall": ((chance.uniform(60, 160), chance.uniform(-60, 10)), (0, 0)),
            "bounce": ((chance.uniform(60, 160), chance.uniform(20, 70)), (chance.uniform(-20, 20), 0)),
            "roll left": ((chance.uniform(190, 230), 171), (-chance.uniform(60, 90), 0)),
            "roll right": ((chance.uniform(-6, 30), 171), (chance.uniform(60, 90), 0)),
            "swing": ((112 + chance.choice((-1, 1)) * chance.uniform(55, 75), 60), (0, 0)),
            "collide": ((112 - side * chance.uniform(90, 110), 171), (side * chance.uniform(70, 110), 0)),
        }[motion]
        body.angular_velocity = body.velocity[0] / 18
        space.add(body, shape)
        if motion == "swing":
            space.add(pymunk.PinJoint(space.static_body, body, (112, -10), (0, 0)))
        bodies.append(body)
    tracks: list[list[tuple[float, float, float, float]]] = [[] for _ in bodies]
    for _ in range(length):
        for track, body in zip(tracks, bodies, strict=True):
            track.append((body.position.x, body.position.y, -math.degrees(body.angle), 1.0))
        for _ in range(4):
            space.step(0.01)
    return tracks


def _drawn(motion: str, length: int, chance) -> list[tuple[float, float, float, float]]:
    """Motions that no gravity makes."""
    x, y, turn = chance.uniform(80, 144), chance.uniform(80, 144), chance.uniform(0, 360)
    rate = chance.uniform(0.8, 1.5)
    track = []
    for t in range(length):
        s = t / length
        track.append(
            {
                "still": (x, y, turn, 1.0),
                "spin": (x, y, turn + 360 * rate * s, 1.0),
                "grow": (x, y, turn, 0.6 + 1.6 * s),
                "shake": (x + 9 * math.sin(40 * rate * s), y, turn, 1.0),
                "rise": (x, 235 - 240 * s * rate, turn, 1.0),
                "orbit": (112 + 60 * math.cos(8 * rate * s), 112 + 60 * math.sin(8 * rate * s), turn, 1.0),
            }[motion]
        )
    return track


def _look(scene: Image.Image, camera: str, when: float) -> np.ndarray:
    """What the camera sees at `when` in [-0.5, 0.5] of its way."""
    way = when * 2 * (MARGIN - 8)
    dx, dy = {"pan left": (-way, 0), "pan right": (way, 0), "tilt up": (0, -way), "tilt down": (0, way)}.get(
        camera, (0.0, 0.0)
    )
    zoom = {"zoom in": 1 - 0.5 * when, "zoom out": 1 + 0.5 * when}.get(camera, 1.0)
    half, centre = SIDE / 2 * zoom, MARGIN + SIDE / 2
    box = (centre + dx - half, centre + dy - half, centre + dx + half, centre + dy + half)
    return np.asarray(scene.resize((SIDE, SIDE), Image.Resampling.BILINEAR, box=box))
