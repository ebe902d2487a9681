"""Prompts as data (`prompts/en.toml`, `prompts/zh.toml`) and how their placeholders are filled."""

import re
import tomllib
from dataclasses import dataclass, fields
from importlib.resources import files
from typing import Literal

Language = Literal["en", "zh"]

_PLACEHOLDER = re.compile(r"\{(\w+)\}")
_HAN = re.compile(r"[\u3400-\u9fff]")
_KANA_OR_HANGUL = re.compile(r"[\u3040-\u30ff\uac00-\ud7af]")
_LATIN_WORD = re.compile(r"[A-Za-z]+")


@dataclass(frozen=True, kw_only=True, slots=True)
class Prompts:
    """Every fixed text an agent is shown, in one language; the toml files say what each is for."""

    lead_system: str
    sub_system: str
    single_system: str
    lead_user: str
    single_user: str
    sub_user: str
    found: str
    found_page: str
    lead_first_hint: str
    lead_next_hint: str
    first_hint: str
    next_hint: str
    subtask_ok: str
    subtask_failed: str
    search: str
    search_hit: str
    search_failed: str
    access: str
    access_failed: str
    malformed_call: str
    calls_cut: str
    reader_system: str
    reader_user: str
    access_read: str


def load_prompts(language: Language) -> Prompts:
    """The bundled prompts of a language. ValueError if a text is missing or unknown."""
    source = files("wideseek.agents") / "prompts" / f"{language}.toml"
    if not source.is_file():
        raise ValueError(f"language must be en or zh, not {language!r}")
    texts = tomllib.loads(source.read_text(encoding="utf-8"))
    odd = {field.name for field in fields(Prompts)} ^ texts.keys()
    if odd:
        raise ValueError(f"{source.name} misses or has too many of: {', '.join(sorted(odd))}")
    return Prompts(**texts)


def fill(template: str, **values: object) -> str:
    """Replace each {name} of `values`, once and literally; other braces stay as they are."""
    return _PLACEHOLDER.sub(
        lambda found: str(values[found[1]]) if found[1] in values else found[0], template
    )


def detect_language(text: str) -> Language:
    """zh if the text is Chinese: more Han characters than Latin words, no kana or hangul."""
    chinese = len(_HAN.findall(text)) > len(_LATIN_WORD.findall(text))
    return "zh" if chinese and not _KANA_OR_HANGUL.search(text) else "en"
