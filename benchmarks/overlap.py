"""Which patches each codec signal picks on real clips: how far providers and signals agree, and what each costs.

    python benchmarks/overlap.py FOLDER_OR_FILE... [--clips 100] [--plot FILE.png] [--save FILE.json]

Of every folder below the given ones equally many clips are taken, evenly spaced by name. Each clip is read once by
every provider that serves it (64 slots, no whole frames kept), and its patches are ranked by each signal alone and
fused. Overlap is |A and B| / |A|, averaged over the clips that both A and B serve, with 95 % bootstrap intervals over
clips. Only patches that a signal chose count: fillers (what is left of the budget where too little changed) do not,
nor does the first slot, which has nothing before it. Rivals without a codec: frame difference and random patches;
"its slots" and "its places" keep of bitstream/fused only how many patches each slot has, or only where they lie.

Cost is CPU time of one clip, without selection or cutting, per frame of the source, one decoder thread. The last line
of stdout is JSON.

Shapes: T = slots, H, W = patch rows and columns, C = clips.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import statistics
import time
from collections import defaultdict
from collections.abc import Callable
from functools import partial
from importlib import metadata
from pathlib import Path

import numpy as np

import ov_encoder as ov
from ov_encoder.codec.media import inspect
from ov_encoder.data.manifest import kind_of
from ov_encoder.data.sources import find_media
from ov_encoder.evaluate.policies import PROVIDERS, difference_scores, random_of
from ov_encoder.patchify.plan import ClipPlan
from ov_encoder.patchify.saliency import score
from ov_encoder.patchify.select import select

BUDGETS = (1 / 32, 1 / 16, 1 / 8, 1 / 4)
SHOWN = 1 / 16  # the budget of the matrix
REFERENCE, PLACES = "bitstream/fused", ("its slots", "its places")
TARGETS = (REFERENCE, "bitstream/residual")
RIVALS = ("frame difference", "random")
SETS = (
    *(f"bitstream/{signal}" for signal in ("fused", "motion", "residual", "bits")),
    *(f"{provider}/{signal}" for provider in ("native", "transcode") for signal in ("fused", "motion", "residual")),
)
Chosen = dict[str, np.ndarray]  # name of a set -> keep_THW


def pick_clips(given: list[str], count: int) -> dict[str, str]:
    """Path -> name of its folder, `count` in all, as many of each folder as there are, evenly spaced."""
    by_folder: dict[str, list[str]] = defaultdict(list)
    for path, name in find_media(given):
        if kind_of(path) == "video":
            by_folder[name.split("/")[0] if "/" in name else Path(path).parent.name].append(path)
    if not by_folder:
        raise SystemExit(f"no videos in {', '.join(given)}")
    each = -(-count // len(by_folder))
    chosen: dict[str, str] = {}
    for folder, paths in by_folder.items():
        n = min(each, len(paths))
        chosen |= {paths[(2 * i + 1) * len(paths) // (2 * n)]: folder for i in range(n)}
    return chosen


def cpu_ms(read: Callable[[], ClipPlan]) -> tuple[float, ClipPlan]:
    """CPU milliseconds of all threads, selection taken off, and the plan."""
    began = time.process_time()
    made = read()
    spent = time.process_time() - began
    return 1e3 * (spent - made.seconds["select"]), made


def plans_of(path: str) -> tuple[dict[str, ClipPlan], dict[str, float], dict[str, str]]:
    """Plan of each provider that serves a clip, CPU ms per source frame of each way to read it, and who refused it."""
    frames = inspect(path).frames
    plans: dict[str, ClipPlan] = {}
    costs: dict[str, float] = {}
    refused: dict[str, str] = {}
    costs["pictures only"] = cpu_ms(lambda: ov.plan(path, mode="chunk", budget=1.0))[0] / frames
    for provider in PROVIDERS:
        options = {"mode": "codec", "signals": provider, "anchors": 0, "budget": SHOWN}
        try:
            spent, made = cpu_ms(partial(ov.plan, path, **options))
        except ValueError as e:
            refused[provider] = str(e)
            continue
        stopped = [note for note in made.notes if "stopped" in note]
        if made.provenance["provider"] != provider or stopped:
            refused[provider] = "; ".join(stopped) or "one picture"
            continue
        plans[provider], costs[f"{provider}, all signals"] = made, spent / frames
        if provider != "transcode":
            costs[f"{provider}, motion only"] = cpu_ms(partial(ov.plan, path, signal="motion", **options))[0] / frames
    if "bitstream" in plans:
        began = time.process_time()
        count = sum(1 for _ in ov.iter_signals(path, signals="bitstream", frames=False))
        costs["bitstream, all signals, no picture decoded"] = 1e3 * (time.process_time() - began) / count
    return plans, costs, refused


def choose_all(plans: dict[str, ClipPlan], budget: float, random: np.random.Generator) -> tuple[Chosen, dict]:
    """Every set of a clip at one budget, and which share of the budget each set's own signal chose."""
    some = next(iter(plans.values()))
    T, H, W = some.grid
    K = round(budget * T * H * W)
    ranked = {
        f"{provider}/{signal}": (score(made.maps_THW, made.shots, signal=signal), made.shots)
        for provider, made in plans.items()
        for signal in ("fused", *made.maps_THW)
    }
    ranked["frame difference"] = difference_scores(some.frames_THWC, some.patch_size, random), [0]
    ranked["random"] = 1 - random.random((T, H, W), np.float32), [0]
    chosen: Chosen = {}
    shares: dict[str, float] = {}
    for name, (scores_THW, shots) in ranked.items():
        scores_THW = np.nan_to_num(scores_THW)
        scores_THW[0] = 0
        keep_THW, _ = select(scores_THW, K, anchors=[], shots=shots)
        chosen[name] = keep_THW & (scores_THW > 0)
        shares[name] = float(chosen[name].sum() / K)
    if REFERENCE in chosen:
        keep_TS = chosen[REFERENCE][1:].reshape(T - 1, H * W)
        mixed = {"its slots": random.permuted(keep_TS, axis=1), "its places": keep_TS[random.permutation(T - 1)]}
        for name, mixed_TS in mixed.items():
            chosen[name] = np.concatenate([np.zeros((1, H, W), bool), mixed_TS.reshape(T - 1, H, W)])
    return chosen, shares


