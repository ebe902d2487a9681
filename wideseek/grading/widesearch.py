"""WideSearch scores exactly as the official scorer gives them, each beside a corrected one.

The official figures contain its faults, since published numbers do (SPEC section 1): F1 above 1,
judge scores that are not clamped, two texts without a date that match each other. The corrected
figures come from the same verdicts of the judge and the same pairs of rows:

- a row of the answer and of the gold counts once, and not at all with only blank keys;
- a required cell counts once: the lowest of its metrics, equal text if it has none;
- judge scores are clamped to [0, 1]; widesearch_metrics.corrected compares without a judge;
- a name that stands in the gold is never mapped to another one;
- success is all six figures being 1, not two tables being equal;
- a silent or unreadable judge, and a specification or gold table at fault, is a Failure, not zero.

Denominators stay: rows after equal keys were dropped. So does the rule that the answer has to have
exactly the required columns.
"""

import asyncio
import math
from collections.abc import Generator, Iterable, Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Any

from wideseek.grading.failure import Failure, FailureKind
from wideseek.grading.judge import Align, Judge, ScorePairs, last_json_block
from wideseek.grading.widesearch_figures import Figures, JoinedScores
from wideseek.grading.widesearch_pairs import (
    Broken,
    Evaluation,
    Tables,
    read_required_gold,
    rename,
)
from wideseek.grading.widesearch_table import answer_source, read_answer

Question = Align | ScorePairs
Scoring = Generator[tuple[Question, ...], Sequence[str | None], "WideSearchScore"]


class Status(StrEnum):
    """How far the official scorer came; all but OK score 0."""

    OK = "ok"
    RESPONSE_NONE = "response_none"
    NO_TABLE = "no_table"
    COLUMN_MISMATCH = "column_mismatch"
    ERROR = "error"


@dataclass(frozen=True, kw_only=True, slots=True)
class WideSearchScore:
    """Official and corrected figures of one answer, and how the official ones came about.

    matched_rows: pairs of rows joined by their keys, None unless OK. cell_scores: "column_metric"
    to the scores of these pairs, gold order first. asked: what the official scorer asks its judge,
    in its order.
    """

    status: Status
    official: Figures
    corrected: Figures | Failure
    matched_rows: int | None = None
    cell_scores: Mapping[str, tuple[float, ...]]
    asked: tuple[Question, ...]


async def score_widesearch(
    response: str | None, gold_csv: str, evaluation: Evaluation, judge: Judge
) -> WideSearchScore | Failure:
    """Score an answer's text (None: there was none) against the text of its gold CSV.

    Independent questions are asked at once. A judge without a reply is a Failure.
    """
    scoring = _scoring(response, gold_csv, evaluation)
    try:
        questions = next(scoring)
        while True:
            replies = await asyncio.gather(*map(judge, questions))
            for question, reply in zip(questions, replies, strict=True):
                if reply is None:
                    return Failure(FailureKind.JUDGE_SILENT, f"no reply to {_named(question)}")
            questions = scoring.send(replies)
    except StopIteration as ended:
        score: WideSearchScore = ended.value
        return score


def score_recorded(
    response: str | None,
    gold_csv: str,
    evaluation: Evaluation,
    replies: Iterable[str | None],
) -> WideSearchScore:
    """The same with a judge's replies in official call order; None where it gave none."""
    scoring = _scoring(response, gold_csv, evaluation)
    recorded = iter(replies)
    try:
        questions = next(scoring)
        while True:
            questions = scoring.send([next(recorded, None) for _ in questions])
    except StopIteration as ended:
        score: WideSearchScore = ended.value
        return score


def _named(question: Question) -> str:
    if isinstance(question, Align):
        return f"an alignment of {len(question.response)} names"
    return f"the scores of {len(question.pairs)} cells"


def _scoring(response: str | None, gold_csv: str, evaluation: Evaluation) -> Scoring:
    """Yields batches of independent questions, is sent their replies, returns the score."""
    conversation = _Conversation()
    if response is None:
        return conversation.zero(Status.RESPONSE_NONE)
    source = answer_source(response)
    if source is None:
        return conversation.zero(Status.NO_TABLE)
    answer = read_answer(source)
    if answer is None:
        return conversation.zero(Status.ERROR)
    wanted = set(evaluation.required)
    try:
        names = tuple(column.name for column in answer)
        if wanted != set(names):
            maps = yield from conversation.ask([Align(names, evaluation.required)])
            rename(answer, maps[0])
        if wanted != {column.name for column in answer}:
            return conversation.zero(Status.COLUMN_MISMATCH)
        tables = Tables(answer, read_required_gold(gold_csv, evaluation), evaluation)
        tables.align((yield from conversation.ask(tables.alignments())))
        tables.prepare()
        joined = JoinedScores(tables, evaluation)
    except Broken as error:
        return conversation.zero(Status.ERROR, error.failure)
    joined.judged((yield from conversation.ask(joined.questions, official=joined.official)))
    better = conversation.failure or joined.corrected_figures()
    try:
        official = joined.official_figures()
    except Broken:
        return conversation.zero(Status.ERROR, better)
    return WideSearchScore(
        status=Status.OK,
        official=official,
        corrected=better,
        matched_rows=len(joined.pairs),
        cell_scores={name: tuple(scores) for name, scores in joined.scores.items()},
        asked=tuple(conversation.asked),
    )


class _Conversation:
    """What the judge was asked, and the first of its replies that was none."""

    def __init__(self) -> None:
        self.asked: list[Question] = []
        self.failure: Failure | None = None

    def ask(
        self, questions: Sequence[Question], *, official: int | None = None
    ) -> Generator[tuple[Question, ...], Sequence[str | None], list[Mapping[str, Any]]]:
        """The json maps replied; empty where the official scorer reads none."""
        self.asked += questions[:official]
        replies = (yield tuple(questions)) if questions else ()
        for question, reply in zip(questions, replies, strict=True):
            self.failure = self.failure or _unread(question, reply)
        return [{} if reply is None else last_json_block(reply) or {} for reply in replies]

    def zero(self, status: Status, corrected: Figures | Failure | None = None) -> WideSearchScore:
        """All official figures 0; so are the corrected ones, if nothing else is known of them."""
        return WideSearchScore(
            status=status,
            official=Figures(),
            corrected=self.failure or corrected or Figures(),
            matched_rows=None,
            cell_scores={},
            asked=tuple(self.asked),
        )


def _unread(question: Question, reply: str | None) -> Failure | None:
    """Why a reply is no verdict on every part of its question; None for one that is."""
    if not (question.response if isinstance(question, Align) else question.pairs):
        return None
    if reply is None:
        return Failure(FailureKind.JUDGE_SILENT, f"no reply to {_named(question)}")
    said = last_json_block(reply)
    if said is None:
        return Failure(FailureKind.JUDGE_UNREADABLE, f"no json in the reply to {_named(question)}")
    if isinstance(question, ScorePairs):
        for index in range(len(question.pairs)):
            score = said.get(f"idx_{index}")
            if not isinstance(score, int | float) or not -math.inf < score < math.inf:
                detail = f"idx_{index} is {score!r} in the reply to {_named(question)}"
                return Failure(FailureKind.JUDGE_UNREADABLE, detail)
    return None
