"""The part of JSON Schema that events.schema.json uses, enough to hold events against it."""

import re
from typing import Any

_TYPES: dict[str, tuple[type, ...]] = {
    "object": (dict,),
    "array": (list,),
    "string": (str,),
    "integer": (int,),
    "number": (int, float),
    "boolean": (bool,),
    "null": (type(None),),
}
_KNOWN = {
    "$schema", "title", "description", "$defs", "$ref", "type", "const", "enum", "pattern",
    "minimum", "required", "properties", "items", "anyOf", "allOf", "if", "then",
}  # fmt: skip


def violations(value: Any, schema: dict[str, Any], root: dict[str, Any], at: str = "") -> list[str]:
    """Where the value breaks the schema; empty if it keeps it."""
    assert schema.keys() <= _KNOWN, f"cannot check {schema.keys() - _KNOWN}"
    if "$ref" in schema:
        schema = root["$defs"][schema["$ref"].removeprefix("#/$defs/")]
    found = [f"{at}: {value!r}" for holds in _own_rules(value, schema) if not holds]
    if isinstance(value, dict):
        found += [f"{at}: no {name}" for name in schema.get("required", ()) if name not in value]
        for name, inner in schema.get("properties", {}).items():
            if name in value:
                found += violations(value[name], inner, root, f"{at}/{name}")
    if isinstance(value, list) and "items" in schema:
        for index, item in enumerate(value):
            found += violations(item, schema["items"], root, f"{at}/{index}")
    for inner in schema.get("allOf", ()):
        found += violations(value, inner, root, at)
    if "anyOf" in schema:
        each = [violations(value, inner, root, at) for inner in schema["anyOf"]]
        found += [] if [] in each else each[0]
    if "if" in schema and not violations(value, schema["if"], root, at):
        found += violations(value, schema["then"], root, at)
    return found


def _own_rules(value: Any, schema: dict[str, Any]) -> list[bool]:
    rules = []
    if "type" in schema:
        names = schema["type"] if isinstance(schema["type"], list) else [schema["type"]]
        allowed = tuple(kind for name in names for kind in _TYPES[name])
        rules.append(isinstance(value, allowed) and (value is not True or bool in allowed))
    if "const" in schema:
        rules.append(value == schema["const"])
    if "enum" in schema:
        rules.append(value in schema["enum"])
    if "pattern" in schema:
        rules.append(isinstance(value, str) and bool(re.search(schema["pattern"], value)))
    if "minimum" in schema:
        rules.append(value >= schema["minimum"])
    return rules
