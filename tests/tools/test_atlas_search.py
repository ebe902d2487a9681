import asyncio
import tomllib
from pathlib import Path

import pytest

from wideseek.tools.corpus import Corpus

PHRASINGS = tomllib.loads((Path(__file__).parent / "phrasings.toml").read_text(encoding="utf-8"))
AMONG_THREE = PHRASINGS.pop("among_three")


@pytest.fixture(scope="module")
def atlas() -> Corpus:
    return Corpus.load()


def _titles(corpus: Corpus, query: str) -> list[str]:
    return [hit.title for hit in asyncio.run(corpus.search(query)).hits]


def test_there_are_many_phrasings_of_every_kind() -> None:
    assert sum(map(len, PHRASINGS.values())) >= 200
    assert min(map(len, PHRASINGS.values())) >= 9


@pytest.mark.parametrize("kind", PHRASINGS)
def test_the_right_page_is_first_however_it_is_asked_for(atlas: Corpus, kind: str) -> None:
    wrong = {
        query: found
        for query, title in PHRASINGS[kind].items()
        if (found := _titles(atlas, query))[:1] != [title]
    }
    assert not wrong


def test_the_right_page_is_among_three_when_facts_are_mixed_in(atlas: Corpus) -> None:
    wrong = {
        query: found
        for query, title in AMONG_THREE.items()
        if title not in (found := _titles(atlas, query))
    }
    assert not wrong
