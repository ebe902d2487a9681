"""Two processes for tests of what several ranks do together."""

import multiprocessing
from collections.abc import Callable
from pathlib import Path


def run_two_ranks(run_rank: Callable[[int, Path], None], folder: Path, seconds: float) -> None:
    """run_rank(rank, folder) in a process each, which both must end well within `seconds`."""
    spawn = multiprocessing.get_context("spawn")
    ranks = [spawn.Process(target=run_rank, args=(rank, folder)) for rank in range(2)]
    for process in ranks:
        process.start()
    for process in ranks:
        process.join(timeout=seconds)
        assert process.exitcode == 0, "a rank failed or hangs"
