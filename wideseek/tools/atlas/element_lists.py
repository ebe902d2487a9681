"""List pages of the chemical elements: by place in the periodic table, kind and discovery."""

import re
from collections.abc import Iterable, Iterator, Sequence

from wideseek.tools.atlas import names
from wideseek.tools.atlas.facts import Element
from wideseek.tools.atlas.writing import Draft, the


def element_lists(elements: Sequence[Element]) -> Iterator[Draft]:
    """Every list page whose items are elements, in order of atomic number."""
    yield from _categories(elements)
    yield from _periodic_table(elements)
    yield from _places(elements)
    yield from _times(elements)
    yield from _people(elements)
    yield _listing(
        "Radioactive elements",
        [element for element in elements if element.radioactive],
        ["elements that are radioactive", "elements without stable isotopes"],
    )


def _listing(title: str, members: Sequence[Element], aliases: Iterable[str]) -> Draft:
    what = re.sub("^elements", "chemical elements", f"{title[0].lower()}{title[1:]}")
    return Draft(
        title,
        f"A list of the {what}, {len(members)} in all.",
        items=[element.title for element in members],
        aliases=aliases,
    )


def _categories(elements: Sequence[Element]) -> Iterator[Draft]:
    for category, (title, one, others) in names.ELEMENT_CATEGORIES.items():
        yield _listing(
            title,
            [element for element in elements if element.category == category],
            [
                f"{one} elements",
                f"elements that are {title}",
                f"chemical elements that are {title}",
                *others,
            ],
        )


def _periodic_table(elements: Sequence[Element]) -> Iterator[Draft]:
    for group in sorted({element.group for element in elements if element.group}):
        yield _listing(
            f"Elements in group {group}",
            [element for element in elements if element.group == group],
            [f"group {group} elements", f"group {group} of the periodic table", f"column {group}"],
        )
    for period in sorted({element.period for element in elements}):
        yield _listing(
            f"Elements in period {period}",
            [element for element in elements if element.period == period],
            [
                f"period {period} elements",
                f"period {period} of the periodic table",
                f"row {period}",
            ],
        )
    for block in sorted({element.block for element in elements}):
        yield _listing(
            f"Elements in the {block} block",
            [element for element in elements if element.block == block],
            [f"{block}-block elements", f"{block} block of the periodic table"],
        )


def _places(elements: Sequence[Element]) -> Iterator[Draft]:
    for place in sorted({place for element in elements for place in element.discovery_places}):
        yield _listing(
            f"Elements discovered in {the(place)}",
            [element for element in elements if place in element.discovery_places],
            [f"elements found in {the(place)}", f"elements first isolated in {the(place)}"],
        )


def _times(elements: Sequence[Element]) -> Iterator[Draft]:
    yield _listing(
        "Elements known to the ancients",
        [element for element in elements if element.discovery_year is None],
        ["elements known since antiquity", "elements known in ancient times"],
    )
    years = {element.title: element.discovery_year or 0 for element in elements}
    dated = [element for element in elements if element.discovery_year]
    for century in sorted({(years[element.title] + 99) // 100 for element in dated}):
        ordinal = f"{century}{'st' if century == 21 else 'th'} century"
        yield _listing(
            f"Elements discovered in the {ordinal}",
            [element for element in dated if (years[element.title] + 99) // 100 == century],
            [
                f"elements found in the {ordinal}",
                f"elements discovered in the {names.CENTURIES[century]} century",
            ],
        )
    for first in sorted({years[element.title] // 10 * 10 for element in dated}):
        span = f"between {first} and {first + 9}"
        title = f"in the {first}s" if first % 100 else span  # "the 1800s" may be the century
        yield _listing(
            f"Elements discovered {title}",
            [element for element in dated if first <= years[element.title] < first + 10],
            [f"elements found {title}", f"elements discovered {span}"],
        )


def _people(elements: Sequence[Element]) -> Iterator[Draft]:
    """Lists for those named in the discovery of two elements or more."""
    found: dict[str, list[Element]] = {}
    for element in elements:
        for person in re.split("[,;] ", element.discoverers) if element.discovery_year else ():
            if person not in names.NOT_A_DISCOVERER:
                found.setdefault(person, []).append(element)
    for person, members in sorted(found.items()):
        if len(members) > 1:
            yield _listing(
                f"Elements discovered by {person}",
                members,
                [f"elements found by {person}", f"{person}'s elements"],
            )
