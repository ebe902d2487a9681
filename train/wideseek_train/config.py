"""Settings from `key=value` words and TOML presets into frozen dataclasses; unknown keys and wrong types are errors."""

from collections.abc import Sequence
from dataclasses import fields
from typing import Any, TypeVar

Settings = TypeVar("Settings")


def load_settings(
    kind: type[Settings], words: Sequence[str], preset: dict[str, Any] | None = None
) -> Settings:
    """`kind` with a preset's values, overridden by `key=value` words.

    Fields are int, float, str or bool. ValueError names the key and the value that does not fit.
    """
    known = {field.name: field.type for field in fields(kind)}  # type: ignore[arg-type]
    values: dict[str, Any] = {}
    for key, value in (preset or {}).items():
        values[key] = _convert(key, str(value), known)
    for word in words:
        key, equals, text = word.partition("=")
        if not equals:
            raise ValueError(f"{word!r} is not of the form key=value")
        values[key] = _convert(key, text, known)
    return kind(**values)


def _convert(key: str, text: str, known: dict[str, Any]) -> Any:
    if key not in known:
        raise ValueError(f"unknown setting {key!r}; known: {', '.join(sorted(known))}")
    wanted = known[key]
    if wanted is bool:
        if text.lower() not in ("true", "false"):
            raise ValueError(f"{key} must be true or false, not {text!r}")
        return text.lower() == "true"
    try:
        return wanted(text)
    except ValueError:
        raise ValueError(f"{key} must be {wanted.__name__}, not {text!r}") from None
