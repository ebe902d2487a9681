"""Scores of joined WideSearch rows, and the official and corrected figures made of them."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from wideseek.grading.failure import Failure
from wideseek.grading.judge import ScorePairs
from wideseek.grading.widesearch_metrics import OFFICIAL, Cell, CellError, corrected
from wideseek.grading.widesearch_pairs import Broken, Evaluation, Tables

JUDGE = "llm_judge"


@dataclass(frozen=True, kw_only=True, slots=True)
class Figures:
    """The seven figures of one answer; `score` is success, 0 or 1."""

    score: float = 0.0
    precision_by_row: float = 0.0
    recall_by_row: float = 0.0
    f1_by_row: float = 0.0
    precision_by_item: float = 0.0
    recall_by_item: float = 0.0
    f1_by_item: float = 0.0


class JoinedScores:
    """Scores of each pair of rows by "column_metric"; a judge's are filled in by `judged`.

    questions: what a judge has to say; the first `official` of them are asked by the official
    scorer, which stops at the column where it breaks. broken: why it did.
    """

    def __init__(self, tables: Tables, evaluation: Evaluation) -> None:
        self._tables = tables
        self._evaluation = evaluation
        self.pairs = tables.joined()
        self.scores: dict[str, list[Any]] = {}
        self.questions: list[ScorePairs] = []
        self._asked: list[str] = []
        self.broken: Broken | None = None
        self.official = 0
        for name in evaluation.required:
            if name not in tables.keys:
                self._score(name)
            if self.broken is None:
                self.official = len(self.questions)
            elif self.broken.failure:
                break

    def _score(self, name: str) -> None:
        rule = self._evaluation.eval_pipeline.get(name)
        if rule is None:
            self._break(f"eval_pipeline lacks {name!r}", answer_at_fault=False)
            return
        answer, gold = self._tables.answer[name].cells, self._tables.gold[name].cells
        texts = [(answer[there], gold[here]) for here, there in self.pairs]
        for metric in rule.metric:
            column = f"{name}_{metric}"
            if metric == JUDGE:
                criterion = "" if rule.criterion is None else str(rule.criterion)
                self.questions.append(ScorePairs(tuple(texts), criterion))
                self._asked.append(column)
                self.scores[column] = []
                if self.broken is None:
                    self.official = len(self.questions)
            elif metric not in OFFICIAL:
                self._break(f"metric has unknown {metric!r}", answer_at_fault=False)
                return
            elif not texts and metric != "date_near":
                # The reference tries the metric on a row without values; only dates bear that.
                self._break("no row of the answer has a key of the gold", answer_at_fault=True)
            else:
                try:
                    self.scores[column] = [
                        OFFICIAL[metric](one, other, rule.criterion) for one, other in texts
                    ]
                except CellError as error:
                    self._break(str(error), answer_at_fault=True)

    def _break(self, detail: str, *, answer_at_fault: bool) -> None:
        if self.broken is None or not answer_at_fault:
            self.broken = Broken(detail, answer_at_fault=answer_at_fault)

    def judged(self, verdicts: Sequence[Mapping[str, Any]]) -> None:
        """Fill in a judge's scores, whatever they are; 0 where it gave none."""
        for column, question, verdict in zip(self._asked, self.questions, verdicts, strict=True):
            self.scores[column] = [
                verdict.get(f"idx_{index}", 0) for index in range(len(question.pairs))
            ]

    def official_figures(self) -> Figures:
        """Every score column adds to the items; Broken where the official scorer breaks."""
        if self.broken:
            raise self.broken
        columns = [[_score(value) for value in values] for values in self.scores.values()]
        self.scores = dict(zip(self.scores, columns, strict=True))
        keys = len(self._tables.keys)
        items = keys * len(self.pairs) + sum(
            score for column in columns for score in column if not math.isnan(score)
        )
        rows = 0.0
        for position in range(len(self.pairs)):
            scores = [column[position] for column in columns]
            rows += min([1.0, *(score for score in scores if not math.isnan(score))])
        return self._figures(rows, items, equal=self._tables.equal())

    def corrected_figures(self) -> Figures | Failure:
        """Every required cell of a true pair adds the lowest of its metrics, clamped to [0, 1]."""
        if self.broken and self.broken.failure:
            return self.broken.failure
        true = self._tables.true_pairs(self.pairs)
        columns = [
            self._corrected(name, true)
            for name in self._evaluation.required
            if name not in self._tables.keys
        ]
        items = sum(map(sum, columns)) + len(self._tables.keys) * len(true)
        rows = sum(min([1.0, *scores]) for scores in zip(*columns, strict=True))
        return self._figures(rows if columns else len(true), items, equal=False)

    def _corrected(self, name: str, positions: Sequence[int]) -> list[float]:
        rule = self._evaluation.eval_pipeline[name]
        raw_answer, raw_gold = self._tables.raw[name]
        answer, gold = self._tables.answer[name], self._tables.gold[name]
        scores = []
        for position in positions:
            here, there = self.pairs[position]
            one = Cell(raw_answer[there], answer.cells[there], answer.missing[there])
            other = Cell(raw_gold[here], gold.cells[here], gold.missing[here])
            score = 1.0
            for metric in rule.metric or ("exact_match",):
                if metric != JUDGE:
                    score = min(score, corrected(metric, one, other, rule.criterion))
                elif one.missing or other.missing:
                    score = min(score, float(one.missing and other.missing))
                else:
                    given = self.scores[f"{name}_{JUDGE}"][position]
                    score = min(score, max(0.0, float(given)))
            scores.append(score)
        return scores

    def _figures(self, rows: float, items: float, *, equal: bool) -> Figures:
        width = len(self._evaluation.required)
        answer_rows, gold_rows = self._tables.answer_rows, self._tables.gold_rows
        row = _prf(rows, answer_rows, gold_rows)
        item = _prf(items, answer_rows * width, gold_rows * width)
        return Figures(
            score=float(equal or all(figure == 1.0 for figure in row + item)),
            precision_by_row=row[0],
            recall_by_row=row[1],
            f1_by_row=row[2],
            precision_by_item=item[0],
            recall_by_item=item[1],
            f1_by_item=item[2],
        )


def _score(value: object) -> float:
    """A judge's score as a number, NaN for null; Broken for anything else."""
    if value is None:
        return math.nan
    if not isinstance(value, int | float):
        raise Broken(f"the judge's score {value!r} is no number", answer_at_fault=True)
    try:
        return float(value)
    except OverflowError:
        raise Broken("the judge's score is too large", answer_at_fault=True) from None


def _prf(right: float, answered: int, wanted: int) -> tuple[float, float, float]:
    """Precision, recall and F1."""
    precision = right / answered if answered else 0.0
    recall = right / wanted if wanted else 0.0
    both = precision + recall
    return precision, recall, 2 * precision * recall / both if both > 1e-9 else 0.0
