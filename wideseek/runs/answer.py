"""The answer of a run, derived from its events and stored pages alone."""

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from wideseek.grading.answer import Table, after_thinking
from wideseek.runs.events import RUN_ENDS, Event, EventType
from wideseek.runs.evidence import PageRead, Source, find_doubts, find_sources
from wideseek.runs.log import read_events, read_page
from wideseek.runs.table import UNKNOWN, answer_table, partial_table, to_markdown

UNFINISHED = "unfinished"
"""stop_reason of a run whose log has no end: it still goes on, or was killed."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Answer:
    """One table and where it comes from.

    columns [C], each name once; rows [R] keyed by column; cell_sources [R][C], None for a cell no
    page backs; cell_doubts [R][C], why a cell may be wrong. markdown is the table, or the plain
    text of an answer that holds none, without its thoughts. usage as `Ledger.usage` shows it.
    """

    columns: tuple[str, ...]
    rows: tuple[dict[str, str], ...]
    markdown: str
    cell_sources: tuple[tuple[Source | None, ...], ...]
    cell_doubts: tuple[tuple[str | None, ...], ...]
    stop_reason: str
    usage: dict[str, Any]

    @property
    def tells_something(self) -> bool:
        """Whether any cell beside the names, or the text, claims anything; a box that never closes does not."""
        if not self.rows:
            return bool(self.markdown) and not self.columns and "\\boxed{" not in self.markdown
        claims = self.columns[1:] or self.columns
        return any(row[c].casefold() not in UNKNOWN for row in self.rows for c in claims)

    def row_sources(self, row: int) -> list[Source]:
        """The sources of one row in column order, one a page."""
        by_url: dict[str, Source] = {}
        for source in self.cell_sources[row]:
            if source is not None:
                by_url.setdefault(source.url, source)
        return list(by_url.values())

    def doubts(self, row: int) -> dict[str, str]:
        """Why cells of one row may be wrong, by column."""
        pairs = zip(self.columns, self.cell_doubts[row], strict=True)
        return {column: doubt for column, doubt in pairs if doubt}

    def to_json(self) -> dict[str, Any]:
        """columns, rows, markdown, sources (one entry a row), stop_reason, usage: plain JSON."""
        sources = [
            {
                "row": row,
                "pages": [asdict(source) for source in self.row_sources(row)],
                "cells": {
                    column: asdict(source) if source else None
                    for column, source in zip(self.columns, self.cell_sources[row], strict=True)
                },
                "doubts": self.doubts(row),
            }
            for row in range(len(self.rows))
        ]
        return {
            "columns": list(self.columns),
            "rows": list(self.rows),
            "markdown": self.markdown,
            "sources": sources,
            "stop_reason": self.stop_reason,
            "usage": self.usage,
        }


def read_answer(folder: Path) -> Answer:
    """The answer of the run in `folder`, finished or not."""
    return derive_answer(read_events(folder), lambda sha256: read_page(folder, sha256))


def derive_answer(events: Sequence[Event], page_text: Callable[[str], str]) -> Answer:
    """The answer that events tell; `page_text` gives a page's text by its hash."""
    question = next(iter(_told(events, "question")), "")
    end = next((event for event in reversed(events) if event.type in RUN_ENDS), None)
    if end is not None:
        text, stop_reason, usage = (end.data[name] for name in ("answer", "stop_reason", "usage"))
        table = answer_table(text)
    else:
        text, stop_reason, usage = "", UNFINISHED, _last_usage(events)
        table = partial_table(
            _told(events, "report"), [*_told(events, "text"), *_told(events, "task")]
        )
    if table is None:
        return Answer(
            columns=(),
            rows=(),
            # A thought that never ends leaves nothing that was said.
            markdown=after_thinking(text).partition("<think>")[0].strip(),
            cell_sources=(),
            cell_doubts=(),
            stop_reason=stop_reason,
            usage=usage,
        )
    table = Table(_distinct(table.columns), table.rows)
    pages = _pages(events, page_text)
    sources = find_sources(table, pages, question)
    return Answer(
        columns=table.columns,
        rows=tuple(dict(zip(table.columns, row, strict=True)) for row in table.rows),
        markdown=to_markdown(table),
        cell_sources=tuple(map(tuple, sources)),
        cell_doubts=tuple(map(tuple, find_doubts(table, sources, pages))),
        stop_reason=stop_reason,
        usage=usage,
    )


def _pages(events: Sequence[Event], page_text: Callable[[str], str]) -> list[PageRead]:
    """The pages agents got, each url and text once, in the order of reading."""
    pages: dict[tuple[str, str], PageRead] = {}
    for event in events:
        page = event.data.get("page") if event.type is EventType.TOOL_RESULT else None
        if page is not None and (page["url"], page["sha256"]) not in pages:
            pages[page["url"], page["sha256"]] = PageRead(
                url=page["url"],
                title=page["title"],
                text=page_text(page["sha256"]),
                agent_id=event.agent_id,
                ts=event.ts,
            )
    return list(pages.values())


def _told(events: Sequence[Event], field: str) -> list[str]:
    """A field such as question, task or report, wherever an event has it and it is not blank."""
    return [event.data[field] for event in events if event.data.get(field)]


def _last_usage(events: Sequence[Event]) -> dict[str, Any]:
    updates = [event.data for event in events if event.type is EventType.BUDGET_UPDATED]
    return dict(updates[-1]["usage"]) if updates else {}


def _distinct(columns: Sequence[str]) -> tuple[str, ...]:
    names: list[str] = []
    for column in columns:
        name, number = column, 2
        while name in names:
            name, number = f"{column} ({number})", number + 1
        names.append(name)
    return tuple(names)
