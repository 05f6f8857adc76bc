"""The million-class head: margin softmax (or pairwise logistic) against class centres sharded over processes.

Here: what the loss means. The pass over the centres is negatives.py, margins margin.py, draws sampling.py, collectives
exchange.py, updates centre_optimizer.py.

Suffixes: b = samples of this process, B = of all processes (padded), L = label columns, l = drawn label columns,
C = classes of this shard, D = embedding width, n = sampled classes of this shard.
"""

from __future__ import annotations

from typing import Any, Literal, NamedTuple

import torch
import torch.distributed as dist
import torch.nn.functional as F
from torch import Tensor, nn

from .exchange import Exchange
from .margin import MARGINS, Margin, margined_logits
from .negatives import Negatives, Objective, Pass
from .sampling import distinct, draw_first, generator_for, sample_rows
from .shards import class_range

INIT_BLOCK = 4096  # classes initialised from one seed: the same centres for any number of processes
REFERENCE_LOSS_LIMIT = 69.07755278982137  # -log(1e-30): the reference clamps probabilities there


class HeadStatistics(NamedTuple):
    """Of the last forward, over all processes: detached 0-dim tensors on the head's device (no wait for a GPU)."""

    accuracy: Tensor  # share of pairs whose true class has a larger cosine than every (sampled) negative
    positive_cosine: Tensor  # mean over pairs
    filtered_share: Tensor  # negatives above filter_threshold / all negatives, of samples with a label
    pairs: Tensor  # valid (sample, label) pairs


