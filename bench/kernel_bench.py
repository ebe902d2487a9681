"""Times the kernels beside their peers and writes what pytest-benchmark would.

On a CPU as bench/kernels_cpu.py does, in turns. On a GPU each round is one replay of a CUDA graph of
several calls: over as many copies of the operands as do not fit the L2 cache (cold), or over one (hot).
Contestants of a case take turns, round by round, where none is hot.
"""

import argparse
import json
import os
import platform
import shutil
import statistics
import subprocess
import time
from datetime import UTC, datetime
from itertools import pairwise
from pathlib import Path
from typing import Any

import kernels_cpu
import torch
from kernel_cases import Case, Contestant, cases

ROOT = Path(__file__).resolve().parent.parent


def add_flags(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--output", type=Path, default=None, help="default: bench/results/")
    parser.add_argument("--rounds", type=int, default=None, help="default: 30 on a GPU, 7 on a CPU")
    parser.add_argument("--seconds", type=float, default=75, help="GPU: no case begins later")
    parser.add_argument("--only", default="", help="GPU: cases whose name holds this")
    parser.add_argument("--hopper", action="store_true", help="GPU: attention in CUDA C++, too")


def run(options: argparse.Namespace) -> None:
    """Measure, print a line a contestant, write the JSON; ValueError where no round is asked for."""
    if options.rounds is not None and options.rounds < 2:
        raise ValueError(f"rounds is {options.rounds}, expected at least 2")
    on_gpu = torch.cuda.is_available()
    date = datetime.now(UTC)
    device = "gpu" if on_gpu else "cpu"
    path = options.output or kernels_cpu.RESULTS / f"kernels-{device}-{date:%Y-%m-%d}.json"
    path.parent.mkdir(parents=True, exist_ok=True)
    whole = document([], date)
    try:
        if on_gpu:
            on_a_gpu(
                options.rounds or 30,
                options.only,
                options.seconds,
                options.hopper,
                whole["benchmarks"],
            )
        else:
            whole["benchmarks"] += on_a_cpu(options.rounds or 7)
    finally:  # what was measured before a failure is kept
        path.write_text(json.dumps(whole, indent=1) + "\n")
    print(path)


def on_a_cpu(rounds: int) -> list[dict[str, Any]]:
    found = []
    for row in kernels_cpu.measure(rounds, 64, 2048):
        group = " ".join(str(value) for value in row["what"].values())
        for name, seconds in row["seconds"].items():
            found.append(benchmark(group, name, seconds, row["what"]))
    return found


def on_a_gpu(
    rounds: int, only: str, seconds: float, hopper: bool, found: list[dict[str, Any]]
) -> None:
    """Puts each result into found as soon as it is there."""
    ends = time.monotonic() + seconds
    ceilings: dict[str, float] = {}
    with torch.inference_mode():
        for case in cases(torch.device("cuda"), hopper=hopper):
            if only not in case.name and case.ceiling is None:
                continue
            if time.monotonic() > ends:
                print(case.name, "and what follows was not run:", seconds, "seconds are over")
                return
            contestants = case.make()
            for contestant, times in zip(
                contestants, measured(contestants, case, rounds), strict=True
            ):
                extra = accounted(case, times, ceilings)
                found.append(benchmark(case.name, contestant.name, times, extra))
                if case.ceiling is not None and times:
                    ceilings[case.ceiling] = extra[case.ceiling]
                print(case.name, contestant.name, extra, flush=True)
            torch.cuda.empty_cache()


def measured(contestants: list[Contestant], case: Case, rounds: int) -> list[list[float]]:
    """Seconds a call of each in each round: round by round in turns, save where some read what their last call left."""
    if any(contestant.hot for contestant in contestants):
        return [timed(contestant, case, rounds) for contestant in contestants]
    graphs = [captured(contestant, case) for contestant in contestants]
    return in_turns(graphs, rounds, max(case.copies, case.calls))


def timed(contestant: Contestant, case: Case, rounds: int) -> list[float]:
    """Seconds a call in each round; none where the contestant cannot run here, with the reason printed."""
    copies = 1 if contestant.hot else case.copies
    return in_turns([captured(contestant, case)], rounds, max(copies, case.calls))[0]


def captured(contestant: Contestant, case: Case) -> torch.cuda.CUDAGraph | None:
    """A graph of several calls; None, and the reason printed, where the contestant cannot run here."""
    copies = 1 if contestant.hot else case.copies
    try:
        stream = torch.cuda.Stream()
        stream.wait_stream(torch.cuda.current_stream())  # which makes the operands
        with torch.cuda.stream(stream):
            for index in range(copies):
                contestant.call(index)
        torch.cuda.synchronize()
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph):
            for index in range(max(copies, case.calls)):
                contestant.call(index % copies)
        for _ in range(3):
            graph.replay()
        torch.cuda.synchronize()
    except (RuntimeError, ValueError, TypeError) as error:
        print(
            case.name,
            contestant.name,
            "did not run:",
            (str(error).splitlines() or [repr(error)])[0],
            flush=True,
        )
        return None
    return graph


