"""The configuration of `label run`: one TOML file, a table for each stage. Values only; what they do is in the stages.

Every name is checked: a misspelt one is refused with those there are.
"""

from __future__ import annotations

import tomllib
from dataclasses import MISSING, dataclass, field, fields, is_dataclass, replace
from pathlib import Path
from typing import Any, get_args, get_origin, get_type_hints

from ov_encoder.errors import OvEncoderError

KINDS = ("image", "video")


@dataclass(frozen=True)
class IndexTable:
    """sources: folders, manifests, tars; relative to the file. label: column of the manifests that names classes."""

    sources: tuple[str, ...]
    label: str = "label"


@dataclass(frozen=True)
class DedupTable:
    """near: drop not only equal bytes but also what looks alike: images whose perceptual hashes are at most `radius` of
    64 bits apart, videos at most `video_radius` of 576."""

    near: bool = True
    radius: int = 3
    video_radius: int = 35


@dataclass(frozen=True)
class FeaturesTable:
    """teacher: see `teacher`. frames, pooling: of videos ("concat": as the paper, "mean"). shard: samples of a file, 0
    for 256 images or 32 videos of 8 frames; raise it for millions."""

    teacher: str = "mobilenet"
    device: str = "cpu"
    frames: int = 8
    pooling: str = "concat"
    shard: int = 0


@dataclass(frozen=True)
class KmeansTable:
    """images, videos: number of concepts of each kind, 0 to leave the kind out. batch: rows of a mini-batch, 0 for all.
    hierarchical: coarse clusters first, for concepts in the millions. processes: of torchrun."""

    images: int = 0
    videos: int = 0
    metric: str = "cosine"
    init: str = "sample"
    iterations: int = 20
    batch: int = 0
    seed: int = 0
    hierarchical: bool = False
    processes: int = 1


@dataclass(frozen=True)
class AssignTable:
    """top: labels of a sample. method: "exact", "hnsw" or "ivf"."""

    top: int = 10
    method: str = "exact"


@dataclass(frozen=True)
class OcrTable:
    """read: whether text is read at all. min_images, most_words: cut-offs of the vocabulary. tags: most of an image."""

    read: bool = False
    min_images: int = 2
    most_words: int = 400_000
    tags: int = 100


@dataclass(frozen=True)
class ReportTable:
    """pixels: cluster raw pixels too, to compare (samples with a class only). clusters: rows of a contact sheet."""

    pixels: bool = True
    clusters: int = 20


@dataclass(frozen=True)
class RunConfig:
    """A whole run. out: folder, relative to the file. engine: "local" or "ray". workers: processes; 0: one a core.
    timeout: seconds that one sample may take to read."""

    out: str
    index: IndexTable
    engine: str = "local"
    workers: int = 0
    timeout: float = 120.0
    dedup: DedupTable = field(default_factory=DedupTable)
    features: FeaturesTable = field(default_factory=FeaturesTable)
    kmeans: KmeansTable = field(default_factory=KmeansTable)
    assign: AssignTable = field(default_factory=AssignTable)
    ocr: OcrTable = field(default_factory=OcrTable)
    report: ReportTable = field(default_factory=ReportTable)

    def concepts(self, kind: str) -> int:
        """k of "image" or "video"."""
        return self.kmeans.images if kind == "image" else self.kmeans.videos


def read_config(path: str | Path) -> RunConfig:
    """Read a TOML file; relative paths in it become relative to where we are.

    Raises:
        OvEncoderError: the file cannot be read as TOML.
        ValueError: a name or type that is not allowed, or nothing to cluster or read.
    """
    path = Path(path)
    try:
        values = tomllib.loads(path.read_text(encoding="utf-8"))
    except OSError as e:
        raise OvEncoderError(f"{path}: cannot be read: {e.strerror}") from e
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as e:
        raise OvEncoderError(f"{path}: is not TOML: {e}") from e
    config = _table(RunConfig, values, str(path))
    if not (config.kmeans.images or config.kmeans.videos or config.ocr.read):
        raise ValueError(f"{path}: nothing to do: set kmeans.images, kmeans.videos (numbers of concepts) or ocr.read")
    sources = tuple(str(path.parent / source) for source in config.index.sources)
    return replace(config, out=str(path.parent / config.out), index=replace(config.index, sources=sources))


def _table(kind: Any, values: dict[str, Any], where: str) -> Any:
    hints = get_type_hints(kind)
    known = {f.name: f for f in fields(kind)}
    if unknown := [name for name in values if name not in known]:
        raise ValueError(f"{where}: no option {unknown[0]!r}; there are {', '.join(known)}")
    needed = [n for n, f in known.items() if f.default is MISSING and f.default_factory is MISSING]
    if missing := [name for name in needed if name not in values]:
        raise ValueError(f"{where}: needs {missing[0]!r}")
    return kind(**{name: _value(hints[name], value, f"{where}: {name}") for name, value in values.items()})


def _value(hint: Any, value: Any, where: str) -> Any:
    if get_origin(hint) is tuple:
        if not isinstance(value, list) or not all(isinstance(v, get_args(hint)[0]) for v in value):
            raise ValueError(f"{where} must be a list of strings, got {value!r}")
        return tuple(value)
    if is_dataclass(hint):
        if not isinstance(value, dict):
            raise ValueError(f"{where} must be a table, got {value!r}")
        return _table(hint, value, where)
    if hint is float and type(value) is int:
        value = float(value)
    if type(value) is not hint:
        raise ValueError(f"{where} must be {hint.__name__}, got {value!r}")
    return value
