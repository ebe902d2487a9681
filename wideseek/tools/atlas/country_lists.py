"""List pages of countries and territories: by continent, size, border, language and currency."""

from collections.abc import Iterable, Iterator

from wideseek.tools.atlas import names
from wideseek.tools.atlas.facts import Country, Facts, Language
from wideseek.tools.atlas.writing import LONGEST_LIST, Draft, alphabetical, number, the

_TOP = 10
_MILLIONS = (10, 50, 100)
_VAST = 1_000_000


def country_lists(facts: Facts) -> Iterator[Draft]:
    """Every list page whose items are countries or territories."""
    listed = [country for country in facts.countries.values() if country.listed]
    territories = [country for country in facts.countries.values() if country.owner]
    for code, (continent, adjective) in names.CONTINENTS.items():
        here = [country for country in listed if country.continent == code]
        if here:
            yield _all_countries(here, continent, adjective)
            yield from _tops(here, f"in {continent}", adjective)
            yield from _above(here, f" in {continent}", adjective)
            yield from _without_neighbours(here, continent, adjective)
        there = [country for country in territories if country.continent == code]
        if there:
            yield _territories(there, "in", continent, adjective)
    yield from _tops(listed, "in the world", "world's")
    yield from _above(listed, "", "world's")
    for owner in listed:
        owned = [country for country in territories if country.owner == owner.code]
        if owned:
            adjective = names.DEMONYMS.get(owner.code, owner.title)
            called = names.COUNTRY_ALIASES.get(owner.code, ())
            yield _territories(owned, "of", the(owner.title), adjective, *called)
    for country in facts.countries.values():
        if country.neighbours:
            yield _bordering(country, facts)
    yield from _by_language(facts)
    yield from _by_currency(facts)


def _all_countries(here: list[Country], continent: str, adjective: str) -> Draft:
    return Draft(
        f"Countries in {continent}",
        f"A list of all the countries in {continent}, {len(here)} in all.",
        items=alphabetical(here),
        aliases=[
            f"{adjective} countries",
            f"{adjective} nations",
            f"{adjective} states",
            f"countries of {continent}",
            f"nations in {continent}",
            f"nations of {continent}",
            f"states of {continent}",
            f"sovereign states in {continent}",
            f"{continent} countries",
            f"{continent} nations",
            f"independent countries in {continent}",
            f"{adjective} countries with capital, currency, area, population and languages",
        ],
    )


def _territories(
    there: list[Country], word: str, where: str, adjective: str, *called: str
) -> Draft:
    return Draft(
        f"Dependent territories {word} {where}",
        f"A list of the dependent territories {word} {where}, {len(there)} in all.",
        items=alphabetical(there),
        aliases=[
            f"dependencies {word} {where}",
            f"{adjective} dependent territories",
            f"{adjective} overseas territories",
            f"{adjective} dependencies",
            f"overseas territories {word} {where}",
            *(f"{name} territories" for name in called),
        ],
    )


def _tops(here: list[Country], where: str, adjective: str) -> Iterator[Draft]:
    """The ten largest and the ten smallest by area and by population, where that leaves some out."""
    known = [country for country in here if country.area and country.population]
    if len(known) <= _TOP:
        return
    areas = sorted(known, key=lambda country: (-country.area, country.title))
    people = sorted(known, key=lambda country: (-country.population, country.title))
    for word, measure, ranked, others in (
        ("largest", "area", areas, ("biggest",)),
        ("smallest", "area", areas[::-1], ("tiniest",)),
        ("largest", "population", people, ("most populous", "most populated", "biggest")),
        ("smallest", "population", people[::-1], ("least populous", "least populated")),
    ):
        yield Draft(
            f"{word.capitalize()} countries {where} by {measure}",
            f"A list of the {_TOP} {word} countries {where} by {measure}, {word} first.",
            items=[country.title for country in ranked[:_TOP]],
            aliases=[
                f"{_TOP} {word} countries {where} by {measure}",
                f"{word} {adjective} countries by {measure}",
                f"{word} nations {where} by {measure}",
                *([f"{word} {adjective} countries"] if measure == "area" else []),
                *(f"{other} countries {where} by {measure}" for other in others),
                *(f"{other} {adjective} countries" for other in others),
                *(f"{other} nations {where}" for other in others),
            ],
        )


