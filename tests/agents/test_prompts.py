"""The prompts are complete in both languages and are filled literally."""

import re
from dataclasses import fields
from typing import get_args

import pytest

from wideseek.agents.prompts import Language, Prompts, detect_language, fill, load_prompts

PLACEHOLDERS = {
    "lead_user": {"question", "found"},
    "single_user": {"question", "found"},
    "sub_user": {"question", "subtask"},
    "found": {"pages"},
    "found_page": {"letter", "title"},
    "lead_first_hint": {"turns", "width"},
    "lead_next_hint": {"next_turn", "turns", "width"},
    "first_hint": {"turns"},
    "next_hint": {"next_turn", "turns"},
    "subtask_ok": {"index", "report"},
    "subtask_failed": {"index", "reason", "subtask"},
    "search": {"query", "result"},
    "search_hit": {"rank", "url", "title", "snippet"},
    "search_failed": {"query", "reason"},
    "access": {"url", "text"},
    "access_failed": {"url", "reason"},
    "malformed_call": {"error"},
    "calls_cut": {"count", "limit"},
    "reader_user": {"info", "text"},
    "access_read": {"url", "info", "text"},
}


@pytest.mark.parametrize("language", get_args(Language))
def test_every_prompt_has_exactly_its_placeholders(language: Language) -> None:
    prompts = load_prompts(language)
    for field in fields(Prompts):
        text = getattr(prompts, field.name)
        assert text.strip(), field.name
        found = set(re.findall(r"\{(\w+)\}", text))
        assert found == PLACEHOLDERS.get(field.name, set()), field.name


def test_unknown_language_is_refused_by_name() -> None:
    with pytest.raises(ValueError, match="language must be en or zh, not 'fr'"):
        load_prompts("fr")  # type: ignore[arg-type]


def test_filling_is_literal_and_happens_once() -> None:
    filled = fill("{question} | {subtask} | \\boxed{} {other}", question="{subtask}?", subtask="s")
    assert filled == "{subtask}? | s | \\boxed{} {other}"


@pytest.mark.parametrize(
    ("text", "language"),
    [
        ("List all rivers of 中国 with their lengths.", "en"),
        ("列出南美洲所有国家及其首都。", "zh"),
        ("列出 Python 的所有 web 框架", "zh"),
        ("日本の都市をすべて列挙してください", "en"),
        ("", "en"),
        ("1 + 1 = ?", "en"),
    ],
)
def test_language_is_chinese_only_for_chinese_text(text: str, language: Language) -> None:
    assert detect_language(text) == language
