"""Questions to a judge as prompts for a model, and its replies as strict verdicts.

A scorer knows a Judge, which gives the text of a reply; what is no verdict never reaches it. Where
a judge gave none in the end, `Unjudged` takes the Failure past the scorer, and `judged` returns it.
"""

import json
import re
import tomllib
from collections.abc import Awaitable, Callable, Mapping
from importlib.resources import files
from string import Template
from typing import TypeVar

from wideseek.grading.answer import after_thinking
from wideseek.grading.failure import Failure
from wideseek.grading.judge import Align, Judge, ScorePairs, Verify, last_json_block
from wideseek.grading.patient_judge import Read

T = TypeVar("T")

# What may stand around a verdict: nothing that could negate it, as in "!correct" or "❌ correct".
_MARKS = r"[\s*_#>\"'`“”‘’(){}\[\]\\$.:-]*"
_VERDICT = re.compile(
    rf"{_MARKS}(?:(?:final )?(?:verdict|answer){_MARKS})?(?:boxed{_MARKS})?(in)?correct(?:{_MARKS}|[!。])*",
    re.I,
)


class Unjudged(Exception):
    """A judge gave no verdict; `failure` says why."""

    def __init__(self, failure: Failure) -> None:
        super().__init__(f"{failure.kind}: {failure.detail}")
        self.failure = failure


async def judged(scoring: Awaitable[T]) -> T | Failure:
    """The result of a scoring that may need a judge, or the Failure of its judge."""
    try:
        return await scoring
    except Unjudged as error:
        return error.failure


def prompted_judge(ask: Callable[[str, Read], Awaitable[str | Failure]]) -> Judge:
    """A Judge that puts each question to `ask`, a PatientJudge, as a prompt; may raise Unjudged."""

    async def judge(question: Align | ScorePairs | Verify) -> str:
        said = await ask(to_prompt(question), reader_of(question))
        if isinstance(said, Failure):
            raise Unjudged(said)
        return said

    return judge


def to_prompt(question: Align | ScorePairs | Verify) -> str:
    """The question in our own words; values are filled in as they are, once."""
    match question:
        case Align(response, reference):
            return _fill("align", response=_json(response), reference=_json(reference))
        case ScorePairs(pairs):
            shown = {
                f"idx_{index}": {"answer": answer, "reference": reference}
                for index, (answer, reference) in enumerate(pairs)
            }
            return _fill("score_pairs", pairs=_json(shown), criterion=_criterion(question))
        case Verify(asked, predicted, labelled):
            told = labelled if isinstance(labelled, str) else _json(labelled)
            return _fill("verify", question=asked, predicted=predicted, labelled=told)


def reader_of(question: Align | ScorePairs | Verify) -> Read:
    """How replies to this question are read: strictly, into the form that scorers expect."""
    match question:
        case Align():
            return read_map
        case ScorePairs(pairs):
            return lambda reply: read_scores(reply, len(pairs))
        case Verify():
            return read_verdict


def read_map(reply: str) -> str | None:
    """A fenced map between names, without empty entries; None for anything else."""
    found = last_json_block(after_thinking(reply))
    if not isinstance(found, dict):
        return None
    kept = {name: other for name, other in found.items() if other is not None}
    return _fence(kept) if all(isinstance(other, str) for other in kept.values()) else None


def read_scores(reply: str, count: int) -> str | None:
    """A fenced map that gives each of `count` pairs 0 or 1; None if one lacks or is neither."""
    found = last_json_block(after_thinking(reply))
    scores = {name: (found or {}).get(name) for name in (f"idx_{index}" for index in range(count))}
    if any(score not in (0, 1) for score in scores.values()):
        return None
    return _fence({name: int(score == 1) for name, score in scores.items()})


def read_verdict(reply: str) -> str | None:
    """The word correct or incorrect, if the last line holds nothing else; else None.

    A sentence around it, such as "not correct", is no verdict: what is meant is not guessed.
    """
    said = after_thinking(reply)
    found = _VERDICT.fullmatch(said.rpartition("\n")[2])
    if found is None or "<think>" in said:
        return None
    return "incorrect" if found[1] else "correct"


def _criterion(question: ScorePairs) -> str:
    if question.criterion:
        return _fill("criterion_given", criterion=question.criterion)
    return _PROMPTS["criterion_usual"]


def _fence(values: Mapping[str, object]) -> str:
    return f"```json\n{json.dumps(values, ensure_ascii=False)}\n```"


def _json(values: object) -> str:
    return json.dumps(values, ensure_ascii=False, default=str)


def _fill(name: str, **values: object) -> str:
    return Template(_PROMPTS[name]).substitute(values)


_PROMPTS: dict[str, str] = {
    name: text.strip("\n")
    for name, text in tomllib.loads(
        (files("wideseek.grading") / "judge_prompts.toml").read_text(encoding="utf-8")
    ).items()
}
