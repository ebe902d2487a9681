"""Extraction: what counts as the final answer, and that no text can break it."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from wideseek.grading import answer
from wideseek.grading.answer import Table, extract_final_answer

FENCED = "```markdown\n| Name | Capital |\n|---|---|\n| Peru | Lima |\n```"
PERU = Table(("Name", "Capital"), (("Peru", "Lima"),))


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (r"so \boxed{Paris}.", "Paris"),
        (r"\boxed{\frac{1}{2}}", r"\frac{1}{2}"),
        (r"\boxed{one} then \boxed{two}", "two"),
        (r"\boxed{one} then \boxed{two", "one"),
        (r"\boxed{outer \boxed{inner} end}", r"outer \boxed{inner} end"),
        (r"\boxed{open \boxed{closed}", "closed"),
        (r"} \boxed{a} {", "a"),
        (r"\boxed{}", ""),
        (r"\boxed {x}", None),
        (r"<think>\boxed{draft}</think> nothing", None),
        (r"<think>a</think>\boxed{x}</think>\boxed{y}", "y"),
        (r"<think>still thinking \boxed{x}", "x"),
        ("", None),
    ],
)
def test_the_last_complete_box_after_thinking_is_the_answer(text: str, expected: str) -> None:
    assert extract_final_answer(text, "boxed") == expected


def test_the_last_fence_after_thinking_is_the_table() -> None:
    draft = "```markdown\n| X |\n|---|\n| 0 |\n```"
    assert extract_final_answer(f"<think>{draft}</think>{FENCED}", "table") == PERU
    assert extract_final_answer(f"{draft}\nBetter:\n{FENCED}\nDone.", "table") == PERU
    assert extract_final_answer(f"<think>{FENCED}</think>", "table") is None
    assert extract_final_answer(FENCED.removesuffix("```"), "table") is None


def test_a_table_without_a_fence_is_read_only_when_lenient() -> None:
    text = "see:\n| Name | Capital |\n|---|---|\n| Peru | Lima |\nthat is all"
    assert extract_final_answer(text, "table") is None
    assert extract_final_answer(text, "table", strict=False) == PERU
    two = f"| X |\n|---|\n| 0 |\n\nthen\n{text}"
    assert extract_final_answer(two, "table", strict=False) == PERU
    assert extract_final_answer("a | b | c | d", "table", strict=False) is None


@pytest.mark.parametrize(
    ("body", "columns", "rows"),
    [
        ("K | V\n---|---\na | 1", ("K", "V"), (("a", "1"),)),
        ("| K | V |\n| a |\n| b | 2 | extra |", ("K", "V"), (("a", ""), ("b", "2"))),
        ("| K |  | V |\n|---|---|---|\n| a | 1 | 2 |", ("K", "V"), (("a", "2"),)),
        (r"| K | V |" + "\n" + r"| a | x \| y |", ("K", "V"), (("a", "x | y"),)),
        ('| K | V |\n| a | "x |\n| b | 2 |', ("K", "V"), (("a", '"x'), ("b", "2"))),
        ("| K | V |\n| a | x<br>y |", ("K", "V"), (("a", "x\ny"),)),
        ("| K | V |\n| N/A | 007 |", ("K", "V"), (("N/A", "007"),)),
        ("| K | V |\n|---|---|", ("K", "V"), ()),
        ("| 国家 | 首都 |\n|---|---|\n| 日本 | 东京 |", ("国家", "首都"), (("日本", "东京"),)),
    ],
)
def test_cells_are_read_as_they_stand(
    body: str, columns: tuple[str, ...], rows: tuple[tuple[str, ...], ...]
) -> None:
    assert extract_final_answer(f"```markdown\n{body}\n```", "table") == Table(columns, rows)


@pytest.mark.parametrize("body", ["", "no pipes here", "|---|---|", "|\u3000|\n| a |"])
def test_no_named_column_is_no_table(body: str) -> None:
    assert extract_final_answer(f"```markdown\n{body}\n```", "table") is None


def test_a_table_is_rectangular() -> None:
    with pytest.raises(ValueError, match="row 1 has 1 cells for 2 columns"):
        Table(("a", "b"), (("1", "2"), ("3",)))


HOSTILE = [
    "\\boxed{" * 300_000,
    "\\boxed{" + "{" * 1_000_000 + "}" * 1_000_000,
    "```markdown" * 400_000,
    "```markdown\n" + "|" * 4_000_000 + "\n```",
    "```markdown\n| a |\n" + "| nan |\n" * 400_000 + "```",
    "```markdown\n" + "|".join(["c"] * 5_000) + "\n" + "| x |\n" * 400_000 + "```",
    "```markdown\n" + ("|".join(["c"] * 5_000) + "\n") * 300 + "```",
    '```markdown\n| a | b |\n| "' + '"|"' * 500_000 + " |\n```",
    "</think>" * 500_000 + "| a |\n" * 300_000,
    "| \\" * 1_000_000,
    " \t\u3000" * 1_000_000 + "|",
    "x" * 10_000_000,
]


@pytest.mark.timeout(60)
@pytest.mark.parametrize("text", HOSTILE, ids=range(len(HOSTILE)))
def test_megabytes_of_hostile_text_neither_crash_nor_hang(text: str) -> None:
    boxed = extract_final_answer(text, "boxed")
    assert boxed is None or boxed in text
    for strict in (True, False):
        table = extract_final_answer(text, "table", strict=strict)
        assert table is None or len(table.columns) * len(table.rows) <= answer.MAX_CELLS


TEXTS = st.text(alphabet='|-\\{}"`\n\r:# ab1,.<>é国\x00\ud800') | st.sampled_from(
    ["```markdown\n", "```", "\\boxed{", "</think>", "<br>", "|---|\n", "| a | b |\n", "\\|"]
)


@settings(max_examples=300, deadline=None)
@given(st.lists(TEXTS, max_size=30).map("".join), st.booleans())
def test_extraction_is_total(text: str, strict: bool) -> None:
    boxed = extract_final_answer(text, "boxed")
    assert boxed is None or "\\boxed{" + boxed + "}" in text
    table = extract_final_answer(text, "table", strict=strict)
    if table is not None:
        assert table.columns and all(name.strip() for name in table.columns)
        assert all(len(row) == len(table.columns) for row in table.rows)


CELLS = st.text(alphabet="abc 1.,é国-", max_size=6).map(str.strip)
NAMES = st.text(alphabet="abcé国", min_size=1, max_size=4)


@settings(max_examples=200, deadline=None)
@given(st.data())
def test_a_printed_table_is_read_back(data: st.DataObject) -> None:
    columns = data.draw(st.lists(NAMES, min_size=1, max_size=5))
    row = st.tuples(NAMES, *[CELLS] * (len(columns) - 1))
    table = Table(tuple(columns), tuple(data.draw(st.lists(row, max_size=5))))
    lines = [table.columns, ("---",) * len(columns), *table.rows]
    text = "\n".join("| " + " | ".join(line) + " |" for line in lines)
    assert extract_final_answer(f"```markdown\n{text}\n```", "table") == table
