"""PrefixTree against a dict of prefixes: what it finds, shares, keeps and forgets first."""

import numpy as np
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from wideseek.engine.page_pool import PagePool
from wideseek.engine.prefix_tree import PrefixTree

PAGE = 3


def keys_of(text: str) -> list[bytes]:
    """One page a word, one token a letter."""
    return [np.array([ord(letter) for letter in word]).tobytes() for word in text.split()]


def put(tree: PrefixTree, pool: PagePool, text: str) -> list[int]:
    """Insert whole pages that stay held by the caller."""
    keys = keys_of(text)
    _, kept = tree.insert(tree.root(0), keys, pool.take(len(keys)))
    return kept


def filled(num_pages: int, *paths: str) -> tuple[PagePool, PrefixTree]:
    """A tree that alone holds the pages of some paths, inserted in this order."""
    pool = PagePool(num_pages)
    tree = PrefixTree(pool)
    for path in paths:
        pool.release(put(tree, pool, path))
    return pool, tree


def found(tree: PrefixTree, text: str) -> int:
    """Tokens that match, touching what does."""
    match = tree.match(0, keys_of(text))
    return len(match.pages) * PAGE + match.num_shared


def test_whole_pages_match_and_the_next_to_the_token() -> None:
    pool, tree = filled(8, "aaa bbb ccc")
    match = tree.match(0, keys_of("aaa bbb ccx"))
    assert len(match.pages) == 2 and match.num_shared == 2
    assert match.fork is not None and match.fork.key == keys_of("ccc")[0]
    assert tree.match(0, keys_of("aaa bbb"), keys_of("c")[0]).num_shared == 1
    assert tree.match(0, keys_of("bbb")).fork is None
    tree.check()
    pool.check()


def test_of_many_children_the_one_that_shares_most_is_found() -> None:
    _, tree = filled(40, *(f"aaa {x}{y}{z}" for x in "bdf" for y in "bdf" for z in "bdf"))
    for text, shared in {"dfd": 3, "dfe": 2, "dee": 1, "cbb": 0, "dfa": 2, "fdz": 2}.items():
        assert found(tree, "aaa " + text) == PAGE + shared


def test_a_page_begun_is_found_as_far_as_it_goes() -> None:
    pool, tree = filled(8, "aaa")
    node = tree.match(0, keys_of("aaa")).node
    assert node is not None
    (page,) = pool.take(1)
    tail = tree.insert_tail(node, keys_of("bc")[0], page)
    match = tree.match(0, keys_of("aaa bcd"))
    assert tail is not None and match.fork is tail and match.num_shared == 2
    assert tree.insert_tail(node, keys_of("b")[0], pool.take(1)[0]) is None  # known already
    tree.check()


def test_a_page_begun_makes_way_for_one_that_goes_on_from_it_unless_it_is_held() -> None:
    pool, tree = filled(8)
    root = tree.root(0)
    held, done = pool.take(2)
    tree.insert_tail(root, keys_of("a")[0], done)
    pool.release([done])
    tree.insert_tail(root, keys_of("b")[0], held)
    pool.release(put(tree, pool, "aaa") + put(tree, pool, "bbb"))
    assert {*root.children} == {*keys_of("aaa b"), *keys_of("bbb")}
    tree.check()
    pool.check()


def test_the_weight_version_is_part_of_the_key() -> None:
    _, tree = filled(8, "aaa")
    match = tree.match(1, keys_of("aaa"))
    assert match.pages == [] and match.fork is None


def test_the_page_computed_twice_is_kept_once() -> None:
    pool, tree = filled(8, "aaa")
    (kept,) = tree.match(0, keys_of("aaa")).pages
    own = pool.take(1)
    _, pages = tree.insert(tree.root(0), keys_of("aaa"), own)
    assert pages == [kept] and pool.num_holders(kept) == 2 and pool.num_holders(own[0]) == 0


def test_eviction_takes_the_leaf_unused_for_longest() -> None:
    _, tree = filled(8, "aaa bbb", "xxx")
    found(tree, "aaa")  # b is now the oldest, then x, then a
    tree.evict(1)
    assert found(tree, "aaa bbb") == PAGE
    tree.evict(1)
    assert found(tree, "xxx") == 0
    assert found(tree, "aaa") == PAGE


def test_eviction_takes_all_of_one_trajectory_before_the_next() -> None:
    _, tree = filled(20, "sss abc aaa aab", "sss bbb bba bbc bbd", "sss ccc cca")
    found(tree, "sss abc aaa aab")  # now b is the oldest
    tree.evict(4)
    assert found(tree, "sss bbb bba bbc bbd") == PAGE  # what others share stays
    assert found(tree, "sss abc aaa aab") == 4 * PAGE and found(tree, "sss ccc cca") == 3 * PAGE


