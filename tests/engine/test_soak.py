"""The short form of `tests/engine/soak.py`.

Whether anyone is preempted in it depends on the clock, so the long form asks for that, and this one does not.
"""

import asyncio
from collections.abc import Callable

import pytest

from wideseek.model.qwen3 import Qwen3

from .soak import soak


@pytest.mark.parametrize("seed", [1])
def test_nothing_leaks_nor_sticks(make_model: Callable[..., Qwen3], seed: int) -> None:
    soaked = asyncio.run(asyncio.wait_for(soak(make_model(0), 150, seed), 280))
    assert soaked.disruptions > 0
    assert {"length", "cancelled", "left"} <= soaked.ends.keys()
    assert soaked.late_rss < soaked.early_rss + 64
