"""The complete description of a run: frozen dataclasses with checks, overrides by name, to and from JSON. No torch.

A recipe (`ov_encoder.recipes`) returns a TrainConfig; the command changes fields by dotted name, prints the result and
saves it beside the run. A field that does not exist is an error that shows the closest names.
"""

from __future__ import annotations

import ast
import difflib
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, fields, is_dataclass, replace
from typing import Any, Literal, get_args, get_origin, get_type_hints

Kind = Literal["image", "video", "ocr"]
Mode = Literal["codec", "sampling", "collage", "chunk"]
MODES: tuple[Mode, ...] = get_args(Mode)


def _positive(config: Any, *names: str) -> None:
    for name in names:
        if not getattr(config, name) > 0:
            raise ValueError(f"{name}={getattr(config, name)!r}; need a number above 0")


@dataclass(frozen=True, kw_only=True)
class DataConfig:
    """One source of samples: a manifest, a folder with one, class folders, or WebDataset tars.

    label: column with class names; several joined by "+" ("label+digit") give a sample several labels. labels: a
    labels.parquet of `ov-encoder label` (sample id, int32 classes) instead. splits: which splits to train on; empty:
    all but those named test, val or validation. head: which head learns from it; None: by kind, image samples the one
    of kind "image", videos that of "video".
    """

    path: str
    label: str = "label"
    labels: str | None = None
    splits: tuple[str, ...] = ()
    head: str | None = None


@dataclass(frozen=True, kw_only=True)
class HeadConfig:
    """One class head and its share of every batch. classes=None: as many as its data have.

    samples: of `batch.samples` that come from this head's data, relative to the other heads. weight: of its loss in
    the sum. labels_per_step, sample_rate, margin, m, scale, filter_threshold, objective: see ClusterHead.

    beside: another head whose samples this one learns from too, so that one forward serves both. It takes no places of
    the batch (`samples` means nothing); its data say which of those samples it knows, and their labels.
    """

    name: str
    kind: Kind
    samples: int = 1
    beside: str | None = None
    weight: float = 1.0
    classes: int | None = None
    sample_rate: float = 1.0
    labels_per_step: int | None = None
    margin: Literal["cosface", "arcface", "none"] = "cosface"
    m: float = 0.3
    scale: float = 64.0
    filter_threshold: float | None = 0.75
    objective: Literal["softmax", "logistic"] = "softmax"

    def __post_init__(self) -> None:
        _positive(self, "samples", "scale", "sample_rate")


@dataclass(frozen=True, kw_only=True)
class PictureConfig:
    """How a picture, or every frame of a clip, becomes the encoder's grid. One draw per sample, the same for a clip.

    sizes: short sides in pixels, one is drawn per sample. aspect: "square" or "native" (the crop's own). max_tokens:
    patches of one picture; larger ones are scaled down. area: share of the picture that is cropped, drawn in this
    range; (1, 1) takes all of it. stretch: change of the aspect ratio, drawn in this range. flip: chance of a mirror
    image. colour: largest change of brightness, contrast and saturation, as a share.
    """

    sizes: tuple[int, ...] = (224,)
    aspect: Literal["square", "native"] = "square"
    max_tokens: int = 1024
    area: tuple[float, float] = (0.7, 1.0)
    stretch: tuple[float, float] = (0.8, 1.25)
    flip: float = 0.5
    colour: float = 0.0

    def __post_init__(self) -> None:
        _positive(self, "max_tokens")
        if not self.sizes or min(self.sizes) < 1:
            raise ValueError(f"sizes={self.sizes!r}; need short sides in pixels, at least one")
        for name, high in (("area", 1.0), ("stretch", float("inf"))):
            low, top = getattr(self, name)
            if not 0 < low <= top <= high:
                raise ValueError(f"{name}={(low, top)!r}; need 0 < low <= high{' <= 1' * (high == 1)}")
        if not 0 <= self.flip <= 1 or not 0 <= self.colour < 1:
            raise ValueError(f"flip={self.flip}, colour={self.colour}; need flip in 0..1 and colour in 0..1 (below 1)")


@dataclass(frozen=True, kw_only=True)
class VideoConfig:
    """Slots, budget and modes of clips. shares: of (codec, sampling, collage, chunk) among video samples.

    frames: slots on the clip's axis. budget: tokens of a clip in every mode (whole frames fill it in the last three).
    anchors: whole frames kept in codec mode. slot_size: short side at which slots are kept before cropping.
    """

    picture: PictureConfig = PictureConfig(flip=0.5, area=(0.5, 1.0))
    frames: int = 64
    budget: int = 2048
    anchors: int = 2
    signal: Literal["fused", "motion", "residual"] = "fused"
    camera: Literal["none", "median", "similarity", "affine"] = "similarity"
    shares: tuple[float, float, float, float] = (0.5, 0.375, 0.125, 0.0)
    slot_size: int = 256

    def __post_init__(self) -> None:
        _positive(self, "frames", "budget", "slot_size")
        if len(self.shares) != 4 or min(self.shares) < 0 or abs(sum(self.shares) - 1) > 1e-6:
            raise ValueError(f"shares={self.shares!r}; need four shares of ({', '.join(MODES)}) that add up to 1")