def _above(here: list[Country], where: str, adjective: str) -> Iterator[Draft]:
    """The countries above round figures of population and area, where that leaves some out."""
    for millions in _MILLIONS:
        limit = f"{millions} million"
        many = [country for country in here if country.population > millions * 1_000_000]
        if 0 < len(many) <= min(LONGEST_LIST, len(here) - 1):
            yield Draft(
                f"Countries{where} with more than {limit} people",
                f"A list of the countries{where} with more than {limit} people, {len(many)} in all.",
                items=alphabetical(many),
                aliases=[
                    f"countries{where} with a population over {limit}",
                    f"{adjective} countries with more than {limit} people",
                    f"{adjective} countries with over {limit} inhabitants",
                    f"nations{where} with a population above {limit}",
                ],
            )
    vast = [country for country in here if country.area > _VAST]
    if 0 < len(vast) <= min(LONGEST_LIST, len(here) - 1):
        yield Draft(
            f"Countries{where} larger than {number(_VAST, 'km²')}",
            f"A list of the countries{where} larger than {number(_VAST, 'km²')}, {len(vast)} in all.",
            items=alphabetical(vast),
            aliases=[
                f"countries{where} with an area over 1 million square kilometres",
                f"{adjective} countries larger than 1 million square kilometres",
                f"{adjective} countries with an area above one million square kilometers",
            ],
        )


def _without_neighbours(here: list[Country], continent: str, adjective: str) -> Iterator[Draft]:
    alone = [country for country in here if not country.neighbours]
    if alone and len(alone) < len(here):
        yield Draft(
            f"Countries in {continent} with no land borders",
            f"A list of the countries in {continent} that border no other country, {len(alone)} in all.",
            items=alphabetical(alone),
            aliases=[
                f"countries in {continent} without land borders",
                f"countries in {continent} without neighbours",
                f"island countries in {continent}",
                f"{adjective} island nations",
            ],
        )


def _bordering(country: Country, facts: Facts) -> Draft:
    neighbours = [facts.countries[code] for code in country.neighbours]
    name = the(country.title)
    demonym = names.DEMONYMS.get(country.code)
    return Draft(
        f"Countries bordering {name}",
        f"A list of the countries and territories that border {name}, {len(neighbours)} in all.",
        items=alphabetical(neighbours),
        aliases=[
            f"countries that border {name}",
            f"countries sharing a border with {name}",
            f"nations bordering {name}",
            f"neighbours of {name}",
            f"neighbors of {name}",
            f"neighbouring countries of {name}",
            f"neighboring countries of {name}",
            f"countries next to {name}",
            f"states adjacent to {name}",
            *(
                f"countries bordering {alias}"
                for alias in names.COUNTRY_ALIASES.get(country.code, ())
            ),
            *([f"{demonym} neighbours", f"{demonym} border countries"] if demonym else []),
        ],
    )


def _by_language(facts: Facts) -> Iterator[Draft]:
    for language in facts.languages.values():
        users = [c for c in facts.countries.values() if language.code3 in c.languages]
        states = [country for country in users if country.listed]
        territories = [country for country in users if country.owner]
        if 0 < len(states) <= LONGEST_LIST:
            yield _speaking("Countries", language, "", states)
        if territories:
            yield _speaking("Dependent territories", language, "", territories)
        if len(states) > _TOP:
            for code, (continent, adjective) in names.CONTINENTS.items():
                here = [country for country in states if country.continent == code]
                if here:
                    yield _speaking("Countries", language, f" in {continent}", here, adjective)


def _speaking(
    kind: str, language: Language, where: str, countries: list[Country], adjective: str = ""
) -> Draft:
    what = "nations" if kind == "Countries" else "dependencies"
    spoken = [language.name, *names.LANGUAGE_ALIASES.get(language.name, ())]
    return Draft(
        f"{kind}{where} where {language.name} is spoken",
        f"A list of the {kind.lower()}{where} where {language.name} is spoken, {len(countries)} in all.",
        items=alphabetical(countries),
        aliases=[
            *(f"{name}-speaking {kind.lower()}{where}" for name in spoken),
            *(f"{kind.lower()}{where} that speak {name}" for name in spoken),
            f"{what}{where} speaking {language.name}",
            *([] if where or kind != "Countries" else [f"where {language.name} is spoken"]),
            *(
                [
                    f"{adjective} countries where {language.name} is spoken",
                    f"{language.name}-speaking {adjective} countries",
                ]
                if adjective
                else []
            ),
        ],
    )


def _by_currency(facts: Facts) -> Iterator[Draft]:
    for currency in facts.currencies.values():
        users = [c for c in facts.countries.values() if c.currency == currency.code]
        states = [country for country in users if country.listed]
        territories = [country for country in users if country.owner]
        other = (*names.CURRENCY_ALIASES.get(currency.code, ()), currency.code)
        if len(states) > 1:
            yield _using("Countries", currency.name, states, other)
        if len(territories) > 1:
            yield _using("Dependent territories", currency.name, territories, other)


def _using(kind: str, currency: str, countries: list[Country], other: Iterable[str]) -> Draft:
    what = "nations" if kind == "Countries" else "dependencies"
    return Draft(
        f"{kind} that use the {currency}",
        f"A list of the {kind.lower()} that use the {currency}, {len(countries)} in all.",
        items=alphabetical(countries),
        aliases=[
            f"{kind.lower()} using the {currency}",
            f"{what} with the {currency} as currency",
            f"{kind.lower()} whose currency is the {currency}",
            f"{kind.lower()} that pay in {currency}",
            *(f"{kind.lower()} that use the {name}" for name in other),
        ],
    )
