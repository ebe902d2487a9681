"""A closed collection of pages behind the two tools of an agent: `search` ranks it with BM25, `access` reads from it.

The index is tantivy's, built in memory by one thread, so that ranks are the same wherever it is built:
10 ms for the 150 pages of a procedural world, a quarter of a second for the bundled corpus. Nothing is written to disk.
"""

import math
from collections import Counter
from collections.abc import Iterable, Sequence
from itertools import chain
from pathlib import Path

import tantivy
from tantivy import Filter, Occur, Query

from wideseek.tools import corpus_file
from wideseek.tools.folding import fold
from wideseek.tools.outcome import Page, PageResult, SearchHit, SearchResult, Status

BUNDLED = Path(__file__).parent / "data" / "atlas.sqlite.xz"

_MAX_QUERY_CHARACTERS = 2_000
_FIELD_BOOSTS = {"names": 2.0, "text": 1.0}
_CANDIDATES = 50  # pages ranked by BM25 that are ranked again by how well their names fit
_NO_NAME_FITS = 0.2
# Words that carry nothing in a question; a title made of them is still found by its exact name.
_STOP_WORDS = """a all an and are as at be by do does each every for from give has have how i in into is it its list many
me much my of on or that the their them there these they this those to was were what when where which who whose will
with""".split()
_ANALYZER = (
    tantivy.TextAnalyzerBuilder(tantivy.Tokenizer.whitespace())
    .filter(Filter.custom_stopword(_STOP_WORDS))
    .filter(Filter.stemmer("english"))
    .build()
)


class Corpus:
    """Search and Access over pages held in memory. Immutable; made by `load` or `from_pages`."""

    def __init__(self, pages: Sequence[Page]) -> None:
        self._pages = tuple(pages)
        self._by_url = {page.url: page for page in self._pages}
        if len(self._by_url) < len(self._pages):
            url, _ = Counter(page.url for page in self._pages).most_common(1)[0]
            raise ValueError(f"pages must have different urls, not {url} twice")
        names = [[fold(name) for name in (page.title, *page.aliases)] for page in self._pages]
        self._by_title: dict[str, list[int]] = {}
        self._by_alias: dict[str, list[int]] = {}
        for number, (title, *aliases) in enumerate(names):
            self._by_title.setdefault(_without_article(title), []).append(number)
            for alias in aliases:
                self._by_alias.setdefault(_without_article(alias), []).append(number)
        self._names = [[tuple(dict.fromkeys(_terms(name))) for name in group] for group in names]
        frequency = Counter(term for group in self._names for term in {*chain(*group)})
        self._weights = {
            term: math.log(1 + len(self._pages) / count) for term, count in frequency.items()
        }
        self._index = _build_index(names, [fold(page.text) for page in self._pages])
        self._searcher = self._index.searcher()

    @classmethod
    def load(cls, path: Path | str | None = None) -> "Corpus":
        """The bundled corpus, or the .sqlite or .sqlite.xz file at `path`; ValueError names a file that is not one."""
        pages, _ = corpus_file.read(BUNDLED if path is None else Path(path))
        return cls(pages)

    @classmethod
    def from_pages(cls, pages: Iterable[Page]) -> "Corpus":
        """A corpus of these pages. ValueError when two share a url."""
        return cls(tuple(pages))

    async def search(self, query: str, count: int = 3) -> SearchResult:
        """The `count` best pages: first those called exactly so, by title, then by alias; ties in page order."""
        if count < 1:
            raise ValueError(f"count must be at least 1, not {count}")
        words = fold(query[:_MAX_QUERY_CHARACTERS])
        name = _without_article(words)
        exact = [*self._by_title.get(name, ()), *self._by_alias.get(name, ())] if name else []
        ranked = self._rank(_terms(words), count + len(exact))
        numbers = list(dict.fromkeys([*exact, *ranked]))[:count]
        if not numbers:
            return SearchResult(Status.NO_RESULTS, detail="no page holds a word of the query")
        return SearchResult(Status.OK, tuple(_hit(self._pages[number]) for number in numbers))

    async def access(self, url: str) -> PageResult:
        """The page with exactly this url."""
        asked = url.strip()
        if page := self._by_url.get(asked):
            return PageResult(Status.OK, url, page.title, page.text)
        if not asked.startswith(("http://", "https://")):
            return PageResult(Status.REFUSED_URL, url, detail="only http and https urls are read")
        return PageResult(Status.NOT_FOUND, url, detail="no page of the corpus has this url")

    def _rank(self, terms: Sequence[str], count: int) -> list[int]:
        """Pages by BM25, each term where it counts most, times how much of one of the page's names the terms cover.

        The second factor puts "Countries in Africa" before "Currencies used in Africa" when asked for countries.
        """
        schema = self._index.schema
        words = [
            Query.disjunction_max_query(
                [
                    Query.boost_query(Query.term_query(schema, field, term, "freq"), boost)
                    for field, boost in _FIELD_BOOSTS.items()
                ]
            )
            for term in dict.fromkeys(terms)
        ]
        query = Query.boolean_query([(Occur.Should, word) for word in words])
        hits = self._searcher.search(query, max(count, _CANDIDATES), count=False).hits
        asked = frozenset(terms)
        scores: dict[int, float] = {}
        for score, address in hits:
            number = self._searcher.doc(address)["page"][0]
            scores[number] = score * (_NO_NAME_FITS + self._fit(number, asked))
        return sorted(scores, key=lambda number: (-scores[number], number))[:count]

    def _fit(self, number: int, asked: frozenset[str]) -> float:
        """The largest weighted share of one of the page's names that is asked for, in [0, 1]."""
        weights = self._weights
        return max(
            sum(weights[term] for term in name if term in asked)
            / (sum(weights[term] for term in name) or 1.0)
            for name in self._names[number]
        )


def _without_article(words: str) -> str:
    return " ".join(word for word in words.split() if word != "the") or words


def _terms(words: str) -> list[str]:
    terms: list[str] = _ANALYZER.analyze(words)
    return terms


def _hit(page: Page) -> SearchHit:
    first, _, rest = page.text.partition("\n")
    return SearchHit(page.title, page.url, page.snippet or rest.partition("\n")[0] or first)


def _build_index(names: Iterable[Iterable[str]], texts: Iterable[str]) -> tantivy.Index:
    """An index in memory of folded names and texts, one document a page in page order."""
    schema = tantivy.SchemaBuilder()
    for field in _FIELD_BOOSTS:
        schema.add_text_field(field, tokenizer_name="folded", index_option="freq")
    schema.add_integer_field("page", stored=True)
    index = tantivy.Index(schema.build())
    index.register_tokenizer("folded", _ANALYZER)
    writer = index.writer(heap_size=15_000_000, num_threads=1)  # the least tantivy accepts
    for number, (group, text) in enumerate(zip(names, texts, strict=True)):
        document = tantivy.Document(text=text, page=number)
        for name in group:
            document.add_text("names", name)
        writer.add_document(document)
    writer.commit()
    writer.wait_merging_threads()
    index.reload()
    return index
