"""Our encoder under a policy: the reader that chooses patches by it, and disturbs them where a study asks to.

A frozen dataclass, so that it is pickled to the processes that read and its fields say all that it does.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import lru_cache

from ov_encoder.data.manifest import Manifest, Sample, read_manifest
from ov_encoder.errors import OvEncoderError
from ov_encoder.evaluate.interventions import INTERVENTIONS, intervene
from ov_encoder.evaluate.policies import POLICIES, check_policy, choose, random_of
from ov_encoder.patchify.batch import PatchBatch
from ov_encoder.patchify.options import Options
from ov_encoder.patchify.plan import ClipPlan


@dataclass(frozen=True, slots=True)
class ReadPolicy:
    """Patches by a policy (`policies.choose`). intervention: "" or one of INTERVENTIONS; "other" takes patches of other
    videos of the same split, from the manifest `donors`. seed: of random patches and interventions.
    """

    policy: str = "fused"
    options: Options = field(default_factory=Options)
    seed: int = 0
    intervention: str = ""
    donors: str = ""

    def __call__(self, sample: Sample) -> PatchBatch:
        """One sample.

        Raises:
            OvEncoderError: it, or its donor, cannot be read. ValueError: a signal that the clip does not have.
        """
        made = self._choose(sample)
        if not self.intervention:
            return made.to_batch()
        donor = self._choose(self._donor(sample)) if self.intervention == "other" else None
        return intervene(made, self.intervention, seed=self.seed, key=sample.id, donor=donor)

    def _choose(self, sample: Sample) -> ClipPlan:
        return choose(sample.source(), self.policy, options=self.options, seed=self.seed, key=sample.id)

    def _donor(self, sample: Sample) -> Sample:
        others = [s for s in _manifest(self.donors) if s.split == sample.split and s.id != sample.id]
        if not others:
            raise OvEncoderError(f"{sample.id}: no other video in its split to take patches from")
        return others[random_of(self.seed, f"donor {sample.id}").integers(len(others))]


def parse_policy(text: str) -> tuple[str, str]:
    """("fused", "shuffle") of "fused+shuffle"; the intervention is "" where there is none.

    Raises:
        ValueError: an unknown policy or intervention.
    """
    policy, plus, intervention = text.partition("+")
    check_policy(policy)
    if plus and intervention not in INTERVENTIONS:
        raise ValueError(
            f"unknown intervention {intervention!r} in {text!r}; interventions: {', '.join(INTERVENTIONS)} "
            f"(POLICY+INTERVENTION); policies: {', '.join(POLICIES)}"
        )
    return policy, intervention


@lru_cache(maxsize=4)
def _manifest(path: str) -> Manifest:
    return read_manifest(path)
