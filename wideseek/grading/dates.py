"""Dates as people write them in table cells, read as the WideSearch reference reads them.

The reference hands cells to a library for dates in two hundred languages. This reads what tables
hold: numeric dates (month first unless impossible, year first when four digits open), dates with a
named month in the eight languages of months.toml, and Chinese or Japanese ones, each with a time of
day and a zone if wanted. A missing day is the 1st; a missing month or year is the current one. Not
read: relative dates ("two days ago"), other calendars, and other languages.
"""

import re
import tomllib
import unicodedata
from collections.abc import Iterator, Sequence
from datetime import UTC, date, datetime, timedelta, timezone
from functools import lru_cache
from pathlib import Path

MAX_DATE = 100
"""Longer cells are prose, not dates."""

_WORDS = tomllib.loads((Path(__file__).parent / "months.toml").read_text(encoding="utf-8"))
_MONTHS: dict[str, int] = {
    name: month for month, names in enumerate(_WORDS["names"], start=1) for name in names
}
_IGNORED = frozenset(_WORDS["weekdays"]) | frozenset(_WORDS["fillers"])
_CJK = re.compile(
    r"([0-9]+) ?年 ?([0-9]{1,2}) ?月(?: ?([0-9]{1,2}) ?日)?(?: ?星期[一二三四五六日天])?"
)
_CJK_DAY = re.compile(r"([0-9]{1,2}) ?月 ?([0-9]{1,2}) ?日")
_TIME = re.compile(
    r"(?:(?<=[0-9])t|\b)([0-9]{1,2}):([0-9]{2})(?::([0-9]{2})(?:\.([0-9]{1,6})[0-9]*)?)?(?: ?([ap])\.?m\b)?"
)
_ZONE = re.compile(r"(?:(?<=[0-9 ])(z|utc|gmt)|(?<=[0-9]) ?([+-])([0-9]{2}):?([0-9]{2}))$")
_SEPARATORS = " \t\n\r,./_()'-‐‑‒–—―"
_PART = re.compile(rf"[0-9]+|[^\W\d_]+|[{re.escape(_SEPARATORS)}]+|.", re.DOTALL)
_TIMESTAMP = re.compile(r"[0-9]{10}(?:[0-9]{3}){0,2}")


def read_date(text: str, today: date | None = None) -> datetime | None:
    """The date a text names, with its zone if it names one; None when it is no date.

    `today` fills in the year or month left out (default: the current day in UTC).
    """
    if len(text) > MAX_DATE:
        return None
    return _read(text, datetime.now(UTC).date() if today is None else today)


@lru_cache(maxsize=4096)
def _read(text: str, today: date) -> datetime | None:
    text = unicodedata.normalize("NFKC", text).lower().strip()
    if _TIMESTAMP.fullmatch(text):
        micros = int(text.ljust(16, "0"))
        return datetime(1970, 1, 1) + timedelta(microseconds=micros)
    if text == "nan":
        # A blank cell, to the reference: short for August in one of its languages.
        return datetime(today.year, 8, 1)
    zone, text = _zone(text)
    time, text = _time(text)
    text = _CJK_DAY.sub(r"\1-\2", _CJK.sub(_numeric, text))
    found = _day(text, today)
    if found is None or time is None:
        return None
    try:
        return datetime(*found, *time, tzinfo=zone)
    except ValueError:
        return None


def _numeric(match: re.Match[str]) -> str:
    return "-".join(part for part in match.groups() if part)


def _zone(text: str) -> tuple[timezone | None, str]:
    """The zone at the end of a text and the text before it."""
    match = _ZONE.search(text)
    if match is None or ":" not in text[: match.start()]:
        return None, text
    if match[1]:
        return UTC, text[: match.start()]
    minutes = int(match[3]) * 60 + int(match[4])
    if minutes >= 24 * 60:
        return None, text
    offset = timedelta(minutes=minutes if match[2] == "+" else -minutes)
    return timezone(offset), text[: match.start()]


def _time(text: str) -> tuple[tuple[int, int, int, int] | None, str]:
    """(hour, minute, second, microsecond), None if impossible, and the text without it."""
    match = _TIME.search(text)
    if match is None:
        return (0, 0, 0, 0), text
    hour, minute, second = int(match[1]), int(match[2]), int(match[3] or 0)
    if match[5]:
        if not 1 <= hour <= 12:
            return None, text
        hour = hour % 12 + (12 if match[5] == "p" else 0)
    rest = f"{text[: match.start()]} {text[match.end() :]}"
    return (hour, minute, second, int((match[4] or "0").ljust(6, "0"))), rest


def _day(text: str, today: date) -> tuple[int, int, int] | None:
    """(year, month, day) of the numbers and the month's name that make up a text."""
    month: int | None = None
    numbers: list[str] = []
    for part in _PART.findall(text):
        if part[0] in "0123456789":
            numbers.append(part)
        elif part in _MONTHS and month is None:
            month = _MONTHS[part]
        elif part not in _IGNORED and part.strip(_SEPARATORS):
            return None
    if month is None and not numbers:
        return None
    readings = _with_month(numbers, month, today) if month else _without_month(numbers, today)
    return next((found for found in readings if _possible(*found)), None)


def _with_month(numbers: Sequence[str], month: int, today: date) -> Iterator[tuple[int, int, int]]:
    """A day of one or two digits and a year, in either order, beside a named month."""
    if not numbers:
        yield today.year, month, 1
    elif len(numbers) == 1:
        [number] = numbers
        if len(number) <= 2:
            yield today.year, month, int(number)
        if (year := _year(number)) is not None:
            yield year, month, 1
    elif len(numbers) == 2:
        for day, written in (numbers, numbers[::-1]):
            if len(day) <= 2 and (year := _year(written)) is not None:
                yield year, month, int(day)


def _without_month(numbers: Sequence[str], today: date) -> Iterator[tuple[int, int, int]]:
    """Month first unless impossible; a leading year of four digits is followed by the month."""
    small = [int(number) if len(number) <= 2 else -1 for number in numbers]
    years = [_year(number) for number in numbers]
    if len(numbers) == 1:
        if small[0] > 0:
            yield today.year, small[0], 1
        if years[0] is not None:
            yield years[0], today.month, 1
    elif len(numbers) == 2:
        yield today.year, small[0], small[1]
        yield today.year, small[1], small[0]
        for year, month in ((years[1], small[0]), (years[0], small[1])):
            if year is not None:
                yield year, month, 1
    elif len(numbers) == 3 and len(numbers[0]) == 4:
        assert years[0] is not None
        yield years[0], small[1], small[2]
        yield years[0], small[2], small[1]
    elif len(numbers) == 3 and years[2] is not None:
        yield years[2], small[0], small[1]
        yield years[2], small[1], small[0]


def _year(number: str) -> int | None:
    """A year of four digits, or of two: 69 to 99 are of the last century."""
    if len(number) == 4:
        return int(number)
    if len(number) == 2:
        return int(number) + (1900 if int(number) >= 69 else 2000)
    return None


def _possible(year: int, month: int, day: int) -> bool:
    try:
        date(year, month, day)
    except ValueError:
        return False
    return True
