"""Solid bodies that tumble on a plane (pybullet), seen from a camera that may circle them."""

from __future__ import annotations

import math

import numpy as np
from jobs import Job, shares

LICENCE = "own render; pybullet and pybullet_data are zlib-licensed"
PACKAGES = ("pybullet==3.2.7",)
THINGS = (
    "cube_small.urdf", "sphere_small.urdf", "duck_vhacd.urdf", "teddy_vhacd.urdf", "lego/lego.urdf",
    "tray/tray.urdf", "jenga/jenga.urdf", "domino/domino.urdf", "soccerball.urdf", "r2d2.urdf",
    "racecar/racecar.urdf",
)  # fmt: skip
ACTS = ("drop", "push", "still")
CAMERAS = ("still camera", "circle left", "circle right")


def plan(count: int) -> list[Job]:
    """Jobs spread over thing x act x camera."""
    named = {
        f"{t.rsplit('/', 1)[-1][:-5]}+{a}+{c}".replace(" ", "-"): (f"thing {t}", f"act {a}", c)
        for t in THINGS
        for a in ACTS
        for c in CAMERAS
    }
    return [Job("solids", name, n, named[name]) for name, n in shares(count, list(named))]


def render(job: Job) -> tuple[np.ndarray, float]:
    """64 frames [64, 224, 224, 3] at 24 frames a second."""
    import pybullet as p
    import pybullet_data

    chance = job.chance
    thing, act, camera = job.labels[0].removeprefix("thing "), job.labels[1].removeprefix("act "), job.labels[2]
    p.connect(p.DIRECT)
    try:
        p.setAdditionalSearchPath(pybullet_data.getDataPath())
        p.setGravity(0, 0, -9.8)
        p.loadURDF("plane.urdf")
        bodies = []
        for _ in range(chance.randint(1, 4)):
            height = chance.uniform(0.5, 1.2) if act == "drop" else 0.1
            at = (chance.uniform(-0.4, 0.4), chance.uniform(-0.4, 0.4), height)
            turn = p.getQuaternionFromEuler([chance.uniform(0, 6.28) * (act == "drop"), 0, chance.uniform(0, 6.28)])
            scale = 0.5 if thing.startswith(("r2d2", "soccer")) else 3.0 if "lego" in thing or "jenga" in thing else 2.0
            bodies.append(p.loadURDF(thing, at, turn, globalScaling=scale if "car" not in thing else 1.0))
        if act != "drop":  # let them come to rest first
            for _ in range(240):
                p.stepSimulation()
        heading, around = chance.uniform(0, 2 * math.pi), chance.uniform(0, 360)
        lens = p.computeProjectionMatrixFOV(50, 1, 0.05, 20)
        far, frames = chance.uniform(0.8, 1.6), []
        for t in range(64):
            if act == "push" and t % 8 == 0:
                for body in bodies:
                    p.resetBaseVelocity(body, [1.2 * math.cos(heading), 1.2 * math.sin(heading), 0.0])
            for _ in range(10):
                p.stepSimulation()
            turned = around + {"circle left": 1.2, "circle right": -1.2}.get(camera, 0.0) * t
            seen = p.computeViewMatrixFromYawPitchRoll([0, 0, 0.15], far, turned, -25, 0, 2)
            _, _, rgba, _, _ = p.getCameraImage(224, 224, seen, lens, renderer=p.ER_TINY_RENDERER)
            frames.append(np.asarray(rgba, np.uint8).reshape(224, 224, 4)[..., :3])
    finally:
        p.disconnect()
    return np.stack(frames), 24.0
