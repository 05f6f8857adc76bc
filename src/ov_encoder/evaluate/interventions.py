"""Interventions: what is lost when the chosen patches lie about what or where they are (Table 6 of the paper).

Token count and the multiset of positions never change. Each takes a plan and gives the batch that is encoded.

Shapes: N = tokens of a sample, D = values of a patch, 3 = (t, h, w).
"""

from __future__ import annotations

import numpy as np

from ov_encoder.evaluate.policies import random_of
from ov_encoder.patchify.batch import PatchBatch
from ov_encoder.patchify.cut import cut_patches
from ov_encoder.patchify.plan import ClipPlan

INTERVENTIONS = ("still", "other", "shuffle")
SHARE = 0.5  # of the tokens whose content is replaced


def intervene(made: ClipPlan, how: str, *, seed: int = 0, key: str = "", donor: ClipPlan | None = None) -> PatchBatch:
    """The batch of a plan after one of INTERVENTIONS; a function of the plan, seed and key (the sample's id).

    still: half of the tokens show patches of the same clip that were not kept, from the half with the lowest scores;
    positions stay. other: half of the tokens show patches that were kept for their score in `donor`, another clip;
    positions stay. shuffle: contents stay, positions are dealt anew among them.

    Raises:
        ValueError: an unknown intervention, or "other" without a donor of the same patch size.
    """
    if how not in INTERVENTIONS:
        raise ValueError(f"intervention={how!r}; allowed: {', '.join(INTERVENTIONS)}")
    batch, random = made.to_batch(), random_of(seed, f"{how} {key}")
    if how == "shuffle":
        batch.patches_ND = batch.patches_ND[random.permutation(batch.tokens)]
    else:
        replaced = np.sort(random.permutation(batch.tokens)[: round(SHARE * batch.tokens)])
        if how == "still":
            source, places_M3 = made, _still_places(made)
        elif donor is None or donor.patch_size != made.patch_size:
            raise ValueError(f"intervention 'other' needs a donor clip with patches of {made.patch_size} pixels")
        else:
            source, places_M3 = donor, _moving_places(donor)
        # With fewer patches to take from than tokens to replace, patches are shown more than once.
        taken = random.choice(len(places_M3), len(replaced), replace=len(places_M3) < len(replaced))
        batch.patches_ND[replaced] = cut_patches(source.frames_THWC, places_M3[taken], made.patch_size)
    batch.scores_N = np.full(batch.tokens, np.nan, np.float32)  # they were of other contents
    batch.provenance_B = [{**batch.provenance_B[0], "intervention": how}]
    return batch


def _still_places(made: ClipPlan) -> np.ndarray:
    """(t, h, w) of the lower half by score of the patches that were not kept; of all patches if all were kept."""
    left = np.flatnonzero(~made.keep_THW) if not made.keep_THW.all() else np.arange(made.keep_THW.size)
    order = np.argsort(np.nan_to_num(made.scores_THW).ravel()[left], kind="stable")
    return _places(left[order[: max(len(left) // 2, 1)]], made)


def _moving_places(made: ClipPlan) -> np.ndarray:
    """(t, h, w) of patches that were kept for their score; of all kept ones if none was."""
    moving = np.flatnonzero(made.keep_THW & ~made.anchors_T[:, None, None])
    return _places(moving if len(moving) else np.flatnonzero(made.keep_THW), made)


def _places(flat: np.ndarray, made: ClipPlan) -> np.ndarray:
    return np.stack(np.unravel_index(flat, made.keep_THW.shape), axis=1)
