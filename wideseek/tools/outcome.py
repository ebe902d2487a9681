"""What a tool call ends in: a typed outcome, never an exception and never an error dressed up as a page."""

from dataclasses import dataclass
from enum import StrEnum
from typing import Protocol


class Status(StrEnum):
    """How a search or an access ended. Everything but OK carries no content.

    CANCELLED: the run was stopped first.
    """

    OK = "ok"
    NO_RESULTS = "no_results"
    NOT_FOUND = "not_found"
    RATE_LIMITED = "rate_limited"
    BLOCKED = "blocked"
    TIMEOUT = "timeout"
    NOT_TEXT = "not_text"
    REFUSED_URL = "refused_url"
    UNAVAILABLE = "unavailable"
    CANCELLED = "cancelled"


@dataclass(frozen=True, slots=True)
class Page:
    """One page of a corpus: plain text whose first line is the title and whose second is one sentence.

    aliases are other names or phrasings the page answers to; snippet is what a search shows, the second line unless given.
    """

    title: str
    url: str
    text: str
    aliases: tuple[str, ...] = ()
    snippet: str = ""


@dataclass(frozen=True, slots=True)
class SearchHit:
    """One line of a search result."""

    title: str
    url: str
    snippet: str


@dataclass(frozen=True, slots=True)
class SearchResult:
    """Hits in rank order, best first; empty unless the status is OK. detail is for people, in one line."""

    status: Status
    hits: tuple[SearchHit, ...] = ()
    detail: str = ""


@dataclass(frozen=True, slots=True)
class PageResult:
    """A page's title and whole text, both empty unless the status is OK. url is the one asked for."""

    status: Status
    url: str
    title: str = ""
    text: str = ""
    detail: str = ""


class Search(Protocol):
    """Finds pages; every query ends in a SearchResult with at most `count` hits."""

    async def search(self, query: str, count: int = 3) -> SearchResult: ...


class Access(Protocol):
    """Reads one page; every url ends in a PageResult."""

    async def access(self, url: str) -> PageResult: ...
