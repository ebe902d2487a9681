"""The training reward as the reference computes it, its quirks included (SPEC section 3).

Tables are scored by a judge model, cell by cell; boxed answers by one verdict. Published curves
contain these numbers; table.py is the exact judge without their faults.
"""

import asyncio
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from wideseek.grading.answer import after_thinking, last_box, last_tag
from wideseek.grading.failure import Failure, FailureKind
from wideseek.grading.judge import Align, Judge, ScorePairs, Verify, last_json_block
from wideseek.grading.reference_table import (
    Cell,
    TypedTable,
    extract_reference_table,
    read_number,
)


@dataclass(frozen=True, slots=True)
class RewardScore:
    """Outcome, format flag of the scorer, and whether the answer is well formed for credit."""

    score: float
    format_ok: bool
    answer_format: bool


class _Unscorable(Exception):
    """A table pair that the reference gives up on: score 0, format not ok."""


def extract_final_answer(
    text: str, mode: Literal["boxed", "tag", "markdown"], *, strict: bool = True
) -> str | TypedTable | None:
    """What the reference extracts after the last `</think>`: box, answer tag or typed table."""
    if mode == "boxed":
        return last_box(after_thinking(text))
    if mode == "tag":
        return last_tag(after_thinking(text))
    return extract_reference_table(text, strict=strict)


async def get_final_reward_score(
    question: str,
    answer: str | TypedTable | None,
    label: Mapping[str, Any],
    judge: Judge | None,
    *,
    is_markdown: bool,
    norm_column: bool = False,
) -> RewardScore | Failure:
    """Outcome reward of an extracted answer; without a judge everything is an ill-formed zero."""
    if judge is None:
        return RewardScore(0.0, False, False)
    if is_markdown:
        table = answer if isinstance(answer, TypedTable) else None
        score, format_ok = await evaluate_markdown(table, label, judge, norm_column=norm_column)
        return RewardScore(score, format_ok, format_ok and answer is not None)
    if answer is None or label["answer"] is None:
        return RewardScore(0.0, True, answer is not None)
    assert isinstance(answer, str)
    verdict = await verify_answer(question, answer, label["answer"], judge)
    return verdict if isinstance(verdict, Failure) else RewardScore(verdict, True, True)


async def verify_answer(
    question: str, predicted: str, labels: Sequence[Any], judge: Judge
) -> float | Failure:
    """1.0 when the reply holds "correct" and not "incorrect"; a single label is shown bare.

    "not correct" passes (KEEP). A judge without a reply, which stops the reference, is a Failure.
    """
    reply = await judge(Verify(question, predicted, labels[0] if len(labels) == 1 else labels))
    if reply is None:
        return Failure(FailureKind.JUDGE_SILENT, "no verdict on the boxed answer")
    verdict = reply.lower()
    return float("correct" in verdict and "incorrect" not in verdict)


async def evaluate_markdown(
    answer: TypedTable | None, label: Mapping[str, Any], judge: Judge, *, norm_column: bool
) -> tuple[float, bool]:
    """(item F1, format ok) against a label's `answer`, `unique_columns` and `required`.

    May exceed 1: rows made equal by alignment all join, and judge scores are not clamped (BUG,
    kept).
    """
    try:
        return await _item_f1(answer, label, judge, norm_column=norm_column), True
    except _Unscorable:
        return 0.0, False


async def _item_f1(
    answer: TypedTable | None, label: Mapping[str, Any], judge: Judge, *, norm_column: bool
) -> float:
    def header(name: str) -> str:
        name = name.strip().lower()
        return name.replace(" ", "") if norm_column else name

    text = label.get("answer", "")
    gold = extract_reference_table(text, strict=False) if isinstance(text, str) else None
    if gold is None or answer is None or not answer.rows or not answer.columns:
        raise _Unscorable
    gold_columns = _Columns([header(name) for name in gold.columns], gold)
    columns = _Columns([header(name) for name in answer.columns], answer)
    keys = [header(name) for name in label.get("unique_columns") or ()]
    required = [header(name) for name in label.get("required") or ()] or list(gold_columns.names)
    if not set(required) <= set(columns.names):
        renamed = await _align(columns.names, required, judge)
        columns.names = [renamed.get(name, name) for name in columns.names]
    if not keys or not set(required) <= set(columns.names):
        raise _Unscorable
    for name in required:
        gold_columns.normalise(name)
        columns.normalise(name)
    columns.drop_duplicates(keys)
    gold_columns.drop_duplicates(keys)
    for name in keys:
        cells = columns.cells(name)
        aligned = await _align(cells, gold_columns.cells(name), judge)
        columns.replace(name, [aligned.get(cell, cell) for cell in cells])
    joined = _join(gold_columns, columns, keys)
    scores = await _column_scores(joined, gold_columns, columns, required, keys, judge)
    right = sum(score for column in scores.values() for score in column if not math.isnan(score))
    asked, wanted = len(columns) * len(required), len(gold_columns) * len(required)
    precision, recall = right / asked, right / wanted if wanted else 0.0
    return 2 * precision * recall / (precision + recall) if precision + recall > 1e-9 else 0.0


