"""The parser of tool calls is total, strict and linear."""

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.agents.scripted import access, call, search, spawn
from wideseek.agents.limits import Limits
from wideseek.agents.tool_calls import parse_tool_calls
from wideseek.trajectory import Role

LIMITS = Limits(width=3, tool_calls=2)
ROLES: list[Role] = ["lead", "sub", "single"]

_PIECES = st.sampled_from(
    [
        "<think>", "</think>", "<tool_call>", "</tool_call>", "{", "}", "[", "]", '"', ",", ":",
        '{"name": "search", "arguments": {"query": "q"}}', search("a", "b", "c"), spawn("x", ""),
        access("u"), '"\\ud800"', "NaN", "1" * 5000, "text", "\n",
    ]
)  # fmt: skip
_JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
    max_leaves=8,
)
_TOOL = st.sampled_from(["create_sub_agents", "search", "access"])
_FIELD = st.sampled_from(["sub_agents", "queries", "urls", "query", "url", "prompt", "count"])
_ODD_CALLS = st.builds(
    lambda name, arguments: call(name, **arguments), _TOOL, st.dictionaries(_FIELD, _JSON)
)
_TEXTS = st.text() | st.lists(_PIECES | st.text(max_size=3)).map("".join) | _ODD_CALLS


@given(text=_TEXTS, role=st.sampled_from(ROLES))
def test_every_text_parses_within_the_limits(text: str, role: Role) -> None:
    parsed = parse_tool_calls(text, role, LIMITS)
    limit = LIMITS.width if role == "lead" else LIMITS.tool_calls
    assert len(parsed.calls) <= limit
    assert all(run.error is None for run in parsed.calls)
    assert all(refused.error for refused in parsed.rejected)
    assert parsed.answers == (not parsed.calls and not parsed.rejected)
    if "<tool_call>" not in text and "</tool_call>" not in text:
        assert parsed.answers and parsed.remaining == text
    for run in parsed.calls:
        next(iter(run.arguments.values())).encode()  # texts that can be written


@pytest.mark.parametrize(
    "text",
    [
        "<tool_call>" * 300_000,
        "</tool_call>" * 300_000,
        "<think>" * 300_000 + "</think>",
        "<tool_call>{</tool_call>" * 150_000,
        "<think></think>" * 150_000 + spawn("a"),
        "<tool_call>" + "[" * 1_000_000 + "</tool_call>",
        "<tool_call>" + '{"a":' * 200_000 + "</tool_call>",
        "<tool_call>" + "9" * 1_000_000 + "</tool_call>",
    ],
)
def test_long_adversarial_texts_take_linear_time(text: str) -> None:
    # A quadratic parser needs hours for these and runs into the time limit of the suite.
    assert parse_tool_calls(text, "lead", LIMITS).answers in (True, False)


def test_calls_are_one_item_each_with_what_the_item_sets() -> None:
    text = call("search", queries=[{"query": "a", "count": 7}, {"query": "b", "count": 0}])
    parsed = parse_tool_calls("so " + text, "sub", LIMITS)
    assert [c.arguments for c in parsed.calls] == [{"query": "a", "count": 7}, {"query": "b"}]
    assert parsed.remaining == "so "


@pytest.mark.parametrize(
    ("extra", "passed"),
    [
        ("depth", "depth"),
        (["a", 5], ["a", 5]),
        ([], None),
        ("\ud800", None),
        ({"deep": {}}, None),
        ([["nested"]], None),
    ],
)
def test_what_goes_with_an_item_is_plain_or_left_out(extra: object, passed: object) -> None:
    text = call("access", url="u", info_to_extract=extra)
    [run] = parse_tool_calls(text, "single", LIMITS).calls
    assert run.arguments.get("info_to_extract") == passed


def test_limit_is_applied_before_bad_items_are_refused() -> None:
    parsed = parse_tool_calls(spawn("", "a", "b", "c", "d"), "lead", LIMITS)
    assert [c.arguments["prompt"] for c in parsed.calls] == ["a", "b"]
    assert [c.error for c in parsed.rejected] == [
        'item 1 of sub_agents needs a text \'prompt\', as in {"sub_agents": [{"prompt": "..."}]}'
    ]
    assert parsed.cut == 2


def test_call_drafted_in_thinking_is_not_run() -> None:
    draft = f"<think>maybe {spawn('draft')}</think>"
    assert parse_tool_calls(draft + "Report.", "lead", LIMITS).answers
    parsed = parse_tool_calls(draft + spawn("real"), "lead", LIMITS)
    assert [c.arguments["prompt"] for c in parsed.calls] == ["real"]


def test_thinking_that_the_template_opened_counts_as_thinking() -> None:
    parsed = parse_tool_calls(f"try {spawn('draft')}</think>{spawn('real')}", "lead", LIMITS)
    assert [c.arguments["prompt"] for c in parsed.calls] == ["real"]


@pytest.mark.parametrize("text", [f"<think>{spawn('a')}", f"<think>{spawn('a')}</think>\n"])
def test_turn_that_only_calls_inside_thinking_is_told_so(text: str) -> None:
    parsed = parse_tool_calls(text, "lead", LIMITS)
    assert not parsed.calls
    assert [c.error for c in parsed.rejected] == [
        "calls inside <think> are not run; write </think> before the call"
    ]


def test_think_tags_inside_a_call_belong_to_the_call() -> None:
    parsed = parse_tool_calls(search("what is <think>?") + search("b"), "sub", LIMITS)
    assert [c.arguments for c in parsed.calls] == [{"query": "what is <think>?"}]
    assert len(parsed.rejected) == 1, "the second call does not stand inside thinking"


def test_calls_after_the_first_are_not_run_and_the_model_is_told() -> None:
    parsed = parse_tool_calls(search("a") + access("u") + search("b"), "sub", LIMITS)
    assert [c.arguments for c in parsed.calls] == [{"query": "a"}]
    assert [c.error for c in parsed.rejected] == [
        "only the first call of a turn is run, 2 more came after it"
    ]


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("<tool_call>{oops</tool_call>", "not valid JSON (Expecting property name"),
        ("<tool_call>{", "a tag of the call is missing"),
        ("}</tool_call>", "a tag of the call is missing"),
        ("<tool_call>[1]</tool_call>", "a call is one JSON object"),
        ('<tool_call>{"name": "search", "arguments": "x"}</tool_call>', "arguments must be"),
        ('<tool_call>{"name": "search", "arguments": {"count": NaN}}</tool_call>', "not valid"),
        ('<tool_call>{"name": "search", "arguments": {"count": 1e999}}</tool_call>', "not valid"),
        (call("create_sub_agents", sub_agents=[]), "no tool 'create_sub_agents' here, only search"),
        (call("Search", queries=[]), "no tool 'Search' here"),
        ('<tool_call>{"name": ["x"], "arguments": {}}</tool_call>', "no tool ['x'] here"),
        (call("search", query="q"), 'the arguments of search look like {"queries": [{"query"'),
        (call("access", urls=[{"url": "\ud800"}]), "item 1 of urls needs a text 'url'"),
    ],
)
def test_malformed_call_is_answered_with_a_readable_error(text: str, told: str) -> None:
    parsed = parse_tool_calls(text, "sub", LIMITS)
    assert not parsed.calls and not parsed.answers
    assert told in str(parsed.rejected[0].error)


def test_errors_stay_short_whatever_the_model_wrote() -> None:
    text = json.dumps({"name": "x" * 9999, "arguments": {}})
    parsed = parse_tool_calls(f"<tool_call>{text}</tool_call>", "sub", LIMITS)
    assert len(str(parsed.rejected[0].error)) < 200
