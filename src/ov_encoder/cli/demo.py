"""`ov-encoder demo`: a video and a photo, all the way to tokens, with a report to look at."""

from __future__ import annotations

import time
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import tyro

from ov_encoder.bundled import DEFAULT

if TYPE_CHECKING:
    from ov_encoder.model.encoder import EncoderOutput, OVEncoder
    from ov_encoder.patchify.batch import PatchBatch
    from ov_encoder.patchify.plan import ClipPlan


def demo(
    *,
    out: Annotated[Path, tyro.conf.arg(aliases=["-o"])] = Path("demo"),
    model: str = DEFAULT,
    video: Path | None = None,
    image: Path | None = None,
) -> int:
    """Read a real video and a photo, keep what is worth encoding, encode it, and leave a report.

    The samples come with the extra `demo`; --video and --image take your own. Open OUT/index.html afterwards.

    Example: ov-encoder demo --out demo --video clip.mp4

    Args:
        out: Folder for the report and its pictures.
        model: A name (see ov-encoder models), a directory, or a hub id.
        video: A video of your own.
        image: An image of your own.
    """
    from ov_encoder.cli.console import print_facts
    from ov_encoder.cli.samples import sample_photo, sample_video
    from ov_encoder.cli.view import plan_facts
    from ov_encoder.model.weights import load_model
    from ov_encoder.patchify.api import plan, to_batch
    from ov_encoder.patchify.batch import pack

    encoder = load_model(model)
    patch = encoder.config.patch_size
    plans, batches = [], []
    for path, size in ((video or sample_video(), 224), (image or sample_photo(), "native")):
        began = time.perf_counter()
        made = plan(path, patch=patch, size=size)
        batches.append(to_batch(made))
        plans.append(made)
        print_facts(path.name, [*plan_facts(made), ("total", f"{time.perf_counter() - began:.2f} s to patches")])
    batch = pack(batches)
    output, seconds = _encode(encoder, batch)
    facts = _encoding_facts(model, encoder, batch, output, seconds)
    print_facts("both, packed into one batch", facts)
    for path in _write(out, plans, facts):
        print(f"wrote {path}")
    print(f"open {out / 'index.html'}")
    return 0


def _encode(encoder: OVEncoder, batch: PatchBatch) -> tuple[EncoderOutput, float]:
    import torch

    with torch.inference_mode():
        began = time.perf_counter()
        output = encoder(batch)
        return output, time.perf_counter() - began


def _encoding_facts(
    name: str, encoder: OVEncoder, batch: PatchBatch, output: EncoderOutput, seconds: float
) -> list[tuple[str, str]]:
    from ov_encoder.model.config import SIZES

    config = encoder.config
    untrained = " (untrained: random weights, the numbers mean nothing yet)" if name in SIZES else ""
    N, D = output.tokens_ND.shape
    pooled = "none" if output.pooled_BD is None else f"{len(output.pooled_BD)} vectors of {D}"
    dense = sum(T * H * W for T, H, W in batch.grids_B)
    return [
        ("encoder", f"{name}: {config.num_hidden_layers} layers, {D} wide{untrained}"),
        ("tokens", f"{' + '.join(f'{n:,}' for n in batch.lengths_B)} = {N:,} of {dense:,} if nothing were left out"),
        ("pooled", pooled),
        ("encode", f"{seconds:.2f} s, {N / seconds:,.0f} tokens/s on {encoder.device}"),
    ]


def _write(out: Path, plans: list[ClipPlan], facts: list[tuple[str, str]]) -> list[Path]:
    """index.html and the pictures it is made of."""
    from ov_encoder.cli.view import plan_facts
    from ov_encoder.viz.overlay import contact_sheet
    from ov_encoder.viz.plots import plot_bits
    from ov_encoder.viz.report import figure_section, page, provenance_section, table_section, viewer_section

    out.mkdir(parents=True, exist_ok=True)
    written = []
    sections = [table_section("What was done", facts)]
    for name, made in zip(("video", "photo"), plans, strict=True):
        written.append(out / f"{name}.png")
        contact_sheet(made).save(written[-1])
        sections += [viewer_section(made), table_section("Stages", plan_facts(made))]
        if made.maps_THW:
            written.append(out / f"{name}-scores.png")
            contact_sheet(made, scores=True).save(written[-1])
            sections.append(provenance_section(made))
        if made.info.frames > 1:
            written.append(out / f"{name}-bits.png")
            plot_bits(made.info).savefig(written[-1])
            sections.append(figure_section("What each frame cost its codec", written[-1].read_bytes()))
    written.append(out / "index.html")
    intro = (
        "A video's own codec says where something moved or changed. Only those patches (in colour) are cut and "
        "encoded, with their place in time and space; a photo keeps all of its patches."
    )
    written[-1].write_text(page("From video and photo to tokens", intro, sections))
    return written
