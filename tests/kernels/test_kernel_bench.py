"""`bench/main.py kernels`: every case runs, counts what it should, and the file is pytest-benchmark's."""

import importlib
import statistics
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
import torch

BENCH = Path(__file__).resolve().parents[2] / "bench"
# What pytest-benchmark's own compare and histogram read.
STATS = (
    "min max mean stddev rounds median iqr q1 q3 iqr_outliers outliers ld15iqr hd15iqr ops total"
)


@pytest.fixture
def kernel_bench(monkeypatch: pytest.MonkeyPatch) -> Any:
    monkeypatch.syspath_prepend(str(BENCH))
    return importlib.import_module("kernel_bench")


def test_each_of_our_contestants_runs_in_every_case(kernel_bench: Any) -> None:
    ran = 0
    with torch.inference_mode():
        for case in kernel_bench.cases(torch.device("cpu"), 128):
            contestants = case.make()
            ours = [each for each in contestants if each.name.startswith("wideseek")]
            assert ours or case.ceiling is not None
            for contestant in ours:
                contestant.call(0)
                contestant.call((1 if contestant.hot else case.copies) - 1)
                ran += 1
    assert ran >= 20


def test_attention_counts_a_shared_key_once_and_a_causal_pair_once(kernel_bench: Any) -> None:
    cases = {case.name: case for case in kernel_bench.cases(torch.device("cpu"))}
    shared = cases["decode 64 x (16k shared + 2k)"]
    keys = 16384 + 64 * 2048
    assert shared.bytes == 2 * 2 * keys * 8 * 128 + 2 * 2 * 64 * 32 * 128
    assert shared.flops == 4 * 64 * 18432 * 32 * 128
    extend = cases["extend 512 at 16k"]
    pairs = sum(16384 + 1 + row for row in range(512))
    assert extend.flops == 4 * pairs * 32 * 128


def test_shares_of_a_ceiling_are_of_the_median(kernel_bench: Any) -> None:
    case = kernel_bench.Case("x", list, bytes=8.0, flops=0.0)
    extra = kernel_bench.accounted(case, [1.0, 2.0, 9.0], {"bytes_per_second": 16.0})
    assert extra["bytes_per_second"] == 4.0 and extra["bytes_per_second_of_ceiling"] == 0.25
    assert "bytes_per_second" not in kernel_bench.accounted(case, [], {})


def test_the_file_is_that_of_pytest_benchmark(kernel_bench: Any) -> None:
    seconds = [0.25, 0.5, 0.5, 0.5, 4.0]
    row = kernel_bench.benchmark("group", "name", seconds, {"bytes": 1})
    stats = row["stats"]
    assert not set(STATS.split()) - set(stats)
    assert stats["median"] == 0.5 and stats["iqr"] == 0.0 and stats["iqr_outliers"] == 2
    assert (stats["ld15iqr"], stats["hd15iqr"], stats["rounds"]) == (0.5, 0.5, 5)
    assert stats["stddev"] == statistics.stdev(seconds) and stats["total"] == 5.75
    document = kernel_bench.document([row], datetime.now(UTC))
    assert document["benchmarks"] == [row] and document["commit_info"]["id"]
    assert document["machine_info"]["torch"] == torch.__version__


def test_contestants_take_turns_and_each_gets_its_own_times(
    kernel_bench: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    clock, order = [0.0], []

    class Mark:
        def __init__(self, *, enable_timing: bool) -> None:
            assert enable_timing

        def record(self) -> None:
            self.at = clock[0]

        def elapsed_time(self, later: "Mark") -> float:
            return later.at - self.at

    class Graph:
        def __init__(self, milliseconds: float) -> None:
            self.milliseconds = milliseconds

        def replay(self) -> None:
            clock[0] += self.milliseconds
            order.append(self.milliseconds)

    monkeypatch.setattr(torch.cuda, "Event", Mark)
    monkeypatch.setattr(torch.cuda, "synchronize", lambda: None)
    found = kernel_bench.in_turns([Graph(8.0), None, Graph(2.0)], 3, 4)
    assert found == [[2e-3] * 3, [], [5e-4] * 3] and order == [8.0, 2.0] * 3


def test_what_did_not_run_has_no_stats(kernel_bench: Any) -> None:
    assert kernel_bench.benchmark("group", "name", [], {})["stats"] == {}
