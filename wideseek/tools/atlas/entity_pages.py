"""One page for each country, city, element, currency and language."""

from collections.abc import Iterable, Iterator

from wideseek.tools.atlas import names
from wideseek.tools.atlas.facts import City, Country, Currency, Element, Facts, Language
from wideseek.tools.atlas.writing import Draft, number, quantity, the

_LONGEST_LISTING = 15
_LONGEST_NAME_ORIGIN = 70


def entity_pages(facts: Facts) -> Iterator[Draft]:
    """Every entity's page: countries, elements, cities, currencies, languages."""
    yield from (_country(country, facts) for country in facts.countries.values())
    yield from (_element(element) for element in facts.elements)
    yield from (_city(city, facts) for city in facts.cities)
    yield from (_currency(currency, facts) for currency in facts.currencies.values())
    yield from (_language(language, facts) for language in facts.languages.values())


def _country(country: Country, facts: Facts) -> Draft:
    continent = names.CONTINENTS[country.continent][0]
    owner = facts.countries[country.owner] if country.owner else None
    if country.listed:
        sentence = f"{the(country.title, True)} is a country in {continent}."
    elif owner:
        sentence = f"{the(country.title, True)} is a dependent territory of {the(owner.title)} in {continent}."
    else:
        sentence = f"{country.title} is a {names.OTHER_STATUS[country.code]}."
    currency = facts.currencies.get(country.currency)
    return Draft(
        country.title,
        sentence,
        [
            ("capital", country.capital),
            ("continent", continent),
            ("status", country.status),
            ("belongs to", owner.title if owner else ""),
            ("area", number(country.area, "km²") if country.area else ""),
            ("population", number(country.population) if country.population else ""),
            ("currency", currency.title if currency else ""),
            ("currency code", country.currency),
            ("languages", ", ".join(facts.languages[code].title for code in country.languages)),
            ("neighbours", _listing(facts.countries[code].title for code in country.neighbours)),
            ("country code", country.code),
            ("three-letter code", country.code3),
            ("calling code", ", ".join(country.calling_codes)),
            ("internet domain", country.domain),
        ],
        aliases=country.aliases,
    )


def _city(city: City, facts: Facts) -> Draft:
    country = facts.countries[city.country]
    kind = "the capital of" if city.is_capital else "a city in"
    return Draft(
        city.title,
        f"{city.name} is {kind} {the(country.title)}.",
        [
            ("country", country.title),
            ("continent", names.CONTINENTS[country.continent][0]),
            ("capital of", country.title if city.is_capital else ""),
            ("population", number(city.population) if city.population else ""),
            ("latitude", quantity(city.latitude, "°", digits=2)),
            ("longitude", quantity(city.longitude, "°", digits=2)),
            ("time zone", city.timezone),
        ],
        aliases=city.aliases,
    )


def _element(element: Element) -> Draft:
    _, one, _ = names.ELEMENT_CATEGORIES[element.category]
    article = "an" if one[0] in "aeiou" else "a"
    origin = element.name_origin if len(element.name_origin) <= _LONGEST_NAME_ORIGIN else ""
    return Draft(
        element.title,
        f"{element.title} is {article} {one}, the chemical element with the symbol {element.symbol}.",
        [
            ("symbol", element.symbol),
            ("atomic number", str(element.number)),
            ("atomic weight", quantity(element.weight)),
            ("group", str(element.group or "")),
            ("period", str(element.period)),
            ("block", element.block),
            ("category", one),
            ("density", quantity(element.density, "g/cm³")),
            ("melting point", quantity(element.melting_point, "°C")),
            ("boiling point", quantity(element.boiling_point, "°C")),
            ("sublimation point", quantity(element.sublimation_point, "°C")),
            ("electronegativity", quantity(element.electronegativity)),
            ("discoverer", element.discoverers),
            ("discovery year", str(element.discovery_year or "")),
            ("discovery place", ", ".join(element.discovery_places)),
            ("name origin", origin),
        ],
        aliases=(element.symbol, *names.ELEMENT_ALIASES.get(element.title, ())),
    )


def _currency(currency: Currency, facts: Facts) -> Draft:
    users = [c for c in facts.countries.values() if c.currency == currency.code]
    if len(users) == 1:
        sentence = f"The {currency.name} is the currency of {the(users[0].title)}."
    else:
        sentence = (
            f"The {currency.name} is a currency used in {len(users)} countries and territories."
        )
    return Draft(
        currency.title,
        sentence,
        [
            ("currency code", currency.code),
            ("numeric code", currency.number),
            ("used in", _listing(country.title for country in users)),
            ("number of countries and territories", str(len(users))),
        ],
        aliases=(
            currency.code,
            *names.CURRENCY_ALIASES.get(currency.code, ()),
            currency.name,
            currency.short_name,
        ),
    )


def _language(language: Language, facts: Facts) -> Draft:
    users = [c for c in facts.countries.values() if language.code3 in c.languages]
    where = f" spoken in {the(users[0].title)}" if len(users) == 1 else ""
    if len(users) > 1:
        where = f" spoken in {len(users)} countries and territories"
    return Draft(
        language.title,
        f"{language.name} is a {language.type}{where}.",
        [
            ("two-letter code", language.code2 or ""),
            ("three-letter code", language.code3),
            ("type", language.type),
            ("spoken in", _listing(country.title for country in users)),
            ("number of countries and territories", str(len(users))),
        ],
        aliases=(f"{language.name} language", *names.LANGUAGE_ALIASES.get(language.title, ())),
    )


def _listing(titles: Iterable[str]) -> str:
    """The titles in one line; nothing where they are so many that only a list page can hold them."""
    listed = list(titles)
    return ", ".join(listed) if len(listed) <= _LONGEST_LISTING else ""
