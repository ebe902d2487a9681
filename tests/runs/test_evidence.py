"""Sources of cells are found in code, on pages of the run, and are never guessed."""

import pytest

from wideseek.grading.answer import Table
from wideseek.runs.evidence import PageRead, find_doubts, find_sources


def page(title: str, text: str, url: str = "") -> PageRead:
    return PageRead(url=url or f"u/{title}", title=title, text=text, agent_id="sub-1", ts=1.0)


BRAZIL = page("Brazil", "Brazil\nCapital: Brasília\nArea:  8,515,767   km²\nBorders: Peru, 10 more")
PERU = page("Peru", "Peru\nCapital: Lima\nArea: 1,285,216 km²")
LIST = page("Countries of South America", "12 items\n1. Brazil\n2. Peru, whose capital is Lima")


def sources(
    row: tuple[str, ...], *pages: PageRead, question: str = ""
) -> list[tuple[str, str] | None]:
    table = Table(tuple(f"c{index}" for index in range(len(row))), (row,))
    [found] = find_sources(table, pages, question)
    return [(source.url, source.quote) if source else None for source in found]


def test_cells_are_quoted_from_the_page_of_the_row() -> None:
    found = sources(("Brazil", "brasília", "8,515,767 KM²"), LIST, PERU, BRAZIL)
    assert found == [
        ("u/Brazil", "Brazil"),
        ("u/Brazil", "Capital: Brasília"),
        ("u/Brazil", "Area: 8,515,767 km²"),
    ]


def test_value_that_no_page_holds_has_no_source() -> None:
    assert sources(("Brazil", "Rio de Janeiro", ""), BRAZIL)[1:] == [None, None]
    silent = page("Peru", "Peru\nMotto: unknown")
    assert sources(("Peru", "Unknown"), silent)[1] is None, "claims nothing"


def test_value_on_the_page_of_another_row_is_no_source() -> None:
    assert sources(("Brazil", "Lima"), BRAZIL, PERU)[1] is None


def test_list_page_backs_the_key_only_if_no_better_page_does() -> None:
    assert sources(("Peru",), LIST, PERU) == [("u/Peru", "Peru")]
    assert sources(("Peru",), LIST) == [
        ("u/Countries of South America", "2. Peru, whose capital is Lima")
    ]


def test_list_page_backs_a_value_only_beside_its_key() -> None:
    assert sources(("Peru", "Lima"), LIST)[1] is not None
    assert sources(("Brazil", "Lima"), LIST)[1] is None
    assert sources(("Peru", "12"), LIST)[1] is None


@pytest.mark.parametrize(
    ("value", "line", "backed"),
    [
        ("31", "Height: 31", True),
        ("31", "Height: 31 m", True),
        ("31", "Height: 1931", False),
        ("31", "Height: 31.5", False),
        ("31", "Height: 1,31", False),
        ("31", "Height: 31.", True),
        ("12.04", "Latitude: -12.04", False),
        ("12.04", "Latitude: \u221212.04", False),
        ("12.04", "Latitude: (-12.04)", False),
        ("12.04", "-12.04", False),
        ("-12.04", "Latitude: -12.04", True),
        ("\u221212.04", "Latitude: \u221212.04", True),
        ("12.04", "Latitude: 12.04", True),
        ("2015", "Years: 2010-2015", True),
        ("2015", "Years: 2010\u20132015", True),
        ("2015", "Years: 2010 - 2015", True),
        ("747", "Plane: Boeing-747", True),
        ("Lim", "Capital: Lima", False),
        ("São", "City: São Paulo", True),
        ("中国", "国家:中国北京", True),
        ("ABC", "ABC", True),
        ("A.B*", "code A.B* here", True),
        ("x (y", "or x (y as well", True),
    ],
)
def test_values_must_stand_whole(value: str, line: str, backed: bool) -> None:
    assert (sources(("T", value), page("T", f"T\n{line}"))[1] is not None) == backed


def test_key_in_a_longer_word_is_not_the_key() -> None:
    assert sources(("Niger", "Abuja"), page("Nigeria", "Capital: Abuja")) == [None, None]


def test_exact_title_goes_before_a_title_that_holds_the_key() -> None:
    river = page("Niger River", "Niger River\nLength: 4,180 km\nCapital: none")
    niger = page("Niger", "Niger\nCapital: Niamey")
    assert sources(("Niger", "4,180 km"), river, niger) == [
        ("u/Niger", "Niger"),
        ("u/Niger River", "Length: 4,180 km"),
    ]


def test_single_answer_prefers_the_page_the_question_names() -> None:
    other = page("Fifty", "Peaks: 50")
    lake = page("Bled", "Bled\nPeaks: 50")
    assert sources(("50",), other, lake, question="How many peaks has Bled?") == [
        ("u/Bled", "Peaks: 50")
    ]


