"""A closed collection of pages behind the two tools of an agent: `search` ranks it with BM25, `access` reads from it.

The index is tantivy's, in memory, one thread and one segment, so that ranks are the same wherever it is built: 7 ms for
the 150 pages of a procedural world, 0.2 s for the bundled corpus.
"""

from collections.abc import Iterable, Sequence
from pathlib import Path

import tantivy

from wideseek.tools import corpus_file
from wideseek.tools.folding import fold
from wideseek.tools.outcome import Page, PageResult, SearchHit, SearchResult, Status

BUNDLED = Path(__file__).parent / "data" / "atlas.sqlite.xz"

_FIELD_BOOSTS = {"title": 3.0, "aliases": 2.0, "text": 1.0}
_MAX_QUERY_CHARACTERS = 2_000
_ANALYZER = (
    tantivy.TextAnalyzerBuilder(tantivy.Tokenizer.whitespace())
    .filter(tantivy.Filter.stopword("english"))
    .filter(tantivy.Filter.stemmer("english"))
    .build()
)


class Corpus:
    """Search and Access over pages held in memory. Immutable; made by `load` or `from_pages`."""

    def __init__(self, pages: Sequence[Page]) -> None:
        self._pages = tuple(pages)
        self._by_url = {page.url: page for page in self._pages}
        if len(self._by_url) < len(self._pages):
            raise ValueError("pages must have different urls")
        self._by_title: dict[str, list[int]] = {}
        self._by_alias: dict[str, list[int]] = {}
        for number, page in enumerate(self._pages):
            self._by_title.setdefault(_name(page.title), []).append(number)
            for alias in page.aliases:
                self._by_alias.setdefault(_name(alias), []).append(number)
        self._index = _build_index(self._pages)
        self._searcher = self._index.searcher()

    @classmethod
    def load(cls, path: Path | str | None = None) -> "Corpus":
        """The bundled corpus, or the .sqlite or .sqlite.xz file at `path`; ValueError names a file that is not one."""
        pages, _ = corpus_file.read(BUNDLED if path is None else Path(path))
        return cls(pages)

    @classmethod
    def from_pages(cls, pages: Iterable[Page]) -> "Corpus":
        return cls(tuple(pages))

    async def search(self, query: str, count: int = 3) -> SearchResult:
        """The `count` best pages: those called exactly so (title, then alias), then by BM25; ties in page order."""
        if count < 1:
            raise ValueError(f"count must be at least 1, not {count}")
        query = query[:_MAX_QUERY_CHARACTERS]
        name = _name(query)
        named = self._by_title.get(name, []) + self._by_alias.get(name, [])
        ranked = self._rank(query, count + len(named))
        numbers = list(dict.fromkeys(named + ranked))[:count]
        if not numbers:
            return SearchResult(Status.NO_RESULTS, detail="no page holds any word of the query")
        return SearchResult(Status.OK, tuple(_hit(self._pages[number]) for number in numbers))

    async def access(self, url: str) -> PageResult:
        """The page with exactly this url."""
        page = self._by_url.get(url.strip())
        if page is not None:
            return PageResult(Status.OK, url, page.title, page.text)
        if not url.strip().startswith(("http://", "https://")):
            return PageResult(Status.REFUSED_URL, url, detail="only http and https urls are read")
        return PageResult(Status.NOT_FOUND, url, detail="no page of the corpus has this url")

    def _rank(self, query: str, count: int) -> list[int]:
        words = fold(query)
        if not _ANALYZER.analyze(words):
            return []
        parsed = self._index.parse_query(words, list(_FIELD_BOOSTS), _FIELD_BOOSTS)
        hits = self._searcher.search(parsed, count, count=False).hits
        return [self._searcher.doc(address)["page"][0] for _, address in hits]


def _name(text: str) -> str:
    return " ".join(word for word in fold(text).split() if word != "the")


def _hit(page: Page) -> SearchHit:
    first, _, rest = page.text.partition("\n")
    return SearchHit(page.title, page.url, page.snippet or rest.partition("\n")[0] or first)


def _build_index(pages: Sequence[Page]) -> tantivy.Index:
    schema = tantivy.SchemaBuilder()
    for field in _FIELD_BOOSTS:
        schema.add_text_field(field, tokenizer_name="folded", index_option="freq")
    schema.add_integer_field("page", stored=True)
    index = tantivy.Index(schema.build())
    index.register_tokenizer("folded", _ANALYZER)
    writer = index.writer(heap_size=15_000_000, num_threads=1)
    for number, page in enumerate(pages):
        writer.add_document(
            tantivy.Document(
                title=fold(page.title),
                aliases=[fold(alias) for alias in page.aliases],
                text=fold(page.text),
                page=number,
            )
        )
    writer.commit()
    writer.wait_merging_threads()
    index.reload()
    return index
