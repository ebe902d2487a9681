"""Tests of C++ kernels with several threads, however many a process of the test run has."""

from collections.abc import Iterator

import pytest
import torch


@pytest.fixture(autouse=True)
def three_threads() -> Iterator[None]:
    """For each test of a module that imports it."""
    before = torch.get_num_threads()
    torch.set_num_threads(3)
    yield
    torch.set_num_threads(before)
