"""JSON schemas of the tools each role may call, in the form that chat templates render.

Names and argument shapes are those of WideSeek-R1 (SPEC section 5), so that its released weights
work unchanged.
"""

from typing import Any

from wideseek.generation import ToolSchema
from wideseek.trajectory import Role


def _tool(name: str, description: str, required: dict[str, Any], **optional: Any) -> ToolSchema:
    parameters = {
        "type": "object",
        "properties": {**required, **optional},
        "required": list(required),
    }
    function = {"name": name, "description": description, "parameters": parameters}
    return {"type": "function", "function": function}


def _text(description: str) -> dict[str, Any]:
    return {"type": "string", "description": description}


def _list_of(schema: ToolSchema, description: str) -> dict[str, Any]:
    items = schema["function"]["parameters"]
    return {"type": "array", "description": description, "items": items}


_COUNT = {"type": "integer", "description": "How many results to show."}
_INFO = _text("What to look for on the page.")

_SUBTASK = _tool(
    "subtask", "", {"prompt": _text("The subtask: all the subagent needs to know to do it alone.")}
)
_SEARCH = _tool(
    "search",
    "Search for pages. Shows the url, title and a snippet of each.",
    {"query": _text("What to search for.")},
    count=_COUNT,
)
_ACCESS = _tool(
    "access",
    "Read a page whose url a search or a page has shown.",
    {"url": _text("The url, as it was shown.")},
    info_to_extract=_INFO,
)
_CREATE_SUB_AGENTS = _tool(
    "create_sub_agents",
    "Start subagents that work on independent subtasks at the same time and report back.",
    {"sub_agents": _list_of(_SUBTASK, "One entry a subagent.")},
)
_SEARCH_MANY = _tool(
    "search",
    "Search for pages, several queries at once. Shows the url, title and a snippet of each.",
    {"queries": _list_of(_SEARCH, "One entry a query.")},
)
_ACCESS_MANY = _tool(
    "access",
    "Read pages whose urls a search or a page has shown, several at once.",
    {"urls": _list_of(_ACCESS, "One entry a page.")},
)

TOOLS: dict[Role, tuple[ToolSchema, ...]] = {
    "lead": (_CREATE_SUB_AGENTS,),
    "sub": (_SEARCH_MANY, _ACCESS_MANY),
    "single": (_SEARCH, _ACCESS),
}
