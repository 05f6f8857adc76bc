"""Self-contained HTML: pages made of sections, and the interactive view of one plan. No file is read here.

Shapes: T = time slots, H, W = patch rows and columns, N = T*H*W patches of a plan.
"""

from __future__ import annotations

import base64
import html
import io
import json
from collections.abc import Iterable

import numpy as np
from PIL import Image

from ov_encoder.patchify.plan import ClipPlan
from ov_encoder.viz.assets import SCRIPT, STYLE
from ov_encoder.viz.movie import slot_rate
from ov_encoder.viz.overlay import ANCHOR, HEAT, SHOT, facts, scale_scores, title

_FRAME_PIXELS = 10_000_000  # of all embedded frames together
_FRAME_BYTES = 6_500_000  # of all embedded JPEGs together: a page stays under 10 MB


def page(heading: str, intro: str, sections: Iterable[str]) -> str:
    """A whole HTML document from sections made by the functions below."""
    return (
        f'<!doctype html>\n<html lang="en"><head><meta charset="utf-8"><title>{html.escape(heading)}</title>'
        f'<meta name="viewport" content="width=device-width, initial-scale=1"><style>{STYLE}</style></head>'
        f"<body><main><h1>{html.escape(heading)}</h1><p>{html.escape(intro)}</p>{''.join(sections)}"
        f"<footer>Made by ov-encoder. This file needs no network.</footer></main><script>{SCRIPT}</script>"
        "</body></html>\n"
    )


def table_section(heading: str, rows: Iterable[tuple[str, str]]) -> str:
    """A small table of names and values."""
    lines = "".join(f"<tr><th>{html.escape(a)}</th><td>{html.escape(b)}</td></tr>" for a, b in rows)
    return f"<h2>{html.escape(heading)}</h2><table>{lines}</table>"


def figure_section(heading: str, png: bytes) -> str:
    """A picture, embedded."""
    data = base64.b64encode(png).decode()
    return f'<h2>{html.escape(heading)}</h2><figure><img alt="" src="data:image/png;base64,{data}"></figure>'


def provenance_section(plan: ClipPlan) -> str:
    """What each signal was and where it came from, with the fallbacks that were taken."""
    rows = [
        (key, value if isinstance(value, str) else ", ".join(f"{k}: {v}" for k, v in value.items()))
        for key, value in plan.provenance.items()
        if key != "notes"
    ]
    rows += [("note", note) for note in plan.notes]
    return table_section("Where the signals come from", rows)


def viewer_section(plan: ClipPlan) -> str:
    """The interactive view: frames, kept patches at any budget, the score map, patches per slot.

    The slider orders patches as `ranking` does: at the plan's own budget it shows the plan exactly.
    """
    T, H, W = plan.grid
    scored = bool(np.isfinite(plan.scores_THW).any())
    single = T == 1 and not scored
    levels = (scale_scores(plan.scores_THW) * 255).round().astype(np.uint8)
    free_T = plan.keep_THW.sum(axis=(1, 2)) * ~plan.anchors_T
    data = {
        "T": T, "H": H, "W": W, "kept": plan.tokens, "scored": scored, "single": single, "heat": HEAT,
        "first": int(free_T.argmax()), "rate": slot_rate(plan.slot_times_T),
        "times": [round(float(s), 3) for s in plan.slot_times_T],
        "anchors": np.flatnonzero(plan.anchors_T).tolist() if T > 1 else [], "shots": [int(s) for s in plan.shots],
        "rank": base64.b64encode(ranking(plan).astype("<u4").tobytes()).decode(),
        "score": base64.b64encode(levels.tobytes()).decode(),
        "frames": [base64.b64encode(jpeg).decode() for jpeg in _jpegs(plan.frames_THWC)],
    }  # fmt: skip
    embedded = json.dumps(data).replace("</", "<\\/")
    return (
        f'<section class="viewer"><h2>{html.escape(title(plan))}</h2>'
        f'<div class="facts">{html.escape(facts(plan))}</div>{_controls(scored)}{_stage(plan, single)}'
        f'<script type="application/json">{embedded}</script></section>'
    )


def ranking(plan: ClipPlan) -> np.ndarray:
    """Rank of every patch, int [N] in (t, h, w) order: the first `plan.tokens` ranks are the kept patches.

    Kept patches come first (whole frames, then by score), all others after them by score; ties and patches
    without a score in (t, h, w) order.
    """
    keep_N = plan.keep_THW.ravel()
    whole_N = plan.anchors_T.repeat(plan.grid[1] * plan.grid[2]) & keep_N
    scores_N = np.nan_to_num(plan.scores_THW.ravel(), nan=-np.inf)
    order = np.lexsort((-scores_N, ~whole_N, ~keep_N))  # stable: ties stay in (t, h, w) order
    rank_N = np.empty(len(order), np.int64)
    rank_N[order] = np.arange(len(order))
    return rank_N


def _controls(scored: bool) -> str:
    if not scored:
        return '<p><output class="amount"></output>. Nothing was ranked in this mode.</p>'
    return (
        '<div class="controls"><label>budget <input class="slider" type="range" min="0" max="1000">'
        '<output class="amount"></output></label><button class="chosen">as chosen</button>'
        '<label><input class="map" type="checkbox"> score map</label></div>'
    )


def _stage(plan: ClipPlan, single: bool) -> str:
    T = plan.grid[0]
    width = min(1132, int((1 if single else 2) * max(plan.frames_THWC.shape[2] * 1.6, 480)))
    original = '<figure><canvas class="original"></canvas><figcaption class="time"></figcaption></figure>'
    kept = '<figure><canvas class="kept"></canvas><figcaption class="count"></figcaption></figure>'
    stage = (
        f'<div class="stage{" single" if single else ""}" style="--stage:{width}px">'
        f"{original}{'' if single else kept}</div>"
    )
    if T == 1:
        return stage
    player = '<button class="play">play</button><input class="position" type="range" min="0" value="0">'
    heat = f"linear-gradient(90deg,{','.join(HEAT)})"
    keys = "".join(
        f'<span><i class="{shape}" style="background:{colour}"></i>{text}</span>'
        for shape, colour, text in (
            ("", ANCHOR, "kept whole"),
            ("", SHOT, "shot starts"),
            ("heat", heat, "score, low to high"),
        )
    )
    return (
        f'{stage}<div class="controls player" style="max-width:{width}px">{player}</div>'
        f'<canvas class="bars"></canvas><div class="key"><span>patches kept in each slot</span>{keys}</div>'
        '<canvas class="sheet"></canvas>'
    )


def _jpegs(frames_THWC: np.ndarray) -> list[bytes]:
    """Every frame as a JPEG, small enough that all of them fit into one page."""
    T, height, width, _ = frames_THWC.shape
    scale = min(1.0, (_FRAME_PIXELS / (T * height * width)) ** 0.5, 1400 / max(height, width))
    size = (max(1, round(width * scale)), max(1, round(height * scale)))
    small = [Image.fromarray(f).resize(size, Image.Resampling.LANCZOS) for f in frames_THWC]
    for quality in (85, 70, 50, 30):
        jpegs = []
        for picture in small:
            out = io.BytesIO()
            picture.save(out, "JPEG", quality=quality)
            jpegs.append(out.getvalue())
        if sum(map(len, jpegs)) <= _FRAME_BYTES:
            break
    return jpegs
