"""Atari games (ale-py, ROMs inside the package): hard-edged sprites that move for many reasons, a still camera."""

from __future__ import annotations

import numpy as np
from jobs import Job, shares

LICENCE = "own render; ale-py is GPL-2.0, its ROMs are distributed with it for research"
PACKAGES = ("ale-py==0.12.1", "gymnasium>=1.0")
SKIPPED = 60  # frames before the clip: titles and waiting


def plan(count: int) -> list[Job]:
    """Jobs spread over all games; the label is the game."""
    import ale_py
    import gymnasium

    gymnasium.register_envs(ale_py)
    games = sorted(name[4:-3] for name in gymnasium.registry if name.startswith("ALE/") and name.endswith("-v5"))
    return [Job("atari", game, n, (f"game {game}",)) for game, n in shares(count, games)]


def render(job: Job) -> tuple[np.ndarray, float]:
    """64 to 96 frames [T, 210, 160, 3] of play by a player that holds each key for a while."""
    import ale_py
    import gymnasium

    gymnasium.register_envs(ale_py)
    chance = job.chance
    env = gymnasium.make(f"ALE/{job.what}-v5", frameskip=chance.choice((1, 2, 3)), repeat_action_probability=0.0)
    env.reset(seed=chance.getrandbits(31))
    actions = int(env.action_space.n)  # type: ignore[attr-defined]
    length, frames, action = chance.randint(64, 96), [], 1
    for step in range(SKIPPED + length):
        if chance.random() < 0.15:
            action = chance.randrange(actions)
        picture, _, ended, cut, _ = env.step(action)
        if ended or cut:
            picture, _ = env.reset()
        if step >= SKIPPED:
            frames.append(picture)
    env.close()
    return np.stack(frames), 30.0
