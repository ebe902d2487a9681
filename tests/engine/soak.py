"""A day of an engine's life in minutes: `python -m tests.engine.soak [SEQUENCES]` runs the long one.

Many callers at once, of random lengths, who cancel, walk away, score and go on in sessions; few
pages; and a trainer who updates, pauses, puts to sleep and aborts. Conservation is asserted each
time it does. Ends with a verdict: exit code 1 if memory grew, an error if anything else is wrong.
"""

import asyncio
import random
import sys
import time
from collections import Counter
from dataclasses import dataclass
from pathlib import Path

import torch

from wideseek.engine.config import EngineConfig
from wideseek.engine.engine import Engine
from wideseek.engine.errors import EngineAsleep
from wideseek.generation import Completion, Sampling
from wideseek.model.qwen3 import Qwen3

from .conftest import VOCAB, random_model, weights_of

CALLERS = 24
GROWTH = 1.05
"""Times its early size that resident memory may have at the end."""

LONGEST = 300
"""Tokens after which a session has no further turn; the pool holds 384."""

PATIENCE = 120.0
"""Seconds without any completion after which a sequence counts as stuck."""


@dataclass(slots=True)
class Soaked:
    """What happened, and resident memory in MiB after a fifth of the sequences and at the end.

    No page, no session and no waiting caller is left when it is made.
    """

    ends: Counter[str]
    disruptions: int
    early_rss: float
    late_rss: float
    preemptions: int
    accepted_tokens: int

    @property
    def memory_is_flat(self) -> bool:
        return self.late_rss <= self.early_rss * GROWTH


async def soak(model: Qwen3, num_sequences: int, seed: int) -> Soaked:
    """Assertion errors name what went wrong; the model's weights end as they began."""
    rng = random.Random(seed)
    state = weights_of(model)
    ends: Counter[str] = Counter()
    early: list[float] = []
    disruptions = 0
    config = EngineConfig(num_pages=48, page_size=8, max_num_seqs=12, max_batch_tokens=64)
    with Engine(model, config) as engine:

        async def caller(jobs: "asyncio.Queue[int]") -> None:
            while not jobs.empty():
                end = await one_call(engine, jobs.get_nowait())
                ends[end] += 1
                if ends.total() == num_sequences // 5:
                    early.append(rss_mib())

        async def trainer() -> None:
            nonlocal disruptions
            while ends.total() < num_sequences:
                await asyncio.sleep(rng.random() * 0.3)
                await asyncio.to_thread(disrupt, engine, rng, state)
                disruptions += 1

        async def watch() -> None:
            done, since = -1, time.monotonic()
            while ends.total() < num_sequences:
                if ends.total() > done:
                    done, since = ends.total(), time.monotonic()
                assert time.monotonic() - since < PATIENCE, f"stuck: {engine.stats()}"
                await asyncio.sleep(0.2)

        jobs: asyncio.Queue[int] = asyncio.Queue()
        for index in range(num_sequences):
            jobs.put_nowait(index)
        async with asyncio.TaskGroup() as tasks:
            for _ in range(CALLERS):
                tasks.create_task(caller(jobs))
            tasks.create_task(trainer())
            tasks.create_task(watch())
        while engine.stats().running or engine.stats().waiting:  # of callers who left
            await asyncio.sleep(0.01)
        engine.update_weights(state.items())  # drops what is cached
        stats = engine.stats()
        assert stats.running == stats.waiting == 0 and stats.free_pages == stats.total_pages
        assert len(engine._scheduler.cache.sessions) == 0 and not engine._awaited
    assert ends.total() == num_sequences
    return Soaked(ends, disruptions, early[0], rss_mib(), stats.preemptions, stats.accepted_tokens)


async def one_call(engine: Engine, index: int) -> str:
    """One sequence from beginning to end, or a session of some; "left" when its caller walked away."""
    rng = random.Random(index)
    shared = random.Random(index % 5).choices(range(VOCAB), k=rng.randrange(0, 90))
    ids = [*shared, *rng.choices(range(VOCAB), k=rng.randrange(2, 50))]
    cancel, way, turns = asyncio.Event(), rng.random(), rng.choice((1, 1, 3))
    session = "" if rng.random() < 0.3 else f"q{index % 9}/lead/{index}"
    while True:
        if way < 0.15:
            reply = engine.score(ids, rng.randrange(1, len(ids)), cancel)
        else:
            # Mostly short, so that long ones are not reckoned with and run out of pages.
            max_tokens = rng.randrange(1, 8) if rng.random() < 0.7 else rng.randrange(50, 90)
            temperature = rng.choice((0.0, 0.5, 1.0))
            sampling = Sampling(temperature=temperature, max_tokens=max_tokens, seed=index)
            reply = engine.generate(ids, sampling, cancel, session=session)
        call = asyncio.create_task(reply)
        if way > 0.7:
            await asyncio.sleep(rng.random() * 0.1)
        if way > 0.85:
            cancel.set()
        elif way > 0.7:
            call.cancel()
            await asyncio.wait([call])
        if call.cancelled():
            return "left"
        try:
            completion = await call
        except EngineAsleep:
            await asyncio.sleep(0.01)
            continue
        except asyncio.CancelledError:
            return "left"
        check(completion)
        turns -= 1
        ids += [*completion.token_ids, rng.randrange(VOCAB)]
        if turns == 0 or completion.finish_reason == "cancelled" or len(ids) > LONGEST:
            return completion.finish_reason


def check(completion: Completion) -> None:
    count = len(completion.token_ids)
    assert count == len(completion.logprobs) == len(completion.plain_logprobs)
    assert count == len(completion.weight_versions)
    assert list(completion.weight_versions) == sorted(completion.weight_versions)
    assert count or completion.finish_reason == "cancelled"


def disrupt(engine: Engine, rng: random.Random, state: dict[str, torch.Tensor]) -> None:
    """What a trainer does between two steps, or one thing of it."""
    match rng.randrange(7):
        case 0:
            engine.update_weights(state.items())
        case 1:
            engine.update_weights(state.items(), keep_kv=True)
        case 2:
            engine.pause()
            engine.update_weights(state.items(), keep_kv=rng.random() < 0.5)
            engine.resume()
        case 3:
            engine.sleep()
            engine.wake()
        case 4:
            engine.sleep(drop_weights=True)
            time.sleep(0.02)
            engine.wake(state.items())
        case 5 if rng.random() < 0.2:
            engine.abort()
    with engine._between_steps():
        if not engine._asleep:
            engine._scheduler.check()


def rss_mib() -> float:
    fields = Path("/proc/self/statm").read_text().split()
    return int(fields[1]) * 4096 / 2**20


def main() -> int:
    num_sequences = int(sys.argv[1]) if len(sys.argv) > 1 else 20_000
    torch.set_num_threads(1)
    begun = time.monotonic()
    soaked = asyncio.run(soak(random_model(0), num_sequences, 1))
    print(f"{num_sequences} sequences in {time.monotonic() - begun:.0f} s: {soaked}")
    assert soaked.preemptions > 0, "pages never ran out"
    print("nothing stuck, conservation held, no page or session left")
    verdict = "flat" if soaked.memory_is_flat else "GROWING"
    print(f"memory {verdict}: {soaked.early_rss:.0f} MiB early, {soaked.late_rss:.0f} MiB late")
    return 0 if soaked.memory_is_flat else 1


if __name__ == "__main__":
    sys.exit(main())