class ClusterHead(nn.Module):
    """Loss of embeddings against `classes` centres, of which this process owns a contiguous range.

        head = ClusterHead(1024, 1_000_000, sample_rate=0.1, labels_per_step=8)
        loss = head(embeddings_bD, labels_bL)        # labels: int64, -1 for none
        loss.backward(); CentreAdamW(head, lr=1e-3).step()

    Softmax, for sample i and each of its labels j (embeddings and centres normalised):

        loss_ij = -log( exp t_ij / (exp t_ij + sum over k of exp(scale * cos_ik)) )

    where t_ij is the margined logit of the true class and k runs over all sampled classes that are *no label of
    sample i*. Not even labels that `labels_per_step` leaves out in this step are negatives. The loss is the mean over
    all valid pairs of all processes (0 if there is none), the gradient is the gradient of that mean. A label that
    stands twice in a row is one pair.

    Logistic (Eq. 9 of arXiv 2602.08683): [sum over pairs of log(1 + exp(-t_ij - bias)) + sum over samples with a
    label and their negatives k of log(1 + exp(scale * cos_ik + bias))] / number of valid pairs.

    Args:
        dim: width of the embeddings, D.
        classes: number of classes over all processes.
        margin: "cosface" (m subtracted from the cosine), "arcface" (added to the angle, radians) or "none".
        m: the margin.
        scale: what cosines are multiplied by.
        sample_rate: share of the classes used per step while training, in (0, 1]; every true class of a drawn pair
            is among them. In eval mode all classes and all labels are used.
        labels_per_step: at most this many labels of each sample are drawn per step while training; None: all.
        filter_threshold: negatives with a larger cosine are removed from sum and gradient; None: none are.
        objective: "softmax" or "logistic".
        bias: added to every logit of the logistic objective (SigLIP starts at -10: negatives are many).
        arithmetic: "exact" (as above) or "reference", see `ClusterHead.reference`.
        gradient_scale: gradients are those of the loss times this (1; the reference has 8).
        encoder_gradients: what becomes of encoder gradients over processes: "averaged" (DDP and FSDP do; the gradient
            of the local embeddings is then multiplied by the number of processes to end as that of the mean) or
            "summed" (as it is). Gradients of centres need neither: each row lives in one process.
        seed: of centres and draws. Draws also depend on the step (state_dict keeps it as `draws`) and the rank.
        tile: sampled classes per tile; None: 2,048 on CPU, 16,384 elsewhere. Results differ by rounding only.
        group: the process group to shard over; None: the default group, or one shard without any.
        device, dtype: of the centres: float32, float64 or bfloat16 (computed in float32).

    Memory: centres 4.10 GB per million classes x 1024 in float32, 2.05 GB in bfloat16, divided by the number of
    processes. A step adds the gradient of sampled rows (sample_rate times the size of the centres), about
    2 * tile * (B + D) numbers, and 3 * B * D for the gathered embeddings and their gradient.

    All processes must call forward in the same order, even with no sample (an empty batch is fine).
    """

    def __init__(
        self,
        dim: int,
        classes: int,
        *,
        margin: Margin = "cosface",
        m: float = 0.3,
        scale: float = 64.0,
        sample_rate: float = 1.0,
        labels_per_step: int | None = None,
        filter_threshold: float | None = None,
        objective: Objective = "softmax",
        bias: float = 0.0,
        arithmetic: Literal["exact", "reference"] = "exact",
        gradient_scale: float = 1.0,
        encoder_gradients: Literal["averaged", "summed"] = "averaged",
        seed: int = 0,
        tile: int | None = None,
        group: dist.ProcessGroup | None = None,
        device: torch.device | str | None = None,
        dtype: torch.dtype = torch.float32,
    ) -> None:
        super().__init__()
        _one_of("margin", margin, MARGINS)
        _one_of("objective", objective, ("softmax", "logistic"))
        _one_of("arithmetic", arithmetic, ("exact", "reference"))
        _one_of("encoder_gradients", encoder_gradients, ("averaged", "summed"))
        _one_of("dtype", dtype, (torch.float32, torch.float64, torch.bfloat16))
        for name, value, right in (
            ("dim", dim, dim >= 1),
            ("classes", classes, classes >= 1),
            ("sample_rate", sample_rate, 0 < sample_rate <= 1),
            ("labels_per_step", labels_per_step, labels_per_step is None or labels_per_step >= 1),
            ("scale", scale, scale > 0),
            ("tile", tile, tile is None or tile >= 1),
        ):
            if not right:
                raise ValueError(f"{name}={value!r}: need a number above 0{', at most 1' * (name == 'sample_rate')}")
        if arithmetic == "reference" and objective != "softmax":
            raise ValueError("arithmetic='reference' is a softmax: objective must be 'softmax'")
        self.dim, self.classes = dim, classes
        self.margin, self.m, self.scale, self.bias = margin, m, scale, bias
        self.sample_rate, self.labels_per_step = sample_rate, labels_per_step
        self.filter_threshold, self.objective = filter_threshold, objective
        self.arithmetic, self.gradient_scale, self.encoder_gradients = arithmetic, gradient_scale, encoder_gradients
        self.seed, self.tile = seed, tile
        self.exchange = Exchange(group)
        self.start, self.stop = class_range(classes, rank=self.exchange.rank, world=self.exchange.world)
        self.centres_CD = nn.Parameter(torch.empty(self.stop - self.start, dim, device=device, dtype=dtype))
        self.draws = 0
        self.statistics: HeadStatistics | None = None
        self.reset_parameters()

    @classmethod
    def reference(cls, dim: int, classes: int, *, eightfold: bool = False, **options: Any) -> ClusterHead:
        """The arithmetic of the reference code, for comparison (its independent sampling per column aside).

        CosFace 0.3 at scale 64, rate 0.1, 8 labels per step; the other true labels of a sample *are* negatives when
        they are among the sampled classes; negatives with a cosine above 0.75 count as cosine 0 instead of being
        removed; the printed loss of a pair ends at -log(1e-30). `eightfold`: gradients are `labels_per_step` times
        those of the printed loss, as the reference's backward has it. `options` override any argument of the class.
        """
        settings: dict[str, Any] = {
            "sample_rate": 0.1,
            "labels_per_step": 8,
            "filter_threshold": 0.75,
            "arithmetic": "reference",
        } | options
        if eightfold:
            settings["gradient_scale"] = float(settings["labels_per_step"])
        return cls(dim, classes, **settings)

    def reset_parameters(self) -> None:
        """Centres from normal(0, 0.01), the same for any number of processes."""
        for block in range(self.start // INIT_BLOCK, -(-self.stop // INIT_BLOCK)):
            first = block * INIT_BLOCK
            generator = generator_for("centres", seed=self.seed, step=block)
            rows = torch.randn(min(INIT_BLOCK, self.classes - first), self.dim, generator=generator).mul_(0.01)
            begin, end = max(first, self.start), min(first + len(rows), self.stop)
            with torch.no_grad():
                self.centres_CD[begin - self.start : end - self.start] = rows[begin - first : end - first]

    def forward(self, embeddings_bD: Tensor, labels_bL: Tensor) -> Tensor:
        """The mean loss over all pairs of all processes, a scalar; `self.statistics` tells more.

        Args:
            embeddings_bD: float, any length (normalised here); one row per sample of this process.
            labels_bL: int64, classes of each sample, -1 where there is none. As many columns in every process.

        Raises:
            ValueError: shapes or dtypes do not fit, or a label is outside -1..classes-1 (in every process at once).
        """
        self._check(embeddings_bD, labels_bL)
        dtype = torch.float64 if self.centres_CD.dtype == torch.float64 else torch.float32
        x_bD = F.normalize(embeddings_bD.to(dtype), dim=1)
        labels_BL, drawn = self._labels(labels_bL)
        rows_n, columns_LB, drawn = self._sample(labels_BL, drawn)
        plan = Pass(
            objective=self.objective,
            scale=self.scale,
            bias=self.bias,
            threshold=self.filter_threshold,
            tile=self.tile or (2048 if self.centres_CD.device.type == "cpu" else 16384),
            embedding_gradient=self.exchange.world if self.encoder_gradients == "averaged" else 1.0,
            exchange=self.exchange,
        )
        cos_Bl, negatives_B, facts_3B = Negatives.apply(x_bD, self.centres_CD, rows_n, columns_LB, drawn, plan)
        loss = self._loss(cos_Bl, negatives_B, facts_3B, labels_BL[:, :drawn] >= 0)
        if self.gradient_scale != 1.0:
            loss = loss * self.gradient_scale - (loss * (self.gradient_scale - 1.0)).detach()
        return loss

    def _check(self, embeddings_bD: Tensor, labels_bL: Tensor) -> None:
        if embeddings_bD.ndim != 2 or embeddings_bD.shape[1] != self.dim:
            raise ValueError(f"embeddings of shape {tuple(embeddings_bD.shape)}: need [samples, {self.dim}]")
        if labels_bL.dtype != torch.int64 or labels_bL.ndim != 2 or len(labels_bL) != len(embeddings_bD):
            raise ValueError(
                f"labels of shape {tuple(labels_bL.shape)} and {labels_bL.dtype}: "
                f"need int64 [{len(embeddings_bD)}, labels per sample], -1 for none"
            )

    def _labels(self, labels_bL: Tensor) -> tuple[Tensor, int]:
        """Labels of all processes, the drawn ones first, and how many columns are drawn."""
        low, high = (labels_bL.amin(), labels_bL.amax()) if labels_bL.numel() else (labels_bL.new_tensor(-1),) * 2
        shape = labels_bL.new_tensor(labels_bL.shape)
        facts_W4 = self.exchange.numbers(torch.cat([shape, torch.stack([low, high])]))
        if len({width for _, width, _, _ in facts_W4}) > 1:
            raise ValueError(f"processes bring {[width for _, width, _, _ in facts_W4]} label columns: need the same")
        for wrong in (value for _, _, *extremes in facts_W4 for value in extremes if not -1 <= value < self.classes):
            raise ValueError(f"label {wrong}: need 0..{self.classes - 1}, or -1 for none")
        labels_BL = self.exchange.gather(labels_bL, max(rows for rows, *_ in facts_W4), -1)
        labels_BL = distinct(labels_BL)
        if not self.training or self.labels_per_step is None or self.labels_per_step >= labels_BL.shape[1]:
            return labels_BL, labels_BL.shape[1]
        generator = generator_for("labels", seed=self.seed, step=self.draws, device=labels_BL.device)
        return draw_first(labels_BL, generator), self.labels_per_step

    def _sample(self, labels_BL: Tensor, drawn: int) -> tuple[Tensor | None, Tensor, int]:
        """Sampled rows of this shard (None: all), and the place of every own label among them (-1: not there)."""
        local_BL = torch.where(
            (labels_BL >= self.start) & (labels_BL < self.stop), labels_BL - self.start, torch.full_like(labels_BL, -1)
        )
        # Only in the reference's arithmetic are undrawn labels classes like any other.
        local_LB = (local_BL[:, :drawn] if self.arithmetic == "reference" else local_BL).T.contiguous()
        if not self.training:
            return None, local_LB, drawn
        step, self.draws = self.draws, self.draws + 1
        if self.sample_rate == 1.0 or self.start == self.stop:
            return None, local_LB, drawn
        generator = generator_for(
            "negatives", seed=self.seed, step=step, rank=self.exchange.rank, device=labels_BL.device
        )
        positives_P = local_BL[:, :drawn].reshape(-1)
        rows_n = sample_rows(positives_P, classes=self.stop - self.start, rate=self.sample_rate, generator=generator)
        places_LB = torch.searchsorted(rows_n, local_LB).clamp_(max=len(rows_n) - 1)
        return rows_n, torch.where(rows_n[places_LB] == local_LB, places_LB, -1), drawn

    def _loss(self, cos_Bl: Tensor, negatives_B: Tensor, facts_3B: Tensor, valid_Bl: Tensor) -> Tensor:
        """The formulas of the class docstring, on numbers of size [B, l]: plain autograd."""
        top_B, filtered_B, count_B = facts_3B
        true_Bl = margined_logits(cos_Bl, margin=self.margin, m=self.m, scale=self.scale)
        pairs = valid_Bl.sum().clamp(min=1)
        labelled_B = valid_Bl.any(dim=1)
        if self.objective == "logistic":
            hard_Bl = -F.logsigmoid(true_Bl + self.bias)
            loss = (hard_Bl.where(valid_Bl, 0.0).sum() + negatives_B.where(labelled_B, 0.0).sum()) / pairs
        else:
            rest_Bl = negatives_B[:, None]
            if self.arithmetic == "reference":
                rest_Bl = self._reference_rest(cos_Bl, negatives_B, filtered_B, valid_Bl)
            loss_Bl = torch.logaddexp(rest_Bl, true_Bl) - true_Bl
            if self.arithmetic == "reference":
                loss_Bl = loss_Bl - (loss_Bl - REFERENCE_LOSS_LIMIT).clamp(min=0).detach()
            loss = loss_Bl.where(valid_Bl, 0.0).sum() / pairs
        with torch.no_grad():
            self.statistics = HeadStatistics(
                accuracy=((cos_Bl > top_B[:, None]) & valid_Bl).sum() / pairs,
                positive_cosine=cos_Bl.where(valid_Bl, 0.0).sum() / pairs,
                filtered_share=(filtered_B * labelled_B).sum() / (count_B * labelled_B).sum().clamp(min=1),
                pairs=valid_Bl.sum(),
            )
        return loss

    def _reference_rest(self, cos_Bl: Tensor, negatives_B: Tensor, filtered_B: Tensor, valid_Bl: Tensor) -> Tensor:
        """Negatives of each pair: also the filtered ones, at cosine 0, and the sample's other drawn labels."""
        other_Bl = cos_Bl
        if self.filter_threshold is not None:
            other_Bl = torch.where(cos_Bl > self.filter_threshold, 0.0, cos_Bl)
        other_Bll = (self.scale * other_Bl).where(valid_Bl, -torch.inf)[:, None, :].expand(-1, cos_Bl.shape[1], -1)
        itself_ll = torch.eye(cos_Bl.shape[1], dtype=torch.bool, device=cos_Bl.device)
        other_Bll = other_Bll.masked_fill(itself_ll, -torch.inf)
        base_B = torch.logaddexp(negatives_B, filtered_B.log())
        return torch.cat([base_B[:, None, None].expand(-1, cos_Bl.shape[1], 1), other_Bll], dim=2).logsumexp(dim=2)

    def get_extra_state(self) -> dict[str, int]:
        """What a resumed run needs besides the centres: how often classes and labels were drawn."""
        return {"draws": self.draws}

    def set_extra_state(self, state: dict[str, int]) -> None:
        """Counterpart of get_extra_state."""
        self.draws = state["draws"]

    def extra_repr(self) -> str:
        """What print(head) shows."""
        return (
            f"{self.dim}, {self.classes:,} classes (here {self.start}..{self.stop}), {self.margin} {self.m}, "
            f"scale {self.scale}, rate {self.sample_rate}, {self.objective}"
        )


def _one_of(name: str, value: object, allowed: tuple[object, ...]) -> None:
    if value not in allowed:
        raise ValueError(f"{name}={value!r}: need one of {', '.join(map(str, allowed))}")
