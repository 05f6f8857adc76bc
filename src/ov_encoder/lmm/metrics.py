"""How an answer is scored against the right ones. Text only; libraries do what libraries do well.

Every per-item score lies in [0, 1] (CIDEr: 0 to 10). Corpus scores (BLEU, CIDEr) see all items at once.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from ov_encoder.errors import missing_extra

ANLS_THRESHOLD = 0.5  # of the normalised edit distance: what is further off than this scores 0 (DocVQA)


def normalise(text: str) -> str:
    """Unicode NFKC, case folded, punctuation at the ends of words and spaces reduced."""
    words = unicodedata.normalize("NFKC", text).casefold().split()
    return " ".join(w for w in (re.sub(r"^[^\w$%]+|[^\w%]+$", "", word) for word in words) if w)


def exact(answer: str, right: Sequence[str]) -> float:
    """1 if the answer is one of the right ones after `normalise`."""
    return float(normalise(answer) in {normalise(r) for r in right})


def anls(answer: str, right: Sequence[str]) -> float:
    """Average normalised Levenshtein similarity of one answer: best over the right ones, 0 below the threshold."""
    try:
        from rapidfuzz.distance import Levenshtein
    except ImportError as e:
        raise missing_extra("rapidfuzz", "lmm", "the ANLS metric") from e
    distances = [Levenshtein.normalized_distance(answer.strip().casefold(), r.strip().casefold()) for r in right]
    nearest = min(distances)
    return 1.0 - nearest if nearest < ANLS_THRESHOLD else 0.0


def bleu(answers: Sequence[str], right: Sequence[Sequence[str]]) -> float:
    """Corpus BLEU-4 in [0, 1], by sacrebleu with its default tokenizer."""
    try:
        import sacrebleu
    except ImportError as e:
        raise missing_extra("sacrebleu", "lmm", "the BLEU metric") from e
    most = max(len(r) for r in right)
    references: list[Any] = [[r[i] if i < len(r) else None for r in right] for i in range(most)]
    return sacrebleu.corpus_bleu(list(answers), references).score / 100


def cider(answers: Sequence[str], right: Sequence[Sequence[str]]) -> np.ndarray:
    """CIDEr of every answer (its mean is the corpus score), by pycocoevalcap. Document frequencies come from all
    `right` answers, so one item alone scores 0."""
    try:
        from pycocoevalcap.cider.cider import Cider
    except ImportError as e:
        raise missing_extra("pycocoevalcap", "lmm", "the CIDEr metric") from e
    truth = {i: [normalise(x) for x in r] for i, r in enumerate(right)}
    given = {i: [normalise(a)] for i, a in enumerate(answers)}
    return np.asarray(Cider().compute_score(truth, given)[1])


ITEM_METRICS: Mapping[str, Callable[[str, Sequence[str]], float]] = {"exact": exact, "anls": anls}
METRICS = (*ITEM_METRICS, "bleu", "cider", "choice")


def bootstrap(scores_N: np.ndarray, *, seed: int = 0, rounds: int = 2000) -> tuple[float, float]:
    """95 % interval of the mean over items, by resampling them."""
    picks = np.random.default_rng(seed).integers(0, len(scores_N), (rounds, len(scores_N)))
    low, high = np.percentile(scores_N[picks].mean(axis=1), (2.5, 97.5))
    return float(low), float(high)
