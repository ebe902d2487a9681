"""Short answers against gold phrases: by hand, and what no rule or judge may do."""

import asyncio

import pytest
from hypothesis import given
from hypothesis import strategies as st

from wideseek.grading.failure import Failure, FailureKind
from wideseek.grading.qa import (
    MAX_JUDGED,
    QAScore,
    cover_match,
    exact_match,
    judge_answer,
    normalise,
    score_answer,
    substring_match,
    tagged_answer,
    word_f1,
)


@pytest.mark.parametrize(
    ("prediction", "golds", "em", "sub_em", "cover_em", "f1"),
    [
        # right
        ("Vienna", ["Vienna"], True, True, True, 1.0),
        ("vienna.", ["Wien", "Vienna"], True, True, True, 1.0),
        ("The  Danube", ["Danube"], True, True, True, 2 / 3),  # the article counts for F1
        # partly right
        ("Vienna, Austria", ["Vienna"], False, True, True, 2 / 3),
        ("Vienna", ["Vienna, Austria"], False, False, False, 2 / 3),
        ("Mozart Wolfgang", ["Wolfgang Mozart"], False, False, True, 1.0),
        ("Viennan waltz", ["Vienna"], False, True, False, 0.0),
        # wrong
        ("Graz", ["Vienna", "Wien"], False, False, False, 0.0),
        ("1,200", ["1300"], False, False, False, 0.0),
        # garbled and empty
        ("?!...", ["Vienna"], False, False, False, 0.0),
        ("|---|", ["Vienna"], False, False, False, 0.0),
        ("", ["Vienna"], False, False, False, 0.0),
        (None, ["Vienna"], False, False, False, 0.0),
    ],
)
def test_answers_score_by_hand(
    prediction: str | None, golds: list[str], em: bool, sub_em: bool, cover_em: bool, f1: float
) -> None:
    score = score_answer(prediction, golds)
    assert isinstance(score, QAScore)
    assert (score.em, score.sub_em, score.cover_em) == (em, sub_em, cover_em)
    assert score.f1 == pytest.approx(f1)


@pytest.mark.parametrize("golds", [[], [""], ["  ", "the", "?!"]])
def test_a_gold_that_says_nothing_is_a_failure_and_no_match(golds: list[str]) -> None:
    score = score_answer("", golds)
    assert isinstance(score, Failure) and score.kind is FailureKind.BAD_GOLD


def test_the_normal_form_drops_punctuation_before_articles() -> None:
    assert normalise("  An (A-list) Theatre, the\tEND! ") == "alist theatre end"
    assert normalise("«Ébène» — the 2ⁿᵈ") == "«ébène» — 2ⁿᵈ"


def test_true_and_false_are_yes_and_no_only_where_asked() -> None:
    assert not exact_match("True", ["yes"]) and exact_match("True", ["yes"], yes_no=True)
    assert not substring_match("no", ["False"]) and substring_match("no", ["False"], yes_no=True)
    assert cover_match("False", ["no"])
    assert word_f1("True", ["yes"]) == 0.0 and word_f1("True", ["yes"], training=True) == 1.0
    assert not exact_match("true", ["yes"], yes_no=True)  # the reference knows no other spelling


def test_training_f1_reads_chinese_by_character_and_number() -> None:
    # 上 海 1930 against 上 海 市 1930: three of three, three of four.
    assert word_f1("上海，1930", ["上海市 1930"], training=True) == pytest.approx(6 / 7)
    assert word_f1("上海，1930", ["上海市 1930"]) == 0.0
    assert word_f1("193", ["上 1930"], training=True) == 0.0


WORDS = st.lists(st.sampled_from("the Vienna ? _ True yes 上海 1,2 é".split()), max_size=6)


@given(WORDS.map(" ".join), st.lists(WORDS.map(" ".join), min_size=1, max_size=3))
def test_matches_imply_each_other(prediction: str, golds: list[str]) -> None:
    """An exact match is also a substring and a cover match; more golds never take one away."""
    if exact_match(prediction, golds):
        assert substring_match(prediction, golds) and cover_match(prediction, golds)
    for match in (exact_match, substring_match, cover_match, word_f1):
        assert match(prediction, golds) == max(match(prediction, [gold]) for gold in golds)
    assert 0.0 <= word_f1(prediction, golds, training=True) <= 1.0


@pytest.mark.parametrize(
    ("text", "last", "second"),
    [
        ("", None, None),
        ("<answer>", None, None),
        ("a </answer> <answer> b", None, None),
        ("x <answer> A </answer>", "A", None),
        ("<answer>a</answer><answer>\nb\nc </answer>", "b\nc", "b\nc"),
        ("<answer>a<answer>b</answer></answer>", "a<answer>b", None),
        ("<answer>a</answer><answer>b", "a", None),
    ],
)
def test_the_last_tagged_answer(text: str, last: str | None, second: str | None) -> None:
    assert tagged_answer(text) == last
    assert tagged_answer(text, at_least=2) == second


def test_a_long_run_of_open_tags_takes_no_time() -> None:
    assert tagged_answer("<answer>" * 300_000) is None


def judge(prediction: str | None, reply: str | Failure) -> tuple[bool | Failure, list[str]]:
    prompts: list[str] = []

    async def ask(prompt: str) -> str | Failure:
        prompts.append(prompt)
        return reply

    verdict = asyncio.run(judge_answer("Where is it?", prediction, ["Wien", "Vienna"], ask))
    return verdict, prompts


@pytest.mark.parametrize(
    ("reply", "verdict"),
    [
        ("correct", True),
        ("They name the same city.\nCorrect", True),
        ("incorrect", False),
        ("<think>correct?</think>It is another city.\nincorrect.", False),
    ],
)
def test_a_judge_decides(reply: str, verdict: bool) -> None:
    found, [prompt] = judge("the Austrian capital", reply)
    assert found is verdict
    assert all(told in prompt for told in ("Where is it?", "Vienna", "the Austrian capital"))


@pytest.mark.parametrize("reply", ["", "I cannot say.", "not correct", "correct, I would say"])
def test_a_reply_without_a_verdict_is_a_failure(reply: str) -> None:
    found, _ = judge("Graz", reply)
    assert isinstance(found, Failure) and found.kind is FailureKind.JUDGE_UNREADABLE


def test_a_silent_judge_is_a_failure_and_never_a_zero() -> None:
    silence = Failure(FailureKind.JUDGE_SILENT, "no server")
    assert judge("Graz", silence)[0] is silence


@pytest.mark.parametrize("prediction", [None, "", " \n"])
def test_no_answer_is_wrong_without_asking(prediction: str | None) -> None:
    assert judge(prediction, "correct") == (False, [])


def test_a_judge_is_shown_a_phrase_and_no_speech() -> None:
    _, [prompt] = judge("Graz " + "x" * 10_000_000, "incorrect")
    assert len(prompt) < 2 * MAX_JUDGED + 1000
