"""Ranks that cannot go on: each says why, none waits for it; and ranks that could not hold what they were asked to."""

import threading
from collections.abc import Callable
from datetime import timedelta

import pytest
import torch
import torch.distributed as dist
from wideseek_train import capacity
from wideseek_train.capacity import check_memory, check_ranks, needed_gb
from wideseek_train.ranks import Ranks, join
from wideseek_train.trainer import TrainerConfig

from wideseek.engine.config import EngineConfig
from wideseek.model.config import ModelConfig

SHAPE = ModelConfig(
    architecture="Qwen3ForCausalLM",
    vocab_size=1000,
    hidden_size=64,
    intermediate_size=128,
    num_layers=2,
    num_heads=4,
    num_kv_heads=2,
    head_dim=16,
    max_position_embeddings=128,
)
PARAMETERS = 1000 * 64 + 64 + 2 * (64 * (4 + 2 + 2 + 4) * 16 + 3 * 64 * 128 + 2 * 64 + 2 * 16)


def together(*opens: Callable[[], int]) -> list[int | str | None]:
    """What each rank, a thread of its own, comes to: what it opened, or its exit code in words."""
    store = dist.HashStore()
    found: list[int | str | None] = [None] * len(opens)

    def work(rank: int) -> None:
        try:
            found[rank] = Ranks(store, rank, len(opens)).together("things", opens[rank])
        except SystemExit as ended:
            found[rank] = f"exit {ended.code}"

    threads = [threading.Thread(target=work, args=(r,), daemon=True) for r in range(len(opens))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(timeout=60)
        assert not thread.is_alive(), "a rank hangs"
    return found


def broken(message: str) -> Callable[[], int]:
    def open_it() -> int:
        raise ValueError(message)

    return open_it


def test_ranks_go_on_when_all_have_what_they_need(capsys: pytest.CaptureFixture[str]) -> None:
    assert together(lambda: 1, lambda: 2, lambda: 3) == [1, 2, 3]
    assert capsys.readouterr().err == ""


def test_a_rank_that_fails_says_so_and_no_other_waits(capsys: pytest.CaptureFixture[str]) -> None:
    ends = together(lambda: 1, broken("no model here\nand more"), lambda: 3)
    assert ends == ["exit 2"] * 3
    assert capsys.readouterr().err == "train: rank 1: no model here\n"


def test_an_error_of_all_ranks_is_told_once(capsys: pytest.CaptureFixture[str]) -> None:
    assert together(broken("bad key"), broken("bad key"), broken("no disk")) == ["exit 2"] * 3
    told = sorted(capsys.readouterr().err.splitlines())
    assert told == ["train: rank 0: bad key", "train: rank 2: no disk"]


def test_a_rank_that_says_nothing_is_not_waited_for(capsys: pytest.CaptureFixture[str]) -> None:
    alone = Ranks(dist.HashStore(), 0, 2)
    with pytest.raises(SystemExit) as ended:
        alone.agree("things", None, timedelta(seconds=0.2))
    assert ended.value.code == 2
    assert "another rank does not say" in capsys.readouterr().err


def test_a_lone_rank_needs_no_number(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        Ranks(dist.HashStore(), 0, 1).fail("it broke", 1)
    assert (ended.value.code, capsys.readouterr().err) == (1, "train: it broke\n")


def test_collectives_wait_as_long_as_a_step_may_take() -> None:
    """Not half an hour, as they do unless told: a slow evaluation of one rank is no failure of the others."""
    join(Ranks(dist.HashStore(), 0, 1), 4000.0)
    try:
        backend = dist.group.WORLD._get_backend(torch.device("cpu"))
        assert backend.options._timeout == timedelta(seconds=4000)
    finally:
        dist.destroy_process_group()


def test_what_a_rank_needs_is_counted_in_bytes() -> None:
    """Masters and moments are shared out; the engine's weights and its KV are not, and gradients come when it sleeps."""
    engine = EngineConfig(dtype="bfloat16", kv_memory_gb=1.0)
    for ranks in (1, 4):
        expected = PARAMETERS * (12 / ranks + 2) / capacity.GIB + 1.0
        assert needed_gb(SHAPE, TrainerConfig(), engine, ranks) == pytest.approx(expected)
    two_shards = needed_gb(SHAPE, TrainerConfig(shard_ranks=2), engine, 8)
    assert two_shards == pytest.approx(PARAMETERS * (12 / 2 + 2) / capacity.GIB + 1.0)
    offloaded = needed_gb(SHAPE, TrainerConfig(offload=True), engine, 1)
    assert offloaded == pytest.approx(PARAMETERS * 2 / capacity.GIB + 1.0)
    backward = needed_gb(SHAPE, TrainerConfig(), EngineConfig(dtype="bfloat16"), 1)
    assert backward == pytest.approx(PARAMETERS * 16 / capacity.GIB)


def test_ranks_that_cannot_hold_a_model_are_refused() -> None:
    engine = EngineConfig(dtype="bfloat16", kv_memory_gb=1.0)
    check_memory(SHAPE, TrainerConfig(), engine, 1, 1.1)
    with pytest.raises(ValueError, match=r"^2 ranks cannot hold this model: each needs 1\.0 GiB"):
        check_memory(SHAPE, TrainerConfig(), engine, 2, 0.9)


def test_ranks_that_do_not_fill_the_shards_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    check_ranks(TrainerConfig(shard_ranks=8), 16, 0)
    with pytest.raises(ValueError, match="shard_ranks 8 needs a multiple of 8 ranks, not 4"):
        check_ranks(TrainerConfig(shard_ranks=8), 4, 0)
    monkeypatch.setattr("torch.cuda.device_count", lambda: 2)
    check_ranks(TrainerConfig(), 2, 1)
    with pytest.raises(ValueError, match="2 GPUs here for 3 ranks"):
        check_ranks(TrainerConfig(), 3, 2)
