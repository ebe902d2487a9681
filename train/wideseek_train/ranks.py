"""The ranks of a run: how they meet, how all of them stop where one cannot go on, and what they add up.

Ranks meet in a store before there is a process group, so that one whose files are missing says so and the others hear
of it instead of waiting for it in a collective.
"""

import os
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import timedelta
from typing import NoReturn, TypeVar

import torch
import torch.distributed as dist
from torch.distributed import HashStore, PrefixStore, Store  # type: ignore[attr-defined]
from torch.distributed.rendezvous import rendezvous

T = TypeVar("T")

AGREE = timedelta(hours=1)
"""How long a rank waits to hear whether the others could open what they need: reading weights takes minutes."""


@dataclass(frozen=True, slots=True)
class Ranks:
    """This process among those that torchrun started, or alone; their store counts and remembers."""

    store: Store
    rank: int
    count: int

    def fail(self, message: str, code: int = 2) -> NoReturn:
        """One line on stderr that names the rank, and an exit code: 2 for what was asked, 1 for what went wrong later."""
        who = f"train: rank {self.rank}: " if self.count > 1 else "train: "
        print(who + message.partition("\n")[0], file=sys.stderr, flush=True)
        sys.exit(code)

    def stop(self, message: str) -> NoReturn:
        """End all ranks with code 1 for what each of them found alike; the first tells it."""
        if self.rank == 0:
            print(f"train: {message}", file=sys.stderr, flush=True)
        sys.exit(1)

    def together(self, stage: str, open: Callable[[], T]) -> T:
        """What `open` gives here, once it has given something on every rank; a ValueError or OSError of one ends all."""
        try:
            opened = open()
        except (ValueError, OSError) as error:
            self.agree(stage, str(error))
            raise
        self.agree(stage, None)
        return opened

    def agree(self, stage: str, error: str | None, timeout: timedelta = AGREE) -> None:
        """Go on if every rank got through `stage`, a name used once, without an error; else all end with code 2.

        An error of several ranks is told by the first of them, any other by its own rank.
        """
        keys = [f"{stage}/{rank}" for rank in range(self.count)]
        self.store.set(keys[self.rank], error or "")
        try:
            self.store.wait(keys, timeout)
        except dist.DistStoreError:
            self.fail(error or f"another rank does not say whether it could open its {stage}")
        told = [self.store.get(key).decode() for key in keys]
        if error is not None and error not in told[: self.rank]:
            self.fail(error)
        if any(told):
            sys.exit(2)


def meet() -> Ranks:
    """All ranks that torchrun started, or this process alone; there is no process group yet."""
    if "RANK" not in os.environ:
        return Ranks(HashStore(), 0, 1)
    store, rank, count = next(rendezvous("env://"))
    return Ranks(store, rank, count)


def join(ranks: Ranks, seconds: float) -> None:
    """Make the process group; a rank that waits longer than `seconds` for another in a collective ends."""
    backends = "cpu:gloo"
    if torch.cuda.is_available():
        torch.cuda.set_device(int(os.environ.get("LOCAL_RANK", "0")))
        backends += ",cuda:nccl"
    elif ranks.count > 1:
        torch.set_num_threads(1)  # ranks share a machine better than threads
    dist.init_process_group(
        backends,
        store=PrefixStore("group", ranks.store),
        rank=ranks.rank,
        world_size=ranks.count,
        timeout=timedelta(seconds=seconds),
    )


def sum_over_ranks(sums: Mapping[str, float]) -> dict[str, float]:
    """The same names on every rank, added up; a collective call."""
    added = torch.tensor(list(sums.values()), dtype=torch.float64)
    dist.all_reduce(added)
    return dict(zip(sums, added.tolist(), strict=True))


def max_over_ranks(value: float) -> float:
    """A collective call."""
    largest = torch.tensor(value, dtype=torch.float64)
    dist.all_reduce(largest, dist.ReduceOp.MAX)
    return largest.item()
