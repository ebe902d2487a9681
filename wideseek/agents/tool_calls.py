"""From the text of a turn to the tool calls it makes.

Total: every text gives a ParsedTurn, in time linear in its length, and what cannot be run carries
an error the model can read. Shapes, limits and the rule that only the first call of a turn counts
are those of the reference (SPEC section 5); two things differ: a malformed call is answered instead
of being taken for the final answer, and a call drafted inside thinking is not run.
"""

import json
import math
import re
from collections.abc import Callable
from dataclasses import dataclass
from operator import attrgetter
from typing import Any

from wideseek.agents.limits import Limits
from wideseek.trajectory import Role, ToolCall

_TAG = re.compile(r"</?(?:think|tool_call)>")
_SURROGATE = re.compile("[\ud800-\udfff]")
_MALFORMED = 'write <tool_call>{"name": ..., "arguments": {...}}</tool_call>'


@dataclass(frozen=True, kw_only=True, slots=True)
class ParsedTurn:
    """The calls of one turn: those to run, those refused with an error, how many the limit cut.

    remaining: the text without its calls, untouched if the call could not be read.
    """

    calls: tuple[ToolCall, ...] = ()
    rejected: tuple[ToolCall, ...] = ()
    cut: int = 0
    remaining: str

    @property
    def answers(self) -> bool:
        """Whether the turn asks for nothing and so is the agent's answer."""
        return not self.calls and not self.rejected


@dataclass(frozen=True, kw_only=True, slots=True)
class _Shape:
    """Arguments of one tool: a list of items, or the arguments themselves as the one item.

    limit: the most items of one call. key: a text every item must have. extra: what an item may
    have, passed on as it is if it is a plain value or a list of them.
    """

    limit: Callable[[Limits], int]
    items: str | None
    key: str
    extra: str | None = None

    @property
    def example(self) -> str:
        item = {self.key: "..."}
        return json.dumps({self.items: [item]} if self.items else item)


_WIDTH, _CALLS = attrgetter("width"), attrgetter("tool_calls")
_SHAPES: dict[Role, dict[str, _Shape]] = {
    "lead": {
        "create_sub_agents": _Shape(limit=_WIDTH, items="sub_agents", key="prompt"),
    },
    "sub": {
        "search": _Shape(limit=_CALLS, items="queries", key="query", extra="count"),
        "access": _Shape(limit=_CALLS, items="urls", key="url", extra="info_to_extract"),
    },
    "single": {
        "search": _Shape(limit=_CALLS, items=None, key="query", extra="count"),
        "access": _Shape(limit=_CALLS, items=None, key="url", extra="info_to_extract"),
    },
}


def parse_tool_calls(text: str, role: Role, limits: Limits) -> ParsedTurn:
    """Read the tool calls of one turn of an agent of this role. Never raises."""
    found = _find_calls(text)
    if found.bodies:
        return _parse_first(text, found, role, limits)
    if found.broken:
        return ParsedTurn(
            rejected=(_reject(f"a tag of the call is missing; {_MALFORMED}"),), remaining=text
        )
    if found.hidden and not found.says:
        error = "calls inside <think> are not run; write </think> before the call"
        return ParsedTurn(rejected=(_reject(error),), remaining=text)
    return ParsedTurn(remaining=text)


@dataclass(frozen=True, kw_only=True, slots=True)
class _Found:
    """Where the calls of a text are.

    bodies: what stands between the tags, outside thinking. remaining: the text without those calls.
    broken: an opening or closing tag stands alone. hidden: a call stands inside thinking. says:
    there is text besides calls and thinking.
    """

    bodies: tuple[str, ...]
    remaining: str
    broken: bool
    hidden: bool
    says: bool


