"""What is shown while an evaluation runs: a line for each trial that ends, with the means so far."""

import sys
from collections.abc import Iterable

from wideseek.tools.outcome import Status
from wideseek_eval.report import METRICS, value_of
from wideseek_eval.results import Record, Results

Prices = tuple[float, float, float]
"""Dollars for a million tokens of prompts, of prompts from the cache, and of replies."""

_NO_FAILURE = (Status.OK, Status.NO_RESULTS, Status.CANCELLED)


def dollars(records: Iterable[Record], prices: Prices) -> float:
    """What trials cost."""
    total = 0.0
    for record in records:
        prompt = record.tokens - record.reply_tokens - record.cached_tokens
        parts = prompt, record.cached_tokens, record.reply_tokens
        total += sum(price * tokens for price, tokens in zip(prices, parts, strict=True))
    return total / 1e6


def tool_failures(records: Iterable[Record]) -> tuple[int, int]:
    """Tool calls that failed, and all tool calls; a search that found nothing did not fail."""
    failed = made = 0
    for record in records:
        for outcome, count in record.tool_outcomes.items():
            made += count
            failed += count * (outcome.split()[-1] not in _NO_FAILURE)
    return failed, made


class Progress:
    """A line on stderr for each trial that ends."""

    def __init__(self, results: Results, wanted: int, prices: Prices | None) -> None:
        self._results = results
        self._wanted = wanted
        self._prices = prices
        self._done = len(results.records)

    def show(self, record: Record) -> None:
        self._done += 1
        told = f"[{self._done}/{self._wanted}] {tell_trial(record)}{self._so_far()}"
        print(told, file=sys.stderr, flush=True)

    def _so_far(self) -> str:
        records = list(self._results.records.values())
        if not records:
            return ""
        told = []
        for metric in ("item_f1", "success", "em", "f1"):
            found = (value_of(record, metric) for record in records)
            values = [value for value in found if value is not None]
            if values:
                told.append(f"{METRICS[metric]} {sum(values) / len(values):.3f}")
        told.append(f"{sum(record.tokens for record in records) / len(records):,.0f} tokens")
        failed, made = tool_failures(records)
        told.append(f"{failed} of {made} tool calls failed")
        if self._prices is not None:
            told.append(f"{dollars(records, self._prices):,.2f} dollars in all")
        return f" | so far: {', '.join(told)}"


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
