"""Checks one case of widesearch_scoring.json against the official figures of our scorer."""

from dataclasses import asdict
from typing import Any

from compare import difference

from wideseek.grading.judge import Align
from wideseek.grading.widesearch import Question, Status, score_recorded
from wideseek.grading.widesearch_pairs import read_evaluation

Json = dict[str, Any]


def recognises(case: Json) -> bool:
    """Whether a case is one of this format."""
    return case["input"].keys() >= {"response", "ground_truth_csv", "evaluation"}


def check_widesearch_scoring(case: Json) -> str | None:
    """None when the case passes, else what differs."""
    given = case["input"]
    recorded = given["judge_replies"]
    score = score_recorded(
        given["response"],
        given["ground_truth_csv"],
        read_evaluation(given["evaluation"]),
        [one["reply"] for one in recorded],
    )
    computed = {
        "status": score.status.value,
        **asdict(score.official),
        "judge_calls": [_call(question) for question in score.asked],
    }
    if score.status is Status.OK:
        computed["matched_rows"] = score.matched_rows
        computed["cell_scores"] = {name: list(column) for name, column in score.cell_scores.items()}
    kinds = [one["kind"] for one in recorded][: len(score.asked)]
    asked = [call["kind"] for call in computed["judge_calls"]]
    # The name of the reference's exception is for information.
    expected = {name: value for name, value in case["expected"].items() if name != "error_type"}
    expected["judge_calls"] = [_as_text(call) for call in expected["judge_calls"]]
    return difference(asked[: len(kinds)], kinds, "recorded") or difference(computed, expected)


def _as_text(call: Json) -> Json:
    """A recorded call, its criterion as the text that the judge is shown."""
    if call["kind"] == "align":
        return call
    criterion = call.get("criterion")
    return call | {"criterion": "" if criterion is None else str(criterion)}


def _call(question: Question) -> Json:
    if isinstance(question, Align):
        return {
            "kind": "align",
            "response": list(question.response),
            "reference": list(question.reference),
        }
    pairs = [{"response": response, "target": target} for response, target in question.pairs]
    return {"kind": "score", "criterion": question.criterion, "pairs": pairs}
