"""The small set, made once, and one thread: threads that wait for each other take longer than these tests."""

import pytest
import torch

from tests.train.small import make_set


@pytest.fixture(autouse=True, scope="session")
def one_thread():
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="session")
def small_set(tmp_path_factory):
    return make_set(tmp_path_factory.mktemp("small"))
