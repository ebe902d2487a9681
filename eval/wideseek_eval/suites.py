"""The questions of a suite: worlds drawn from seeds, questions over the bundled corpus, or
published sets. Where a task comes from also says how its answer is graded."""

import csv
import io
import json
import re
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from functools import cache, partial
from pathlib import Path
from typing import Any, Literal

from wideseek.grading.answer import Table, extract_final_answer
from wideseek.grading.datasets import DatasetRow, find_qa_files, read_dataset
from wideseek.grading.failure import Failure
from wideseek.grading.qa import QAScore, score_answer, tagged_answer
from wideseek.grading.table import TableScore, score_boxed, score_table
from wideseek.grading.widesearch_pairs import Evaluation, read_evaluation
from wideseek.tools.corpus import Corpus
from wideseek.worlds.tasks import make_task

ATLAS = Path(__file__).parents[1] / "atlas" / "questions.jsonl"
WORLD_ROWS = ((3, 10), (11, 30))
"""Widths of worlds unless one is asked for, taken in turn."""

OpenCorpus = Callable[[], Corpus]

_ID = re.compile(r"[A-Za-z0-9][A-Za-z0-9_-]{0,55}", re.ASCII)
_ID_RULE = "letters, digits, - and _, 56 at most"


@dataclass(frozen=True, kw_only=True)
class EvalTask:
    """One question, what is right, and where it can be looked up.

    columns [C] and rows [R][C] hold the gold table, `key` the columns its rows are told apart by;
    `aliases` are other headers for a column. Without a table `answers` are all right: "boxed"
    counts them like a cell, "qa" as the question-answering sets do. group: the part of the suite.
    A table with an evaluation is scored against the text `gold_csv` as WideSearch does it.
    """

    id: str
    question: str
    kind: Literal["table", "boxed", "qa"]
    open_corpus: OpenCorpus
    group: str = ""
    columns: tuple[str, ...] = ()
    key: tuple[str, ...] = ()
    rows: tuple[tuple[str, ...], ...] = ()
    answers: tuple[str, ...] = ()
    aliases: dict[str, list[str]] = field(default_factory=dict)
    evaluation: Evaluation | None = None
    gold_csv: str = ""

    def grade(self, text: str) -> tuple[bool, TableScore | QAScore | Failure]:
        """Whether `text` holds an answer of the right kind, and what it scores by exact rules."""
        if self.kind == "table":
            table = extract_final_answer(text, "table")
            gold = Table(self.columns, self.rows)
            return table is not None, score_table(table, gold, self.key, self.aliases)
        phrase = extract_final_answer(text, "boxed")
        if self.kind == "boxed":
            return phrase is not None, score_boxed(phrase, self.answers)
        phrase = tagged_answer(text) if phrase is None else phrase
        return phrase is not None, score_answer(phrase, self.answers)


def draw_worlds(
    split: Literal["train", "test"],
    count: int,
    seed: int,
    rows: tuple[int, int] | None,
    kind: Literal["table"] | None = None,
) -> list[EvalTask]:
    """`count` worlds, each with a corpus of its own, of `rows` items or WORLD_ROWS in turn.

    kind: ask for nothing but tables. A seed then draws other worlds, under the same ids.
    """
    tasks = []
    for index in range(count):
        width = rows or WORLD_ROWS[index % len(WORLD_ROWS)]
        world = make_task(seed * 1_000_000 + index, split, width, kind)
        tasks.append(
            EvalTask(
                id=world.id,
                question=world.question,
                kind=world.kind,
                open_corpus=partial(Corpus.from_pages, world.pages),
                columns=world.columns,
                key=(world.key,) if world.key else (),
                rows=world.rows,
                answers=() if world.answer is None else (world.answer,),
                aliases=world.aliases,
            )
        )
    return tasks


def open_corpus_of(path: Path | None) -> OpenCorpus:
    """A corpus file, or the bundled corpus, read when it is first needed and then kept."""
    return cache(partial(Corpus.load, path))


def read_file(path: Path, rows: tuple[int, int] | None, open_corpus: OpenCorpus) -> list[EvalTask]:
    """The questions of a file in the atlas's schema or in a published one, told apart by fields."""
    if path.suffix == ".jsonl":
        first = next(iter(_lines(path)), (0, ""))[1]
        if '"kind"' in first:
            return read_questions(path, rows, open_corpus)
    return dataset_tasks(read_dataset(path), open_corpus, rows=rows, source=str(path))


