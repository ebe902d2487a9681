"""The questions of a suite: worlds drawn from seeds, or a file over the bundled corpus."""

import json
import re
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from functools import cache, partial
from pathlib import Path
from typing import Any, Literal

from wideseek.grading.answer import Table, extract_final_answer
from wideseek.grading.failure import Failure
from wideseek.grading.table import TableScore, score_boxed, score_table
from wideseek.tools.corpus import Corpus
from wideseek.worlds.tasks import make_task

ATLAS = Path(__file__).parents[1] / "atlas" / "questions.jsonl"
WORLD_ROWS = ((3, 10), (11, 30))
"""Widths of worlds unless one is asked for, taken in turn."""

_ID = re.compile(r"[A-Za-z0-9][A-Za-z0-9_-]{0,55}", re.ASCII)


@dataclass(frozen=True, kw_only=True)
class EvalTask:
    """One question, what is right, and where it can be looked up.

    columns [C] and rows [R][C] hold the gold table, columns[0] its key; empty for a boxed question,
    whose `answers` are all right. `aliases` are other headers for a column.
    """

    id: str
    question: str
    kind: Literal["table", "boxed"]
    open_corpus: Callable[[], Corpus]
    columns: tuple[str, ...] = ()
    key: str = ""
    rows: tuple[tuple[str, ...], ...] = ()
    answers: tuple[str, ...] = ()
    aliases: dict[str, list[str]] = field(default_factory=dict)

    def grade(self, text: str) -> tuple[bool, TableScore | Failure]:
        """Whether `text` holds an answer of the right kind, and what it scores."""
        if self.kind == "boxed":
            box = extract_final_answer(text, "boxed")
            return box is not None, score_boxed(box, self.answers)
        table = extract_final_answer(text, "table")
        gold = Table(self.columns, self.rows)
        return table is not None, score_table(table, gold, [self.key], self.aliases)


def draw_worlds(
    split: Literal["train", "test"], count: int, seed: int, rows: tuple[int, int] | None
) -> list[EvalTask]:
    """`count` worlds, each with a corpus of its own, of `rows` items or WORLD_ROWS in turn."""
    tasks = []
    for index in range(count):
        width = rows or WORLD_ROWS[index % len(WORLD_ROWS)]
        world = make_task(seed * 1_000_000 + index, split, width)
        tasks.append(
            EvalTask(
                id=world.id,
                question=world.question,
                kind=world.kind,
                open_corpus=partial(Corpus.from_pages, world.pages),
                columns=world.columns,
                key=world.key,
                rows=world.rows,
                answers=() if world.answer is None else (world.answer,),
                aliases=world.aliases,
            )
        )
    return tasks


def read_questions(path: Path, rows: tuple[int, int] | None = None) -> list[EvalTask]:
    """The questions of a .jsonl file over the bundled corpus, all or the tables of `rows` items.

    ValueError names the file and line of what is missing, doubled or malformed.
    """
    open_corpus = cache(Corpus.load)
    tasks: dict[str, EvalTask] = {}
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise ValueError(f"cannot read {path}: {error}") from None
    for number, line in enumerate(lines, 1):
        if not line.strip():
            continue
        try:
            task = _read_question(json.loads(line), open_corpus)
            if task.id in tasks:
                raise ValueError(f"id {task.id!r} is used twice")
        except (ValueError, KeyError, TypeError) as error:
            reason = f"{error} is missing" if isinstance(error, KeyError) else error
            raise ValueError(f"{path} line {number}: {reason}") from None
        tasks[task.id] = task
    return [task for task in tasks.values() if rows is None or _within(task, rows)]


def _read_question(record: dict[str, Any], open_corpus: Callable[[], Corpus]) -> EvalTask:
    if not _ID.fullmatch(record["id"]):
        raise ValueError(f"id must be letters, digits, - and _, 56 at most, not {record['id']!r}")
    if not record["question"].strip():
        raise ValueError("question must not be empty")
    if record["kind"] == "boxed":
        answer = record["answer"]
        answers = [answer] if isinstance(answer, str) else answer
        return EvalTask(
            id=record["id"],
            question=record["question"],
            kind="boxed",
            open_corpus=open_corpus,
            answers=_texts("answer", answers),
        )
    if record["kind"] != "table":
        raise ValueError(f"kind must be table or boxed, not {record['kind']!r}")
    columns = _texts("columns", record["columns"])
    if record["key"] not in columns:
        raise ValueError(f"key {record['key']!r} is not one of the columns")
    rows = tuple(_texts("rows", row) for row in record["rows"])
    return EvalTask(
        id=record["id"],
        question=record["question"],
        kind="table",
        open_corpus=open_corpus,
        columns=columns,
        key=record["key"],
        rows=Table(columns, rows).rows,
        aliases=record.get("aliases") or {},
    )


def _texts(name: str, values: Iterable[Any]) -> tuple[str, ...]:
    texts = tuple(values)
    if not texts or not all(isinstance(text, str) for text in texts):
        raise ValueError(f"{name} must hold texts, not {list(texts)!r}")
    return texts


def _within(task: EvalTask, rows: tuple[int, int]) -> bool:
    return task.kind == "table" and rows[0] <= len(task.rows) <= rows[1]