def in_turns(
    graphs: list[torch.cuda.CUDAGraph | None], rounds: int, calls: int
) -> list[list[float]]:
    """Seconds a call of each graph in each round; none for one that is not there."""
    marks = [torch.cuda.Event(enable_timing=True) for _ in range(rounds * len(graphs) + 1)]
    marks[0].record()
    after = iter(marks[1:])
    for _ in range(rounds):
        for graph in graphs:
            if graph is not None:
                graph.replay()
            next(after).record()
    torch.cuda.synchronize()
    spans = [before.elapsed_time(mark) / 1e3 / calls for before, mark in pairwise(marks)]
    return [
        [] if graph is None else spans[index :: len(graphs)] for index, graph in enumerate(graphs)
    ]


def accounted(case: Case, seconds: list[float], ceilings: dict[str, float]) -> dict[str, Any]:
    """What a call moves and computes, and which part that is of what the device was seen to do."""
    extra: dict[str, Any] = dict(case.sizes, bytes=case.bytes, flops=case.flops)
    if seconds:
        middle = statistics.median(seconds)
        for name, amount in (("bytes_per_second", case.bytes), ("flops_per_second", case.flops)):
            extra[name] = amount / middle
            if name in ceilings:
                extra[f"{name}_of_ceiling"] = round(amount / middle / ceilings[name], 4)
    return extra


def benchmark(group: str, name: str, seconds: list[float], extra: dict[str, Any]) -> dict[str, Any]:
    """One entry of `benchmarks`; one that did not run has no rounds and no stats."""
    row = {"group": group, "name": name, "fullname": f"{group}::{name}", "params": None}
    row |= {"param": None, "extra_info": extra, "options": {}, "stats": {}}
    if len(seconds) > 1:
        q1, middle, q3 = statistics.quantiles(seconds, n=4, method="inclusive")
        mean = statistics.fmean(seconds)
        low, high = q1 - 1.5 * (q3 - q1), q3 + 1.5 * (q3 - q1)
        inside = [s for s in seconds if low <= s <= high]
        deviation = statistics.stdev(seconds)
        strange = sum(abs(s - mean) > deviation for s in seconds)
        row["stats"] = {
            "min": min(seconds),
            "max": max(seconds),
            "mean": mean,
            "stddev": deviation,
            "rounds": len(seconds),
            "median": middle,
            "iqr": q3 - q1,
            "q1": q1,
            "q3": q3,
            "iqr_outliers": len(seconds) - len(inside),
            "stddev_outliers": strange,
            "outliers": f"{strange};{len(seconds) - len(inside)}",
            "ld15iqr": min(inside),
            "hd15iqr": max(inside),
            "ops": 1 / mean,
            "total": sum(seconds),
            "data": seconds,
            "iterations": 1,
        }
    return row


def document(found: list[dict[str, Any]], date: datetime) -> dict[str, Any]:
    """The file: machine_info, commit_info, benchmarks, datetime, version as pytest-benchmark has them."""

    def git(*arguments: str) -> str:
        if shutil.which("git") is None:
            return ""
        command = ["git", "-C", str(ROOT), *arguments]
        return subprocess.run(command, capture_output=True, text=True, check=False).stdout.strip()

    cpuinfo = Path("/proc/cpuinfo")
    lines = cpuinfo.read_text().splitlines() if cpuinfo.exists() else []
    names = [line.split(":")[1].strip() for line in lines if line.startswith("model name")]
    info: dict[str, Any] = {
        "node": "",
        "machine": platform.machine(),
        "system": platform.system(),
        "release": platform.release(),
        "python_version": platform.python_version(),
        "cpu": {
            "brand_raw": names[0] if names else platform.processor(),
            "count": os.cpu_count(),
        },
        "threads": torch.get_num_threads(),
        "torch": torch.__version__,
    }
    if torch.cuda.is_available():
        device = torch.cuda.get_device_properties(0)
        info["gpu"] = {"name": device.name, "memory": device.total_memory}
        info |= {"cuda": torch.version.cuda, "cudnn": torch.backends.cudnn.version()}
    return {
        "machine_info": info,
        "commit_info": {
            "id": git("rev-parse", "HEAD"),
            "time": git("log", "-1", "--format=%cI"),
            "dirty": bool(git("status", "--porcelain", "csrc", "kernels")),
            "branch": git("rev-parse", "--abbrev-ref", "HEAD"),
        },
        "benchmarks": found,
        "datetime": date.isoformat(),
        "version": "5.2.0",
    }
