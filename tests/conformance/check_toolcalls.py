"""Checks one case of toolcalls.json: the calls that a turn's text makes."""

from typing import Any

from compare import difference

from wideseek.agents.limits import Limits
from wideseek.agents.tool_calls import parse_tool_calls
from wideseek.trajectory import ToolCall

Json = dict[str, Any]
ROLES = {"planner": "lead", "worker": "sub", "single": "single"}
KINDS = {"create_sub_agents": "subtask", "search": "search", "access": "access"}


def recognises(case: Json) -> bool:
    """Whether a case is one of this format."""
    return {"role", "text", "max_toolcall_per_worker"} <= case["input"].keys()


def check_toolcalls(case: Json) -> str | None:
    """None when the case passes, else what differs."""
    given = case["input"]
    limits = Limits(
        width=given["max_workers_per_planner"], tool_calls=given["max_toolcall_per_worker"]
    )
    parsed = parse_tool_calls(given["text"], ROLES[given["role"]], limits)
    computed = {
        "remaining_text": parsed.remaining,
        "requests": [_as_reference(call, limits) for call in parsed.calls],
        "tool_call_info": count_calls(parsed.calls, given["role"]),
        "ends_episode": parsed.answers,
    }
    return difference(computed, case["expected"])


def count_calls(calls: tuple[ToolCall, ...], role: str) -> Json | None:
    """Calls that are run, by kind; None if there are none."""
    run = [KINDS[call.name] for call in calls if call.error is None]
    counts: Json = {kind: run.count(kind) for kind in KINDS.values()}
    return counts | {"role": role} if run else None


def _as_reference(call: ToolCall, limits: Limits) -> Json:
    arguments = call.arguments
    if call.name == "create_sub_agents":
        shown: Json = {"subtask": arguments["prompt"]}
    elif call.name == "search":
        shown = {"query": arguments["query"]}
        if "count" in arguments:
            shown["topk"] = arguments["count"]
    else:
        shown = {
            "url": arguments["url"],
            "access_token": limits.page_chars,
            "info_to_extract": arguments.get("info_to_extract"),
        }
    return {"name": KINDS[call.name], "arguments": shown}
