"""Policies: ways to spend the same token budget on the same frames. Only the choice of patches differs between them.

Reading, resizing, cutting and the codec's own choices are `patchify`'s; here are the rivals that it is compared with.
A policy that does not look at codec signals does not read them, so its reading time is honest.

Shapes: T = slots, H, W = patch rows and columns, P = patch side in pixels.
"""

from __future__ import annotations

import difflib
import hashlib
import time
from collections.abc import Callable
from dataclasses import asdict, replace
from typing import get_args, get_type_hints

import numpy as np

from ov_encoder.codec.media import Source
from ov_encoder.patchify.api import plan
from ov_encoder.patchify.options import Options
from ov_encoder.patchify.plan import ClipPlan
from ov_encoder.patchify.saliency import centre_weight
from ov_encoder.patchify.select import anchor_slots, select, token_budget

SIGNALS = ("fused", "motion", "residual", "bits")  # ranked by what the codec says
# "motion:native": from one provider only, by the names of the option `signals`
PROVIDERS = tuple(name for name in get_args(get_type_hints(Options)["signals"]) if name != "auto")
Score = Callable[[np.ndarray, int, np.random.Generator], np.ndarray]  # frames_THWC, patch, random -> scores_THW


def choose(source: Source, policy: str, *, options: Options, seed: int = 0, key: str = "") -> ClipPlan:
    """Read a source and keep the patches that a policy wants, as `ov.plan` does for the codec's.

    policy: one of `POLICIES`. options: frames, size, patch, budget and anchors hold for every policy; mode, signal and
    signals are the policy's. seed, key: random patches are a function of both (key: the sample's id).

    Raises:
        ValueError: an unknown policy, a signal that the clip does not have, or a budget of less than one frame for
            "uniform". OvEncoderError: the source is bad.
    """
    check_policy(policy)
    signal, _, provider = policy.partition(":")
    if signal in SIGNALS:
        wanted = replace(options, mode="codec", signal=signal, signals=provider or options.signals)  # type: ignore[arg-type]
        return plan(source, **asdict(wanted))
    whole = replace(options, mode="chunk", budget=1.0 if policy == "dense" else options.budget)
    made = plan(source, **asdict(whole))
    if policy == "uniform" and isinstance(options.budget, int) and made.tokens > options.budget:
        raise ValueError(f"budget={options.budget} tokens does not pay for one whole frame of {made.tokens} patches")
    if policy in SCORES:
        began = time.perf_counter()
        made = rank(made, SCORES[policy](made.frames_THWC, made.patch_size, random_of(seed, key)), options)
        made.seconds["select"] += time.perf_counter() - began
        made.provenance["signal"] = policy
    return made


def rank(made: ClipPlan, scores_THW: np.ndarray, options: Options) -> ClipPlan:
    """The same clip with its patches chosen by other scores: same budget, whole frames and rules as in `ov.plan`.

    Shots and key frames are the codec's knowledge, so whole frames are spread evenly here.
    """
    T, H, W = made.grid
    bits_T, intra_T = np.zeros(T), np.zeros(T)
    K = token_budget(options.budget, made.grid, bits_T, intra_T, block=options.block)
    room = K // (H * W) if K == T * H * W else 2 * K // (3 * H * W)
    anchors = anchor_slots(options.anchors, [0], np.zeros(T, bool), room=room)
    keep_THW, _ = select(
        scores_THW,
        K,
        anchors=anchors,
        shots=[0],
        block=options.block,
        slot_floor=options.slot_floor,
        slot_cap=options.slot_cap,
    )
    anchors_T = np.zeros(T, bool)
    anchors_T[anchors] = True
    return replace(made, mode="codec", scores_THW=scores_THW, keep_THW=keep_THW, anchors_T=anchors_T)


def random_scores(frames_THWC: np.ndarray, patch: int, random: np.random.Generator) -> np.ndarray:
    """Every patch of every slot is as likely as any other."""
    T, Y, X, _ = frames_THWC.shape
    return 1 - random.random((T, Y // patch, X // patch), np.float32)  # never 0, which means "nothing changed"


def difference_scores(frames_THWC: np.ndarray, patch: int, random: np.random.Generator) -> np.ndarray:
    """Mean absolute difference of a patch to the slot before, in grey levels; NaN in the first slot."""
    T, Y, X, _ = frames_THWC.shape
    scores_THW = np.full((T, Y // patch, X // patch), np.nan, np.float32)
    for t in range(1, T):
        change_YX = np.abs(frames_THWC[t].astype(np.int16) - frames_THWC[t - 1]).mean(axis=2, dtype=np.float32)
        scores_THW[t] = change_YX.reshape(Y // patch, patch, X // patch, patch).mean(axis=(1, 3))
    return scores_THW


def centre_scores(frames_THWC: np.ndarray, patch: int, random: np.random.Generator) -> np.ndarray:
    """The closer to the middle of the picture the better, the same in every slot: the bias of R 11.1, taken alone."""
    T, Y, X, _ = frames_THWC.shape
    return np.broadcast_to(centre_weight(Y // patch, X // patch), (T, Y // patch, X // patch)).copy()


SCORES: dict[str, Score] = {"random": random_scores, "difference": difference_scores, "centre": centre_scores}
POLICIES = (
    *SIGNALS,
    *(f"{signal}:{provider}" for signal in SIGNALS for provider in PROVIDERS),
    "uniform",  # whole frames from the middle of equal chunks
    *SCORES,
    "dense",  # every patch of every slot: what there is to reach, at any price
)


def check_policy(policy: str) -> None:
    """Raises ValueError, with all names, unless this is one of POLICIES."""
    if policy not in POLICIES:
        close = difflib.get_close_matches(policy, POLICIES, n=1)
        hint = f" (did you mean {close[0]!r}?)" if close else ""
        raise ValueError(f"unknown policy {policy!r}{hint}; policies: {', '.join(POLICIES)}")


def random_of(seed: int, key: str) -> np.random.Generator:
    """Random numbers of one sample: the same whatever the order in which samples are read."""
    digest = hashlib.blake2b(key.encode(), digest_size=8).digest()
    return np.random.default_rng([seed, int.from_bytes(digest, "little")])
