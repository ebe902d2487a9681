"""A judge without a model: values agree when their canonical forms are equal."""

import json
from collections.abc import Iterable

from wideseek.grading.judge import Align, ScorePairs, Verify
from wideseek.grading.value import canonical


async def rule_judge(question: Align | ScorePairs | Verify) -> str:
    """The reply a model would give that judged by `canonical` alone. This function is a Judge."""
    match question:
        case Align(response, reference):
            return _fence(_pair_up(response, reference))
        case ScorePairs(pairs):
            equal = (int(_same(answer, gold)) for answer, gold in pairs)
            return _fence({f"idx_{index}": score for index, score in enumerate(equal)})
        case Verify(_, predicted, labelled):
            labels = labelled if isinstance(labelled, list | tuple) else (labelled,)
            right = any(_same(predicted, str(label)) for label in labels)
            return "correct" if right else "incorrect"


def _pair_up(response: Iterable[object], reference: Iterable[object]) -> dict[str, str]:
    """Words of the response by the reference words they equal, each of these used once."""
    free: dict[str, str] = {}
    for word in reference:
        free.setdefault(canonical(str(word)), str(word))
    pairs = ((str(word), free.pop(canonical(str(word)), None)) for word in response)
    return {word: other for word, other in pairs if other is not None}


def _same(answer: str, gold: str) -> bool:
    return canonical(answer) == canonical(gold) != ""


def _fence(values: dict[str, str] | dict[str, int]) -> str:
    return f"```json\n{json.dumps(values, ensure_ascii=False)}\n```"
