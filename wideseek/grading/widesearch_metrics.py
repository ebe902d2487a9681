"""Preparation and comparison of WideSearch cells: the official rules, and rules without their
faults.

Official rules take (answer, gold) texts and give 0.0 or 1.0, or raise CellError where the reference
breaks and with it scores the whole table 0. Corrected ones are total and differ where the official
ones call unlike cells equal.
"""

import re
from collections.abc import Callable
from dataclasses import dataclass
from urllib.parse import urlparse

from wideseek.grading.dates import read_date
from wideseek.grading.value import canonical, fold

NO_NUMBER = "NULL"
_DAYS_NEAR = 31
_NUMBER = re.compile(r"[-+]?\d*\.\d+%?|[-+]?\d+\.?\d*%?")
_URL = re.compile(r"https?://[a-zA-Z0-9$-_!]+")


class CellError(Exception):
    """A pair of cells at which the reference's metric raises."""


def norm_str(cell: object) -> str:
    """Lower case, without ASCII spaces and asterisks."""
    return str(cell).lower().strip().replace(" ", "").replace("*", "")


def extract_number(cell: object) -> str:
    """The first number, its percent sign with it and commas dropped; NO_NUMBER without one."""
    found = _NUMBER.search(str(cell).replace(",", ""))
    return found[0] if found else NO_NUMBER


def norm_date(cell: object) -> str:
    """The ISO day of a date; other texts as they are. Errors: CellError for what is no text."""
    if not isinstance(cell, str):
        raise CellError(f"no date can be read from {cell!r}")
    day = read_date(cell)
    return cell if day is None else f"{day.year:04d}-{day.month:02d}-{day.day:02d}"


PREPARATIONS: dict[str, Callable[[object], str]] = {
    "norm_str": norm_str,
    "extract_number": extract_number,
    "norm_date": norm_date,
}


def exact_match(answer: str, gold: str, criterion: object) -> float:
    """Equal but for case."""
    return float(answer.lower() == gold.lower())


def in_match(answer: str, gold: str, criterion: object) -> float:
    """The answer stands in the gold text."""
    return float(answer in gold)


def url_match(answer: str, gold: str, criterion: object) -> float:
    """The same set of hosts; two texts without any url match (KEEP)."""
    return float(_hosts(answer) == _hosts(gold))


def number_near(answer: str, gold: str, criterion: object) -> float:
    """Within criterion * |gold|; two texts that are no numbers have to be equal."""
    numbers = _number(answer), _number(gold)
    if numbers[0] is None or numbers[1] is None:
        return float(numbers == (None, None) and answer == gold)
    if not isinstance(criterion, int | float):
        raise CellError(f"criterion {criterion!r} is no tolerance")
    return float(abs(numbers[0] - numbers[1]) <= abs(numbers[1]) * criterion)


def date_near(answer: str, gold: str, criterion: object) -> float:
    """At most 31 days apart, an earlier answer's part of a day counted whole; two texts that are no
    dates match (KEEP)."""
    one, other = read_date(answer), read_date(gold)
    if one is None or other is None:
        return float(one is other)
    if (one.tzinfo is None) != (other.tzinfo is None):
        raise CellError(f"{answer!r} and {gold!r}: only one of them has a time zone")
    return float(abs((one - other).days) <= _DAYS_NEAR)


def _hosts(text: str) -> set[str]:
    try:
        return {urlparse(url).netloc for url in _URL.findall(text)}
    except ValueError as error:
        raise CellError(f"{text[:200]!r}: {error}") from None


def _number(text: str) -> float | None:
    try:
        return float(text.replace("%", "")) / (100.0 if "%" in text else 1.0)
    except ValueError:
        return None


OFFICIAL: dict[str, Callable[[str, str, object], float]] = {
    "exact_match": exact_match,
    "in_match": in_match,
    "url_match": url_match,
    "number_near": number_near,
    "date_near": date_near,
}


@dataclass(frozen=True, slots=True)
class Cell:
    """A cell for the corrected rules: as read, after preparation, and whether it is missing."""

    raw: str
    text: str
    missing: bool


def corrected(metric: str, answer: Cell, gold: Cell, criterion: object) -> float:
    """The metric without false matches; total.

    Missing matches missing alone. What holds no number, date or url on either side has to be the
    same text. A zone beside none is dropped. The same number matches exactly however it is spelled.
    """
    if answer.missing or gold.missing:
        return float(answer.missing and gold.missing)
    if metric in _READS and not _READS[metric](answer.text) and not _READS[metric](gold.text):
        return float(fold(answer.raw) == fold(gold.raw))
    if metric == "exact_match":
        same = exact_match(answer.text, gold.text, criterion)
        return same or float(canonical(answer.text) == canonical(gold.text))
    if metric == "in_match" and not answer.text:
        return 0.0
    if metric == "date_near":
        one, other = read_date(answer.text), read_date(gold.text)
        if one is None or other is None:
            return 0.0
        return float(abs((one.date() - other.date()).days) <= _DAYS_NEAR)
    try:
        return OFFICIAL[metric](answer.text, gold.text, criterion)
    except CellError:
        return 0.0


_READS: dict[str, Callable[[str], object]] = {
    "url_match": lambda text: _URL.search(text),
    "number_near": lambda text: text != NO_NUMBER and _number(text) is not None,
    "date_near": read_date,
}
