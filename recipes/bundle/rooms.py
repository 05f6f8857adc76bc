"""Walks through rooms (miniworld): the camera itself moves, everything shifts."""

from __future__ import annotations

import os

import numpy as np
from jobs import Job, shares

LICENCE = "own render; miniworld is Apache-2.0"
PACKAGES = ("miniworld==2.1.0", "gymnasium>=1.0")
WORLDS = ("FourRooms", "Hallway", "MazeS3", "OneRoom", "PickupObjects", "PutNext", "RoomObjects", "Sidewalk", "Sign",
          "ThreeRooms", "TMaze", "WallGap", "YMaze")  # fmt: skip
WALKS = {"turn left": 0, "turn right": 1, "walk": 2, "look around": None}


def plan(count: int) -> list[Job]:
    """Jobs spread over world x walk."""
    pairs = {f"{w}+{k}".replace(" ", "-"): (f"room {w}", f"walk {k}") for w in WORLDS for k in WALKS}
    return [Job("rooms", pair, n, pairs[pair]) for pair, n in shares(count, list(pairs))]


def render(job: Job) -> tuple[np.ndarray, float]:
    """64 frames [64, 224, 224, 3]."""
    os.environ.setdefault("PYGLET_HEADLESS", "1")
    import gymnasium
    import miniworld  # noqa: F401 (registers its worlds)

    chance = job.chance
    world, walk = job.labels[0].removeprefix("room "), job.labels[1].removeprefix("walk ")
    env = gymnasium.make(f"MiniWorld-{world}-v0", render_mode="rgb_array", obs_width=224, obs_height=224)
    picture, _ = env.reset(seed=chance.getrandbits(31))
    frames, action = [], chance.choice((0, 1, 2))
    for _ in range(64):
        if walk == "look around" and chance.random() < 0.2:
            action = chance.choice((0, 1, 2))
        wanted = WALKS[walk]
        before = env.unwrapped.agent.pos.copy()  # type: ignore[attr-defined]
        picture, _, ended, cut, _ = env.step(action if wanted is None else wanted)
        if wanted == 2 and (env.unwrapped.agent.pos == before).all():  # a wall: turn away from it, unseen
            for _ in range(chance.randint(4, 8)):
                picture, _, ended, cut, _ = env.step(0)
        frames.append(picture["obs"] if isinstance(picture, dict) else picture)  # Sign gives its goal beside it
        if ended or cut:
            env.reset()
    env.close()
    return np.stack(frames), 15.0
