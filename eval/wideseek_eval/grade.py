"""What an answer is worth: by the exact judge, as the question-answering sets match, or as the
official scorer of WideSearch does."""

from dataclasses import dataclass, replace

from wideseek.grading.failure import Failure, FailureKind
from wideseek.grading.patient_judge import PatientJudge
from wideseek.grading.prompted_judge import judged
from wideseek.grading.qa import QAScore
from wideseek.grading.table import TableScore
from wideseek.grading.widesearch import WideSearchScore, score_widesearch
from wideseek.grading.widesearch_figures import Figures
from wideseek.grading.widesearch_table import answer_source
from wideseek_eval.judges import judge_phrase, question_judge
from wideseek_eval.suites import EvalTask


@dataclass(frozen=True, kw_only=True, slots=True)
class WideScore:
    """The official figures of an answer, and the corrected ones: None where the gold is at fault.

    status: how far the official scorer came. matched_rows: None unless it came to the end.
    """

    status: str
    official: Figures
    corrected: Figures | None
    matched_rows: int | None


@dataclass(frozen=True, kw_only=True, slots=True)
class Grade:
    """What one answer came to.

    answered: the text held a table, or a phrase, to grade. score, wide or qa is set, whichever goes
    with the question. failure: the gold is at fault; official figures stand beside it all the same.
    judged: what a judge model says of a phrase.
    """

    answered: bool
    score: TableScore | None = None
    wide: WideScore | None = None
    qa: QAScore | None = None
    failure: str | None = None
    judged: bool | None = None


async def grade_answer(task: EvalTask, text: str, judge: PatientJudge | None) -> Grade | Failure:
    """The grade of an answer's text; a Failure where it takes a judge and that gave no verdict."""
    if task.evaluation is not None:
        return await _grade_widesearch(task, text, judge)
    answered, score = task.grade(text)
    verdict = None if judge is None else await judge_phrase(task, text, judge)
    if isinstance(verdict, Failure):
        return verdict
    grade = Grade(answered=answered, judged=verdict)
    match score:
        case TableScore():
            return replace(grade, score=score)
        case QAScore():
            return replace(grade, qa=score)
        case Failure():
            return replace(grade, failure=score.kind.value)


async def _grade_widesearch(
    task: EvalTask, text: str, judge: PatientJudge | None
) -> Grade | Failure:
    assert task.evaluation is not None
    asked = question_judge(judge)
    score = await judged(score_widesearch(text, task.gold_csv, task.evaluation, asked))
    if isinstance(score, Failure):
        return score
    fault = score.corrected if isinstance(score.corrected, Failure) else None
    if fault is not None and fault.kind is not FailureKind.BAD_GOLD:
        return fault
    return Grade(
        answered=answer_source(text) is not None,
        wide=_wide_score(score),
        failure=None if fault is None else fault.kind.value,
    )


def _wide_score(score: WideSearchScore) -> WideScore:
    corrected = score.corrected
    return WideScore(
        status=score.status.value,
        official=score.official,
        corrected=None if isinstance(corrected, Failure) else corrected,
        matched_rows=score.matched_rows,
    )
