"""`ov-encoder inspect`: what a file is and what its codec can tell, from headers and packets."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import tyro

if TYPE_CHECKING:
    from ov_encoder.codec.info import MediaInfo


def inspect(
    file: Annotated[tyro.conf.Positional[str], tyro.conf.arg(metavar="FILE")],
    *,
    as_json: Annotated[bool, tyro.conf.arg(name="json")] = False,
    plot: Path | None = None,
    decode: bool = False,
) -> int:
    """Say what a video or image is: codec, GOP structure, bit rate, and which codec signals it can give.

    Reads headers and packets; the pictures are decoded only with --decode.

    Example: ov-encoder inspect clip.mp4 --plot bits.png

    Args:
        file: A video or image.
        as_json: Print JSON instead of a table.
        plot: Also draw the bits of every frame, key frames marked, into this PNG (extra: viz).
        decode: Also decode everything, to count I, P and B frames and to measure motion.
    """
    from ov_encoder.codec.media import inspect as read_info

    info = read_info(file)
    found = describe(info)
    if decode:
        found |= decoded_facts(file, info)
    if plot is not None:
        from ov_encoder.viz.plots import plot_bits

        plot_bits(info).savefig(plot)
    if as_json:
        import json

        print(json.dumps(found, indent=2))
        return 0
    from ov_encoder.cli.console import print_facts

    print_facts(info.name, _lines(info, found))
    if plot is not None:
        print(f"wrote {plot}")
    return 0


def describe(info: MediaInfo) -> dict[str, Any]:
    """What packets tell, JSON-able. Bits per second in kbit; spacings in frames."""
    import numpy as np

    from ov_encoder.codec.read import PROVIDERS, choose_provider
    from ov_encoder.viz.plots import bit_rate, curve

    provider = choose_provider(info, "auto")
    times_K, bits_K, key_K = curve(info)
    spacing = np.diff(np.append(np.flatnonzero(key_K), len(key_K)))
    rate, _ = bit_rate(times_K, bits_K) if len(bits_K) > 1 else (np.zeros(1), None)
    fields = (
        "name", "kind", "container", "codec", "profile", "pixel_format", "width", "height", "rotation", "frames",
        "fps", "duration_s", "streams",
    )  # fmt: skip
    return {name: getattr(info, name) for name in fields} | {
        "kbit_per_s": float(bits_K.sum() / info.duration_s / 1e3) if len(bits_K) and info.duration_s else None,
        "kbit_per_s_curve": [round(float(r), 3) for r in rate[:-1]],
        "key_frames": int(key_K.sum()),
        "key_spacing": [int(x) for x in (spacing.min(), np.median(spacing), spacing.max())] if len(spacing) else [],
        "key_share_of_bits": float(bits_K[key_K].sum() / max(bits_K.sum(), 1)),
        "native": list(info.native),
        "bitstream": info.bitstream or "yes",
        "provider": provider,
        "why": _why(info, provider),
        "signals": dict(PROVIDERS[provider][1]),
        "notes": list(info.notes),
    }


def decoded_facts(file: str, info: MediaInfo) -> dict[str, Any]:
    """What only decoding tells: frames of each type, and the mean length of native motion vectors."""
    import numpy as np

    from ov_encoder.codec.read import iter_signals

    types: dict[str, int] = {}
    lengths = []
    source = "bitstream" if not info.bitstream else "native" if info.native else "none"
    for frame in iter_signals(file, signals=source, residual=False):
        types[frame.frame_type] = types.get(frame.frame_type, 0) + 1
        if frame.motion_HW2 is not None:
            lengths.append(float(np.linalg.norm(frame.motion_HW2, axis=-1).mean()))
    return {
        "frame_types": types,
        "mean_motion_pixels_per_frame": float(np.mean(lengths)) if lengths else None,
    }


def _why(info: MediaInfo, provider: str) -> str:
    if provider == "bitstream":
        return f"motion, residual and bits are read from the {info.codec} stream itself"
    if provider == "native":
        return f"the stock decoder exports {', '.join(info.native)} for {info.codec}"
    if provider == "transcode":
        return f"the stock decoder exports nothing per block for {info.codec}: sampled frames are re-encoded in memory"
    return "one picture: nothing to compare it with"


def _lines(info: MediaInfo, found: dict[str, Any]) -> list[tuple[str, str]]:
    from ov_encoder.cli.console import sparkline
    from ov_encoder.viz.plots import curve

    turned = f", turned by {info.rotation} degrees" if info.rotation else ""
    profile = f" ({info.profile})" if info.profile else ""
    lines = [
        ("kind", f"{info.kind}, {info.container}"),
        ("codec", f"{info.codec}{profile}, {info.pixel_format}"),
        ("size", f"{info.width} x {info.height}{turned}"),
    ]
    if info.frames > 1:
        lines.append(("frames", f"{info.frames} in {info.duration_s:.2f} s, {info.fps:.4g} fps"))
    if found["key_spacing"]:
        low, middle, high = found["key_spacing"]
        every = f"every {low}" if low == high else f"every {low} to {high}, mostly about {middle}"
        share = 100 * found["key_share_of_bits"]
        lines += [
            ("key frames", f"{found['key_frames']}, {every} frames, {share:.0f} % of the bits"),
            ("bit rate", f"{found['kbit_per_s'] or 0:,.0f} kbit/s"),
            ("", sparkline(curve(info)[1].tolist())),
        ]
    if "frame_types" in found:
        types = found["frame_types"]
        lines.append(("frame types", ", ".join(f"{n} {t}" for t, n in sorted(types.items(), key=lambda x: -x[1]))))
        if found["mean_motion_pixels_per_frame"] is not None:
            lines.append(("mean motion", f"{found['mean_motion_pixels_per_frame']:.2f} pixels a frame"))
    if info.streams > 1:
        lines.append(("streams", f"{info.streams} video streams; the default one is read"))
    lines.append(("signals", f"{found['provider']}: {found['why']}"))
    if info.codec in ("h264", "hevc") and info.bitstream:
        lines.append(("", f"bitstream reader: {info.bitstream}"))
    if found["provider"] != "none":
        lines += [("  " + name, where) for name, where in found["signals"].items()]
    return lines + [("note", note) for note in info.notes]