class _Columns:
    """A table by column, while it is being normalised; `names` may come to repeat."""

    def __init__(self, names: list[str], table: TypedTable) -> None:
        self.names: list[Any] = names
        self._cells = [table.column(index) for index in range(len(names))]

    def __len__(self) -> int:
        return len(self._cells[0]) if self._cells else 0

    def _index(self, name: str) -> int:
        """Place of the one column of that name."""
        if self.names.count(name) != 1:
            raise _Unscorable
        return self.names.index(name)

    def cells(self, name: str) -> list[Any]:
        return self._cells[self._index(name)]

    def replace(self, name: str, cells: list[Any]) -> None:
        self._cells[self._index(name)] = cells

    def normalise(self, name: str) -> None:
        """Stripped text; one number turns the column into 6 digits and other text into "" (BUG)."""
        texts = [str(cell).strip() for cell in self.cells(name)]
        numbers = [read_number(text) for text in texts]
        if any(number is not None for number in numbers):
            texts = ["" if number is None else f"{number:g}" for number in numbers]
        self.replace(name, texts)

    def drop_duplicates(self, keys: Sequence[str]) -> None:
        """Keep the first row of each key."""
        first: dict[tuple[Cell, ...], int] = {}
        for row, key in enumerate(zip(*(self.cells(name) for name in keys), strict=True)):
            first.setdefault(key, row)
        self._cells = [[column[row] for row in first.values()] for column in self._cells]


def _join(gold: _Columns, answer: _Columns, keys: Sequence[str]) -> list[tuple[int, int]]:
    """(gold row, answer row) of every pair with equal keys, gold order first.

    Joining texts with numbers is an error to the reference, and so are cells that an alignment made
    lists or objects.
    """
    for name in keys:
        kinds = {_kind(gold.cells(name)), _kind(answer.cells(name))}
        if "unhashable" in kinds or (len(gold) and kinds == {"text", "number"}):
            raise _Unscorable
    rows: dict[tuple[object, ...], list[int]] = {}
    for row, key in enumerate(zip(*(answer.cells(name) for name in keys), strict=True)):
        rows.setdefault(key, []).append(row)
    wanted = enumerate(zip(*(gold.cells(name) for name in keys), strict=True))
    return [(row, other) for row, key in wanted for other in rows.get(key, ())]


def _kind(cells: Sequence[object]) -> str:
    """What the reference takes a key column for; texts among whole numbers join with anything."""
    types = {type(cell) for cell in cells}
    if types & {list, dict}:
        return "unhashable"
    if types <= {int, float}:
        return "number"
    return "text" if str in types and int not in types else "mixed"


async def _column_scores(
    joined: Sequence[tuple[int, int]],
    gold: _Columns,
    answer: _Columns,
    required: Sequence[str],
    keys: Sequence[str],
    judge: Judge,
) -> dict[str, list[float]]:
    """Scores of joined rows by required column: 1 for keys, else the judge's, asked at once."""
    asked = [name for name in required if name not in keys]
    replies = await asyncio.gather(
        *(
            _score_pairs(
                [(answer.cells(name)[there], gold.cells(name)[here]) for here, there in joined],
                judge,
            )
            for name in asked
        )
    )
    ones = {name: [1.0] * len(joined) for name in required if name in keys}
    return ones | dict(zip(asked, replies, strict=True))


async def _score_pairs(pairs: Sequence[tuple[str, str]], judge: Judge) -> list[float]:
    """One score a pair; no usable reply or one value that is no number makes them all 0."""
    if not pairs:
        return []
    scores = last_json_block(await judge(ScorePairs(tuple(pairs))) or "") or {}
    try:
        return [float(scores.get(f"idx_{index}", 0)) for index in range(len(pairs))]
    except (TypeError, ValueError, OverflowError):
        return [0.0] * len(pairs)


async def _align(words: Sequence[Any], reference: Sequence[Any], judge: Judge) -> dict[Any, Any]:
    """The judge's map from words to reference words; empty without a usable reply."""
    return last_json_block(await judge(Align(tuple(words), tuple(reference))) or "") or {}
