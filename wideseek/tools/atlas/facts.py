"""Records of the things the atlas has pages about. Titles are unique across all of them, compared as `fold` does."""

from collections.abc import Mapping
from dataclasses import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class Country:
    """A country, a dependent territory (owner: the code of its state) or an area of its own status.

    area in km² and population are 0 where unknown; language codes are ISO 639-3, neighbours are country codes.
    """

    title: str
    code: str
    code3: str
    continent: str
    status: str
    owner: str | None
    listed: bool
    capital: str
    area: float
    population: int
    currency: str
    languages: tuple[str, ...]
    neighbours: tuple[str, ...]
    calling_codes: tuple[str, ...]
    domain: str
    aliases: tuple[str, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class City:
    """A big city or a capital. name is the title without what tells it from its namesakes."""

    title: str
    name: str
    country: str
    population: int
    latitude: float
    longitude: float
    timezone: str
    is_capital: bool
    aliases: tuple[str, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Element:
    """A chemical element; temperatures in °C, density in g/cm³, None where the source has none."""

    title: str
    symbol: str
    number: int
    weight: float
    group: int | None
    period: int
    block: str
    category: str
    density: float | None
    melting_point: float | None
    boiling_point: float | None
    sublimation_point: float | None
    electronegativity: float | None
    discoverers: str
    discovery_year: int | None
    discovery_places: tuple[str, ...]
    name_origin: str
    radioactive: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class Currency:
    """A currency of ISO 4217 that some country uses; short_name is a word that means only it ("Real"), or empty."""

    title: str
    name: str
    code: str
    number: str
    short_name: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Language:
    """A language that has a two-letter code or that GeoNames gives for a country."""

    title: str
    name: str
    code2: str | None
    code3: str
    type: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Facts:
    """Everything the pages are made of: by code and in order of title, but cities largest first, elements by number."""

    countries: Mapping[str, Country]
    cities: tuple[City, ...]
    elements: tuple[Element, ...]
    currencies: Mapping[str, Currency]
    languages: Mapping[str, Language]
