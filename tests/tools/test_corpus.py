import asyncio
import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from wideseek.tools import corpus_file
from wideseek.tools.corpus import BUNDLED, Corpus
from wideseek.tools.outcome import Page, PageResult, SearchResult, Status


def _page(title: str, text: str = "", aliases: tuple[str, ...] = ()) -> Page:
    url = f"https://x/{title.replace(' ', '_')}"
    return Page(title, url, f"{title}\n{title} is a page.\n{text}", aliases)


HARBOURS = [
    _page("Castles in Morlen", "items: 2\n1. Tez\n2. Bes"),
    _page("Castles in Vidra", "1 item\n1. Fitroz"),
    _page("Tez", "height: 31 m\nowner: Girzov", ("Old Tez",)),
    _page("Tez Castle Road", "Tez Tez Tez Tez Tez Tez"),
    _page("São Bes", "height: 59 m\nmentions Tez"),
    _page("The Who"),
]


def search(corpus: Corpus, query: str, count: int = 3) -> SearchResult:
    return asyncio.run(corpus.search(query, count))


def titles(corpus: Corpus, query: str, count: int = 3) -> list[str]:
    return [hit.title for hit in search(corpus, query, count).hits]


def access(corpus: Corpus, url: str) -> PageResult:
    return asyncio.run(corpus.access(url))


@pytest.fixture(scope="module")
def harbours() -> Corpus:
    return Corpus.from_pages(HARBOURS)


@pytest.fixture(scope="module")
def atlas() -> Corpus:
    return Corpus.load()


def test_a_search_shows_title_url_and_first_sentence(harbours: Corpus) -> None:
    result = search(harbours, "castles in morlen", 1)
    assert result.status is Status.OK
    hit = result.hits[0]
    assert (hit.title, hit.url) == ("Castles in Morlen", "https://x/Castles_in_Morlen")
    assert hit.snippet == "Castles in Morlen is a page."


def test_a_page_may_bring_its_own_snippet() -> None:
    corpus = Corpus.from_pages([Page("A", "u", "A\nfirst", snippet="mine"), Page("B", "v", "B")])
    assert search(corpus, "a").hits[0].snippet == "mine"
    assert search(corpus, "b").hits[0].snippet == "B"


def test_count_bounds_the_hits_and_the_best_come_first(harbours: Corpus) -> None:
    assert titles(harbours, "tez", 1) == ["Tez"]
    assert len(titles(harbours, "tez", 2)) == 2
    assert titles(harbours, "castles morlen", 9)[0] == "Castles in Morlen"
    with pytest.raises(ValueError, match="count must be at least 1, not 0"):
        search(harbours, "tez", 0)


def test_accents_case_and_word_forms_do_not_matter(harbours: Corpus) -> None:
    assert titles(harbours, "sao bes")[0] == "São Bes"
    assert titles(harbours, "CASTLE of Vidra")[0] == "Castles in Vidra"


def test_the_exact_name_wins_over_any_other_score(harbours: Corpus) -> None:
    assert titles(harbours, "Tez")[0] == "Tez"  # not the page that says Tez seven times
    assert titles(harbours, "old tez")[0] == "Tez"
    assert titles(harbours, "the who") == ["The Who"]  # nothing but words of no weight


def test_a_title_goes_before_an_alias_of_the_same_name() -> None:
    corpus = Corpus.from_pages([_page("One", aliases=("Two",)), _page("Two"), _page("Two more")])
    assert titles(corpus, "two")[:2] == ["Two", "One"]


def test_equal_pages_come_in_page_order() -> None:
    pages = [Page(f"Row {n}", f"u{n}", f"Row {n}\nsame words here") for n in range(80)]
    assert titles(Corpus.from_pages(pages), "same words", 5) == [f"Row {n}" for n in range(5)]
    assert titles(Corpus.from_pages(pages[::-1]), "same words", 1) == ["Row 79"]


def test_nothing_found_and_nothing_asked_are_outcomes(harbours: Corpus) -> None:
    for query in ("", "   ", "the of in", "zzyzx", "🙂", "列出", "\x00", "\ud800", "((((", '"'):
        result = search(harbours, query)
        assert (result.status, result.hits) == (Status.NO_RESULTS, ())
        assert result.detail


def test_access_returns_the_whole_page(harbours: Corpus) -> None:
    result = access(harbours, " https://x/Tez ")
    assert (result.status, result.title) == (Status.OK, "Tez")
    assert result.text == HARBOURS[2].text


@pytest.mark.parametrize(
    ("url", "status"),
    [
        ("https://x/tez", Status.NOT_FOUND),
        ("http://x/Tez", Status.NOT_FOUND),
        ("https://[", Status.NOT_FOUND),
        ("Tez", Status.REFUSED_URL),
        ("", Status.REFUSED_URL),
        ("file:///etc/passwd", Status.REFUSED_URL),
        ("javascript:alert(1)", Status.REFUSED_URL),
    ],
)
def test_other_urls_end_in_a_typed_outcome(harbours: Corpus, url: str, status: Status) -> None:
    result = access(harbours, url)
    assert (result.status, result.url, result.text) == (status, url, "")


@given(st.text(), st.integers(1, 5))
def test_every_query_has_an_outcome(harbours: Corpus, query: str, count: int) -> None:
    result = search(harbours, query, count)
    assert len(result.hits) <= count
    assert (result.status is Status.OK) == bool(result.hits)


@given(st.text())
def test_every_url_has_an_outcome(harbours: Corpus, url: str) -> None:
    assert access(harbours, url).status in (Status.NOT_FOUND, Status.REFUSED_URL)


def test_query_syntax_and_very_long_queries_are_plain_words(harbours: Corpus) -> None:
    for query in ('title:"tez" AND', "tez^9~2", "+tez -castle", "[a TO tez]", "tez*", "IN [tez]"):
        assert titles(harbours, query)[0] == "Tez"
    assert titles(harbours, "castles in morlen " * 600)[0] == "Castles in Morlen"


def test_two_pages_with_one_url_are_refused() -> None:
    with pytest.raises(ValueError, match="https://x/Tez twice"):
        Corpus.from_pages([*HARBOURS, HARBOURS[2]])


def test_an_empty_corpus_finds_nothing() -> None:
    assert search(Corpus.from_pages([]), "tez").status is Status.NO_RESULTS


def test_a_loaded_corpus_ranks_like_the_same_pages_in_memory(atlas: Corpus) -> None:
    pages, _ = corpus_file.read(BUNDLED)
    other = Corpus.from_pages(pages)
    draw = random.Random(0)
    for page in draw.sample(pages, 40):
        words = page.text.split()
        query = " ".join(draw.sample(words, min(4, len(words))))
        assert search(other, query, 10) == search(atlas, query, 10)


def test_an_exact_title_is_always_first(atlas: Corpus) -> None:
    pages, _ = corpus_file.read(BUNDLED)
    for page in random.Random(1).sample(pages, 600):
        assert titles(atlas, page.title.upper(), 1) == [page.title]