def overlaps(chosen: Chosen) -> dict[tuple[str, str], float]:
    """(A, B) -> |A and B| / |A| for all pairs; pairs of an A that chose nothing are left out."""
    sizes = {name: int(keep.sum()) for name, keep in chosen.items()}
    return {
        (a, b): float((chosen[a] & chosen[b]).sum() / sizes[a])
        for a in chosen
        for b in chosen
        if a != b and sizes[a] > 0
    }


def estimate(values_C: list[float], random: np.random.Generator) -> dict[str, float | int]:
    """Mean over clips with a 95 % interval: percentiles of 2,000 bootstrap draws of clips."""
    x_C = np.array(values_C)
    means = x_C[random.integers(0, len(x_C), (2000, len(x_C)))].mean(axis=1)
    low, high = np.percentile(means, [2.5, 97.5])
    return {"mean": round(float(x_C.mean()), 4), "low": round(float(low), 4), "high": round(float(high), 4),
            "clips": len(x_C)}  # fmt: skip


def show(found: dict) -> None:
    """The tables, in per cent."""
    for target in TARGETS:
        print(f"\noverlap with {target} in % (95 % interval over clips), by share of patches kept")
        print(f"{'':20} {'clips':>5}" + "".join(f"{100 * b:>17.4g} %" for b in BUDGETS))
        for name in (*SETS, *RIVALS, *PLACES):
            cells = [found["overlap"][f"{b:.4g}"].get(f"{name} in {target}") for b in BUDGETS]
            if all(cells):
                print(f"{name:20} {cells[0]['clips']:5}" + "".join(
                    f"{100 * c['mean']:8.1f} ({100 * c['low']:3.0f}-{100 * c['high']:3.0f})" + " " * 2 for c in cells
                ))  # fmt: skip
    print(f"\nshare of row's patches that are also column's, {100 * SHOWN:.4g} % kept, in %")
    names = (*SETS, *RIVALS)
    print(" " * 20 + "".join(f"{i:5}" for i in range(len(names))))
    for i, a in enumerate(names):
        cells = [found["overlap"][f"{SHOWN:.4g}"].get(f"{a} in {b}") for b in names]
        print(f"{i:2} {a:17}" + "".join(f"{100 * c['mean']:5.0f}" if c else "    -" for c in cells))
    print(f"\nby folder, {100 * SHOWN:.4g} % kept: overlap with {REFERENCE} in %")
    for folder, cells in found["by_folder"].items():
        print(f"{folder:22}" + ", ".join(f"{name} {100 * value:.0f}" for name, value in cells.items()))
    print("\nshare of the budget that the signal chose itself, in % (the rest changed too little)")
    for name in SETS:
        print(f"{name:20}" + "".join(f"{100 * shares[name]:8.0f}" for shares in found["chosen_share"].values()))
    print(f"\n{'CPU ms per source frame (median over clips)':46} {'H.264':>12} {'HEVC':>12}")
    for name, cells in found["cost"].items():
        shown = [f"{cells[c]['ms']:.2f} ({cells[c]['clips']})" if c in cells else "-" for c in ("h264", "hevc")]
        print(f"{name:46} {shown[0]:>12} {shown[1]:>12}")


