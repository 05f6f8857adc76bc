"""WebDataset tars as manifests: where every member lies, so that samples are read without unpacking and in any order.

The convention is webdataset's: files of one sample share their name up to the first dot of the last part; beside the
media, `.cls` or `.txt` holds the label, `.json` may hold "label" or "labels". Random access by offset is what exact
resume needs, so tars lie on a disk here; to read them over a network, fetch them first.
"""

from __future__ import annotations

import json
import tarfile
from collections.abc import Sequence
from pathlib import Path

from ov_encoder.data.manifest import Manifest, Sample, kind_of
from ov_encoder.data.sources import SUFFIXES
from ov_encoder.errors import OvEncoderError

LABELS = (".cls", ".txt", ".json")


def read_tars(paths: Sequence[str | Path]) -> Manifest:
    """Every media member of some tars as a sample, in order; ids are TAR/MEMBER, as `ov-encoder label` has them.

    A tar that is cut off gives the members before the cut; what is missing is said in `skipped`.

    Raises:
        OvEncoderError: not a tar, compressed (its members have no offsets), or no medium in any of them.
    """
    samples: list[Sample] = []
    skipped: dict[str, str] = {}
    for path in map(Path, paths):
        found, cut = read_tar(path)
        samples += found
        if cut:
            skipped[path.name] = cut
    if not samples:
        raise OvEncoderError("; ".join(skipped.values()) or f"{', '.join(map(str, paths))}: holds no image or video")
    return Manifest(Path(paths[0]), samples, {}, skipped)


def read_tar(path: Path, *, labels: Sequence[str] = LABELS) -> tuple[list[Sample], str]:
    """Samples of one tar that are whole, and why it ended early ("" if it did not). labels: suffixes of label files.

    Raises:
        OvEncoderError: not a tar, or compressed; a label that cannot be read.
    """
    media: list[tarfile.TarInfo] = []
    labels_of: dict[str, tuple[str, ...]] = {}
    cut, end = "", 0
    try:
        size = path.stat().st_size
        with tarfile.open(path, "r:") as tar:
            for member in tar:
                end = member.offset_data + member.size
                if end > size:
                    cut = f"within {member.name}"
                    break
                suffix = Path(member.name).suffix.lower()
                if member.isfile() and suffix in SUFFIXES:
                    media.append(member)
                elif member.isfile() and suffix in labels:
                    text = tar.extractfile(member)
                    assert text is not None  # of a regular file
                    labels_of[_key(member.name)] = _labels(text.read(), suffix, f"{path}/{member.name}")
        if not cut and size - end < 2 * tarfile.BLOCKSIZE:  # two empty blocks end a tar
            cut = "its end mark is missing"
    except (OSError, tarfile.TarError) as e:
        if not media:
            raise OvEncoderError(f"{path}: cannot be read as an uncompressed tar: {e}") from e
        cut = str(e)
    samples = [
        Sample(
            id=f"{path.name}/{member.name}",
            path=str(path),
            kind=kind_of(member.name),
            labels=labels_of.get(_key(member.name), ()),
            offset=member.offset_data,
            length=member.size,
        )
        for member in media
    ]
    return samples, f"{path}: damaged or cut off after {len(media)} media files: {cut}" if cut else ""


def _key(name: str) -> str:
    folder, slash, last = name.rpartition("/")
    return folder + slash + last.partition(".")[0]


def _labels(data: bytes, suffix: str, name: str) -> tuple[str, ...]:
    try:
        text = data.decode()
        if suffix != ".json":
            return (text.strip(),) if text.strip() else ()
        values = json.loads(text)
        found = values.get("labels", values.get("label", ())) if isinstance(values, dict) else values
        return tuple(str(v) for v in (found if isinstance(found, list | tuple) else [found]))
    except ValueError as e:
        raise OvEncoderError(f"{name}: cannot be read as the label of a sample: {e}") from e
