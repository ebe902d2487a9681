"""Checks one case of qa_match.json against wideseek.grading.qa."""

from typing import Any

from compare import difference

from wideseek.grading.qa import (
    cover_match,
    exact_match,
    normalise,
    substring_match,
    tagged_answer,
    word_f1,
)

Json = dict[str, Any]


def recognises(case: Json) -> bool:
    """Whether a case is one of this format."""
    return case["input"].get("kind") in ("match", "extract_tag")


def check_qa_match(case: Json) -> str | None:
    """None when the case passes, else what differs."""
    given = case["input"]
    if given["kind"] == "extract_tag":
        text = given["text"]
        found = {"search_r1": tagged_answer(text, at_least=2), "asearcher": tagged_answer(text)}
        return difference(found, case["expected"])
    prediction, golds = given["prediction"], given["gold"]
    computed = {
        "normalised_prediction": normalise(prediction),
        "normalised_gold": [normalise(gold) for gold in golds],
        "search_r1_em": int(exact_match(prediction, golds)),
        "search_r1_sub_em": int(substring_match(prediction, golds)),
        "asearcher_em": int(exact_match(prediction, golds, yes_no=True)),
        "asearcher_sub_em": int(substring_match(prediction, golds, yes_no=True)),
        "asearcher_f1_train": word_f1(prediction, golds, training=True),
        "asearcher_f1_eval": word_f1(prediction, golds),
        "asearcher_cover_em": float(cover_match(prediction, golds)),
    }
    return difference(computed, case["expected"])
