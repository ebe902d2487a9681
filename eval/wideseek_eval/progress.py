"""What is shown while an evaluation runs: a bar redrawn in place, or a line for each trial."""

import asyncio
import os
import shutil
import sys
import time
from collections.abc import AsyncIterator, Callable, Iterable
from contextlib import asynccontextmanager, suppress
from typing import Protocol, TextIO

from wideseek.ask.progress import say
from wideseek.ask.show import cut, visible
from wideseek.tools.outcome import Status
from wideseek_eval.report import METRICS, value_of
from wideseek_eval.results import Record, Results
from wideseek_eval.spending import Prices, dollars
from wideseek_eval.suites import EvalTask

_NO_FAILURE = (Status.OK, Status.NO_RESULTS, Status.CANCELLED)
_MEANS = ("item_f1", "success", "em", "f1")
_SECONDS_BETWEEN_FRAMES = 0.5


class Progress(Protocol):
    """Where the trials of an evaluation are shown as they end."""

    def show(self, record: Record) -> None:
        """A trial ended."""

    def miss(self, task: EvalTask, trial: int) -> None:
        """A trial got no answer, or no verdict."""

    def tell(self, line: str) -> None:
        """Something else is to be known."""


@asynccontextmanager
async def open_progress(
    results: Results, tasks: frozenset[str], trials: int, prices: Prices | None
) -> AsyncIterator[Progress]:
    """Progress on stderr: a bar on a terminal, which is drawn until this is left, else lines."""
    tally = Tally(results, tasks, trials, prices)
    if not sys.stderr.isatty() or os.environ.get("TERM", "dumb") == "dumb":
        yield LineProgress(tally, sys.stderr)
        return
    bar = BarProgress(tally, sys.stderr)
    redrawing = asyncio.create_task(bar.keep_drawn())
    try:
        yield bar
    finally:
        redrawing.cancel()
        with suppress(asyncio.CancelledError):
            await redrawing
        bar.draw()


class Tally:
    """Counts of the wanted trials, and the means so far in words."""

    def __init__(
        self, results: Results, tasks: frozenset[str], trials: int, prices: Prices | None
    ) -> None:
        self.wanted = len(tasks) * trials
        self.missed = 0
        self._results = results
        self._tasks, self._trials, self._prices = tasks, trials, prices
        self.done = self.found = len(self._records())

    def _records(self) -> list[Record]:
        records = self._results.records.values()
        return [r for r in records if r.task in self._tasks and r.trial < self._trials]

    def so_far(self) -> list[str]:
        """Means of the trials with a result, calls of tools that failed, and the cost of all."""
        records = self._records()
        told = []
        for metric in _MEANS if records else ():
            found = (value_of(record, metric) for record in records)
            values = [value for value in found if value is not None]
            if values:
                told.append(f"{METRICS[metric]} {sum(values) / len(values):.3f}")
        if records:
            told.append(f"{sum(record.tokens for record in records) / len(records):,.0f} tokens")
            failed, made = tool_failures(records)
            told.append(f"{failed} of {made} tool calls failed")
        if self._prices is not None:
            told.append(f"{dollars(self._results.spent(), self._prices):,.2f} dollars in all")
        return told


class LineProgress:
    """A line for each trial that ends, with the means so far."""

    def __init__(self, tally: Tally, out: TextIO) -> None:
        self._tally = tally
        self._out = out

    def show(self, record: Record) -> None:
        self._tally.done += 1
        so_far = ", ".join(self._tally.so_far())
        self._tell(tell_trial(record) + (f" | so far: {so_far}" if so_far else ""))

    def miss(self, task: EvalTask, trial: int) -> None:
        self._tally.missed += 1
        self._tell(f"{task.id} trial {trial}: no answer")

    def _tell(self, line: str) -> None:
        tally = self._tally
        self.tell(f"[{tally.done + tally.missed}/{tally.wanted}] {line}")

    def tell(self, line: str) -> None:
        say(self._out, f"{visible(line)}\n")


class BarProgress:
    """Three lines redrawn in place: the bar with the time left, the means so far, the last trial.

    size: of the terminal, in columns and rows.
    """

    def __init__(
        self,
        tally: Tally,
        out: TextIO,
        *,
        size: Callable[[], tuple[int, int]] = shutil.get_terminal_size,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._tally = tally
        self._out = out
        self._size = size
        self._clock = clock
        self._begun = clock()
        self._last = ""
        self._num_drawn = 0

    def show(self, record: Record) -> None:
        self._tally.done += 1
        self._last = tell_trial(record)
        self.draw()

    def miss(self, task: EvalTask, trial: int) -> None:
        self._tally.missed += 1
        self._last = f"{task.id} trial {trial}: no answer"
        self.draw()

    def tell(self, line: str) -> None:
        """The line stays above the bar."""
        self.draw(above=visible(line))

    async def keep_drawn(self) -> None:
        """Redraw from time to time, for as long as this is awaited: the clock goes on."""
        while True:
            self.draw()
            await asyncio.sleep(_SECONDS_BETWEEN_FRAMES)

    def draw(self, above: str = "") -> None:
        """Draw where it stood before, or below a line that is to stay."""
        room = self._size()[0] - 1
        lines = [self._bar(room), " · ".join(self._tally.so_far()), self._last]
        shown = [cut(visible(line), room) for line in lines if line]
        up = f"\x1b[{self._num_drawn}A" if self._num_drawn else ""
        kept = [above] if above else []
        block = "".join(f"\r\x1b[2K{line}\n" for line in kept + shown)
        say(self._out, f"{up}{block}\x1b[J")
        self._num_drawn = len(shown)

    def _bar(self, room: int) -> str:
        tally = self._tally
        told = f" {tally.done}/{tally.wanted} · {self._times()}"
        if tally.missed:
            told += f" · {tally.missed} without an answer"
        width = max(8, min(40, room - len(told)))
        filled = width * tally.done // max(1, tally.wanted)
        return "━" * filled + "╌" * (width - filled) + told

    def _times(self) -> str:
        """How long it has taken, and is likely to take at the pace of this session."""
        tally = self._tally
        taken = self._clock() - self._begun
        ended = tally.done - tally.found + tally.missed
        left = tally.wanted - tally.done - tally.missed
        told = _clock_time(taken)
        return f"{told}, {_clock_time(taken / ended * left)} left" if ended and left else told


def _clock_time(seconds: float) -> str:
    """Minutes and seconds, with hours where there are any."""
    minutes, second = divmod(round(seconds), 60)
    hours, minute = divmod(minutes, 60)
    return f"{hours}:{minute:02}:{second:02}" if hours else f"{minute}:{second:02}"


def tool_failures(records: Iterable[Record]) -> tuple[int, int]:
    """Tool calls that failed, and all tool calls; a search that found nothing did not fail."""
    failed = made = 0
    for record in records:
        for outcome, count in record.tool_outcomes.items():
            made += count
            failed += count * (outcome.split()[-1] not in _NO_FAILURE)
    return failed, made


def tell_trial(record: Record) -> str:
    """What one trial came to, in a few words."""
    told = f"{record.task} trial {record.trial}: "
    if record.qa is not None:
        told += f"F1 {record.qa.f1:.3f}, "
    elif (item_f1 := value_of(record, "item_f1")) is not None:
        told += f"item F1 {item_f1:.3f}, "
    elif record.failure is not None:
        told += f"{record.failure}, "
    width = f"{record.rows} rows" if record.rows else record.kind
    return f"{told}{width}, {record.stop_reason}, {record.seconds:.1f} s"