def plot(found: dict, path: Path) -> None:
    """The matrix as a heat-map."""
    from matplotlib.figure import Figure

    names = (*SETS, *RIVALS)
    cells = found["overlap"][f"{SHOWN:.4g}"]
    means = np.array([[cells.get(f"{a} in {b}", {"mean": np.nan})["mean"] for b in names] for a in names]) * 100
    figure = Figure(figsize=(8.6, 7.2), dpi=120, layout="constrained")
    axes = figure.add_subplot()
    axes.imshow(np.ma.masked_invalid(means), cmap="YlGnBu", vmin=0, vmax=100)
    for i, j in np.ndindex(means.shape):
        if np.isfinite(means[i, j]):
            colour = "white" if means[i, j] > 55 else "black"
            axes.text(j, i, f"{means[i, j]:.0f}", ha="center", va="center", color=colour, fontsize=9)
    axes.set_xticks(range(len(names)), names, rotation=45, ha="right")
    axes.set_yticks(range(len(names)), names)
    axes.set_title(
        f"% of the row's patches that the column chose too\n{100 * SHOWN:.4g} % of patches kept", fontsize=11
    )
    axes.spines[:].set_visible(False)
    figure.savefig(path)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("sources", nargs="+", help="folders or files")
    parser.add_argument("--clips", type=int, default=100)
    parser.add_argument("--seed", type=int, default=0, help="of random patches and of bootstrap draws")
    parser.add_argument("--plot", type=Path, help="also draw the matrix")
    parser.add_argument("--save", type=Path, help="also write the JSON to this file")
    args = parser.parse_args()
    clips = pick_clips(args.sources, args.clips)
    plans_of(next(iter(clips)))  # warms up: compiled functions, libraries
    values: dict[str, dict[str, list[float]]] = {f"{b:.4g}": defaultdict(list) for b in BUDGETS}
    folders: dict[str, dict[str, list[float]]] = defaultdict(lambda: defaultdict(list))
    shares: dict[str, dict[str, list[float]]] = defaultdict(lambda: defaultdict(list))
    costs: dict[str, dict[str, list[float]]] = defaultdict(lambda: defaultdict(list))
    codecs: dict[str, int] = defaultdict(int)
    refusals: dict[str, int] = defaultdict(int)
    for path, folder in clips.items():
        plans, cost, refused = plans_of(path)
        codec = next(iter(plans.values())).info.codec
        codecs[codec] += 1
        for provider in refused:
            refusals[f"{provider} for {codec}"] += 1
        for name, ms in cost.items():
            costs[name][codec].append(ms)
        for budget in BUDGETS:
            chosen, share = choose_all(plans, budget, random_of(args.seed, f"{folder}/{Path(path).name}/{budget}"))
            for (a, b), value in overlaps(chosen).items():
                values[f"{budget:.4g}"][f"{a} in {b}"].append(value)
                if budget == SHOWN and b == REFERENCE and a in (*SETS, *RIVALS):
                    folders[folder][a].append(value)
            for name, part in share.items():
                shares[f"{budget:.4g}"][name].append(part)
    random = np.random.default_rng(args.seed)
    found = {
        "benchmark": "overlap",
        "machine": {"cpu": platform.processor() or platform.machine(), "cores": os.cpu_count()},
        "versions": {"python": platform.python_version(), **{p: metadata.version(p) for p in ("av", "numpy", "numba")}},
        "clips": len(clips),
        "folders": {folder: list(clips.values()).count(folder) for folder in dict.fromkeys(clips.values())},
        "codecs": dict(codecs),
        "refused": dict(refusals),
        "overlap": {b: {pair: estimate(v, random) for pair, v in pairs.items()} for b, pairs in values.items()},
        "by_folder": {f: {a: round(statistics.mean(v), 4) for a, v in sets.items()} for f, sets in folders.items()},
        "chosen_share": {b: {a: round(statistics.mean(v), 4) for a, v in sets.items()} for b, sets in shares.items()},
        "cost": {
            name: {c: {"ms": round(statistics.median(v), 3), "clips": len(v)} for c, v in by_codec.items()}
            for name, by_codec in costs.items()
        },
    }  # fmt: skip
    print(f"{len(clips)} clips: {found['folders']}; codecs {found['codecs']}; refused: {found['refused'] or 'none'}")
    show(found)
    if args.plot:
        plot(found, args.plot)
    if args.save:
        args.save.write_text(json.dumps(found, indent=1) + "\n")
    print(json.dumps(found))


if __name__ == "__main__":
    main()