@dataclass(frozen=True, kw_only=True)
class BatchConfig:
    """A step: `samples` over all processes and micro-batches, in forwards of at most `tokens` tokens.

    A forward takes samples / (processes * accumulate) samples in order, or fewer if their tokens would not fit; what
    does not fit comes first in the next one.
    """

    samples: int = 256
    tokens: int = 65_536
    accumulate: int = 1

    def __post_init__(self) -> None:
        _positive(self, "samples", "tokens", "accumulate")


@dataclass(frozen=True, kw_only=True)
class OptimConfig:
    """AdamW, its schedule and clip. lr: reached after `warmup` steps, then decays to lr * final over `steps`.

    weight_decay: on matrices of the encoder only. centre_lr, centre_decay: of class centres, lr relative to `lr`.
    clip: largest norm of the gradient of the module (all processes together); centres are not in it, because the
    gradient of a centre grows with 1 / its length, which no loss depends on. ema: decay of an average of the weights
    that is exported instead of them, or None.
    """

    steps: int = 1000
    lr: float = 1e-3
    schedule: Literal["cosine", "polynomial"] = "cosine"
    power: float = 2.0
    warmup: int = 100
    final: float = 0.0
    betas: tuple[float, float] = (0.9, 0.999)
    eps: float = 1e-8
    weight_decay: float = 0.05
    clip: float | None = 5.0
    centre_lr: float = 1.0
    centre_decay: float = 0.05
    ema: float | None = None

    def __post_init__(self) -> None:
        _positive(self, "steps", "lr", "eps", "power")
        if not 0 <= self.warmup < self.steps:
            raise ValueError(f"warmup={self.warmup}; need 0 to steps - 1 ({self.steps - 1})")
        if self.ema is not None and not 0 < self.ema < 1:
            raise ValueError(f"ema={self.ema}; need a decay between 0 and 1, or None")


@dataclass(frozen=True, kw_only=True)
class LoopConfig:
    """How the loop runs; none of this changes what is learned, except dtype and parallel by rounding.

    dtype: of the computation; weights, moments and reductions are float32. parallel: how the module is spread over
    processes. checkpointing: recompute activations. compile: torch.compile. save_every, log_every, probe_every: in
    steps (0: never). held_out: samples of every head's held-out splits on which its accuracy is measured whenever the
    probe is. keep: how many checkpoints. bad_steps: stop after this many skipped steps in a row. watch: further places
    for metrics besides metrics.jsonl.
    """

    dtype: Literal["float32", "bfloat16"] = "float32"
    parallel: Literal["ddp", "fsdp"] = "ddp"
    checkpointing: bool = False
    compile: bool = False
    save_every: int = 1000
    keep: int = 2
    log_every: int = 10
    probe_every: int = 0
    held_out: int = 0
    bad_steps: int = 5
    workers: int = 4
    prefetch: int = 64
    timeout: float = 60.0
    watch: tuple[Literal["tensorboard", "wandb", "trackio"], ...] = ()

    def __post_init__(self) -> None:
        _positive(self, "keep", "log_every", "bad_steps", "prefetch", "timeout")


@dataclass(frozen=True, kw_only=True)
class ProbeConfig:
    """A k-nearest-neighbour probe while training: a labelled set, how much of it, and k."""

    data: DataConfig
    train: str = "train"
    test: str = "test"
    most: int = 200
    k: int = 5


@dataclass(frozen=True, kw_only=True)
class TrainConfig:
    """Everything about a run. size: a name of `ov_encoder.model.config.SIZES`; encoder: changes of its fields.

    init: a model directory to start from (stage 2), else fresh weights from `seed`. cache: folder where decoded slots
    are kept, so that only the first epoch decodes; None decodes every time.
    """

    name: str
    size: str = "tiny"
    encoder: dict[str, Any]
    init: str | None = None
    seed: int = 0
    data: tuple[DataConfig, ...] = ()
    heads: tuple[HeadConfig, ...]
    image: PictureConfig = PictureConfig()
    ocr: PictureConfig = PictureConfig(area=(1.0, 1.0), stretch=(1.0, 1.0), flip=0.0, aspect="native")
    video: VideoConfig = VideoConfig()
    batch: BatchConfig = BatchConfig()
    optim: OptimConfig = OptimConfig()
    loop: LoopConfig = LoopConfig()
    probe: ProbeConfig | None = None
    cache: str | None = None
    gaps: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        names = [head.name for head in self.heads]
        if not names or len(set(names)) < len(names):
            raise ValueError(f"heads={names}; need at least one, each with a name of its own")
        own = {head.name: head.kind for head in self.heads if head.beside is None}
        for head in self.heads:
            if head.beside is not None and own.get(head.beside) != head.kind:
                allowed = ", ".join(name for name, kind in own.items() if kind == head.kind)
                raise ValueError(
                    f"head {head.name!r}: beside={head.beside!r}; need a head of kind {head.kind} with samples of its "
                    f"own ({allowed or 'there is none'})"
                )
        for data in self.data:
            if data.head is not None and data.head not in names:
                raise ValueError(f"data {data.path}: head={data.head!r}; heads are {', '.join(names)}")

    def to_dict(self) -> dict[str, Any]:
        """Plain values, ready for JSON."""
        return asdict(self)

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> TrainConfig:
        """Counterpart of to_dict, also after JSON has turned tuples into lists.

        Raises:
            ValueError: an unknown field (the closest names are shown), or a value that is not allowed.
        """
        made = _build(cls, values, "")
        assert isinstance(made, TrainConfig)
        return made


