"""KvCache: which pages hold whose KV, from one sequence to the next."""

from bisect import insort

from wideseek.engine.page_pool import PagePool
from wideseek.engine.prefix_tree import TOKEN_BYTES, Match, Node, PrefixTree, longest_common
from wideseek.engine.sequence import Sequence
from wideseek.engine.sessions import Sessions

Begun = dict[Node, list[bytes]]
"""Pages that a step computes tokens of: their tokens, sorted, by the node they come after."""


class KvCache:
    """Gives sequences their pages and takes them back, shared through the tree where there is one.

    Pages are held by running sequences, by sessions between their calls, and by the tree.
    """

    def __init__(self, pool: PagePool, tree: PrefixTree | None, page_size: int) -> None:
        self.pool = pool
        self.tree = tree
        self.page_size = page_size
        self.sessions = Sessions(pool)
        self._version = 0

    def clear(self, version: int) -> None:
        """Forget all KV, of which no sequence holds any more; what comes is of these weights."""
        self._version = version
        self.sessions.clear()
        if self.tree is not None:
            self.tree.clear()

    def pages_for(self, num_tokens: int) -> int:
        return -(-num_tokens // self.page_size)

    def match(self, sequence: Sequence) -> Match:
        """What the tree knows of a sequence before any token whose logits are wanted."""
        if self.tree is None:
            return Match(None, [])
        end = _num_reusable(sequence)
        whole = end // self.page_size
        return self.tree.match(
            self._version, self._keys(sequence, 0, whole), self._key(sequence, end, end)
        )

    def begin(self, sequence: Sequence, begun: Begun) -> None:
        """The page of the next tokens of a sequence is being computed."""
        if sequence.node is not None:
            key = self._key(sequence, sequence.num_computed, sequence.num_tokens)
            insort(begun.setdefault(sequence.node, []), key)

    def is_begun(self, sequence: Sequence, match: Match, begun: Begun) -> bool:
        """Whether a good part of the next page of a sequence is being computed for another."""
        others = begun.get(match.node) if match.node is not None else None
        if others is None:
            return False
        key = self._key(sequence, len(match.pages) * self.page_size, _num_reusable(sequence))
        _, num_common = longest_common(others, key)
        return num_common - match.num_shared > self.page_size // 4

    def hold(self, sequence: Sequence, match: Match) -> list[int]:
        """Hold for a sequence what matches as it is: whole pages, and a page begun where that ends
        just where the sequence goes on, if nobody else fills it. Returns these pages."""
        held, fork = match.pages, match.fork
        if fork is not None and fork.is_tail and match.num_shared * TOKEN_BYTES == len(fork.key):
            is_own = fork.page in sequence.session.pages[-1:]
            if self.pool.num_holders(fork.page) == 1 + is_own:
                held = [*held, fork.page]
        self.pool.hold(held)
        return held

    def start(self, sequence: Sequence, match: Match, held: list[int]) -> list[tuple[int, int]]:
        """Make `held` the pages of a sequence and add free ones for the rest of its tokens.

        Returns the page that is to be copied, and to which, where only a part of it matches.
        """
        self.sessions.take(sequence.session)
        sequence.pages[: len(held)] = held
        sequence.num_pages = len(held)
        self.add_pages(sequence, self.pages_for(sequence.num_tokens + 1) - len(held))
        sequence.node = match.node
        sequence.num_computed = len(match.pages) * self.page_size + match.num_shared
        if match.fork is None:
            return []
        if len(held) > len(match.pages):
            sequence.tail = match.fork
            return []
        # May be evicted by now, and be another's page: all copies come before the step writes.
        return [(match.fork.page, int(sequence.pages[len(held)]))]

    def add_pages(self, sequence: Sequence, count: int) -> None:
        end = sequence.num_pages + count
        sequence.pages[sequence.num_pages : end] = self.pool.take(count)
        sequence.num_pages = end

    def make_room(
        self,
        count: int,
        idle_since: int,
        *,
        reserve: int = 0,
        younger_than: int | None = None,
    ) -> bool:
        """See that `count` pages are free, and `reserve` more could be made so.

        What only the tree holds is evicted; where that is not enough, sessions let go: those idle
        since that step, then those that began after session number younger_than.
        """
        pool = self.pool
        while pool.num_free + pool.num_evictable < count + reserve:
            if not self.sessions.let_go(idle_since, younger_than):
                return False
        if pool.num_free < count:
            assert self.tree is not None
            self.tree.evict(count - pool.num_free)
        return True

    def publish(self, sequence: Sequence, computed_before: int) -> None:
        """Put into the tree what has been computed since: the pages that were filled, and of the
        last one what is there when the prompt or all is done."""
        size, done = self.page_size, sequence.num_computed
        first, end = computed_before // size, done // size
        ended = sequence.finish_reason is not None or computed_before < sequence.num_prompt <= done
        ends_within = ended and done % size > 0
        if self.tree is None or (first == end and not ends_within):
            return
        assert sequence.node is not None
        if sequence.tail is not None:
            self.tree.remove(sequence.tail)
            sequence.tail = None
        if first < end:
            pages = sequence.pages[first:end].tolist()
            keys = self._keys(sequence, first, end)
            sequence.node, sequence.pages[first:end] = self.tree.insert(sequence.node, keys, pages)
        if ends_within:
            key = self._key(sequence, done, done)
            sequence.tail = self.tree.insert_tail(sequence.node, key, int(sequence.pages[end]))

    def keep(self, sequence: Sequence, step: int) -> None:
        """The session of a sequence that came to its end holds what it computed."""
        if self.tree is not None and sequence.session_path:
            count = sequence.num_computed // self.page_size + (sequence.tail is not None)
            self.sessions.keep(sequence.session, sequence.pages[:count].tolist(), step)

    def release(self, sequence: Sequence) -> None:
        """Take its pages from a sequence."""
        self.pool.release(sequence.pages[: sequence.num_pages].tolist())
        sequence.num_pages = 0
        sequence.num_computed = 0
        sequence.node = sequence.tail = None

    def check(self, running: list[Sequence]) -> None:
        """Assert that who holds a page are the sequences, sessions and nodes that name it."""
        self.pool.check()
        holders = [0] * self.pool.num_pages
        for sequence in running:
            assert sequence.num_pages * self.page_size >= sequence.num_computed
            for page in sequence.pages[: sequence.num_pages].tolist():
                holders[page] += 1
        for page in self.sessions.pages():
            holders[page] += 1
        if self.tree is not None:
            self.tree.check()
            for page in self.tree.pages():
                holders[page] += 1
        assert holders == [self.pool.num_holders(page) for page in range(self.pool.num_pages)]

    def _key(self, sequence: Sequence, position: int, end: int) -> bytes:
        """Tokens of the page of a position, at most to `end`, as the tree has them."""
        first = position // self.page_size * self.page_size
        return sequence.tokens[first : min(first + self.page_size, end)].tobytes()

    def _keys(self, sequence: Sequence, first: int, end: int) -> list[bytes]:
        """Tokens of the whole pages first to end, as the tree has them."""
        size = self.page_size
        return [sequence.tokens[i * size : (i + 1) * size].tobytes() for i in range(first, end)]


def _num_reusable(sequence: Sequence) -> int:
    """Leading tokens that need not be computed: those before any whose logits are wanted."""
    return (sequence.num_prompt if sequence.is_scored else sequence.num_tokens) - 1
