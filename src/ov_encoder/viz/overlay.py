"""Kept patches drawn over their frames: arrays and Pillow images. Nothing is read, ranked or written here.

Shapes: T = time slots, H, W = patch rows and columns, P = patch side in pixels, C = 3 colours.
"""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from ov_encoder.patchify.plan import ClipPlan

PAPER, INK, SOFT = "#fbfaf7", "#2b2b2b", "#77746c"
ANCHOR, SHOT = "#e0912f", "#12828a"  # slots kept whole; first slots of shots
HEAT = ("#f4f1ea", "#f6d9a8", "#ee9b54", "#cf4b3c", "#6d1f45", "#2a0f2e")  # low to high score
MAX_TILES = 96
_SHEET_WIDTH = 1720


def fade(frames_THWC: np.ndarray) -> np.ndarray:
    """The look of patches that were not kept: grey, most of the way to paper."""
    luma = frames_THWC.astype(np.float32) @ np.array([0.299, 0.587, 0.114], np.float32)
    return np.repeat((0.30 * luma + 0.70 * 236)[..., None].astype(np.uint8), 3, axis=-1)


def kept_over_faded(plan: ClipPlan, slots: np.ndarray | None = None) -> np.ndarray:
    """Frames with kept patches as they are and all others faded: uint8 [slots, H*P, W*P, 3]."""
    chosen = np.arange(plan.grid[0]) if slots is None else np.asarray(slots)
    frames = plan.frames_THWC[chosen]
    P = plan.patch_size
    pixel_keep = plan.keep_THW[chosen].repeat(P, axis=1).repeat(P, axis=2)[..., None]
    return np.where(pixel_keep, frames, fade(frames))


def score_colours(scores_THW: np.ndarray) -> np.ndarray:
    """Scores as colours, uint8 [T, H, W, 3]. Scaled to the 99th percentile; slots without scores are paper."""
    level = scale_scores(scores_THW) * (len(HEAT) - 1)
    stops = np.array([_rgb(c) for c in HEAT], np.float32)
    low = np.clip(np.floor(level), 0, len(HEAT) - 2).astype(int)
    part = (level - low)[..., None]
    return (stops[low] * (1 - part) + stops[low + 1] * part).round().astype(np.uint8)


def scale_scores(scores_THW: np.ndarray) -> np.ndarray:
    """Scores from 0 to 1 (99th percentile and above); 0 where a slot was not scored."""
    known = scores_THW[np.isfinite(scores_THW)]
    if not known.size:
        return np.zeros(scores_THW.shape, np.float32)
    low, high = float(known.min()), float(np.percentile(known, 99))
    if high <= low:
        high = float(known.max())
    scaled = (np.nan_to_num(scores_THW, nan=low, posinf=high, neginf=low) - low) / max(high - low, 1e-12)
    return np.clip(scaled, 0, 1).astype(np.float32)


