"""ModelRunner apart from the Engine: copies of a step, and the device of the Engine's thread."""

from typing import Literal

import numpy as np
import pytest
import torch

from tests.engine.conftest import random_model
from wideseek.engine.config import EngineConfig
from wideseek.engine.engine import Engine
from wideseek.engine.model_runner import ModelRunner
from wideseek.engine.sequence import Sequence
from wideseek.engine.step import Step
from wideseek.generation import Sampling

PAGE_SIZE = 16


@pytest.mark.parametrize("kv_dtype", ["auto", "fp8"])
def test_the_pages_of_a_step_are_copied_all_at_once(kv_dtype: Literal["auto", "fp8"]) -> None:
    """Page 0 is copied, evicted and then itself what another one is copied to."""
    config = EngineConfig(page_size=PAGE_SIZE, kv_dtype=kv_dtype)
    runner = ModelRunner(random_model(0), config, num_pages=6)
    caches = (runner._k_cache, runner._v_cache)
    for cache in caches:
        cache.copy_(torch.arange(6.0)[:, None, None, None].expand(cache.shape))
    sequence = Sequence(
        np.array([5, 6, 7]), Sampling(max_tokens=1), max_model_len=32, page_size=PAGE_SIZE
    )
    sequence.pages[:1], sequence.num_pages = [5], 1
    step = Step(copies=[(0, 1), (2, 0), (0, 3)])
    step.add(sequence, 3)
    runner.run(step)
    for cache in (cache.float() for cache in caches):
        assert cache[:, :5].amin((0, 2, 3, 4)).tolist() == [2, 0, 2, 0, 4]
        assert torch.equal(cache[:, :5].amax((0, 2, 3, 4)), cache[:, :5].amin((0, 2, 3, 4)))


@pytest.mark.parametrize(("exact", "rows"), [(None, 16), (True, 16), (False, 3)])
def test_small_steps_have_padding_rows_where_bits_matter(
    exact: bool | None, rows: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = random_model(0)
    computed: list[int] = []
    forward = model.model.forward
    monkeypatch.setattr(
        model.model,
        "forward",
        lambda tokens, *rest: computed.append(len(tokens)) or forward(tokens, *rest),
    )
    with Engine(model, EngineConfig(num_pages=4, exact=exact)) as engine:
        engine.generate_batch([([5, 6, 7], Sampling(max_tokens=1))])
    assert computed == [rows]


@pytest.mark.gpu
@pytest.mark.skipif(torch.cuda.device_count() < 2, reason="needs two CUDA devices")
def test_the_engine_of_a_second_device_computes_there() -> None:
    """Its thread begins on the first device, whatever the thread that makes it has chosen."""
    jobs = [([1 + i, 2, 3], Sampling(temperature=0, max_tokens=20)) for i in range(4)]
    told = []
    for device in ("cuda:0", "cuda:1"):
        with (
            torch.cuda.device(device),
            Engine(random_model(0).to(device), EngineConfig(num_pages=40)) as engine,
        ):
            told.append([reply.token_ids for reply in engine.generate_batch(jobs)])
    assert told[0] == told[1]
