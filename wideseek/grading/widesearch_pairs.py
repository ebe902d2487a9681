"""Which row of an answer stands for which row of the gold, as the official WideSearch scorer joins
them: de-duplicated, names aligned by a judge, cells prepared, joined by their keys."""

from collections import Counter
from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from wideseek.grading.failure import Failure, FailureKind
from wideseek.grading.judge import Align
from wideseek.grading.widesearch_metrics import PREPARATIONS, CellError
from wideseek.grading.widesearch_table import Column, read_gold


@dataclass(frozen=True, slots=True)
class ColumnRule:
    """Preparation steps, metrics and criterion of one column."""

    preprocess: tuple[str, ...]
    metric: tuple[str, ...]
    criterion: object


@dataclass(frozen=True, slots=True)
class Evaluation:
    """A WideSearch row's `evaluation`: required and key columns, and the rule of each column."""

    required: tuple[str, ...]
    unique_columns: tuple[str, ...]
    eval_pipeline: Mapping[str, ColumnRule]


class Broken(Exception):
    """Where the official scorer raises, which makes all its figures 0.

    `failure` is set when the specification or the gold is at fault and not the answer.
    """

    def __init__(self, detail: str, *, answer_at_fault: bool) -> None:
        super().__init__(detail)
        self.failure = None if answer_at_fault else Failure(FailureKind.BAD_GOLD, detail)


def read_evaluation(evaluation: Mapping[str, Any]) -> Evaluation:
    """The specification of a row; a ValueError names the field that is not of the right form."""
    pipeline = evaluation.get("eval_pipeline")
    if not isinstance(pipeline, Mapping):
        raise ValueError(f"eval_pipeline must be an object, not {pipeline!r}")
    rules = {}
    for name, rule in pipeline.items():
        if not isinstance(rule, Mapping):
            raise ValueError(f"eval_pipeline.{name} must be an object, not {rule!r}")
        rules[name] = ColumnRule(
            _names(rule.get("preprocess", []), f"eval_pipeline.{name}.preprocess"),
            _names(rule.get("metric", []), f"eval_pipeline.{name}.metric"),
            rule.get("criterion"),
        )
    return Evaluation(
        _names(evaluation.get("required"), "required"),
        _names(evaluation.get("unique_columns"), "unique_columns"),
        rules,
    )


def _names(value: object, field: str) -> tuple[str, ...]:
    if not isinstance(value, list | tuple) or not all(isinstance(name, str) for name in value):
        raise ValueError(f"{field} must be a list of texts, not {value!r}")
    return tuple(value)


def read_required_gold(csv: str, evaluation: Evaluation) -> list[Column]:
    """The required columns of a gold CSV, in that order; the specification's names as they are."""
    columns = read_gold(csv)
    if columns is None:
        raise Broken("the gold table is not readable", answer_at_fault=False)
    count = Counter(column.name for column in columns)
    wanted = Counter(evaluation.required)
    for name in wanted:
        if count[name] != 1 or wanted[name] != 1:
            detail = f"column {name!r} is required {wanted[name]} times, the gold has {count[name]}"
            raise Broken(detail, answer_at_fault=False)
    by_name = {column.name: column for column in columns}
    return [by_name[name] for name in evaluation.required]


def rename(columns: Sequence[Column], names: Mapping[str, Any]) -> None:
    """Give columns the names a judge says they mean."""
    for column in columns:
        name = names.get(column.name, column.name)
        if not isinstance(name, Hashable):
            raise Broken(f"a column cannot be named {name!r}", answer_at_fault=True)
        column.name = name