def contact_sheet(plan: ClipPlan, *, scores: bool = False) -> Image.Image:
    """All slots on one sheet: kept patches in colour, the others faded; slots kept whole are framed.

    scores: draw the score map instead of the choice. Shows at most MAX_TILES slots, evenly spread, and says so.
    """
    T, H, W = plan.grid
    slots = np.unique(np.linspace(0, T - 1, min(T, MAX_TILES)).round().astype(int))
    columns, tile_w, tile_h = _layout(len(slots), W / H)
    rows = math.ceil(len(slots) / columns)
    gap, caption, margin, header = 12, 24, 28, 96
    width = max(2 * margin + columns * (tile_w + gap) - gap, 760)
    sheet = Image.new("RGB", (width, header + rows * (tile_h + caption + gap) + margin), PAPER)
    draw = ImageDraw.Draw(sheet)
    _header(draw, plan, width, margin, len(slots))
    tiles = score_colours(plan.scores_THW[slots]) if scores else kept_over_faded(plan, slots)
    kept_T = plan.keep_THW.sum(axis=(1, 2))
    anchors = set(np.flatnonzero(plan.anchors_T).tolist()) if T > 1 else set()
    shots = {slot: i + 1 for i, slot in enumerate(plan.shots)}
    for i, slot in enumerate(slots.tolist()):
        x = margin + (i % columns) * (tile_w + gap)
        y = header + (i // columns) * (tile_h + caption + gap)
        method = Image.Resampling.NEAREST if scores else Image.Resampling.LANCZOS
        sheet.paste(Image.fromarray(tiles[i]).resize((tile_w, tile_h), method), (x, y))
        if slot in anchors:
            draw.rectangle((x - 3, y - 3, x + tile_w + 2, y + tile_h + 2), outline=ANCHOR, width=3)
        below = y + tile_h + 5
        if T > 1:
            draw.text((x, below), f"{plan.slot_times_T[slot]:.2f} s", fill=INK, font=font(14))
        draw.text((x + tile_w, below), f"{kept_T[slot]} kept", fill=SOFT, font=font(14), anchor="ra")
        if slot in shots and len(shots) > 1:
            _tag(draw, x, y, f"shot {shots[slot]}")
    return sheet


def side_by_side(plan: ClipPlan, *, height: int = 448) -> np.ndarray:
    """Original beside kept patches for every slot, for a movie: uint8 [T, even, even, 3].

    height: pixels of a pane, met by scaling up (small frames) or down; less where it would be wider than 960.
    """
    T, H, W = plan.grid
    pane_h = max(2, int(min(height, 960 * H / W)) // 2 * 2)
    pane_w = max(2, round(pane_h * W / H / 2) * 2)
    strip, gap = 36, 8
    out = np.empty((T, pane_h + strip, 2 * pane_w + gap, 3), np.uint8)
    anchors = set(np.flatnonzero(plan.anchors_T).tolist()) if T > 1 else set()
    for t in range(T):
        canvas = Image.new("RGB", (out.shape[2], out.shape[1]), PAPER)
        for i, frame in enumerate((plan.frames_THWC[t], kept_over_faded(plan, np.array([t]))[0])):
            pane = Image.fromarray(frame).resize((pane_w, pane_h), Image.Resampling.BICUBIC)
            canvas.paste(pane, (i * (pane_w + gap), 0))
        draw = ImageDraw.Draw(canvas)
        kept = f"{int(plan.keep_THW[t].sum())} of {H * W} patches kept"
        draw.text((8, pane_h + 8), f"{plan.slot_times_T[t]:.2f} s", fill=INK, font=font(16))
        draw.text((pane_w + gap, pane_h + 8), kept, fill=INK, font=font(16))
        if t in anchors:
            draw.rectangle((pane_w + gap, 0, canvas.width - 1, pane_h - 1), outline=ANCHOR, width=4)
        out[t] = np.asarray(canvas)
    return out


def facts(plan: ClipPlan) -> str:
    """One line about the source and what was kept: codec, size, rate, mode, tokens."""
    info = plan.info
    T, H, W = plan.grid
    rate = f", {info.fps:.4g} fps, {info.duration_s:.1f} s" if info.kind != "image" and info.fps else ""
    share = f"{plan.tokens:,} of {T * H * W:,} patches ({100 * plan.tokens / (T * H * W):.1f} %)"
    slots = f"{T} slots of " if T > 1 else ""
    return f"{info.codec} {info.width}x{info.height}{rate} | {plan.mode} | {slots}{H}x{W} | {share}"


def title(plan: ClipPlan) -> str:
    """How a picture calls its source: the file's name without its folders."""
    return Path(plan.info.name).name or plan.info.name


def font(size: int) -> ImageFont.ImageFont | ImageFont.FreeTypeFont:
    """Pillow's own face, the same on every machine."""
    return ImageFont.load_default(size)


def _layout(tiles: int, aspect: float) -> tuple[int, int, int]:
    """Columns, tile width and tile height of a sheet that is about as wide as a screen."""
    about = min(tiles, 8, max(1, round(math.sqrt(1.6 * tiles / aspect))))
    near = [c for c in (about, about + 1, about - 1) if 1 <= c <= min(tiles, 8)]
    columns = min(near, key=lambda c: -tiles % c)  # of about as many, those that leave the fewest gaps
    tile_w = min(_SHEET_WIDTH // columns - 12, 900)
    if tile_w / aspect > 900:
        tile_w = int(900 * aspect)
    return columns, max(tile_w, 24), max(round(tile_w / aspect), 24)


def _header(draw: ImageDraw.ImageDraw, plan: ClipPlan, width: int, margin: int, shown: int) -> None:
    draw.text((margin, 20), fit(title(plan), font(24), width - 2 * margin), fill=INK, font=font(24))
    T = plan.grid[0]
    some = f" | {shown} of {T} slots shown" if shown < T else ""
    draw.text((margin, 56), fit(facts(plan) + some, font(16), width - 2 * margin), fill=SOFT, font=font(16))
    if plan.anchors_T.any() and T > 1:
        text, right = "kept whole", width - margin
        left = right - draw.textlength(text, font=font(16))
        draw.text((left, 24), text, fill=SOFT, font=font(16))
        draw.rectangle((left - 26, 26, left - 10, 40), outline=ANCHOR, width=3)


def fit(text: str, face: ImageFont.ImageFont | ImageFont.FreeTypeFont, width: float) -> str:
    """`text`, shortened with dots until it is at most `width` pixels wide."""
    if face.getlength(text) <= width:
        return text
    while text and face.getlength(text + "...") > width:
        text = text[:-1]
    return text + "..."


def _tag(draw: ImageDraw.ImageDraw, x: int, y: int, text: str) -> None:
    length = draw.textlength(text, font=font(13))
    draw.rectangle((x, y, x + length + 12, y + 20), fill=SHOT)
    draw.text((x + 6, y + 3), text, fill="white", font=font(13))


def _rgb(colour: str) -> tuple[int, int, int]:
    return int(colour[1:3], 16), int(colour[3:5], 16), int(colour[5:7], 16)
