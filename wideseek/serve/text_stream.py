"""Sampled ids to text while they are sampled, in pieces that never have to be taken back.

Both streams give the same whole text however their input is cut into pieces.
"""

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import NoReturn

_HALF_A_CHARACTER = "\ufffd"


class TextStream:
    """Token ids in, text out.

    Held back: ids whose bytes do not end a character yet, and text that may begin a stop string. A
    stop string ends the text and is no part of it; of several, the one that is complete first.
    """

    def __init__(self, decode: Callable[[Sequence[int]], str], stop: Sequence[str] = ()) -> None:
        self._decode = decode
        self._stop = tuple(stop)
        self._shown: list[int] = []  # the last ids shown: some decoders join on to what is before
        self._pending: list[int] = []
        self._held = ""
        self.stopped = False

    def push(self, token_ids: Sequence[int]) -> str:
        """The text that is sure now."""
        self._pending += token_ids
        text = self._pending_text()
        if not text or text.endswith(_HALF_A_CHARACTER):
            return ""
        self._shown, self._pending = self._pending, []
        return self._release(text)

    def finish(self) -> str:
        """The text still held back; half a character comes out as U+FFFD."""
        rest = self._release(self._pending_text()) + self._held
        self._pending, self._held = [], ""
        return rest

    def _pending_text(self) -> str:
        return self._decode(self._shown + self._pending)[len(self._decode(self._shown)) :]

    def _release(self, text: str) -> str:
        if self.stopped:
            return ""
        text = self._held + text
        found = [(at + len(stop), at) for stop in self._stop if (at := text.find(stop)) >= 0]
        if found:
            self.stopped, self._held = True, ""
            return text[: min(found)[1]]
        keep = len(text) - _num_held(text, self._stop)
        self._held = text[keep:]
        return text[:keep]


@dataclass(frozen=True, slots=True)
class Call:
    """One tool call of the text; `arguments` is the text of a JSON object."""

    name: str
    arguments: str


class CallStream:
    """Text in, content and tool calls out.

    A call inside thinking is content, and so is one that is not a JSON object with a name and
    arguments. White space before a call belongs to it. `thinking`: the prompt has opened thinking.
    """

    def __init__(self, *, thinking: bool = False) -> None:
        self._thinking = thinking
        self._calling = False
        self._space = ""  # what stood before an open call
        self._held = ""

    def push(self, text: str) -> list[str | Call]:
        """The parts that are sure now; no content is empty."""
        self._held += text
        parts: list[str | Call] = []
        while self._take(parts):
            pass
        return [part for part in parts if part]

    def finish(self) -> list[str | Call]:
        """What was still held back, as content."""
        opening = "<tool_call>" if self._calling else ""
        rest = self._space + opening + self._held
        self._space = self._held = ""
        return [rest] if rest else []

    def _take(self, parts: list[str | Call]) -> bool:
        """Move the text up to the next tag to `parts`; False if no tag is complete."""
        text = self._held
        if self._calling:
            body, closing, rest = text.partition("</tool_call>")
            if closing:
                call = _read_call(body)
                parts.append(call or f"{self._space}<tool_call>{body}</tool_call>")
                self._held, self._space, self._calling = rest, "", False
            return bool(closing)
        tags = ("</think>",) if self._thinking else ("<think>", "<tool_call>")
        found = [(at, tag) for tag in tags if (at := text.find(tag)) >= 0]
        if not found:
            sure = text[: len(text) - _num_held(text, tags)]
            sure = sure if self._thinking else sure.rstrip()
            parts.append(sure)
            self._held = text[len(sure) :]
            return False
        at, tag = min(found)
        self._held = text[at + len(tag) :]
        if tag == "<tool_call>":
            content = text[:at].rstrip()
            self._space, self._calling = text[len(content) : at], True
            parts.append(content)
        else:
            self._thinking = tag == "<think>"
            parts.append(text[: at + len(tag)])
        return True


def _num_held(text: str, markers: Sequence[str]) -> int:
    """Length of the longest end of `text` that may begin one of the markers."""
    return max(
        (n for marker in markers for n in range(1, len(marker)) if text.endswith(marker[:n])),
        default=0,
    )


def _read_call(body: str) -> Call | None:
    try:
        call = json.loads(body, parse_constant=_refuse_constant)
    except (ValueError, RecursionError):
        return None
    match call:
        case {"name": str(name), "arguments": {**arguments}}:
            return Call(name, json.dumps(arguments, ensure_ascii=False))
    return None


def _refuse_constant(constant: str) -> NoReturn:
    raise ValueError(f"{constant} is not JSON")
