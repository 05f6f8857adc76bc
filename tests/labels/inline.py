"""Blocks in this process instead of worker processes, which take seconds to start; `test_engine` has the real ones."""

import pytest

from ov_encoder.data.workers import Outcome
from ov_encoder.labels import engine


def run_inline(work, items, *, workers, timeout_s):
    for item in items:
        yield Outcome(item, work(item))


@pytest.fixture(autouse=True, scope="module")
def blocks_inline():
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(engine, "run_in_workers", run_inline)
        yield
