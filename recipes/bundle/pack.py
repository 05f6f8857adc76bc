"""A labelled bundle in pieces that travel: media in tars of limited size, manifests that point into them, the labels.

    python recipes/bundle/pack.py OUT TRAVEL
    python recipes/bundle/run.py TRAVEL --since pretrain        (on the other machine, a GPU for instance)

TRAVEL has the layout of OUT, so training there reads the same samples under the same ids. Nothing is decoded: tars are
not compressed, and samples are read in place by offset.
"""

from __future__ import annotations

import io
import shutil
import sys
import tarfile
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import tyro

from ov_encoder.data.folder import write_atomically
from ov_encoder.data.manifest import Sample, read_manifest, write_manifest
from ov_encoder.errors import OvEncoderError

SETS = ("videos", "images", "pages", "probe")
LABELS = ("concepts/video/labels.parquet", "concepts/image/labels.parquet", "motion/labels.parquet")
MEGABYTE = 1_000_000


def main(
    out: tyro.conf.Positional[Path], travel: tyro.conf.Positional[Path], *, largest: int = 45, probe: int = 400
) -> int:
    """Pack what training reads.

    Args:
        out: Folder of run.py, labelled (run.py OUT --until motion).
        travel: Folder for the pieces.
        largest: Megabytes of a piece.
        probe: About so many clips for the probe while training, and as many held-out samples of every set; the others
            that training does not see stay here.
    """
    sets = {name: read_manifest(out / f"sets/{name}.csv").samples for name in SETS}
    for name in ("videos", "images", "pages"):
        held_out = [s for s in sets[name] if s.split == "test"]
        sets[name] = [s for s in sets[name] if s.split != "test"] + held_out[:: max(len(held_out) // probe, 1)]
    sets["probe"] = sets["probe"][:: max(len(sets["probe"]) // probe, 1)]
    unique = {s.path: s for samples in sets.values() for s in samples}
    places = write_tars(list(unique.values()), travel / "sets/shards", largest=largest * MEGABYTE)
    for name, samples in sets.items():
        write_manifest(travel / f"sets/{name}.csv", [_moved(s, places[s.path]) for s in samples])
        shutil.copyfile(out / f"sets/{name}.json", travel / f"sets/{name}.json")
    for name in LABELS:
        (travel / name).parent.mkdir(parents=True, exist_ok=True)
        write_atomically(travel / name, (out / name).read_bytes())
    pieces = sorted((travel / "sets/shards").glob("*.tar"))
    total = sum(p.stat().st_size for p in pieces) / MEGABYTE
    print(f"{len(unique)} files in {len(pieces)} pieces, {total:.0f} MB; {travel}")
    return 0


def write_tars(samples: Sequence[Sample], folder: Path, *, largest: int) -> dict[str, tuple[Path, int, int]]:
    """Whole files into tars of at most `largest` bytes (a larger file has one alone): path -> (tar, offset, length).

    Raises:
        OvEncoderError: a sample lies in a tar already.
    """
    folder.mkdir(parents=True, exist_ok=True)
    for old in folder.glob("*.tar"):
        old.unlink()
    places: dict[str, tuple[Path, int, int]] = {}
    waiting: list[tuple[Sample, bytes]] = []
    size, number = 0, 0
    for sample in samples:
        if sample.offset is not None:
            raise OvEncoderError(f"{sample.path}: {sample.id} is packed already")
        data = Path(sample.path).read_bytes()
        if waiting and size + len(data) + 2 * tarfile.RECORDSIZE > largest:
            places |= _write_tar(waiting, folder / f"{number:03d}.tar")
            waiting, size, number = [], 0, number + 1
        waiting.append((sample, data))
        size += len(data) + 2 * tarfile.BLOCKSIZE  # header and padding
    return places | _write_tar(waiting, folder / f"{number:03d}.tar")


def _write_tar(members: list[tuple[Sample, bytes]], path: Path) -> dict[str, tuple[Path, int, int]]:
    out, places = io.BytesIO(), {}
    with tarfile.open(fileobj=out, mode="w", format=tarfile.GNU_FORMAT) as tar:
        for i, (sample, data) in enumerate(members):
            info = tarfile.TarInfo(f"{i:05d}{Path(sample.path).suffix}")  # the manifest has the real names
            info.size = len(data)
            tar.addfile(info, io.BytesIO(data))
            padded = -(-len(data) // tarfile.BLOCKSIZE) * tarfile.BLOCKSIZE
            places[sample.path] = (path, out.tell() - padded, len(data))
    write_atomically(path, out.getvalue())
    return places


def _moved(sample: Sample, place: tuple[Path, int, int]) -> Sample:
    path, offset, length = place
    return replace(sample, path=str(path), offset=offset, length=length)


if __name__ == "__main__":
    try:
        sys.exit(tyro.cli(main))
    except (ValueError, OvEncoderError) as e:
        sys.exit(f"error: {e}")