def read_qa(place: Path, open_corpus: OpenCorpus) -> list[EvalTask]:
    """One question-answering file, or all sets of a folder, each a group of its own."""
    if place.is_file():
        return dataset_tasks(read_dataset(place, "qa"), open_corpus, source=str(place))
    return [
        task
        for name, path in find_qa_files(place).items()
        for task in dataset_tasks(read_dataset(path, "qa"), open_corpus, name, source=str(path))
    ]


def dataset_tasks(
    rows_read: Iterable[DatasetRow],
    open_corpus: OpenCorpus,
    group: str | None = None,
    *,
    rows: tuple[int, int] | None = None,
    source: str,
) -> list[EvalTask]:
    """Tasks of published rows, by default grouped by language; `source` is named in a ValueError.

    A group stands before the ids of its tasks. Tables whose rows say how WideSearch scores them,
    column by column, are scored so; others by exact rules.
    """
    tasks: dict[str, EvalTask] = {}
    for row in rows_read:
        name = row.id if group is None else f"{group}-{row.id}"
        if not _ID.fullmatch(name):
            raise ValueError(f"{source}: instance_id must be {_ID_RULE}, not {name!r}")
        if name in tasks:
            raise ValueError(f"{source}: instance_id {name!r} is used twice")
        gold, key = (row.gold_table() if row.is_table else None) or (Table((), ()), ())
        evaluation = _evaluation_of(row, f"{source}: {name}")
        tasks[name] = EvalTask(
            id=name,
            question=row.question,
            kind="table" if row.is_table else "qa",
            open_corpus=open_corpus,
            group=row.language if group is None else group,
            columns=gold.columns,
            key=key,
            rows=gold.rows,
            answers=() if row.is_table else row.answers,
            evaluation=evaluation,
            gold_csv=_gold_csv(row, gold) if evaluation else "",
        )
    return [task for task in tasks.values() if rows is None or _within(task, rows)]


def _evaluation_of(row: DatasetRow, where: str) -> Evaluation | None:
    """How the official scorer goes about a table; None where the row does not tell it."""
    if not row.is_table or not row.evaluation or not row.evaluation.get("eval_pipeline"):
        return None
    try:
        return read_evaluation(row.evaluation)
    except ValueError as error:
        raise ValueError(f"{where}: evaluation: {error}") from None


def _gold_csv(row: DatasetRow, gold: Table) -> str:
    """The gold file of a row, or its gold table written as one."""
    if row.gold_csv is not None:
        return row.gold_csv
    text = io.StringIO()
    csv.writer(text, lineterminator="\n").writerows([gold.columns, *gold.rows])
    return text.getvalue()


def read_questions(
    path: Path, rows: tuple[int, int] | None = None, open_corpus: OpenCorpus | None = None
) -> list[EvalTask]:
    """The questions of a .jsonl file in the atlas's schema, all or the tables of `rows` items.

    ValueError names the file and line of what is missing, doubled or malformed.
    """
    open_corpus = open_corpus or open_corpus_of(None)
    tasks: dict[str, EvalTask] = {}
    for number, line in _lines(path):
        try:
            task = _read_question(json.loads(line), open_corpus)
            if task.id in tasks:
                raise ValueError(f"id {task.id!r} is used twice")
        except (ValueError, KeyError, TypeError) as error:
            reason = f"{error} is missing" if isinstance(error, KeyError) else error
            raise ValueError(f"{path} line {number}: {reason}") from None
        tasks[task.id] = task
    return [task for task in tasks.values() if rows is None or _within(task, rows)]


def _lines(path: Path) -> Iterator[tuple[int, str]]:
    """Number and text of the lines that are not blank."""
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise ValueError(f"cannot read {path}: {error}") from None
    return ((number, line) for number, line in enumerate(text.split("\n"), 1) if line.strip())


def _read_question(record: dict[str, Any], open_corpus: OpenCorpus) -> EvalTask:
    if not _ID.fullmatch(record["id"]):
        raise ValueError(f"id must be {_ID_RULE}, not {record['id']!r}")
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
            group=_text("group", record.get("group", "")),
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
        group=_text("group", record.get("group", "")),
        columns=columns,
        key=(record["key"],),
        rows=Table(columns, rows).rows,
        aliases=record.get("aliases") or {},
    )


def _text(name: str, value: Any) -> str:
    if not isinstance(value, str):
        raise ValueError(f"{name} must be a text, not {value!r}")
    return value


def _texts(name: str, values: Iterable[Any]) -> tuple[str, ...]:
    texts = tuple(values)
    if not texts or not all(isinstance(text, str) for text in texts):
        raise ValueError(f"{name} must hold texts, not {list(texts)!r}")
    return texts


def _within(task: EvalTask, rows: tuple[int, int]) -> bool:
    return task.kind == "table" and rows[0] <= len(task.rows) <= rows[1]
