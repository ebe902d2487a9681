"""Where each cell of a table comes from, found in code on the pages a run has read.

A page backs a row's key if it names it, and another cell if the value stands on the page of that
key, or on one line with the key. What is compared is folded text (case, width, white space); a
value must stand there whole, not as a part of a longer word or number. A cell without such a line
has no source.
"""

import re
import unicodedata
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

from wideseek.grading.answer import Table
from wideseek.runs.table import UNKNOWN

_LETTER = r"0-9A-Za-z\u00c0-\u04ff"  # scripts that put spaces between words
_NO_MINUS = r"(?<!(?<![^\s(\[{:;,=/|<>~])[-\u2212\u2013])"  # a dash after other text is a range
_MAX_QUOTE = 400


@dataclass(frozen=True, kw_only=True, slots=True)
class Source:
    """A line of a page that holds a cell's value; agent_id read the page at ts (Unix seconds)."""

    url: str
    title: str
    quote: str
    agent_id: str | None
    ts: float


@dataclass(frozen=True, kw_only=True)
class PageRead:
    """A page as one agent got it."""

    url: str
    title: str
    text: str
    agent_id: str | None
    ts: float

    @cached_property
    def lines(self) -> list[tuple[str, str]]:
        """(line, folded line) of the title and every line of the text."""
        return [(line, _fold(line)) for line in (self.title, *self.text.splitlines()) if line]

    @cached_property
    def folded_title(self) -> str:
        return _fold(self.title)

    @cached_property
    def folded(self) -> str:
        return "\n".join(folded for _, folded in self.lines)

    def source(self, line: str) -> Source:
        return Source(
            url=self.url,
            title=self.title,
            quote=" ".join(line.split())[:_MAX_QUOTE],
            agent_id=self.agent_id,
            ts=self.ts,
        )


def find_sources(
    table: Table, pages: Sequence[PageRead], question: str = ""
) -> list[list[Source | None]]:
    """The source of every cell, rows [R][C] like the table's; the first column is the key.

    Of pages that back a cell equally well, those whose title the question names come first, then
    those read first.
    """
    asked = _fold(question)
    ordered = sorted(pages, key=lambda page: not page.title or page.folded_title not in asked)
    return [_row_sources(row, ordered) for row in table.rows]


def _row_sources(row: Sequence[str], pages: Sequence[PageRead]) -> list[Source | None]:
    key = _wanted(row[0])
    if key is None:
        return [None] * len(row)
    about, mentions = _rank(key, pages)
    cells = [_first_line(key, about) or _first_line(key, mentions)]
    for value in map(_wanted, row[1:]):
        found = value and (_first_line(value, about) or _first_line(value, mentions, beside=key))
        cells.append(found or None)
    return cells


def _rank(key: "_Wanted", pages: Sequence[PageRead]) -> tuple[list[PageRead], list[PageRead]]:
    """Pages titled by the key, the exact title first; pages that only mention it, such as lists."""
    about, mentions = [], []
    for page in pages:
        if key.stands_in(page.folded_title):
            about.append(page)
        elif key.stands_in(page.folded):
            mentions.append(page)
    about.sort(key=lambda page: page.folded_title != key.text)
    return about, mentions


def _first_line(
    value: "_Wanted", pages: Sequence[PageRead], beside: "_Wanted | None" = None
) -> Source | None:
    for page in pages:
        for line, folded in page.lines:
            if value.stands_in(folded) and (beside is None or beside.stands_in(folded)):
                return page.source(line)
    return None


def _fold(text: str) -> str:
    return " ".join(unicodedata.normalize("NFKC", text).casefold().split())


@dataclass(frozen=True, slots=True)
class _Wanted:
    """A folded text that must stand whole in another."""

    text: str
    whole: re.Pattern[str]

    def stands_in(self, folded: str) -> bool:
        return self.text in folded and self.whole.search(folded) is not None


def _wanted(value: str) -> _Wanted | None:
    """What to look for; None for a cell that claims nothing."""
    text = _fold(value)
    if text in UNKNOWN:
        return None
    before = rf"(?<![{_LETTER}])" if re.match(f"[{_LETTER}]", text) else ""
    after = rf"(?![{_LETTER}])" if re.search(f"[{_LETTER}]$", text) else ""
    if text[0].isdigit():
        before += rf"(?<![0-9][.,]){_NO_MINUS}"
    if text[-1].isdigit():
        after += r"(?![.,][0-9])"
    return _Wanted(text, re.compile(before + re.escape(text) + after))