class Tables:
    """An answer and its gold on the way to being joined; the columns' cells are replaced.

    raw: cells of non-key columns before preparation. moved: rows of the answer that a judge took
    away from the gold's very own name for them.
    """

    def __init__(
        self, answer: Sequence[Column], gold: Sequence[Column], evaluation: Evaluation
    ) -> None:
        self._evaluation = evaluation
        self._answer = answer
        self._repeated = len({column.name for column in answer}) < len(answer)
        self.answer = {column.name: column for column in answer}
        self.gold = {column.name: column for column in gold}
        self.keys = list(evaluation.unique_columns)
        self._aligned: list[str] = []
        self._drop_duplicates()
        self.answer_rows = len(answer[0].cells)
        self.gold_rows = len(gold[0].cells)
        self.moved = [False] * self.answer_rows

    def _drop_duplicates(self) -> None:
        """Keep the first row of each key, on both sides."""
        if not self.keys or not set(self.keys) <= self.gold.keys():
            detail = f"unique_columns {self.keys} are not among {list(self.gold)}"
            raise Broken(detail, answer_at_fault=False)
        names = [column.name for column in self._answer]
        if any(names.count(key) > 1 for key in self.keys):
            raise Broken("a key column appears twice in the answer", answer_at_fault=True)
        for table, columns in ((self.answer, self._answer), (self.gold, self.gold.values())):
            first: dict[tuple[str, ...], int] = {}
            for row, key in enumerate(zip(*(table[key].cells for key in self.keys), strict=True)):
                first.setdefault(key, row)
            for column in columns:
                column.keep(first.values())

    def alignments(self) -> list[Align]:
        """What a judge is asked about keys that are compared by name or by meaning."""
        rules = self._evaluation.eval_pipeline
        self._aligned = [
            key
            for key in self.keys
            if key in rules and not {"llm_judge", "exact_match"}.isdisjoint(rules[key].metric)
        ]
        return [
            Align(tuple(self.answer[key].cells), tuple(self.gold[key].cells))
            for key in self._aligned
        ]

    def align(self, maps: Sequence[Mapping[str, Any]]) -> None:
        """Replace the answer's keys by what a judge says they mean, whatever that is."""
        for key, names in zip(self._aligned, maps, strict=True):
            own = set(self.gold[key].cells)
            cells = self.answer[key].cells
            meant = [names.get(cell, cell) for cell in cells]
            for row, (cell, other) in enumerate(zip(cells, meant, strict=True)):
                self.moved[row] |= cell in own and other != cell
            self.answer[key].cells = _as_one_type(meant)

    def prepare(self) -> None:
        """Run the preparation steps over both sides."""
        if self._repeated:
            raise Broken("a column appears twice in the answer", answer_at_fault=True)
        self.raw = {
            name: (self.answer[name].cells, self.gold[name].cells)
            for name in self.gold
            if name not in self.keys
        }
        for name, rule in self._evaluation.eval_pipeline.items():
            if name not in self.gold:
                detail = f"eval_pipeline has {name!r}, which is not required"
                raise Broken(detail, answer_at_fault=False)
            for step in rule.preprocess:
                for column in (self.answer[name], self.gold[name]):
                    self._prepare(column, step)

    def _prepare(self, column: Column, step: str) -> None:
        if column.cells and step not in PREPARATIONS:
            raise Broken(f"preprocess has unknown {step!r}", answer_at_fault=False)
        try:
            column.cells = [PREPARATIONS[step](cell) for cell in column.cells]
        except CellError as error:
            raise Broken(str(error), answer_at_fault=True) from None

    def joined(self) -> list[tuple[int, int]]:
        """(gold row, answer row) of every pair with equal keys, gold order first."""
        for key in self.keys:
            if not all(isinstance(cell, Hashable) for cell in self.answer[key].cells):
                raise Broken(f"{key!r} was mapped to a list or an object", answer_at_fault=True)
            kinds = {type(cell) for cell in self.answer[key].cells}
            if kinds and (kinds <= {int, float} or kinds <= {bool}):
                raise Broken(f"{key!r} was mapped to numbers", answer_at_fault=True)
        rows: dict[tuple[Any, ...], list[int]] = {}
        for row, cells in enumerate(zip(*(self.answer[k].cells for k in self.keys), strict=True)):
            rows.setdefault(cells, []).append(row)
        wanted = enumerate(zip(*(self.gold[k].cells for k in self.keys), strict=True))
        return [(row, other) for row, cells in wanted for other in rows.get(cells, ())]

    def true_pairs(self, pairs: Sequence[tuple[int, int]]) -> list[int]:
        """Positions of the pairs that stay when every row counts once and blank keys join none."""
        used_gold: set[int] = set()
        used_answer: set[int] = set()
        kept = []
        for position, (row, other) in enumerate(pairs):
            blank = all(self.answer[key].missing[other] for key in self.keys)
            if blank or self.moved[other] or row in used_gold or other in used_answer:
                continue
            used_gold.add(row)
            used_answer.add(other)
            kept.append(position)
        return kept

    def equal(self) -> bool:
        """Are both the same table but for the order of rows? Never so after an alignment."""
        if self._aligned or list(self.answer) != list(self.gold):
            return False
        one, other = (
            Counter(zip(*(column.cells for column in table.values()), strict=True))
            for table in (self.answer, self.gold)
        )
        return one == other


def _as_one_type(cells: Sequence[Any]) -> list[Any]:
    """Numbers with decimals or gaps among them become decimals, as in a data frame."""
    kinds = {type(cell) for cell in cells}
    if kinds and kinds <= {int, float, type(None)} and kinds not in ({int}, {type(None)}):
        return [float("nan") if cell is None else float(cell) for cell in cells]
    return list(cells)
