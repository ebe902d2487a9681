"""The files derived from a run's events when it ends: table.*, evidence.jsonl, summary.json."""

import csv
import io
import json
import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from wideseek.runs.answer import Answer, read_answer
from wideseek.runs.events import Event, EventType
from wideseek.runs.log import read_events

_NUMBER = re.compile(r"[+-]?[0-9][0-9.,\s]*%?")


def write_answer(folder: Path) -> Answer:
    """Derive the answer of a finished run and write its files; safe to repeat."""
    answer = read_answer(folder)
    table = {"columns": list(answer.columns), "rows": list(answer.rows)}
    _write(folder / "table.json", _json(table))
    _write(folder / "table.md", answer.markdown + "\n")
    _write(folder / "table.csv", to_csv(answer))
    _write(folder / "evidence.jsonl", "".join(_evidence_lines(answer)))
    _write(folder / "summary.json", _json(summarise(read_events(folder), answer)))
    return answer


def to_csv(answer: Answer) -> str:
    """The table as CSV; text that a spreadsheet would run as a formula is led by a single quote."""
    out = io.StringIO()
    writer = csv.writer(out)
    if answer.columns:
        writer.writerow(map(_inert, answer.columns))
    for row in answer.rows:
        writer.writerow(_inert(row[column]) for column in answer.columns)
    return out.getvalue()


def _inert(cell: str) -> str:
    dangerous = cell.startswith(("=", "+", "-", "@", "\t", "\r")) and not _NUMBER.fullmatch(cell)
    return f"'{cell}" if dangerous else cell


def _evidence_lines(answer: Answer) -> list[str]:
    lines = []
    for number, row in enumerate(answer.rows):
        doubts = answer.doubts(number)
        for column, source in zip(answer.columns, answer.cell_sources[number], strict=True):
            cell = {"row": number, "column": column, "value": row[column]}
            line = cell | {"source": asdict(source) if source else None}
            line |= {"doubt": doubts.get(column)}
            lines.append(json.dumps(line, ensure_ascii=False) + "\n")
    return lines


def summarise(events: Sequence[Event], answer: Answer) -> dict[str, Any]:
    """What is worth knowing of a run at a glance, from its events."""
    started = next((event for event in events if event.type is EventType.RUN_STARTED), None)
    states = [event.data for event in events if event.type is EventType.AGENT_STATE]
    results = [event.data for event in events if event.type is EventType.TOOL_RESULT]
    cells = [source for row in answer.cell_sources for source in row]
    return {
        "run_id": events[0].run_id if events else None,
        "question": started.data["question"] if started else None,
        "workflow": started.data["workflow"] if started else None,
        "seed": started.data["seed"] if started else None,
        "started": events[0].ts if events else None,
        "ended": events[-1].ts if events else None,
        "stop_reason": answer.stop_reason,
        "rows": len(answer.rows),
        "cells": len(cells),
        "cells_with_source": sum(source is not None for source in cells),
        "agent_ends": dict(Counter(data["end"] for data in states if "end" in data)),
        "tool_outcomes": {
            name: dict(Counter(data["status"] for data in results if data["name"] == name))
            for name in sorted({data["name"] for data in results})
        },
        "usage": answer.usage,
    }


def _json(value: Any) -> str:
    return json.dumps(value, ensure_ascii=False, indent=2) + "\n"


def _write(path: Path, text: str) -> None:
    """Replace the file at once, so that a reader never sees half of it."""
    partial = path.with_name(path.name + ".part")
    partial.write_text(text, encoding="utf-8", errors="backslashreplace", newline="")
    partial.replace(path)
