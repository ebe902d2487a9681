"""How computed values are held against the expected ones of a vector."""

import math
from typing import Any

EXACT = (1e-9, 1e-9)
FLOAT32 = (1e-5, 1e-6)  # what SPEC grants values the reference computed in float32


def difference(
    computed: Any, expected: Any, where: str = "", tolerance: tuple[float, float] = EXACT
) -> str | None:
    """The first place where two JSON values differ, None if they agree.

    Numbers may differ by `tolerance`, relative and absolute, types never. {"nan": true} stands for NaN, {"length": n} and
    {"length": n, "tail": t} for a text of that length and ending.
    """
    shown = where or "value"
    if isinstance(expected, dict) and expected.keys() == {"nan"}:
        expected = math.nan
    if isinstance(computed, str) and isinstance(expected, dict):
        same = len(computed) == expected["length"] and computed.endswith(expected.get("tail", ""))
        return None if same else f"{shown}: {len(computed)} characters instead of {expected}"
    if isinstance(computed, dict) and isinstance(expected, dict):
        if computed.keys() != expected.keys():
            return f"{shown}: {sorted(computed)} instead of {sorted(expected)}"
        places = [(key, computed[key], expected[key]) for key in expected]
    elif isinstance(computed, list) and isinstance(expected, list):
        if len(computed) != len(expected):
            return f"{shown}: {len(computed)} entries instead of {len(expected)}"
        places = [(index, computed[index], value) for index, value in enumerate(expected)]
    else:
        same = _same(computed, expected, tolerance)
        return None if same else f"{shown}: {computed!r} instead of {expected!r}"
    found = (difference(one, other, f"{where}/{name}", tolerance) for name, one, other in places)
    return next(filter(None, found), None)


def _same(computed: Any, expected: Any, tolerance: tuple[float, float]) -> bool:
    if isinstance(computed, bool) or isinstance(expected, bool):
        return computed is expected
    if isinstance(computed, int | float) and isinstance(expected, int | float):
        both_nan = math.isnan(computed) and math.isnan(expected)
        relative, absolute = tolerance
        return both_nan or math.isclose(computed, expected, rel_tol=relative, abs_tol=absolute)
    return type(computed) is type(expected) and computed == expected
