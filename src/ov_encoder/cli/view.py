"""`ov-encoder view`: pictures of what is kept of one source."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import tyro

from ov_encoder.cli.options import Options, PatchOptions

if TYPE_CHECKING:
    from ov_encoder.patchify.plan import ClipPlan


def view(
    file: Annotated[tyro.conf.Positional[str], tyro.conf.arg(metavar="FILE")],
    *,
    out: Annotated[Path, tyro.conf.arg(aliases=["-o"])] = Path("view"),
    options: PatchOptions = Options(),  # noqa: B008 (frozen)
) -> int:
    """Show which patches of a video or image are kept, and why.

    Writes a contact sheet (PNG), a movie of original and kept patches (MP4), and a page with a budget slider and
    the score map (HTML, one file that opens from disk).

    Example: ov-encoder view clip.mp4 -o pictures --budget 1024

    Args:
        file: A video or image.
        out: Folder for the pictures.
    """
    from ov_encoder.cli.console import print_facts
    from ov_encoder.patchify.api import plan

    made = plan(file, **asdict(options))
    written = write_views(made, out, Path(file).name)
    print_facts(file, plan_facts(made))
    for path in written:
        print(f"wrote {path}")
    return 0


def write_views(made: ClipPlan, out: Path, name: str) -> list[Path]:
    """All pictures of a plan, as `out/name.*`. Returns what was written."""
    from ov_encoder.viz.movie import slot_rate, write_mp4
    from ov_encoder.viz.overlay import contact_sheet, side_by_side
    from ov_encoder.viz.report import page, provenance_section, viewer_section

    out.mkdir(parents=True, exist_ok=True)
    written = [out / f"{name}.kept.png"]
    contact_sheet(made).save(written[-1])
    if made.maps_THW:
        written.append(out / f"{name}.scores.png")
        contact_sheet(made, scores=True).save(written[-1])
    if made.grid[0] > 1:
        written.append(out / f"{name}.mp4")
        write_mp4(side_by_side(made), written[-1], fps=slot_rate(made.slot_times_T))
    written.append(out / f"{name}.html")
    intro = "Colour: patches that are kept. Grey: patches that are never cut, moved or encoded."
    written[-1].write_text(page("What is kept", intro, [viewer_section(made), provenance_section(made)]))
    return written


def plan_facts(made: ClipPlan) -> list[tuple[str, str]]:
    """What was decided about a source, in lines."""
    info, (T, H, W) = made.info, made.grid
    whole = f", {int(made.anchors_T.sum())} of them kept whole" if T > 1 else ""
    signals = made.provenance["signals"].items()
    lines = [
        ("source", f"{info.codec} {info.width} x {info.height}, {info.frames} frames, {info.duration_s:.2f} s"),
        ("mode", made.mode),
        ("signals", f"{made.provenance['provider']} ({', '.join(f'{k}: {v}' for k, v in signals)})"),
        ("slots", f"{T} of {H} x {W} patches{whole}, {len(made.shots)} shot{'s'[: len(made.shots) > 1]}"),
        ("kept", f"{made.tokens:,} of {T * H * W:,} patches ({100 * made.tokens / (T * H * W):.1f} %)"),
        ("seconds", ", ".join(f"{stage} {spent:.2f}" for stage, spent in made.seconds.items())),
    ]
    return lines + [("note", note) for note in made.notes]
