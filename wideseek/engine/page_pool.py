"""PagePool: the one owner of KV pages. Free + held = total, always."""

from collections.abc import Iterable


class PagePool:
    """Counts who holds each of `num_pages` pages; a page nobody holds is free.

    Holders are Sequences, Sessions and the PrefixTree. The pool knows page numbers only: the memory
    behind them belongs to the ModelRunner. `num_evictable` pages are held by the tree alone.
    """

    def __init__(self, num_pages: int) -> None:
        assert num_pages > 0, num_pages
        self.num_pages = num_pages
        self.num_evictable = 0
        self._holders = [0] * num_pages
        self._cached = [False] * num_pages
        self._free = list(range(num_pages - 1, -1, -1))

    @property
    def num_free(self) -> int:
        return len(self._free)

    def num_holders(self, page: int) -> int:
        return self._holders[page]

    def take(self, count: int) -> list[int]:
        """Hand out `count` free pages with one holder each; the caller has made sure they exist."""
        assert 0 <= count <= len(self._free), (count, len(self._free))
        pages = [self._free.pop() for _ in range(count)]
        for page in pages:
            self._holders[page] = 1
        return pages

    def hold(self, pages: Iterable[int]) -> None:
        """Add a holder to each page; only pages held already can be shared."""
        for page in pages:
            assert self._holders[page] > 0, page
            self.num_evictable -= self._cached[page] and self._holders[page] == 1
            self._holders[page] += 1

    def release(self, pages: Iterable[int]) -> None:
        """Take a holder off each page; the last one frees it."""
        for page in pages:
            assert self._holders[page] > self._cached[page], page
            self._holders[page] -= 1
            if self._holders[page] == 0:
                self._free.append(page)
            self.num_evictable += self._cached[page] and self._holders[page] == 1

    def cache(self, page: int) -> None:
        """The tree becomes a holder of a page that another holds."""
        assert not self._cached[page], page
        self.hold((page,))
        self._cached[page] = True

    def uncache(self, page: int) -> None:
        """The tree holds the page no longer."""
        assert self._cached[page], page
        self.num_evictable -= self._holders[page] == 1
        self._cached[page] = False
        self.release((page,))

    def check(self) -> None:
        """Assert conservation: every page is either free, once, or held."""
        assert len(set(self._free)) == len(self._free)
        assert all(
            count >= cached for count, cached in zip(self._holders, self._cached, strict=True)
        )
        assert sorted(self._free) == [p for p, count in enumerate(self._holders) if count == 0]
        alone = zip(self._holders, self._cached, strict=True)
        assert self.num_evictable == sum(cached and count == 1 for count, cached in alone)
