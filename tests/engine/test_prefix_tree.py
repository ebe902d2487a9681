"""PrefixTree against a dict of prefixes: what it finds, shares, keeps and forgets first."""

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from wideseek.engine.page_pool import PagePool
from wideseek.engine.prefix_tree import PrefixTree

Prefix = tuple[bytes, ...]


def filled(num_pages: int, *paths: list[bytes]) -> tuple[PagePool, PrefixTree]:
    """A tree that alone holds the pages of some paths, inserted in this order."""
    pool = PagePool(num_pages)
    tree = PrefixTree(pool)
    for path in paths:
        pages = pool.take(len(path))
        _, kept = tree.insert(tree.root(0), path, pages)
        pool.release(kept)
    return pool, tree


def test_only_whole_equal_pages_match() -> None:
    pool, tree = filled(8, [b"a", b"b", b"c"])
    _, found = tree.match(0, [b"a", b"b", b"x"])
    assert len(found) == 2
    assert tree.match(0, [b"b"])[1] == []
    tree.check()
    pool.check()


def test_the_weight_version_is_part_of_the_key() -> None:
    _, tree = filled(8, [b"a"])
    assert tree.match(1, [b"a"])[1] == []


def test_the_page_computed_twice_is_kept_once() -> None:
    pool, tree = filled(8, [b"a"])
    (kept,) = tree.match(0, [b"a"])[1]
    own = pool.take(1)
    _, pages = tree.insert(tree.root(0), [b"a"], own)
    assert pages == [kept] and pool.num_holders(kept) == 2 and pool.num_holders(own[0]) == 0


def test_eviction_takes_the_leaf_unused_for_longest() -> None:
    _, tree = filled(8, [b"a", b"b"], [b"x"])
    tree.match(0, [b"a"])  # b is now the oldest, then x, then a
    assert tree.evict(1)
    assert len(tree.match(0, [b"a", b"b"])[1]) == 1
    assert tree.evict(1)
    assert tree.match(0, [b"x"])[1] == []
    assert len(tree.match(0, [b"a"])[1]) == 1


def test_held_pages_are_not_evicted_and_a_short_eviction_changes_nothing() -> None:
    pool, tree = filled(8, [b"a", b"b"], [b"x"])
    pool.hold(tree.match(0, [b"a", b"b"])[1])
    assert not tree.evict(2)
    assert len(tree) == 3
    assert tree.evict(1)
    assert len(tree) == 2 and tree.match(0, [b"x"])[1] == []


def test_clear_lets_go_of_everything_but_what_others_hold() -> None:
    pool, tree = filled(4, [b"a", b"b"])
    held = tree.match(0, [b"a"])[1]
    pool.hold(held)
    tree.clear()
    assert len(tree) == 0 and pool.num_free == 3
    assert tree.match(0, [b"a"])[1] == []


KEYS = st.lists(st.sampled_from([b"a", b"b"]), min_size=1, max_size=4)


class TreeMachine(RuleBasedStateMachine):
    """Sequences come, reuse, compute and go; the oracle knows each prefix, its page and its use."""

    @initialize(num_pages=st.integers(2, 12))
    def start(self, num_pages: int) -> None:
        self.pool = PagePool(num_pages)
        self.tree = PrefixTree(self.pool)
        self.version = 0
        self.clock = 0
        self.cached: dict[Prefix, int] = {}
        self.used: dict[Prefix, tuple[int, int]] = {}
        self.held: list[tuple[Prefix, list[int]]] = []

    def use(self, prefix: Prefix) -> None:
        self.clock += 1
        for depth in range(1, len(prefix) + 1):
            self.used[prefix[:depth]] = (self.clock, -depth)

    @rule(keys=KEYS)
    def compute(self, keys: list[bytes]) -> None:
        """A sequence takes what is cached, computes the rest and publishes it."""
        prefix = tuple(keys)
        node, found = self.tree.match(self.version, keys)
        known = max((n for n in range(len(keys) + 1) if prefix[:n] in self.cached), default=0)
        assert found == [self.cached[prefix[: n + 1]] for n in range(known)]
        self.use(prefix[:known])
        missing = len(keys) - known
        if missing > self.pool.num_free:
            return
        self.pool.hold(found)
        fresh = self.pool.take(missing)
        assert not set(fresh) & set(self.cached.values()), "a cached page was handed out"
        _, kept = self.tree.insert(node, keys[known:], fresh)
        assert kept == fresh
        for n in range(known, len(keys)):
            self.cached[prefix[: n + 1]] = fresh[n - known]
        self.use(prefix)
        self.held.append((prefix, found + kept))

    @rule(keys=KEYS)
    def compute_without_looking(self, keys: list[bytes]) -> None:
        """A sequence computes what may be cached already; the cached page wins."""
        if len(keys) > self.pool.num_free:
            return
        prefix = tuple(keys)
        own = self.pool.take(len(keys))
        _, kept = self.tree.insert(self.tree.root(self.version), keys, own)
        for n in range(len(keys)):
            assert kept[n] == self.cached.setdefault(prefix[: n + 1], own[n])
        self.use(prefix)
        self.held.append((prefix, kept))

    @precondition(lambda self: self.held)
    @rule(data=st.data())
    def leave(self, data: st.DataObject) -> None:
        index = data.draw(st.integers(0, len(self.held) - 1))
        self.pool.release(self.held.pop(index)[1])

    @rule(count=st.integers(1, 6))
    def evict(self, count: int) -> None:
        in_use = {page for _, pages in self.held for page in pages}
        cached = dict(self.cached)
        for _ in range(count):
            leaves = [
                prefix
                for prefix, page in cached.items()
                if page not in in_use
                and not any(len(p) == len(prefix) + 1 and p[:-1] == prefix for p in cached)
            ]
            if not leaves:
                assert not self.tree.evict(count)
                return
            del cached[min(leaves, key=lambda prefix: self.used[prefix])]
        assert self.tree.evict(count)
        self.cached = cached

    @rule()
    def new_weights(self) -> None:
        for _, pages in self.held:
            self.pool.release(pages)
        self.held.clear()
        self.tree.clear()
        self.cached.clear()
        self.version += 1
        assert self.pool.num_free == self.pool.num_pages

    @invariant()
    def sound(self) -> None:
        self.pool.check()
        self.tree.check()
        assert sorted(self.tree.pages()) == sorted(self.cached.values())
        in_use = {page for _, pages in self.held for page in pages} | set(self.cached.values())
        assert self.pool.num_free == self.pool.num_pages - len(in_use)


TestTreeMachine = TreeMachine.TestCase
TestTreeMachine.settings = settings(max_examples=80, stateful_step_count=30, deadline=None)
