"""Recipes are scripts beside the package: their folder is put on the path, as Python does when they are run."""

from pathlib import Path

import pytest
import torch

BUNDLE = Path(__file__).parents[2] / "recipes/bundle"


@pytest.fixture(autouse=True)
def bundle(monkeypatch):
    monkeypatch.syspath_prepend(str(BUNDLE))


@pytest.fixture(autouse=True, scope="session")
def one_thread():
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)
