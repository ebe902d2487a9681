"""What a run asks: worlds drawn from seeds, rows of data sets, or a mixture of both.

Which task a step holds at a place follows from (seed, step, number, cursor) alone. A data set is read in an order of its
own in each epoch, without a row left out or asked twice; the cursor, which a checkpoint keeps, is how far it was read.
Answers are judged by rule: where a published set asks for a judge model, a phrase must match as question-answering sets
count it, and a table cell by cell.
"""

import hashlib
import random
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import cache, partial
from pathlib import Path
from typing import Literal

from wideseek.agents.model_call import derive_seed
from wideseek.grading.answer import Table
from wideseek.grading.datasets import DatasetRow, read_dataset
from wideseek.tools.corpus import Corpus
from wideseek.worlds.tasks import Task, make_task

NO_TABLE = Table((), ())
Cursor = Mapping[str, int]
"""Rows taken so far, over all epochs, by data set; one that is not named is at its beginning."""


@dataclass(frozen=True, kw_only=True)
class TrainTask:
    """One question, what is right, and where it can be looked up.

    gold holds the rows [R][C] of a "table", told apart by the columns `key`; aliases are other headers for a column.
    Without a table `answers` are all right: "boxed" counts them like a cell, "qa" as question-answering sets do.
    """

    id: str
    question: str
    kind: Literal["table", "boxed", "qa"]
    open_corpus: Callable[[], Corpus]
    gold: Table = NO_TABLE
    key: tuple[str, ...] = ()
    aliases: Mapping[str, list[str]] = field(default_factory=dict)
    answers: tuple[str, ...] = ()


@dataclass(frozen=True, kw_only=True)
class DataSet:
    """The rows of a file in their order, and the share of questions that come from it, in (0, 1].

    dropped: tables of the file whose gold cannot be read, which nobody is asked.
    """

    name: str
    share: float
    sha256: str
    tasks: tuple[TrainTask, ...]
    dropped: int


@dataclass(frozen=True, kw_only=True)
class TaskSource:
    """Worlds of `rows` items (inclusive range), but for the shares of questions that data sets have.

    Worlds are asked for tables: a single fact needs one subagent, and attempts at it mostly earn the same.
    """

    seed: int
    rows: tuple[int, int]
    data: tuple[DataSet, ...] = ()

    def draw(self, step: int, number: int, cursor: Cursor) -> TrainTask:
        """Task `number` of a step that began at `cursor`."""
        chosen = self._choose(step, number)
        if chosen is None:
            seed = derive_seed(self.seed, "question", step, number)
            return from_world(make_task(seed, "train", self.rows, "table"))
        before = sum(self._choose(step, earlier) is chosen for earlier in range(number))
        epoch, place = divmod(cursor.get(chosen.name, 0) + before, len(chosen.tasks))
        return chosen.tasks[_order(self.seed, chosen.name, epoch, len(chosen.tasks))[place]]

    def advance(self, step: int, drawn: int, cursor: Cursor) -> dict[str, int]:
        """The cursor after a step that began at `cursor` and asked its first `drawn` tasks."""
        chosen = [self._choose(step, number) for number in range(drawn)]
        return {
            data.name: cursor.get(data.name, 0) + sum(one is data for one in chosen)
            for data in self.data
        }

    def _choose(self, step: int, number: int) -> DataSet | None:
        """The data set of a place; None for a world."""
        left = random.Random(derive_seed(self.seed, "source", step, number)).random()
        for data in self.data:
            left -= data.share
            if left < 0:
                return data
        return None


@cache
def _order(seed: int, name: str, epoch: int, count: int) -> tuple[int, ...]:
    """The rows of a data set in the order of an epoch."""
    order = list(range(count))
    random.Random(derive_seed(seed, "order", name, epoch)).shuffle(order)
    return tuple(order)


def from_world(task: Task) -> TrainTask:
    """The task of a procedural world, with its pages as the corpus."""
    return TrainTask(
        id=task.id,
        question=task.question,
        kind=task.kind,
        open_corpus=partial(Corpus.from_pages, task.pages),
        gold=Table(task.columns, task.rows) if task.kind == "table" else NO_TABLE,
        key=(task.key,) if task.key else (),
        aliases=task.aliases,
        answers=() if task.answer is None else (task.answer,),
    )


def read_mixture(text: str, corpus: Path | None) -> tuple[DataSet, ...]:
    """The data sets of `FILE:SHARE, FILE:SHARE ...`, searched in one corpus (None: the bundled one).

    ValueError names the part, or the file, line and field, that is at fault.
    """
    parts = [part.strip() for part in text.split(",") if part.strip()]
    shares: dict[Path, float] = {}
    for part in parts:
        file, colon, share = part.rpartition(":")
        try:
            number = float(share) if colon else 0.0
        except ValueError:
            number = 0.0
        if not 0 < number <= 1:
            raise ValueError(f"data {part!r} needs a share in (0, 1], as in {file or part}:0.5")
        if any(path.stem == Path(file).stem for path in shares):
            raise ValueError(f"data names {Path(file).stem} twice")
        shares[Path(file)] = number
    if sum(shares.values()) > 1 + 1e-9:
        raise ValueError(f"data has shares that add up to {sum(shares.values()):g}, more than 1")
    if not shares:
        return ()
    pages = Corpus.load(corpus)
    return tuple(read_data_set(path, share, pages) for path, share in shares.items())


def read_data_set(path: Path, share: float, corpus: Corpus) -> DataSet:
    """The rows of a file in the schemas of hybrid_20k, width_20k or depth_20k (SPEC section 9).

    ValueError names file, line and field of what is bad.
    """
    tasks = [_from_row(row, f"{path.stem}-{row.id}", corpus) for row in read_dataset(path)]
    kept = tuple(task for task in tasks if task is not None)
    if not kept:
        raise ValueError(f"{path}: no answer holds a table that can be read")
    return DataSet(
        name=path.stem,
        share=share,
        sha256=hashlib.sha256(path.read_bytes()).hexdigest(),
        tasks=kept,
        dropped=len(tasks) - len(kept),
    )


def _from_row(row: DatasetRow, name: str, corpus: Corpus) -> TrainTask | None:
    gold = row.gold_table() if row.is_table else None
    if row.is_table and (gold is None or not gold[0].rows):
        return None
    table, key = gold or (NO_TABLE, ())
    return TrainTask(
        id=name,
        question=row.question,
        kind="table" if row.is_table else "qa",
        open_corpus=lambda: corpus,
        gold=table,
        key=key,
        answers=() if row.is_table else row.answers,
    )
