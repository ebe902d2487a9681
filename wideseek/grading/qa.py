"""Short answers held against the gold phrases of question-answering sets.

Published numbers come from two public scorers that share a normal form: Search-R1 (exact and
substring match) and ASearcher (these, cover match and word F1, in one version for evaluation and
one for training). What they count is kept, oddities included (SPEC section 9).
"""

import re
import string
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from itertools import groupby

from wideseek.grading.answer import last_tag
from wideseek.grading.failure import Failure, FailureKind
from wideseek.grading.judge import Verify
from wideseek.grading.prompted_judge import read_verdict, to_prompt

MAX_JUDGED = 1_000
"""Characters of an answer that a judge is shown: an answer is a phrase, the rest is persuasion."""

AskJudge = Callable[[str], Awaitable[str | Failure]]
"""Sends a prompt to a judge model: its reply, or why there is none."""

_ARTICLE = re.compile(r"\b(?:a|an|the)\b")
_NO_PUNCTUATION = str.maketrans("", "", string.punctuation)
_SPACED_PUNCTUATION = str.maketrans(dict.fromkeys(string.punctuation, " "))
_BETWEEN_CHARACTERS = str.maketrans("", "", string.digits + "，。 ")
_CHINESE = re.compile("[\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff]")
_YES_NO = {"True": "yes", "False": "no"}


@dataclass(frozen=True, kw_only=True, slots=True)
class QAScore:
    """Matches with the best gold phrase: three yes-or-no, and the word F1 in [0, 1]."""

    em: bool
    sub_em: bool
    cover_em: bool
    f1: float


def score_answer(prediction: str | None, golds: Sequence[str]) -> QAScore | Failure:
    """What both public evaluations would count; None, a text without an answer, matches nothing.

    Failure when no gold phrase says anything.
    """
    if not any(normalise(gold) for gold in golds):
        return Failure(FailureKind.BAD_GOLD, "every gold answer is blank")
    if prediction is None:
        return QAScore(em=False, sub_em=False, cover_em=False, f1=0.0)
    return QAScore(
        em=exact_match(prediction, golds),
        sub_em=substring_match(prediction, golds),
        cover_em=cover_match(prediction, golds),
        f1=word_f1(prediction, golds),
    )


def normalise(text: str) -> str:
    """Lower case without ASCII punctuation, then without articles, blanks squeezed."""
    return " ".join(_ARTICLE.sub(" ", text.lower().translate(_NO_PUNCTUATION)).split())


def exact_match(prediction: str, golds: Sequence[str], *, yes_no: bool = False) -> bool:
    """Is the prediction one of the golds, both normalised?

    `yes_no` reads "True" and "False" as yes and no, as ASearcher's training does.
    """
    predicted = normalise(_as_word(prediction, yes_no))
    return any(normalise(_as_word(gold, yes_no)) == predicted for gold in golds)


def substring_match(prediction: str, golds: Sequence[str], *, yes_no: bool = False) -> bool:
    """Does it hold one of the golds, even inside a word? A blank gold is in everything (KEEP)."""
    predicted = normalise(_as_word(prediction, yes_no))
    return any(normalise(_as_word(gold, yes_no)) in predicted for gold in golds)


def cover_match(prediction: str, golds: Sequence[str]) -> bool:
    """Does it hold all words of one of the golds, in any order and as often as it likes?"""
    predicted = set(normalise(_as_word(prediction, True)).split(" "))
    return any(predicted.issuperset(normalise(_as_word(gold, True)).split(" ")) for gold in golds)


def word_f1(prediction: str, golds: Sequence[str], *, training: bool = False) -> float:
    """Best F1 of the set of words against a gold's; here punctuation parts words, articles count.

    `training` also reads "True" and "False" as yes and no, and takes a text apart into characters
    and whole numbers where the gold has Chinese.
    """
    best = 0.0
    for gold in golds:
        spaced, gold_spaced = _spaced(prediction, training), _spaced(gold, training)
        words = _characters if training and _CHINESE.search(gold_spaced) else _words
        predicted, wanted = words(spaced), words(gold_spaced)
        shared = len(predicted & wanted)
        best = max(best, 2 * shared / (len(predicted) + len(wanted)) if shared else 0.0)
    return best


def tagged_answer(text: str, *, at_least: int = 1) -> str | None:
    """Content of the last `<answer>` pair if there are `at_least` so many, else None.

    Search-R1 asks for two, since its own prompt holds one.
    """
    pairs = sum("<answer>" in piece for piece in text.split("</answer>")[:-1])
    return last_tag(text) if pairs >= at_least else None


async def judge_answer(
    question: str, prediction: str | None, golds: Sequence[str], ask: AskJudge
) -> bool | Failure:
    """Whether a judge model takes the prediction for one of the golds.

    None and a blank prediction are wrong without asking. A judge that says nothing, or nothing
    that `read_verdict` can read, is a Failure, never a zero.
    """
    if not any(gold.strip() for gold in golds):
        return Failure(FailureKind.BAD_GOLD, "every gold answer is blank")
    if prediction is None or not prediction.strip():
        return False
    labelled = golds[0] if len(golds) == 1 else list(golds)
    reply = await ask(to_prompt(Verify(question, prediction[:MAX_JUDGED], labelled)))
    if isinstance(reply, Failure):
        return reply
    verdict = read_verdict(reply)
    if verdict is None:
        return Failure(FailureKind.JUDGE_UNREADABLE, f"no verdict in {reply[-200:]!r}")
    return verdict == "correct"


def _as_word(text: str, yes_no: bool) -> str:
    return _YES_NO.get(text, text) if yes_no else text


def _spaced(text: str, training: bool) -> str:
    return " ".join(_as_word(text, training).translate(_SPACED_PUNCTUATION).split()).lower()


def _words(text: str) -> set[str]:
    return set(text.split())


def _characters(text: str) -> set[str]:
    """Characters other than digits and the commonest punctuation, and the whole numbers."""
    runs = groupby(text, str.isdigit)
    return set(text.translate(_BETWEEN_CHARACTERS)) | {"".join(run) for digit, run in runs if digit}
