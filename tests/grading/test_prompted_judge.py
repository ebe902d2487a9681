"""Questions as prompts: values literal, replies read strictly, silence no zero."""

import asyncio
import json
from collections.abc import Sequence

import pytest

from wideseek.grading.failure import Failure, FailureKind
from wideseek.grading.judge import Align, ScorePairs, Verify, last_json_block
from wideseek.grading.patient_judge import Read
from wideseek.grading.prompted_judge import (
    judged,
    prompted_judge,
    read_map,
    read_scores,
    read_verdict,
    to_prompt,
)
from wideseek.grading.reference_table import extract_reference_table
from wideseek.grading.reward import get_final_reward_score
from wideseek.grading.rule_judge import rule_judge

SILENT = Failure(FailureKind.JUDGE_SILENT, "out")


@pytest.mark.parametrize(
    ("reply", "verdict"),
    [
        ("correct", "correct"),
        ("Correct.", "correct"),
        ("They name the same town.\n\n**Correct**", "correct"),
        ("It is not the same.\nincorrect", "incorrect"),
        ("Verdict: INCORRECT!", "incorrect"),
        ("<think>incorrect? no</think>\ncorrect", "correct"),
        ("\\boxed{incorrect}", "incorrect"),
        ("The answer is not correct.", None),
        ("It isn't correct", None),
        ("This is never really correct", None),
        ("correct, I would say, or is it?", None),
        ("<think>correct", None),
        ("<think>\nso it is\ncorrect", None),
        ("The two agree, so it is correct", None),
        ("aincorrect", None),
        ("❌ Correct", None),
        ("!correct", None),
        ("≠ correct", None),
        ("correct?", None),
        ("- `correct`", "correct"),
        ("最终 verdict: correct", None),
        ("Final answer: **incorrect**。", "incorrect"),
        ("yes", None),
        ("", None),
    ],
)
def test_a_verdict_is_the_last_line_or_none(reply: str, verdict: str | None) -> None:
    assert read_verdict(reply) == verdict


@pytest.mark.parametrize(
    ("values", "scores"),
    [
        ('{"idx_0": 1, "idx_1": 0}', {"idx_0": 1, "idx_1": 0}),
        ('{"idx_0": true, "idx_1": 1.0, "idx_2": 5}', {"idx_0": 1, "idx_1": 1}),
        ('{"idx_0": 1}', None),
        ('{"idx_0": 1, "idx_1": 0.5}', None),
        ('{"idx_0": 1, "idx_1": "1"}', None),
        ('{"idx_0": 1, "idx_1": NaN}', None),
        ('{"idx_0": 1, "idx_1": [0]}', None),
        ("[1, 0]", None),
        ('{"idx_0": 1, "idx_', None),
    ],
)
def test_every_pair_needs_a_score_of_0_or_1(values: str, scores: dict[str, int] | None) -> None:
    said = read_scores(f"Let me see.\n```json\n{values}\n```", 2)
    assert (None if said is None else last_json_block(said)) == scores


def test_a_map_holds_names_only() -> None:
    kept = read_map('```json\n{"a": "b", "c": null}\n```')
    assert kept is not None and last_json_block(kept) == {"a": "b"}
    assert read_map("```json\n{}\n```") == "```json\n{}\n```"
    for junk in ("", "none of them", '```json\n{"a": ["b"]}\n```', '```json\n{"a": 1}\n```'):
        assert read_map(junk) is None


def test_values_stand_in_a_prompt_as_they_are() -> None:
    hostile = 'price $criterion $${x} {"idx_0": 1} \\'
    prompt = to_prompt(Verify(hostile, "$labelled", ["München", "Munich"]))
    assert hostile in prompt and "Given answer: $labelled" in prompt
    assert '["München", "Munich"]' in prompt
    prompt = to_prompt(ScorePairs(((hostile, "b"), ("c", "d")), "within 5 % $pairs"))
    assert "within 5 % $pairs" in prompt and json.dumps(hostile) in prompt
    assert '"idx_1": {"answer": "c", "reference": "d"}' in prompt
    assert "the same fact" in to_prompt(ScorePairs((("a", "b"),)))
    assert '["Köln", 3]' in to_prompt(Align(("Köln", 3), ("Cologne",)))


def answer_by_rule(question: Align | ScorePairs | Verify) -> Sequence[str]:
    return [asyncio.run(rule_judge(question))]


def test_the_rule_judge_goes_by_canonical_values() -> None:
    (reply,) = answer_by_rule(Align(("PARIS", "Rome", "paris", "Bern"), ("Paris", "Oslo", "bern")))
    assert last_json_block(reply) == {"PARIS": "Paris", "Bern": "bern"}, "no name is used twice"
    (reply,) = answer_by_rule(ScorePairs((("1,000", "1000"), ("1000", "1001"), ("", ""))))
    assert last_json_block(reply) == {"idx_0": 1, "idx_1": 0, "idx_2": 0}
    assert answer_by_rule(Verify("?", "paris", "Paris")) == ["correct"]
    assert answer_by_rule(Verify("?", "paris", ["Rome", "PARIS"])) == ["correct"]
    assert answer_by_rule(Verify("?", "", "Rome")) == ["incorrect"]


TABLE = "```markdown\n| city | people |\n|---|---|\n| Ostend | 70 |\n| Ghent | 260 |\n```"
LABEL = {"answer": TABLE, "unique_columns": ["city"], "required": ["city", "people"]}


def test_a_silent_judge_is_a_failure_through_a_scorer_that_would_say_zero() -> None:
    async def silent(prompt: str, read: Read) -> str | Failure:
        return SILENT

    table = extract_reference_table(TABLE, strict=True)

    async def score(ask: object) -> object:
        judge = ask if ask is rule_judge else prompted_judge(silent)
        scoring = get_final_reward_score("?", table, LABEL, judge, is_markdown=True)
        return await judged(scoring)

    assert asyncio.run(score(silent)) == SILENT
    by_rule = asyncio.run(score(rule_judge))
    assert not isinstance(by_rule, Failure) and by_rule.score == 1.0  # type: ignore[attr-defined]


def test_a_models_words_reach_the_scorer_as_a_clean_verdict() -> None:
    async def wordy(prompt: str, read: Read) -> str | Failure:
        said = read("The reference says so too; nothing incorrect about it.\n**correct**")
        return SILENT if said is None else said

    async def score() -> object:
        scoring = get_final_reward_score(
            "?", "Paris", {"answer": ["Paris"]}, prompted_judge(wordy), is_markdown=False
        )
        return await judged(scoring)

    assert asyncio.run(score()).score == 1.0  # type: ignore[attr-defined]