def test_held_pages_are_not_evicted() -> None:
    pool, tree = filled(8, "aaa bbb", "xxx")
    pool.hold(tree.match(0, keys_of("aaa bbb")).pages)
    found(tree, "xxx")
    found(tree, "aaa")  # the held path is now partly older than x and partly younger
    assert pool.num_evictable == 1
    tree.evict(1)
    assert len(tree) == 2 and found(tree, "xxx") == 0
    tree.check()


def test_clear_lets_go_of_everything_but_what_others_hold() -> None:
    pool, tree = filled(4, "aaa bbb")
    held = tree.match(0, keys_of("aaa")).pages
    pool.hold(held)
    tree.clear()
    assert len(tree) == 0 and pool.num_free == 3
    assert found(tree, "aaa") == 0


WORDS = st.lists(st.text("ab", min_size=PAGE, max_size=PAGE), min_size=1, max_size=4)


class TreeMachine(RuleBasedStateMachine):
    """Sequences come, reuse, compute and go; the oracle knows each prefix and its page."""

    @initialize(num_pages=st.integers(2, 12))
    def start(self, num_pages: int) -> None:
        self.pool = PagePool(num_pages)
        self.tree = PrefixTree(self.pool)
        self.version = 0
        self.cached: dict[str, int] = {}  # text of whole pages and of pages begun
        self.held: list[list[int]] = []

    def known(self, text: str) -> int:
        """Leading letters of a text that some cached one begins with."""
        return max(
            (n for n in range(len(text) + 1) if any(c.startswith(text[:n]) for c in self.cached)),
            default=0,
        )

    def drop_gone(self) -> None:
        """The oracle forgets what the tree has forgotten; no page may have moved."""
        left = set(self.tree.pages())
        self.cached = {text: page for text, page in self.cached.items() if page in left}

    @rule(words=WORDS, num_rest=st.integers(0, PAGE - 1))
    def compute(self, words: list[str], num_rest: int) -> None:
        """A sequence takes what is cached, computes the rest and publishes it."""
        text = "".join(words)
        rest = "ab"[:num_rest]
        keys, rest_key = keys_of(" ".join(words)), keys_of(rest)[0] if rest else b""
        match = self.tree.match(self.version, keys, rest_key)
        assert len(match.pages) * PAGE + match.num_shared == self.known(text + rest)
        missing = len(words) - len(match.pages)
        if missing + 1 > self.pool.num_free:
            return
        self.pool.hold(match.pages)
        assert match.node is not None
        fresh = self.pool.take(missing + 1)
        node, kept = self.tree.insert(match.node, keys[len(match.pages) :], fresh[:-1])
        for number in range(len(match.pages), len(words)):
            self.cached[text[: (number + 1) * PAGE]] = fresh[number - len(match.pages)]
        if rest and self.tree.insert_tail(node, rest_key, fresh[-1]) is not None:
            self.cached[text + rest] = fresh[-1]
        assert kept == fresh[:-1]
        self.drop_gone()
        self.held.append([*match.pages, *fresh])

    @rule(words=WORDS)
    def compute_without_looking(self, words: list[str]) -> None:
        """A sequence computes what may be cached already; the cached page wins."""
        if len(words) > self.pool.num_free:
            return
        own = self.pool.take(len(words))
        keys = keys_of(" ".join(words))
        _, kept = self.tree.insert(self.tree.root(self.version), keys, own)
        for number, page in enumerate(kept):
            text = "".join(words[: number + 1])
            assert page == self.cached.setdefault(text, own[number])
        self.drop_gone()
        self.held.append(kept)

    @precondition(lambda self: self.held)
    @rule(data=st.data())
    def leave(self, data: st.DataObject) -> None:
        index = data.draw(st.integers(0, len(self.held) - 1))
        self.pool.release(self.held.pop(index))

    @rule(share=st.floats(0, 1))
    def evict(self, share: float) -> None:
        in_use = {page for pages in self.held for page in pages}
        evictable = [page for page in self.cached.values() if page not in in_use]
        assert self.pool.num_evictable == len(evictable)
        count = int(share * len(evictable))
        before = self.pool.num_free
        self.tree.evict(count)
        assert self.pool.num_free == before + count
        self.drop_gone()
        for text in self.cached:  # of a path only the end goes
            whole = (len(text) - 1) // PAGE * PAGE
            assert all(text[:n] in self.cached for n in range(PAGE, whole + 1, PAGE))

    @rule()
    def new_weights(self) -> None:
        for pages in self.held:
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
        in_use = {page for pages in self.held for page in pages} | set(self.cached.values())
        assert self.pool.num_free == self.pool.num_pages - len(in_use)


TestTreeMachine = TreeMachine.TestCase
TestTreeMachine.settings = settings(max_examples=80, stateful_step_count=30, deadline=None)
