"""What an Engine counts and measures about itself."""

from dataclasses import asdict, dataclass, fields
from time import perf_counter
from typing import Self

import numpy as np

from wideseek.engine.scheduler import Scheduler
from wideseek.engine.step import Step

RECENT = 4096
"""Durations that quantiles are taken over: the last ones."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Spread:
    """Durations in seconds: count and mean since the start, quantiles of the last RECENT."""

    count: int = 0
    mean: float = 0.0
    p50: float = 0.0
    p90: float = 0.0
    p99: float = 0.0


UNMEASURED = Spread()


@dataclass(frozen=True, kw_only=True, slots=True)
class StepTimes:
    """first_token is from submission to the first token, inter_token from one to the next.

    schedule, prepare (inputs, plan of attention), model, sample and commit are the parts of a step;
    on a GPU sample waits for the model.
    """

    first_token: Spread = UNMEASURED
    inter_token: Spread = UNMEASURED
    schedule: Spread = UNMEASURED
    prepare: Spread = UNMEASURED
    model: Spread = UNMEASURED
    sample: Spread = UNMEASURED
    commit: Spread = UNMEASURED


NO_TIMES = StepTimes()


@dataclass(frozen=True, kw_only=True, slots=True)
class EngineStats:
    """Where an Engine stood after its last step; the counts run from its start.

    prompt_tokens were asked, generated_tokens answered. prefix_hit_tokens were found in the prefix
    tree and prefill_tokens_computed were not; what a preemption or new weights made the engine
    compute again counts again. Of draft_tokens, guessed, accepted_tokens came true.
    cached_pages are in the tree, whether or not a sequence reads them too. preemptions sent a
    sequence back for want of pages; new weights and sleep are none.
    """

    running: int
    waiting: int
    free_pages: int
    cached_pages: int
    total_pages: int
    prefix_hit_tokens: int
    prefill_tokens_computed: int
    prompt_tokens: int
    generated_tokens: int
    draft_tokens: int
    accepted_tokens: int
    preemptions: int
    steps: int
    weight_version: int
    times: StepTimes = NO_TIMES

    @classmethod
    def of(cls, scheduler: Scheduler, prompt_tokens: int, weight_version: int) -> Self:
        """Where this scheduler stands; times are not its own."""
        pool, tree, counters = scheduler.cache.pool, scheduler.cache.tree, scheduler.counters
        return cls(  # Field by field: it is made in every step.
            running=len(scheduler.running),
            waiting=len(scheduler.waiting),
            free_pages=pool.num_free,
            cached_pages=0 if tree is None else len(tree),
            total_pages=pool.num_pages,
            prefix_hit_tokens=counters.prefix_hit_tokens,
            prefill_tokens_computed=counters.prefill_tokens_computed,
            prompt_tokens=prompt_tokens,
            generated_tokens=counters.generated_tokens,
            draft_tokens=counters.draft_tokens,
            accepted_tokens=counters.accepted_tokens,
            preemptions=counters.preemptions,
            steps=counters.steps,
            weight_version=weight_version,
        )

    @property
    def kv_use(self) -> float:
        """Share of the pages that hold something, 0 to 1."""
        return 1 - self.free_pages / self.total_pages

    @property
    def prefix_hit_rate(self) -> float:
        """Share of the prefill that was found instead of computed, 0 to 1."""
        prefill = self.prefix_hit_tokens + self.prefill_tokens_computed
        return self.prefix_hit_tokens / prefill if prefill else 0.0

    @property
    def acceptance(self) -> float:
        """Share of the guesses that came true, 0 to 1."""
        return self.accepted_tokens / self.draft_tokens if self.draft_tokens else 0.0

    def numbers(self) -> dict[str, float]:
        """All of it in one flat dict, as a log line or a metrics page has it; durations in seconds.

        Names are those of the fields; of a Spread, with its own after a slash: "inter_token/p99".
        """
        named: dict[str, float] = {
            part.name: getattr(self, part.name) for part in fields(self) if part.name != "times"
        }
        for rate in ("kv_use", "prefix_hit_rate", "acceptance"):
            named[rate] = getattr(self, rate)
        for part, spread in asdict(self.times).items():
            named |= {f"{part}/{name}": value for name, value in spread.items()}
        return named


class Durations:
    """Durations of one kind."""

    def __init__(self) -> None:
        self._count = 0
        self._total = 0.0
        self._recent = np.zeros(RECENT)

    def add(self, seconds: float) -> None:
        self._recent[self._count % RECENT] = seconds
        self._count += 1
        self._total += seconds

    def spread(self) -> Spread:
        count = self._count
        if count == 0:
            return Spread()
        p50, p90, p99 = np.quantile(self._recent[: min(count, RECENT)], (0.5, 0.9, 0.99)).tolist()
        return Spread(count=count, mean=self._total / count, p50=p50, p90=p90, p99=p99)


class StepClock:
    """Times the parts of each step and the tokens it brings; the engine's thread writes."""

    def __init__(self) -> None:
        self._durations = {part.name: Durations() for part in fields(StepTimes)}

    def add(self, part: str, seconds: float) -> None:
        self._durations[part].add(seconds)

    def add_tokens(self, step: Step) -> None:
        """The step's tokens are out: how long each has been waited for."""
        now = perf_counter()
        for sequence, rows in zip(step.sequences, step.num_rows, strict=True):
            if not rows or sequence.is_scored:
                continue
            count = len(sequence.logprobs) - sequence.num_timed
            if sequence.num_timed == 0:
                self.add("first_token", now - sequence.timed_at)
            else:
                for _ in range(count):
                    self.add("inter_token", (now - sequence.timed_at) / count)
            sequence.timed_at = now
            sequence.num_timed += count

    def times(self) -> StepTimes:
        return StepTimes(**{part: each.spread() for part, each in self._durations.items()})