def override(config: Any, changes: Sequence[str]) -> Any:
    """A config with fields changed by dotted name: "optim.lr=3e-4", "video.shares=(1, 0, 0, 0)", "heads.0.weight=2".

    Values are Python literals; anything else is text. Any dataclass of this file will do.

    Raises:
        ValueError: no `=`, an unknown field (the closest names are shown), another type, or a value not allowed.
    """
    for change in changes:
        path, found, text = change.partition("=")
        if not found:
            raise ValueError(f"{change!r}: need NAME=VALUE, such as optim.lr=3e-4")
        try:
            value = ast.literal_eval(text)
        except (ValueError, SyntaxError):
            value = text
        config = _changed(config, path.split("."), value, path)
    return config


def _changed(config: Any, path: list[str], value: Any, whole: str) -> Any:
    name, rest = path[0], path[1:]
    if isinstance(config, tuple):
        if not name.isdigit() or int(name) >= len(config):
            raise ValueError(f"{whole}: {name!r} is no place in a list of {len(config)}")
        i = int(name)
        return (*config[:i], _changed(config[i], rest, value, whole), *config[i + 1 :])
    if isinstance(config, dict):
        return {**config, name: value}
    if not is_dataclass(config):
        raise ValueError(f"{whole}: there is nothing below {name!r}")
    _known(type(config), name, whole)
    if rest:
        return replace(config, **{name: _changed(getattr(config, name), rest, value, whole)})  # type: ignore[type-var]
    hint = get_type_hints(type(config))[name]
    return replace(config, **{name: _fit(hint, value, whole)})  # type: ignore[type-var]


def _known(owner: type, name: str, whole: str) -> None:
    names = [f.name for f in fields(owner)]
    if name not in names:
        close = difflib.get_close_matches(name, names, n=3, cutoff=0.5)
        hint = f" (did you mean {', '.join(close)}?)" if close else ""
        raise ValueError(f"{whole}: no such field{hint}; fields here: {', '.join(names)}")


def _build(owner: type, values: Any, where: str) -> Any:
    if not isinstance(values, Mapping):
        raise ValueError(f"{where or owner.__name__}: {values!r}; need the fields of {owner.__name__}")
    hints = get_type_hints(owner)
    given = {}
    for name, value in values.items():
        whole = f"{where}{name}"
        _known(owner, name, whole)
        given[name] = _fit(hints[name], value, whole)
    try:
        return owner(**given)
    except TypeError as e:
        raise ValueError(f"{where or owner.__name__}: {e}") from e


def _fit(hint: Any, value: Any, whole: str) -> Any:
    """The value as the type of a field: lists become tuples, ints floats, mappings dataclasses."""
    options = get_args(hint)
    if is_dataclass(hint):
        return value if is_dataclass(value) else _build(hint, value, f"{whole}.")  # type: ignore[arg-type]
    if get_origin(hint) is Literal:
        if value not in options:
            raise ValueError(f"{whole}={value!r}; allowed: {', '.join(map(str, options))}")
        return value
    if get_origin(hint) is tuple and isinstance(value, list | tuple):
        inner = [options[0]] * len(value) if options[-1] is Ellipsis else options
        if len(inner) != len(value):
            raise ValueError(f"{whole}={value!r}; need {len(inner)} values")
        return tuple(_fit(h, v, f"{whole}.{i}") for i, (h, v) in enumerate(zip(inner, value, strict=True)))
    if get_origin(hint) is dict and isinstance(value, Mapping):
        return dict(value)
    if type(None) in options:
        return None if value is None else _fit(next(h for h in options if h is not type(None)), value, whole)
    if hint is float and isinstance(value, int) and not isinstance(value, bool):
        return float(value)
    if isinstance(hint, type) and (type(value) is hint):
        return value
    raise ValueError(f"{whole}={value!r} is of type {type(value).__name__}; need {getattr(hint, '__name__', hint)}")
