"""List pages of currencies and of languages."""

from collections.abc import Iterator

from wideseek.tools.atlas import names
from wideseek.tools.atlas.facts import Country, Currency, Facts, Language
from wideseek.tools.atlas.writing import LONGEST_LIST, Draft, alphabetical, the

_WIDESPREAD = 10


def currency_lists(facts: Facts) -> Iterator[Draft]:
    """Currencies by continent, by the word they share, and those of several countries."""
    for code, (continent, adjective) in names.CONTINENTS.items():
        countries = [c for c in facts.countries.values() if c.listed and c.continent == code]
        codes = {country.currency for country in countries}
        if codes:
            used = [currency for currency in facts.currencies.values() if currency.code in codes]
            yield Draft(
                f"Currencies used in {continent}",
                f"A list of the currencies used in the countries of {continent}, {len(used)} in all.",
                items=alphabetical(used),
                aliases=[
                    f"{adjective} currencies",
                    f"currencies of {continent}",
                    f"money used in {continent}",
                    f"{adjective} money",
                    f"legal tender in {continent}",
                    f"currencies of {adjective} countries",
                ],
            )
    for word, plural in names.CURRENCY_WORDS.items():
        called = [c for c in facts.currencies.values() if word in c.name.split()]
        yield Draft(
            f"Currencies called {word}",
            f"A list of the currencies with {word} in their name, {len(called)} in all.",
            items=alphabetical(called),
            aliases=[
                f"{word} currencies",
                f"{plural} of the world",
                f"currencies named {word}",
                f"kinds of {plural}",
            ],
        )
    shared = [
        currency for currency in facts.currencies.values() if len(_states(facts, currency)) > 1
    ]
    yield Draft(
        "Currencies used by more than one country",
        f"A list of the currencies that two or more countries use, {len(shared)} in all.",
        items=alphabetical(shared),
        aliases=["shared currencies", "currencies used in several countries", "currency unions"],
    )


def _states(facts: Facts, currency: Currency) -> list[Country]:
    return [c for c in facts.countries.values() if c.listed and c.currency == currency.code]


def language_lists(facts: Facts) -> Iterator[Draft]:
    """Languages by country, by continent where they are few enough, by spread and by type."""
    for country in facts.countries.values():
        if country.languages:
            yield _spoken_in_country(country, facts)
    for code, (continent, adjective) in names.CONTINENTS.items():
        here = [c for c in facts.countries.values() if c.listed and c.continent == code]
        spoken = {language for country in here for language in country.languages}
        if 0 < len(spoken) <= LONGEST_LIST:
            yield Draft(
                f"Languages spoken in {continent}",
                f"A list of the languages spoken in the countries of {continent}, {len(spoken)} in all.",
                items=alphabetical(facts.languages[language] for language in spoken),
                aliases=[f"{adjective} languages", f"languages of {continent}"],
            )
    widespread = [
        language for language in facts.languages.values() if _spread(language, facts) > _WIDESPREAD
    ]
    yield Draft(
        f"Languages spoken in more than {_WIDESPREAD} countries",
        f"A list of the languages spoken in more than {_WIDESPREAD} countries, {len(widespread)} in all.",
        items=alphabetical(widespread),
        aliases=["widespread languages", "world languages", "languages spoken in many countries"],
    )
    for kind, plural in (("C", "Constructed languages"), ("H", "Historical languages")):
        of_kind = [
            language
            for language in facts.languages.values()
            if language.type == names.LANGUAGE_TYPES[kind]
        ]
        yield Draft(
            plural,
            f"A list of the {plural.lower()} with a page here, {len(of_kind)} in all.",
            items=alphabetical(of_kind),
            aliases=names.LANGUAGE_TYPE_ALIASES[kind],
        )


def _spoken_in_country(country: Country, facts: Facts) -> Draft:
    name = the(country.title)
    demonym = names.DEMONYMS.get(country.code)
    return Draft(
        f"Languages spoken in {name}",
        f"A list of the languages spoken in {name}, {len(country.languages)} in all.",
        items=[facts.languages[code].title for code in country.languages],
        aliases=[
            f"languages of {name}",
            f"{country.title}'s languages",
            f"languages people speak in {name}",
            f"official languages of {name}",
            *(
                f"languages spoken in {alias}"
                for alias in names.COUNTRY_ALIASES.get(country.code, ())
            ),
            *([f"{demonym} languages"] if demonym else []),
        ],
    )


def _spread(language: Language, facts: Facts) -> int:
    return sum(language.code3 in c.languages for c in facts.countries.values() if c.listed)
