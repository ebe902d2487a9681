"""What a judge model is asked, and how its replies are read.

A Judge turns a typed question into whatever prompt suits its model and returns the raw reply, or
None when it got none.
"""

import json
import re
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Any

_BLOCK_START = re.compile(r"```json\s*(?=\{)")
_BLOCK_END = re.compile(r"\}\s*```")


@dataclass(frozen=True, slots=True)
class Align:
    """Which of the answer's words mean which of the gold's? Replied as a json map between them."""

    response: tuple[object, ...]
    reference: tuple[object, ...]


@dataclass(frozen=True, slots=True)
class ScorePairs:
    """Which (answer, gold) cells agree? Replied as a json map from idx_0, idx_1, ... to 0 or 1.

    criterion: when they do, in words; "" for the usual sense.
    """

    pairs: tuple[tuple[str, str], ...]
    criterion: str = ""


@dataclass(frozen=True, slots=True)
class Verify:
    """Is the predicted answer the labelled one? The reply says correct or incorrect."""

    question: str
    predicted: str
    labelled: object


Judge = Callable[[Align | ScorePairs | Verify], Awaitable[str | None]]


def last_json_block(reply: str) -> dict[str, Any] | None:
    """The object in the last complete ```json fence of a reply; None without valid json in one."""
    block, opener = None, _BLOCK_START.search(reply)
    while opener is not None and (closer := _BLOCK_END.search(reply, opener.end() + 1)) is not None:
        block = reply[opener.end() : closer.start() + 1]
        opener = _BLOCK_START.search(reply, closer.end())
    try:
        return None if block is None else json.loads(block)
    except (ValueError, RecursionError):
        return None
