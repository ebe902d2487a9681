"""Why something could not be graded, as data: an ungraded answer is never a zero."""

from dataclasses import dataclass
from enum import StrEnum


class FailureKind(StrEnum):
    """What stood in the way of a score."""

    BAD_GOLD = "bad_gold"
    JUDGE_SILENT = "judge_silent"
    JUDGE_REFUSED = "judge_refused"
    JUDGE_UNREADABLE = "judge_unreadable"


@dataclass(frozen=True, slots=True)
class Failure:
    """A grading that ended without a score; the fault is never the answer's."""

    kind: FailureKind
    detail: str
