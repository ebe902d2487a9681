"""Find the final answer in what a model wrote: a boxed phrase or a markdown table.

Total and linear in the length of the text, whatever it holds. What counts as the answer is SPEC
section 3; how its cells are read is our own (escaped pipes, literal quotes, rows of any length):
reference_table.py is the other reader.
"""

import re
from dataclasses import dataclass
from typing import Literal, overload

MAX_CELLS = 5_000_000
"""A larger table is refused: short rows are filled up, so little text could claim much memory."""

_BOX = "\\boxed{"
_FENCE = "```markdown"
_RULE = frozenset("|- :")
_BARE_PIPE = re.compile(r"(?<!\\)\|")


@dataclass(frozen=True, slots=True)
class Table:
    """Cells as text: columns [C], rows [R][C]; a blank cell is the empty string."""

    columns: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]

    def __post_init__(self) -> None:
        for index, row in enumerate(self.rows):
            if len(row) != len(self.columns):
                raise ValueError(
                    f"row {index} has {len(row)} cells for {len(self.columns)} columns"
                )


@overload
def extract_final_answer(
    text: str, kind: Literal["table"], *, strict: bool = True
) -> Table | None: ...
@overload
def extract_final_answer(
    text: str, kind: Literal["boxed"], *, strict: bool = True
) -> str | None: ...
def extract_final_answer(
    text: str, kind: Literal["table", "boxed"], *, strict: bool = True
) -> Table | str | None:
    """The answer after the last `</think>`, or None; `strict` asks for a closed markdown fence."""
    text = after_thinking(text)
    if kind == "boxed":
        return last_box(text)
    source = table_source(text, strict=strict)
    return None if source is None else read_table(source)


def after_thinking(text: str) -> str:
    """What follows the last `</think>`, stripped; the whole text if there is none."""
    return text.rpartition("</think>")[2].strip()


def last_box(text: str) -> str | None:
    r"""Content of the last complete `\boxed{...}` that is not inside another one.

    Braces are counted without escapes; a box that never closes is skipped.
    """
    openers = {match.end() - 1 for match in re.finditer(re.escape(_BOX), text)}
    if not openers:
        return None
    closes: dict[int, int] = {}
    open_braces: list[int] = []
    for match in re.finditer("[{}]", text):
        if match[0] == "{":
            open_braces.append(match.start())
        elif open_braces and (brace := open_braces.pop()) in openers:
            closes[brace] = match.start()
    answer, covered = None, -1
    for brace, close in sorted(closes.items()):
        if brace > covered:
            answer, covered = text[brace + 1 : close], close
    return answer


def table_source(text: str, *, strict: bool) -> str | None:
    """Text of the table: the last ```markdown fence, else (lenient) the last pipe-led lines."""
    fenced = _last_between(text, _FENCE, "```")
    if fenced is not None or strict:
        return fenced
    if text.count("|") < 4:
        return None
    run: list[str] = []
    in_run = False
    for line in text.split("\n"):
        if not in_run or not line.startswith("|"):
            pipe = line.find("|")
            in_run = pipe != -1
            if not in_run:
                continue
            run, line = [], line[pipe:]
        run.append(line)
    return "\n".join(run)


def _last_between(text: str, opener: str, closer: str) -> str | None:
    """Content of the last opener...closer pair, pairs taken left to right without overlap."""
    content, start = None, text.find(opener)
    while start != -1:
        start += len(opener)
        end = text.find(closer, start)
        if end == -1:
            break
        content = text[start:end]
        start = text.find(opener, end + len(closer))
    return content


def last_tag(text: str) -> str | None:
    """Content of the last `<answer>...</answer>`, stripped."""
    content = _last_between(text, "<answer>", "</answer>")
    return None if content is None else content.strip()


def table_lines(source: str) -> list[str]:
    """Stripped lines that can be rows: with a pipe, and not only rules, pipes and blanks."""
    lines = (line.strip() for line in source.strip().split("\n"))
    return [line for line in lines if "|" in line and not _RULE.issuperset(line)]


def read_table(source: str) -> Table | None:
    r"""Markdown table, one row a line; the first line is the header.

    `\|` is a pipe inside a cell and `<br>` a line break; short rows are filled up with blanks,
    cells beyond the header and columns with a blank header are dropped. None without a named
    column, or past MAX_CELLS.
    """
    lines = table_lines(source)
    if not lines:
        return None
    header = _cells(lines[0])
    named = [index for index, name in enumerate(header) if name]
    if not named or len(named) * len(lines) > MAX_CELLS:
        return None
    rows = []
    for line in lines[1:]:
        cells = _cells(line)
        rows.append(tuple(cells[index] if index < len(cells) else "" for index in named))
    return Table(tuple(header[index] for index in named), tuple(rows))


def _cells(line: str) -> list[str]:
    """Stripped cells of one line, the outer pipes taken off."""
    cells = _BARE_PIPE.split(line)
    if not cells[0]:
        del cells[0]
    if cells and not cells[-1]:
        del cells[-1]
    return [cell.replace("\\|", "|").replace("<br>", "\n").strip() for cell in cells]
