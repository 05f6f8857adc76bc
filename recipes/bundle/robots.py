"""A robot arm at its tasks (Meta-World, scripted policies). Tasks that are kept for evaluation are never rendered."""

from __future__ import annotations

import os
import warnings

import numpy as np
from jobs import Job, shares

LICENCE = "own render; metaworld is MIT, mujoco Apache-2.0"
PACKAGES = ("metaworld==3.1.1", "mujoco==3.3.0", "packaging")
CAMERAS = ("corner", "corner2", "corner3")
# What evaluation asks about: the tasks of the Meta-World set in use, and pairs that differ only in their motion.
_EVALUATED = """assembly basketball box-close button-press button-press-topdown-wall coffee-button coffee-push dial-turn
door-close door-open door-unlock drawer-open faucet-open hammer handle-press-side handle-pull handle-pull-side
peg-insert-side pick-out-of-hole pick-place plate-slide plate-slide-back-side plate-slide-side push reach reach-wall
soccer stick-push sweep-into window-close"""
_PARTNERS = """disassemble button-press-topdown coffee-pull door-lock drawer-close faucet-close handle-press
plate-slide-back stick-pull window-open"""
HELD_OUT = frozenset(f"{task}-v3" for task in (_EVALUATED + " " + _PARTNERS).split())


def plan(count: int) -> list[Job]:
    """Jobs spread over the tasks that are left; labels are task and camera."""
    from metaworld.policies import ENV_POLICY_MAP

    tasks = sorted(set(ENV_POLICY_MAP) - HELD_OUT)
    return [
        Job("robots", f"{task}", n, (f"task {task}", f"view {CAMERAS[n % len(CAMERAS)]}"))
        for task, n in shares(count, tasks)
    ]


def render(job: Job) -> tuple[np.ndarray, float]:
    """Up to 80 frames [T, 224, 224, 3]; the episode ends 20 steps after success."""
    os.environ.setdefault("MUJOCO_GL", "egl")
    warnings.filterwarnings("ignore", module="gymnasium")
    import metaworld
    from gymnasium.envs.mujoco.mujoco_rendering import MujocoRenderer
    from metaworld.policies import ENV_POLICY_MAP

    chance, noise = job.chance, job.noise
    bench = metaworld.MT1(job.what, seed=chance.getrandbits(20))
    env = bench.train_classes[job.what](render_mode="rgb_array", camera_name="corner2", width=224, height=224)
    env.model.vis.quality.shadowsize = env.model.vis.quality.offsamples = 0  # six times as fast
    env.set_task(bench.train_tasks[chance.randrange(len(bench.train_tasks))])
    camera = job.labels[1].removeprefix("view ")
    env.mujoco_renderer = MujocoRenderer(env.model, env.data, None, 224, 224, 1000, None, camera)
    seen, _ = env.reset()
    policy, frames, after = ENV_POLICY_MAP[job.what](), [], 0
    for step in range(240):
        action = np.clip(policy.get_action(seen) + noise.normal(0, 0.1, 4), -1, 1)
        seen, _, _, _, info = env.step(action)
        after += bool(info["success"] or after)
        if step % 3 == 0:
            frames.append(np.rot90(env.render(), 2))  # these cameras are upside down
        if after > 20 and len(frames) >= 32:
            break
    env.close()
    return np.stack(frames), 25.0
