"""Checks one case of reward.json against wideseek.grading in its reference-compatible form."""

import asyncio
from collections.abc import Callable
from typing import Any

from compare import difference

from wideseek.grading.credit import CreditConfig, CreditTurn, credit_assignment
from wideseek.grading.failure import Failure
from wideseek.grading.judge import Align, ScorePairs, Verify
from wideseek.grading.reference_table import TypedTable
from wideseek.grading.reward import (
    evaluate_markdown,
    extract_final_answer,
    get_final_reward_score,
    verify_answer,
)

Json = dict[str, Any]
_ROLES = {"planner": "lead", "worker": "sub", "single": "single"}


class RecordedJudge:
    """Gives back recorded replies in call order and remembers what was asked."""

    def __init__(self, replies: list[Json]) -> None:
        self._replies = iter(replies)
        self.calls: list[Json] = []
        self.labelled: object = None

    async def __call__(self, asked: Align | ScorePairs | Verify) -> str | None:
        if isinstance(asked, Align):
            call: Json = {
                "kind": "align",
                "response": list(asked.response),
                "reference": list(asked.reference),
            }
        elif isinstance(asked, ScorePairs):
            pairs = [{"response": response, "target": target} for response, target in asked.pairs]
            call = {"kind": "score", "pairs": pairs}
        else:
            call, self.labelled = {"kind": "verify"}, asked.labelled
        self.calls.append(call)
        recorded = next(self._replies, {"kind": "nothing recorded", "reply": None})
        if recorded["kind"] != call["kind"]:
            raise AssertionError(f"judge asked to {call['kind']}, recorded: {recorded['kind']}")
        reply: str | None = recorded["reply"]
        return reply


def recognises(case: Json) -> bool:
    """Whether a case is one of this format."""
    return case["input"].get("kind") in _COMPUTE


def check_reward(case: Json) -> str | None:
    """None when the case passes, else what differs."""
    given = case["input"]
    try:
        computed = asyncio.run(_COMPUTE[given["kind"]](given))
    except AssertionError as error:
        return str(error)
    return difference(computed, case["expected"])


async def _extract(given: Json) -> Json:
    answer = extract_final_answer(given["text"], given["mode"], strict=given["strict"])
    if given["mode"] != "markdown":
        return {"answer": answer}
    if answer is None:
        return {"table": None}
    assert isinstance(answer, TypedTable)
    rows = [list(row) for row in answer.rows]
    return {"table": {"columns": list(answer.columns), "dtypes": list(answer.dtypes), "rows": rows}}


async def _evaluate(given: Json) -> Json:
    judge = RecordedJudge(given["judge_replies"])
    answer = extract_final_answer(given["text"], "markdown")
    assert answer is None or isinstance(answer, TypedTable)
    score, format_ok = await evaluate_markdown(
        answer, given["label"], judge, norm_column=given["norm_column"]
    )
    return {
        "score": score,
        "format_ok": format_ok,
        "extracted": answer is not None,
        "judge_calls": judge.calls,
    }


async def _verify(given: Json) -> Json:
    judge = RecordedJudge([{"kind": "verify", "reply": given["judge_reply"]}])
    score = await verify_answer(
        given["question"], given["predicted"], given["correct_answer"], judge
    )
    told = {"labelled_answer_shown": judge.labelled}
    # The reference crashes where we report a Failure; the vector names its exception.
    return told | ({"error": "AttributeError"} if isinstance(score, Failure) else {"score": score})


async def _final(given: Json) -> Json:
    judge = RecordedJudge(given["judge_replies"]) if given["judge_available"] else None
    reward = await get_final_reward_score(
        "",
        extract_final_answer(given["text"], "markdown" if given["is_markdown"] else "boxed"),
        given["label"],
        judge,
        is_markdown=given["is_markdown"],
    )
    assert not isinstance(reward, Failure), reward
    return {
        "llm_reward": reward.score,
        "format_ok": reward.format_ok,
        "answer_format": reward.answer_format,
    }


async def _credit(given: Json) -> Json:
    turns = [
        CreditTurn(
            role=_ROLES[turn["role"]],  # type: ignore[arg-type]
            response_tokens=turn["response_len"],
            accesses=(turn["tool_call_info"] or {}).get("access", 0),
            context_failed=turn["context_failed"],
            turn_limit_failed=turn["max_turn_limit_failed"],
            runaway=turn["turn_repeat_failed"],
            content=("alike", turn["identity"]) if turn["identity"] is not None else index,
        )
        for index, turn in enumerate(given["turns"])
    ]
    credit = credit_assignment(
        CreditConfig(**given["config"]),
        turns,
        outcome=given["llm_reward"],
        natural_end=given["succ_end"],
        answer_format=given["answer_format"],
    )
    return {
        "train_turns": list(credit.train_turns),
        "final_answer_format": int(credit.final_answer_format),
        "reward": credit.reward,
    }


_COMPUTE: dict[str, Callable[[Json], Any]] = {
    "extract_final_answer": _extract,
    "evaluate_markdown": _evaluate,
    "verify_answer": _verify,
    "final_reward": _final,
    "credit_assignment": _credit,
}
