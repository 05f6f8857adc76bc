"""Real things that move: stamps on the tracks of physics.py, before photographs, seen by the same cameras.

Motion, camera and thing are drawn independently, so that motion cannot be told from looks.
"""

from __future__ import annotations

import numpy as np
import physics
import stamps
from jobs import Job
from PIL import Image

LICENCE = stamps.LICENCE + "; pymunk is MIT"
PACKAGES = (*stamps.PACKAGES, *physics.PACKAGES)


def plan(count: int) -> list[Job]:
    """Jobs spread over motion x camera; things are drawn."""
    things, jobs = stamps.names(), []
    for job in physics.plan(count):
        thing = Job("parade", job.what, job.number, ()).chance.choice(things)
        what = f"{thing.replace('/', '-')}+{job.what}"
        jobs.append(Job("parade", what, job.number, (*job.labels, *stamps.labels(thing))))
    return jobs


def render(job: Job) -> tuple[np.ndarray, float]:
    """72 frames [72, 224, 224, 3] at 25 frames a second."""
    chance = job.chance
    name, wide = stamps.stamp_of(job), physics.SIDE + 2 * physics.MARGIN
    scene = stamps.background(wide, chance, job.noise)
    looks: list[Image.Image] = []
    for _ in range(2 if job.labels[0] == "motion collide" else 1):
        looks.append(stamps.sprite(name, chance.randint(40, 90), chance))
    return physics.film(job, chance, scene, looks), 25.0
