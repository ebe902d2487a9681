"""List pages of cities: by country, continent and size, and the capitals."""

from collections.abc import Iterable, Iterator, Sequence

from wideseek.tools.atlas import names
from wideseek.tools.atlas.facts import City, Country, Facts
from wideseek.tools.atlas.writing import LONGEST_LIST, Draft, the
from wideseek.tools.folding import fold

_TOPS_OF_THE_WORLD = (10, 20, 50)
_TOP = 10
_MILLIONS = (1, 2, 3, 5, 10)


def city_lists(facts: Facts) -> Iterator[Draft]:
    """Every list page whose items are cities; those of a country name its cities of BIG_CITY people or more."""
    big = [city for city in facts.cities if city.population >= names.BIG_CITY]
    for country in facts.countries.values():
        here = [city for city in big if city.country == country.code]
        if here:
            yield from _cities_of(country, here)
    for code, (continent, adjective) in names.CONTINENTS.items():
        here = [city for city in big if facts.countries[city.country].continent == code]
        yield from _above(here, f"in {continent}", (adjective,))
        if len(here) > _TOP:
            yield _largest(here, _TOP, f"in {continent}", (adjective,))
        countries = [c for c in facts.countries.values() if c.listed and c.continent == code]
        if countries:
            yield _capitals(countries, facts, continent, adjective)
    yield from _above(big, "in the world", ("worldwide", "the world's"))
    for top in _TOPS_OF_THE_WORLD:
        yield _largest(big, top, "in the world", ("the world's", "earth's", "global"))


def _cities_of(country: Country, here: Sequence[City]) -> Iterator[Draft]:
    where = f"in {the(country.title)}"
    called = names.COUNTRY_ALIASES.get(country.code, ())
    adjectives = tuple(filter(None, (names.DEMONYMS.get(country.code), country.title)))
    limit = f"{names.BIG_CITY:,} people or more"
    if len(here) <= LONGEST_LIST:
        yield Draft(
            f"Cities {where}",
            f"A list of the cities {where} with {limit}, {len(here)} in all.",
            items=[city.title for city in here],
            aliases=[
                *(f"{adjective} cities" for adjective in adjectives),
                f"cities of {the(country.title)}",
                f"big cities {where}",
                f"large cities {where}",
                f"major cities {where}",
                *(f"cities in {name}" for name in called),
                f"cities {where} with population, latitude, longitude and time zone",
                f"cities {where} with {limit}",
                f"cities {where} with over half a million people",
            ],
        )
    yield from _above(here, where, adjectives)
    if len(here) > _TOP:
        yield _largest(here, _TOP, where, adjectives)


def _above(here: Sequence[City], where: str, adjectives: Iterable[str]) -> Iterator[Draft]:
    """The cities above a number of millions, where that leaves some out."""
    for millions in _MILLIONS:
        limits = [f"{millions} million", *(["a million", "one million"] if millions == 1 else [])]
        many = [city for city in here if city.population > millions * 1_000_000]
        if 0 < len(many) <= min(LONGEST_LIST, len(here) - 1):
            yield Draft(
                f"Cities {where} with more than {limits[0]} people",
                f"A list of the cities {where} with more than {limits[0]} people, {len(many)} in all.",
                items=[city.title for city in many],
                aliases=[
                    alias
                    for limit in limits
                    for alias in (
                        f"cities {where} with over {limit} inhabitants",
                        f"cities {where} with a population above {limit}",
                        *(
                            f"{adjective} cities with more than {limit} people"
                            for adjective in adjectives
                        ),
                    )
                ],
            )


def _largest(here: Sequence[City], top: int, where: str, adjectives: Iterable[str]) -> Draft:
    return Draft(
        f"{top} largest cities {where}",
        f"A list of the {top} largest cities {where}, largest first.",
        items=[city.title for city in here[:top]],
        aliases=[
            f"largest cities {where}",
            f"top {top} cities {where}",
            f"biggest cities {where}",
            f"most populous cities {where}",
            *(f"{adjective} largest cities" for adjective in adjectives),
            *(f"{top} biggest {adjective} cities" for adjective in adjectives),
        ],
    )


def _capitals(countries: Sequence[Country], facts: Facts, continent: str, adjective: str) -> Draft:
    titles = {city.country: city.title for city in facts.cities if city.is_capital}
    capitals = [titles.get(country.code, country.title) for country in countries]
    return Draft(
        f"Capital cities in {continent}",
        f"A list of the capital cities of the countries in {continent}, {len(capitals)} in all.",
        items=sorted(capitals, key=fold),
        aliases=[
            f"{adjective} capitals",
            f"{adjective} capital cities",
            f"capitals of {continent}",
            f"capital cities of {adjective} countries",
            f"seats of government in {continent}",
        ],
    )
