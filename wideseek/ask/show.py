"""An answer as a person reads it: the table in columns, where each row comes from, what is doubtful."""

import unicodedata
from itertools import accumulate, takewhile

from wideseek.runs.answer import Answer


def show_answer(answer: Answer) -> str:
    """The markdown table padded into columns, then one url a row and the doubts; or the plain text.

    A doubtful cell has a question mark behind it.
    """
    if not answer.columns:
        return "\n".join(map(visible, answer.markdown.splitlines()))
    rows = []
    for number, row in enumerate(answer.rows):
        doubts = answer.doubts(number)
        rows.append([f"{row[c]} (?)" if c in doubts else row[c] for c in answer.columns])
    lines = [[_cell(value) for value in line] for line in [list(answer.columns), *rows]]
    widths = [max(3, *map(width, column)) for column in zip(*lines, strict=True)]
    shown = [_line(line, widths) for line in lines]
    shown.insert(1, f"|{'|'.join('-' * (size + 2) for size in widths)}|")
    return "\n".join([*shown, *_sources(answer), *_doubts(answer)])


def _sources(answer: Answer) -> list[str]:
    keys = [visible(row[answer.columns[0]]) for row in answer.rows]
    size = max(map(width, keys), default=0)
    lines = ["", "Sources"] if keys else []
    for number, key in enumerate(keys):
        sources = answer.row_sources(number)
        url = visible(sources[0].url) if sources else "no page backs this row"
        lines.append(f"  {pad(key, size)}  {url}")
    return lines


def _doubts(answer: Answer) -> list[str]:
    lines = [
        visible(f"{row[answer.columns[0]]}, {column}: {why}")
        for number, row in enumerate(answer.rows)
        for column, why in answer.doubts(number).items()
    ]
    return ["", "Doubtful (?)", *(f"  {line}" for line in lines)] if lines else []


def _cell(value: str) -> str:
    return visible(value).replace("|", "\\|")


def _line(cells: list[str], widths: list[int]) -> str:
    padded = (pad(cell, size) for cell, size in zip(cells, widths, strict=True))
    return f"| {' | '.join(padded)} |"


def visible(text: str) -> str:
    """The text on one line and without control characters: none can move the cursor."""
    return "".join(char if char.isprintable() else "\ufffd" for char in " ".join(text.split()))


def width(text: str) -> int:
    """Columns a text takes on a terminal."""
    wide = sum(unicodedata.east_asian_width(char) in "WF" for char in text)
    return len(text) + wide - sum(unicodedata.combining(char) > 0 for char in text)


def pad(text: str, columns: int) -> str:
    """The text with spaces up to that many columns."""
    return text + " " * (columns - width(text))


def cut(text: str, columns: int) -> str:
    """The text, or its beginning and an ellipsis, in at most that many columns."""
    if width(text) <= columns:
        return text
    taken = takewhile(lambda total: total < columns, accumulate(map(width, text)))
    return f"{text[: len(list(taken))]}\u2026" if columns > 0 else ""
