"""Where each cell of a table comes from, found in code on the pages a run has read.

A page backs a row's key if it names it, and another cell if the value stands on the page of that
key, or on one line with the key. What is compared is folded text (case, width, white space); a
value must stand there whole, not as a part of a longer word or number. A cell without such a line
has no source. Doubtful are cells without one, those that the row's page contradicts under a label
that was wholly asked for, and those that break off what their line says at a slash.
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
_MAX_LABEL_WORDS = 6
_SMALL_WORDS = frozenset("a an the of in for by each their its and".split())
_SEPARATOR = re.compile(r"(?<=[0-9]),(?=[0-9]{3})")


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
    return [_row_sources(row, table.columns, ordered) for row in table.rows]


def find_doubts(
    table: Table, sources: Sequence[Sequence[Source | None]], pages: Sequence[PageRead]
) -> list[list[str | None]]:
    """Why a cell may be wrong, rows [R][C] like its sources; None where nothing speaks against it.

    A row whose key no page names has no source at all, and no doubts beside.
    """
    doubts: list[list[str | None]] = []
    for row, found in zip(table.rows, sources, strict=True):
        key = found[0]
        doubts.append([None] * len(row))
        if key is None:
            continue
        title = _fold(row[0])
        own = [page for page in pages if page.folded_title == title]
        own = own or [page for page in pages if page.url == key.url]
        for number, column in enumerate(table.columns[1:], 1):
            doubts[-1][number] = _doubt(row[number], column, own, found[number])
    return doubts


def _doubt(value: str, column: str, pages: Sequence[PageRead], source: Source | None) -> str | None:
    """What `pages`, those of the row, say instead of the value, which `source` backs."""
    if _wanted(value) is None:
        return None
    quote = source.quote if source else ""
    # What another item's page says is no excuse for contradicting this one's.
    own = source is not None and any(page.url == source.url for page in pages)
    rival = _asked_words(quote, column) if own else 0
    lines = [page.source(line).quote for page in pages for line, _ in page.lines]
    stated = [line for line in lines if _asked_words(line, column, wholly=True) > rival]
    if stated and not any(_holds(line, value) for line in stated):
        return f'the page says "{max(stated, key=lambda line: _asked_words(line, column))}"'
    if source is None and not stated:
        return "no page that was read says so"
    if _fold(quote).partition(": ")[2].startswith(f"{_fold(value)}/"):
        return f'the page says "{quote}"'
    return None


def _asked_words(line: str, column: str, *, wholly: bool = False) -> int:
    """How many words of a column's name a line's label has; wholly: 0 where the label says more than was asked."""
    label, colon, _ = line.partition(": ")
    own, asked = _stems(label), _stems(column)
    if not colon or len(label.split()) > _MAX_LABEL_WORDS or (wholly and own - asked):
        return 0
    return len(own & asked)


def _stems(text: str) -> set[str]:
    return {word.removesuffix("s") for word in re.findall(r"\w+", _fold(text))} - _SMALL_WORDS


def _holds(line: str, value: str) -> bool:
    """Whether a line has a value: whole, its parts in any order, or its number written without separators."""
    folded = _fold(line)
    parts = [_wanted(part) for part in re.split(r"[,;/]\s|\sand\s", value) if part.strip()]
    if all(part is None or part.stands_in(folded) for part in parts):
        return True
    return _SEPARATOR.sub("", _fold(value)) in _SEPARATOR.sub("", folded)


def _row_sources(
    row: Sequence[str], columns: Sequence[str], pages: Sequence[PageRead]
) -> list[Source | None]:
    key = _wanted(row[0])
    if key is None:
        return [None] * len(row)
    about, mentions = _rank(key, pages)
    cells = [_first_line(key, about) or _first_line(key, mentions)]
    for column, cell in zip(columns[1:], row[1:], strict=True):
        value = _wanted(cell)
        found = value and (
            _first_line(value, about, column=column) or _first_line(value, mentions, beside=key)
        )
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
    value: "_Wanted", pages: Sequence[PageRead], beside: "_Wanted | None" = None, column: str = ""
) -> Source | None:
    """The line of the first page that holds the value; of several the one whose label fits the column best."""
    for page in pages:
        holding = [
            line
            for line, folded in page.lines
            if value.stands_in(folded) and (beside is None or beside.stands_in(folded))
        ]
        if holding:
            return page.source(max(holding, key=lambda line: _asked_words(line, column)))
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
