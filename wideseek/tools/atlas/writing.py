"""How a page of the atlas is written: title, sentence, then one fact or one list item a line."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Protocol

from wideseek.tools.folding import fold
from wideseek.tools.outcome import Page

ROOT = "https://atlas.wideseek/"
LONGEST_LIST = 60

_PLURAL = frozenset(
    {"Bahamas", "Comoros", "Gambia", "Maldives", "Netherlands", "Philippines", "Seychelles"}
)
_COMMON_NOUNS = frozenset(
    {"Islands", "Isle", "Kingdom", "Republic", "States", "Emirates", "Territory", "Territories"}
)


class Titled(Protocol):
    """Anything with a page of its own."""

    @property
    def title(self) -> str: ...


@dataclass(frozen=True, slots=True)
class Draft:
    """A page before it has a url: lines are `label: value` facts (empty values are left out) or `items` are listed."""

    title: str
    sentence: str
    lines: Sequence[tuple[str, str]] = ()
    items: Sequence[str] = ()
    aliases: Iterable[str] = ()

    def page(self, number: int) -> Page:
        """The finished page; its url is a number, which a small model copies in two tokens.

        Its text never holds the character that parts the cells of a table.
        """
        lines = [f"{label}: {value}" for label, value in self.lines if value]
        if self.items:
            lines.append(f"items: {len(self.items)}")
            lines.extend(f"{rank}. {item}" for rank, item in enumerate(self.items, 1))
        text = "\n".join((self.title, self.sentence, *lines))
        assert "|" not in text, text
        names: dict[str, str] = {}
        for alias in self.aliases:
            names.setdefault(fold(alias), alias)
        aliases = tuple(names[name] for name in names if name not in ("", fold(self.title)))
        return Page(self.title, f"{ROOT}{number}", text, aliases)


def alphabetical(records: Iterable[Titled]) -> list[str]:
    """The records' titles, sorted as a reader sorts them."""
    return sorted((record.title for record in records), key=fold)


def number(value: float, unit: str = "") -> str:
    """8511965, "km²" -> "8,511,965 km²"."""
    return f"{value:,} {unit}".strip()


def quantity(value: float | None, unit: str = "", digits: int = 9) -> str:
    """At most `digits` decimals and no trailing zeros: 1538.0, "°C" -> "1,538 °C"; "" for None."""
    if value is None:
        return ""
    text = f"{round(value, digits):,.{digits}f}".rstrip("0").rstrip(".")
    text = "0" if text == "-0" else text
    return text + unit if unit == "°" else f"{text} {unit}".strip()


def the(country: str, capital: bool = False) -> str:
    """The country's name as it stands in a sentence: "the Netherlands", "Brazil"."""
    words = set(country.split())
    if country.startswith("The ") or " and " in country or not words & (_PLURAL | _COMMON_NOUNS):
        return country
    return f"{'The' if capital else 'the'} {country}"
