"""Keeps an evaluated agent from the benchmark's own pages, and finds those it read all the same.

Pages of benchmarks are neither shown by a search nor opened, and every time the guard steps in is
in the run's events. Texts that carry a canary, by which benchmark data asks not to be read, are
found afterwards in what a run has read.
"""

import re
import tomllib
from dataclasses import dataclass, replace
from functools import cache
from importlib.resources import files
from urllib.parse import unquote

from wideseek.tools.outcome import Access, PageResult, Search, SearchResult, Status

REFUSAL = "pages of benchmarks are out of bounds"
"""What the detail of a guarded outcome ends in."""


@dataclass(frozen=True, slots=True)
class Guard:
    """Which urls belong to benchmarks, and which marks their texts carry."""

    urls: re.Pattern[str]
    canaries: tuple[str, ...]

    def blocks(self, url: str) -> bool:
        """Does the url lead to a benchmark, directly or through a proxy that holds it?"""
        plain = re.sub(r":\d+(?=/|$)", "", unquote(unquote(url)).casefold())
        return self.urls.search(plain) is not None

    def count_canaries(self, text: str) -> int:
        """How many of the marks stand in a text."""
        folded = " ".join(text.casefold().split())
        return sum(canary in folded for canary in self.canaries)


@cache
def load_guard() -> Guard:
    """The guard of contamination.toml."""
    source = files("wideseek_eval") / "contamination.toml"
    told = tomllib.loads(source.read_text(encoding="utf-8"))
    hosts = ("github.com", "githubusercontent.com")
    places = [*told["places"], *(f"{h}/{name}" for name in told["repositories"] for h in hosts)]
    either = "|".join(map(_pattern, places))
    urls = re.compile(rf"(?:^|[/.@=])(?:{either})")
    return Guard(urls, tuple(canary.casefold() for canary in told["canaries"]))


def _pattern(place: str) -> str:
    """A host must end where it ends; a path may go on below, or end in what a version adds."""
    end = r"(?:v\d+)?(?:\.git|\.pdf)?(?![\w-])" if "/" in place else r"(?![\w.-])"
    return re.escape(place.casefold()) + end


class GuardedTools:
    """Search and access without the pages of benchmarks."""

    def __init__(self, search: Search, access: Access, guard: Guard) -> None:
        self._search = search
        self._access = access
        self._guard = guard

    async def search(self, query: str, count: int = 3) -> SearchResult:
        """Hits that lead to a benchmark are left out, and the detail says how many."""
        result = await self._search.search(query, count)
        kept = tuple(hit for hit in result.hits if not self._guard.blocks(hit.url))
        if len(kept) == len(result.hits):
            return result
        status = result.status if kept else Status.NO_RESULTS
        detail = f"{len(result.hits) - len(kept)} hits left out: {REFUSAL}"
        return replace(result, status=status, hits=kept, detail=detail)

    async def access(self, url: str) -> PageResult:
        """A benchmark's page is refused unread."""
        if self._guard.blocks(url):
            return PageResult(Status.REFUSED_URL, url, detail=REFUSAL)
        return await self._access.access(url)