def test_agent_and_time_of_the_reading_are_kept() -> None:
    [[source]] = find_sources(Table(("c",), (("Peru",),)), [PERU])
    assert source is not None and (source.agent_id, source.ts) == ("sub-1", 1.0)


def test_quotes_are_cut() -> None:
    [found] = sources(("T",), page("x", "T " + "long " * 500))
    assert found is not None and len(found[1]) == 400


def doubts(table: Table, *pages: PageRead) -> list[list[str | None]]:
    return find_doubts(table, find_sources(table, pages), pages)


LUXEMBOURG = page(
    "Luxembourg",
    "Luxembourg\ncapital: Luxembourg\nlanguages: Luxembourgish, German\ncurrency code: EUR\n"
    "three-letter code: LUX\nThey remain what they are\ntime zone: Europe/Luxembourg\n"
    "area: 2,586 km²\ncurrency: Euro (money)\ncontinent: Europe",
)


@pytest.mark.parametrize(
    ("column", "value", "doubt"),
    [
        ("capital", "Luxembourg", None),
        ("capital city", "Luxembourg", None),
        ("currency code", "EUR", None),
        ("currency code", "LUX", 'the page says "currency code: EUR"'),
        ("code", "LUX", None),
        ("phone prefix", "LUX", None),
        ("phone prefix", "+352", "no page that was read says so"),
        ("capital", "Esch", 'the page says "capital: Luxembourg"'),
        ("area", "2,586", None),
        ("languages", "German", None),
        ("languages", "Luxembourgish, German", None),
        ("currency", "Euro", None),
        ("motto", "Remain", None),
        ("time zone", "Europe", 'the page says "time zone: Europe/Luxembourg"'),
        ("continent", "Europe", None),
        ("capital", "unknown", None),
        ("capital", "", None),
    ],
)
def test_doubts_name_what_the_page_says_instead(column: str, value: str, doubt: str | None) -> None:
    table = Table(("name", column), (("Luxembourg", value),))
    assert doubts(table, LUXEMBOURG) == [[None, doubt]]


def test_the_line_whose_label_fits_is_quoted() -> None:
    table = Table(("name", "capital"), (("Luxembourg", "Luxembourg"),))
    [[_, capital]] = find_sources(table, [LUXEMBOURG])
    assert capital is not None and capital.quote == "capital: Luxembourg"


def test_labels_do_not_speak_against_the_key() -> None:
    iron = page("Metals", "Metals\nIron: a metal\nname: Tin")
    assert doubts(Table(("name", "symbol"), (("Iron", "unknown"),)), iron) == [[None, None]]


def test_a_row_without_any_source_needs_no_doubts() -> None:
    assert doubts(Table(("name", "capital"), (("Atlantis", "Poseidonis"),)), PERU) == [[None, None]]


def test_another_items_page_is_no_excuse() -> None:
    sudan = page("Sudan", "Sudan\ncapital: Khartoum")
    south = page("South Sudan", "South Sudan\ncapital: Juba")
    [[_, doubt]] = doubts(Table(("name", "capital"), (("Sudan", "Juba"),)), sudan, south)
    assert doubt == 'the page says "capital: Khartoum"'


def test_only_what_was_asked_speaks_against_a_cell() -> None:
    rome = page("Rome", "Rome\nfounded: 1821\nbirth year: 1700\ncapital of: Italy\npopulation: 9")
    table = Table(("name", "founding year", "number of inhabitants"), (("Rome", "1821", "9"),))
    assert doubts(table, rome) == [[None, None, None]]


@pytest.mark.parametrize("value", ["Quechua, Spanish", "Spanish and Quechua", "Spanish"])
def test_the_order_of_a_list_is_free(value: str) -> None:
    peru = page("Peru", "Peru\nlanguages: Spanish, Quechua\narea: 1,285,216 km²")
    table = Table(("name", "languages", "area"), (("Peru", value, "1285216 km²"),))
    assert doubts(table, peru) == [[None, None, None]]


def test_pages_read_twice_are_both_heard_and_quotes_are_cut() -> None:
    old, new = (
        page("Peru", "Peru\ncapital: Lima", "u"),
        page("Peru", "Peru\nmotto: x" + "y" * 999, "u"),
    )
    [[_, capital, motto]] = doubts(
        Table(("name", "capital", "motto"), (("Peru", "Cusco", "z"),)), old, new
    )
    assert capital == 'the page says "capital: Lima"'
    assert motto is not None and len(motto) < 450


def test_a_page_that_names_the_key_is_heard_where_none_is_titled_by_it() -> None:
    land = page("Republic of Peru", "Republic of Peru\ncapital: Lima")
    [[_, doubt]] = doubts(Table(("name", "capital"), (("Peru", "Cusco"),)), land)
    assert doubt == 'the page says "capital: Lima"'
