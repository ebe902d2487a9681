"""When two cells say the same thing: one canonical form, so that rows can be joined by hash."""

import re
import unicodedata

MAX_FOLDED = 1_000
"""Longer cells keep their width: ordering a long run of combining marks takes quadratic time."""

_FOLDS = str.maketrans(
    {dash: "-" for dash in "‐‑‒–—−"}
    | {quote: "'" for quote in "‘’ʼ"}
    | {quote: '"' for quote in "“”"}
    | {mark: None for mark in "*`\u200b\u200c\u200d\ufeff\u00ad"}
)
_SUPERSCRIPT_DIGIT = re.compile(r"(?<=[0-9])(?=[⁰¹²³⁴⁵⁶⁷⁸⁹])")
_COMMA = re.compile(r" ?([,;]) ?(?=[^0-9 ])")
_NUMBER = re.compile(
    r"(?P<currency>[$€£¥₹₩]?) ?(?P<sign>[+-]?)"
    r"(?P<whole>[0-9]{1,3}(?P<mark>[,' ])[0-9]{3}(?:(?P=mark)[0-9]{3})*|[0-9]*)"
    r"(?:\.(?P<fraction>[0-9]+))?"
    r"(?: ?(?P<unit>[^\W\d_].*|[%‰°$€£¥₹₩].*))?"
)


def fold(text: str) -> str:
    """Case, width, whitespace, dashes, quotes and markdown emphasis folded away; accents kept."""
    if len(text) <= MAX_FOLDED:
        text = unicodedata.normalize("NFKC", _SUPERSCRIPT_DIGIT.sub("^", text))
    return _COMMA.sub(r"\1 ", " ".join(text.translate(_FOLDS).casefold().split()))


def canonical(cell: str) -> str:
    """Equal for two cells exactly when they count as the same value.

    A number, alone or with a currency sign or a unit, loses its thousands separators, a plus,
    trailing zeros of the fraction and the space before the unit; nothing is rounded. Digits with
    leading zeros are a code, not a number.
    """
    text = fold(cell)
    match = _NUMBER.fullmatch(text)
    if match is None or not (match["whole"] or match["fraction"]):
        return text
    whole = re.sub("[,' ]", "", match["whole"]) or "0"
    if len(whole) > 1 and whole[0] == "0":
        return text
    fraction = (match["fraction"] or "").rstrip("0")
    number = f"{whole}.{fraction}" if fraction else whole
    sign = "-" if match["sign"] == "-" and number != "0" else ""
    return f"{match['currency']}{sign}{number}{match['unit'] or ''}"
