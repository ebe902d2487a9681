"""Settings from `key=value` words and TOML presets into frozen dataclasses; unknown keys and wrong types are errors."""

import tomllib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import fields, is_dataclass
from pathlib import Path
from types import NoneType, UnionType
from typing import Any, Literal, TypeVar, get_args, get_origin

Settings = TypeVar("Settings")


def load_settings(
    kind: type[Settings], words: Sequence[str], preset: Mapping[str, Any] | None = None
) -> Settings:
    """`kind` with a preset's values, overridden by `key=value` words.

    Fields are int, float, str, bool, a Literal of texts, one of these or none, or a dataclass of such: a table of the
    preset, whose keys are written `table.key`. ValueError names the key and the value that does not fit.
    """
    texts = dict(_flatten(preset or {}))
    for word in words:
        key, equals, text = word.partition("=")
        if not equals:
            raise ValueError(f"{word!r} is not of the form key=value")
        texts[key] = text
    types = dict(_field_types(kind))
    for key in texts:
        if key not in types:
            raise ValueError(f"unknown setting {key!r}; known: {', '.join(sorted(types))}")
    values = {key: _convert(key, text, types[key]) for key, text in texts.items()}
    built: Settings = _build(kind, values)
    return built


def read_preset(folder: Path, name: str) -> dict[str, Any]:
    """A preset of a folder by name, or a TOML file by path; ValueError says what is known, or where it is not TOML."""
    path = Path(name) if name.endswith(".toml") else folder / f"{name}.toml"
    try:
        return tomllib.loads(path.read_text(encoding="utf-8"))
    except OSError:
        known = ", ".join(sorted(preset.stem for preset in folder.glob("*.toml")))
        raise ValueError(f"unknown preset {name!r}; known: {known}") from None
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise ValueError(f"{path}: {error}") from None


def _flatten(values: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, str]]:
    for key, value in values.items():
        if isinstance(value, Mapping):
            yield from _flatten(value, f"{prefix}{key}.")
        else:
            yield prefix + key, str(value)


def _field_types(kind: Any, prefix: str = "") -> Iterator[tuple[str, Any]]:
    for field in fields(kind):
        if is_dataclass(field.type):
            yield from _field_types(field.type, f"{prefix}{field.name}.")
        else:
            yield prefix + field.name, field.type


def _build(kind: Any, values: Mapping[str, Any], prefix: str = "") -> Any:
    """The dataclass from values by full key; what a ValueError of its own says is said of the table, too."""
    own: dict[str, Any] = {}
    for field in fields(kind):
        key = prefix + field.name
        if is_dataclass(field.type):
            own[field.name] = _build(field.type, values, f"{key}.")
        elif key in values:
            own[field.name] = values[key]
    try:
        return kind(**own)
    except ValueError as error:
        raise ValueError(f"{prefix[:-1]}: {error}" if prefix else str(error)) from None


def _convert(key: str, text: str, wanted: Any) -> Any:
    if isinstance(wanted, UnionType):
        if text.lower() == "none":
            return None
        wanted = next(kind for kind in get_args(wanted) if kind is not NoneType)
    if get_origin(wanted) is Literal:
        if text not in get_args(wanted):
            raise ValueError(f"{key} must be one of {', '.join(get_args(wanted))}, not {text!r}")
        return text
    if wanted is bool:
        if text.lower() not in ("true", "false"):
            raise ValueError(f"{key} must be true or false, not {text!r}")
        return text.lower() == "true"
    try:
        return wanted(text)
    except ValueError:
        raise ValueError(f"{key} must be {wanted.__name__}, not {text!r}") from None
