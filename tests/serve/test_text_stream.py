"""Streams: any cutting of the input gives the same text, stop strings and calls."""

import json
from collections.abc import Sequence
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from wideseek.serve.text_stream import Call, CallStream, TextStream


def decode(ids: Sequence[int]) -> str:
    return bytes(ids).decode(errors="replace")


def stream(ids: list[int], cuts: list[int], stop: tuple[str, ...] = ()) -> tuple[list[str], bool]:
    """The pieces that come out when the ids come in cut at `cuts`."""
    text = TextStream(decode, stop)
    edges = sorted({0, len(ids), *(cut % (len(ids) + 1) for cut in cuts)})
    pieces = [text.push(ids[a:b]) for a, b in pairwise(edges)]
    return [*pieces, text.finish()], text.stopped


def calls(text: str, cuts: list[int], *, thinking: bool = False) -> list[str | Call]:
    """Content joined, calls in place."""
    split = CallStream(thinking=thinking)
    edges = sorted({0, len(text), *(cut % (len(text) + 1) for cut in cuts)})
    parts = [part for a, b in pairwise(edges) for part in split.push(text[a:b])]
    joined: list[str | Call] = []
    for part in parts + split.finish():
        assert part != ""
        if joined and isinstance(part, str) and isinstance(joined[-1], str):
            joined[-1] += part
        else:
            joined.append(part)
    return joined


cuts_of = st.lists(st.integers(0, 200), max_size=30)


@given(st.binary(max_size=60) | st.text(max_size=30).map(str.encode), cuts_of)
def test_streamed_text_is_the_whole_text(data: bytes, cuts: list[int]) -> None:
    pieces, stopped = stream(list(data), cuts)
    assert "".join(pieces) == decode(list(data))
    assert not stopped


def test_no_piece_ends_in_half_a_character() -> None:
    pieces, _ = stream(list("añ中🦎".encode()), list(range(20)))
    assert pieces == ["a", "", "ñ", "", "", "中", "", "", "", "🦎", ""]


def test_half_a_character_at_the_end_is_shown_as_such() -> None:
    assert stream(list("a中".encode()[:-1]), [1])[0] == ["a", "", "\ufffd"]


def test_a_stop_string_ends_the_text_and_is_no_part_of_it() -> None:
    assert stream(list(b"one STOP two"), list(range(12)), ("STOP",)) == (
        ["o", "n", "e", " ", "", "", "", "", "", "", "", "", ""],
        True,
    )


def test_text_that_only_begins_a_stop_string_is_shown_in_the_end() -> None:
    assert stream(list(b"ab ST"), [3], ("STOP",)) == (["ab ", "", "ST"], False)


@pytest.mark.parametrize("cuts", [[], [1, 2]])
def test_of_several_stop_strings_the_one_complete_first_counts(cuts: list[int]) -> None:
    pieces, stopped = stream(list(b"xabcy"), cuts, ("abc", "b"))
    assert ("".join(pieces), stopped) == ("xa", True)


letters = st.text(alphabet="ab é", max_size=20)


@given(letters, cuts_of, st.lists(st.text(alphabet="ab é", min_size=1, max_size=3), max_size=3))
def test_stop_strings_cut_the_same_however_the_ids_come(
    text: str, cuts: list[int], stop: list[str]
) -> None:
    ids = list(text.encode())
    whole, was_stopped = stream(ids, [], tuple(stop))
    pieces, stopped = stream(ids, cuts, tuple(stop))
    assert ("".join(pieces), stopped) == ("".join(whole), was_stopped)
    assert stopped == any(one in text for one in stop)
    assert not any(one in "".join(pieces) for one in stop)


SEARCH = '<tool_call>\n{"name": "search", "arguments": {"query": "Ålesund"}}\n</tool_call>'
SEARCH_CALL = Call("search", '{"query": "Ålesund"}')


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("plain", ["plain"]),
        ("", []),
        (SEARCH, [SEARCH_CALL]),
        (f"Let me look. \n{SEARCH}", ["Let me look.", SEARCH_CALL]),
        (f"{SEARCH}\n{SEARCH}", [SEARCH_CALL, SEARCH_CALL]),
        (f"{SEARCH}\nafter", [SEARCH_CALL, "\nafter"]),
        (f"<think>a {SEARCH} b</think>\n\nno", [f"<think>a {SEARCH} b</think>\n\nno"]),
        (f"<think>a</think>\n\n{SEARCH}", ["<think>a</think>", SEARCH_CALL]),
        ("x \n<tool_call>\nnot json\n</tool_call>", ["x \n<tool_call>\nnot json\n</tool_call>"]),
        ('<tool_call>{"name": "a"}</tool_call>', ['<tool_call>{"name": "a"}</tool_call>']),
        (
            '<tool_call>{"name": "a", "arguments": {"x": NaN}}</tool_call>',
            ['<tool_call>{"name": "a", "arguments": {"x": NaN}}</tool_call>'],
        ),
        ('x\n<tool_call>\n{"name": ', ['x\n<tool_call>\n{"name": ']),
        ("ends in <tool_c", ["ends in <tool_c"]),
        ("1 < 2 <b>bold</b> ", ["1 < 2 <b>bold</b> "]),
    ],
)
def test_content_and_calls_of_a_text(text: str, expected: list[str | Call]) -> None:
    assert calls(text, []) == expected
    assert calls(text, list(range(len(text)))) == expected


def test_thinking_opened_by_the_prompt_hides_calls_until_it_closes() -> None:
    text = f"maybe {SEARCH}</think>{SEARCH}"
    assert calls(text, [], thinking=True) == [f"maybe {SEARCH}</think>", SEARCH_CALL]


fragments = st.lists(
    st.sampled_from(
        ["<think>", "</think>", "<tool_call>", "</tool_call>", SEARCH, "{}", " ", "\n", "a", "<"]
    ),
    max_size=12,
).map("".join)


@given(fragments, cuts_of, st.booleans())
def test_calls_are_the_same_however_the_text_comes(
    text: str, cuts: list[int], thinking: bool
) -> None:
    assert calls(text, cuts, thinking=thinking) == calls(text, [], thinking=thinking)


@given(fragments)
def test_nothing_but_space_before_calls_is_lost(text: str) -> None:
    def squeezed(part: str | Call) -> str:
        if isinstance(part, Call):
            arguments = json.loads(part.arguments)
            call = json.dumps({"name": part.name, "arguments": arguments}, ensure_ascii=False)
            part = f"<tool_call>\n{call}\n</tool_call>"
        return "".join(part.split())

    assert "".join(map(squeezed, calls(text, []))) == "".join(text.split())
