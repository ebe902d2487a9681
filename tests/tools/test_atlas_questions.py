"""The questions over the bundled corpus: their gold is what the pages say, and their pages can be found."""

import asyncio
import json
import tomllib

import pytest
from wideseek_eval.build_atlas import FOLDER, people, questions
from wideseek_eval.suites import read_questions

from wideseek.grading.answer import Table
from wideseek.runs.evidence import PageRead, find_doubts, find_sources
from wideseek.tools import corpus_file
from wideseek.tools.corpus import BUNDLED, Corpus

LINES = (FOLDER / "questions.jsonl").read_text(encoding="utf-8").splitlines()
TABLES = [line for line in map(json.loads, LINES) if line["kind"] == "table"]


@pytest.fixture(scope="module")
def atlas() -> Corpus:
    return Corpus.load()


def test_the_gold_is_what_the_pages_say() -> None:
    assert [json.loads(line) for line in LINES] == questions()


def test_the_gold_of_peoples_questions_is_what_the_pages_say() -> None:
    path = FOLDER / "people.jsonl"
    lines = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
    assert lines == people()
    assert len({line["question"].casefold() for line in lines}) == len(lines) == 162
    groups = [task.group for task in read_questions(path)]
    assert {group: groups.count(group) for group in groups} == {"read": 90, "unread": 72}


def test_headings_in_the_askers_words_and_missing_facts_are_right() -> None:
    by_text = {line["question"]: line for line in people()}
    asked = by_text[
        "what are the biggest african countries by area and how many people live in each"
    ]
    assert asked["columns"] == ["name", "how many people live in each"]
    assert {"how many people", "people", "population"} <= set(asked["aliases"][asked["columns"][1]])
    assert any("unknown" in row for line in by_text.values() for row in line["rows"])


def test_no_right_cell_is_doubted() -> None:
    """The marks are worth nothing if right answers have them: 5,962 cells, in the askers' own words for their columns."""
    pages = {
        page.title: PageRead(url=page.url, title=page.title, text=page.text, agent_id=None, ts=0.0)
        for page in corpus_file.read(BUNDLED)[0]
    }
    doubted = []
    for line in (line for line in (*questions(), *people()) if line["kind"] == "table"):
        table = Table(tuple(line["columns"]), tuple(map(tuple, line["rows"])))
        read = [pages[row[0]] for row in table.rows]
        for row, why in zip(
            table.rows, find_doubts(table, find_sources(table, read), read), strict=True
        ):
            doubted += [(line["question"], row, doubt) for doubt in why if doubt]
    assert not doubted


def test_gold_known_by_heart() -> None:
    by_id = {line["id"]: line for line in map(json.loads, LINES)}
    assert by_id["capital-of-peru"]["answer"] == "Lima"
    assert by_id["tungsten-number"]["answer"] == "74"
    assert by_id["portugal-neighbour"]["rows"] == [["Spain", "Madrid", "46,723,749"]]
    south_america = by_id["south-america-capital-currency-area"]
    assert south_america["columns"] == ["country", "capital", "currency", "area"]
    assert len(south_america["rows"]) == 12
    assert ["Brazil", "Brasília", "Brazilian Real", "8,511,965 km²"] in south_america["rows"]


def test_there_are_enough_of_every_width_and_no_two_alike() -> None:
    assert len(LINES) >= 48
    assert len({line["question"].casefold() for line in map(json.loads, LINES)}) == len(LINES)
    assert len({line["id"] for line in map(json.loads, LINES)}) == len(LINES)
    widths = [len(line["rows"]) for line in TABLES]
    assert min(widths) == 1
    assert 40 <= max(widths) <= 50
    assert sum(width <= 5 for width in widths) >= 8
    assert sum(width >= 20 for width in widths) >= 6
    assert {len(line["columns"]) for line in TABLES} == {2, 3, 4, 5}


def test_every_row_is_whole_and_every_key_unique() -> None:
    for line in TABLES:
        assert line["key"] == line["columns"][0]
        assert all(len(row) == len(line["columns"]) and all(row) for row in line["rows"])
        assert len({row[0] for row in line["rows"]}) == len(line["rows"])
        assert set(line["aliases"]) <= set(line["columns"])


def test_the_page_to_read_is_among_three_for_the_question_itself(atlas: Corpus) -> None:
    source = tomllib.loads((FOLDER / "questions.toml").read_text(encoding="utf-8"))
    wanted = [(entry["question"], entry["list"]) for entry in source["table"]]
    wanted += [(entry["question"], entry["page"]) for entry in source["boxed"]]
    for question, title in wanted:
        hits = asyncio.run(atlas.search(question)).hits
        assert title in [hit.title for hit in hits], question