def _find_calls(text: str) -> _Found:
    bodies, kept, broken, hidden, says = [], [], False, False, False
    thinking, opened = _starts_thinking(text), -1  # opened: where the body of an open call starts
    last = kept_to = 0
    for tag in _TAG.finditer(text):
        if opened >= 0:
            if tag[0] == "</tool_call>":
                bodies.append(text[opened : tag.start()])
                opened, kept_to = -1, tag.end()
        elif thinking:
            thinking = tag[0] != "</think>"
            hidden = hidden or tag[0] == "<tool_call>"
        else:
            says = says or bool(text[last : tag.start()].strip())
            if tag[0] == "<tool_call>":
                kept.append(text[kept_to : tag.start()])
                opened, kept_to = tag.end(), tag.start()
            thinking = tag[0] == "<think>"
            broken = broken or tag[0] == "</tool_call>"
        last = tag.end()
    says = says or (not thinking and opened < 0 and bool(text[last:].strip()))
    return _Found(
        bodies=tuple(bodies),
        remaining="".join(kept) + text[kept_to:],
        broken=broken or opened >= 0,
        hidden=hidden,
        says=says,
    )


def _starts_thinking(text: str) -> bool:
    """Whether the chat template has opened the thinking that this text closes."""
    closed = text.find("</think>")
    return closed >= 0 and text.find("<think>", 0, closed) < 0


def _parse_first(text: str, found: _Found, role: Role, limits: Limits) -> ParsedTurn:
    more = len(found.bodies) - 1
    unread = f"only the first call of a turn is run, {more} more came after it"
    later = [_reject(unread)] if more else []
    call = _read_call(found.bodies[0])
    if isinstance(call, str):
        return ParsedTurn(rejected=(_reject(call), *later), remaining=text)
    name, arguments = call
    shape = _SHAPES[role].get(name) if isinstance(name, str) else None
    if shape is None:
        tools = ", ".join(_SHAPES[role])
        error = f"there is no tool {name!a:.60} here, only {tools}"
        return ParsedTurn(rejected=(_reject(error), *later), remaining=found.remaining)
    items = arguments.get(shape.items) if shape.items else [arguments]
    if not isinstance(items, list) or not items:
        error = f"the arguments of {name} look like {shape.example}"
        return ParsedTurn(rejected=(_reject(error, name), *later), remaining=found.remaining)
    limit = shape.limit(limits)
    read = [_read_item(name, shape, item, place) for place, item in enumerate(items[:limit], 1)]
    return ParsedTurn(
        calls=tuple(call for call in read if call.error is None),
        rejected=(*(call for call in read if call.error is not None), *later),
        cut=max(0, len(items) - limit),
        remaining=found.remaining,
    )


def _read_call(body: str) -> tuple[Any, dict[str, Any]] | str:
    """Name and arguments of a call, or what is wrong with it. The name is unchecked."""
    try:
        call = json.loads(body, parse_constant=_refuse_constant, parse_float=_finite)
    except json.JSONDecodeError as error:
        return f"not valid JSON ({error.msg}, character {error.pos}); {_MALFORMED}"
    except (ValueError, RecursionError):  # NaN, too large a number, brackets too deep
        return f"not valid JSON; {_MALFORMED}"
    if not isinstance(call, dict):
        return f"a call is one JSON object; {_MALFORMED}"
    arguments = call.get("arguments")
    if not isinstance(arguments, dict):
        return f"arguments must be a JSON object; {_MALFORMED}"
    return call.get("name"), arguments


def _refuse_constant(constant: str) -> None:
    raise ValueError(constant)


def _finite(number: str) -> float:
    value = float(number)
    if math.isinf(value):
        raise ValueError(number)
    return value


def _read_item(name: str, shape: _Shape, item: object, place: int) -> ToolCall:
    if not isinstance(item, dict) or not _is_text(item.get(shape.key)):
        which = f"item {place} of {shape.items}" if shape.items else "the call"
        return _reject(f"{which} needs a text {shape.key!r}, as in {shape.example}", name)
    arguments = {shape.key: item[shape.key]}
    extra = item.get(shape.extra) if shape.extra else None
    if extra and all(map(_is_plain, extra if isinstance(extra, list) else [extra])):
        arguments[str(shape.extra)] = extra
    return ToolCall(name=name, arguments=arguments)


def _is_text(value: object) -> bool:
    """Whether value is a text that can be written: not empty, no half of a surrogate pair."""
    return isinstance(value, str) and value != "" and not _SURROGATE.search(value)


def _is_plain(value: object) -> bool:
    return isinstance(value, int | float) or _is_text(value)


def _reject(error: str, name: str = "") -> ToolCall:
    return ToolCall(name=name, arguments={}, error=error)
