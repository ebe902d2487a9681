"""PrefixTree: from (weight version, tokens) to pages that already hold their KV.

A radix tree whose digit is one page of tokens: a node is one page, and its path from the root
spells every token before it, so equal paths mean equal KV. Sequences put pages in as soon as they
are computed, and a page begun, a tail, when a prompt or a reply ends in it. A prefix that ends or
parts within a page is found to the token. Each node holds its page in the pool; a page only the
tree holds may be evicted.
"""

from bisect import bisect_left, insort
from collections import OrderedDict
from dataclasses import dataclass

import numpy as np

from wideseek.engine.page_pool import PagePool

TOKEN_BYTES = 8
"""Of a token id in a key."""


class Node:
    """One cached page, `key` its tokens as bytes; a root has no page and stands for a version.

    Of a tail only the tokens of its key are known; it has no children. `order` sorts their keys.
    """

    __slots__ = ("children", "is_tail", "key", "order", "page", "parent")

    def __init__(self, parent: "Node | None", key: bytes, page: int, is_tail: bool = False) -> None:
        self.parent = parent
        self.key = key
        self.page = page
        self.is_tail = is_tail
        self.children: dict[bytes, Node] = {}
        self.order: list[bytes] = []


@dataclass(frozen=True, slots=True)
class Match:
    """What a tree knows of a sequence: whole `pages` [n] from the root to `node`, None without a tree.

    The next page begins with `num_shared` tokens that also begin the page of `fork`, a child.
    """

    node: Node | None
    pages: list[int]
    fork: Node | None = None
    num_shared: int = 0


class PrefixTree:
    """Finds, keeps and evicts cached pages; see the module's first lines.

    `_by_use` lists every node, least recently used first. A path is always touched from its end up
    to the root, so children stand before their parents, and eviction in order takes one trajectory
    from its end to where another shares it before it takes a page of the next.
    """

    def __init__(self, pool: PagePool) -> None:
        self._pool = pool
        self._roots: dict[int, Node] = {}
        self._by_use: OrderedDict[Node, None] = OrderedDict()

    def __len__(self) -> int:
        return len(self._by_use)

    def root(self, version: int) -> Node:
        """Where the sequences of one weight version start."""
        return self._roots.setdefault(version, Node(None, b"", -1))

    def match(self, version: int, keys: list[bytes], rest: bytes = b"") -> Match:
        """The deepest node reached by the leading page keys, and how far the next page goes on.

        rest: tokens after the last whole page. Touches the path; holds nothing for the caller.
        """
        node = self.root(version)
        pages: list[int] = []
        for key in keys:
            child = node.children.get(key)
            if child is None:
                rest = key
                break
            node = child
            pages.append(node.page)
        nearest, num_shared = longest_common(node.order, rest)
        fork = node.children[nearest] if num_shared else None
        self._touch(fork or node)
        return Match(node, pages, fork, num_shared)

    def insert(self, node: Node, keys: list[bytes], pages: list[int]) -> tuple[Node, list[int]]:
        """Add computed pages below `node`; the caller holds them and every page above.

        Where the tree has a page of the same tokens already, the caller's hold moves to that one
        and its own page is let go. Returns the last node and the pages the caller now holds.
        """
        kept: list[int] = []
        for key, page in zip(keys, pages, strict=True):
            child = node.children.get(key)
            if child is None:
                child = self._add(node, key, page)
            else:
                self._pool.hold((child.page,))
                self._pool.release((page,))
            kept.append(child.page)
            node = child
        self._touch(node)
        return node, kept

    def insert_tail(self, node: Node, key: bytes, page: int) -> Node | None:
        """Add a page of which the tokens of `key` are computed; the caller may go on filling it.

        None, and nothing added, if a page of the tree begins with these tokens already.
        """
        place = bisect_left(node.order, key)
        if place < len(node.order) and node.order[place].startswith(key):
            self._touch(node.children[node.order[place]])
            return None
        tail = self._add(node, key, page, is_tail=True)
        self._touch(tail)
        return tail

    def remove(self, leaf: Node) -> None:
        """Forget one page."""
        assert leaf.parent is not None and not leaf.children
        siblings = leaf.parent
        del siblings.children[leaf.key]
        del siblings.order[bisect_left(siblings.order, leaf.key)]
        del self._by_use[leaf]
        self._pool.uncache(leaf.page)

    def evict(self, count: int) -> None:
        """Free `count` of the pages held by the tree alone, least recently used first."""
        assert count <= self._pool.num_evictable, (count, self._pool.num_evictable)
        while count:
            node = next(iter(self._by_use))
            if self._pool.num_holders(node.page) > 1:
                self._touch(node)  # Held is in use; the next search does not meet it first.
            else:
                self.remove(node)
                count -= 1

    def clear(self) -> None:
        """Forget everything; the weights have changed."""
        for node in self._by_use:
            self._pool.uncache(node.page)
        self._by_use.clear()
        self._roots.clear()

    def pages(self) -> list[int]:
        return [node.page for node in self._by_use]

    def check(self) -> None:
        """Assert that the nodes are a tree, each page stands once, and children precede parents."""
        order = {node: index for index, node in enumerate(self._by_use)}
        pages = self.pages()
        assert len(set(pages)) == len(pages)
        assert all(self._pool.num_holders(page) > 0 for page in pages)
        reached = 0
        stack = list(self._roots.values())
        while stack:
            node = stack.pop()
            assert node.order == sorted(node.children) and not (node.is_tail and node.children)
            for key, child in node.children.items():
                assert child.parent is node and child.key == key
                assert node.parent is None or order[child] < order[node]
                reached += 1
                stack.append(child)
        assert reached == len(order)

    def _add(self, parent: Node, key: bytes, page: int, is_tail: bool = False) -> Node:
        """A new child; a tail that it goes on from is no longer needed, unless someone fills it."""
        place = bisect_left(parent.order, key)
        before = parent.children[parent.order[place - 1]] if place else None
        if (
            before is not None
            and before.is_tail
            and key.startswith(before.key)
            and self._pool.num_holders(before.page) == 1
        ):
            self.remove(before)
        child = Node(parent, key, page, is_tail)
        parent.children[key] = child
        insort(parent.order, key)
        self._by_use[child] = None
        self._pool.cache(page)
        return child

    def _touch(self, node: Node | None) -> None:
        while node is not None and node.parent is not None:
            self._by_use.move_to_end(node)
            node = node.parent


def longest_common(order: list[bytes], key: bytes) -> tuple[bytes, int]:
    """Of sorted keys one that begins most like `key`, and how many tokens they have in common."""
    # Whoever shares most with a key stands next to where the key would stand.
    place = bisect_left(order, key)
    best, most = b"", 0
    for other in order[max(place - 1, 0) : place + 1]:
        size = min(len(key), len(other)) // TOKEN_BYTES
        if size:
            differ = np.frombuffer(key, np.int64, size) != np.frombuffer(other, np.int64, size)
            common = int(differ.argmax()) if differ.any() else size
            if common > most:
                best, most = other, common
    return best, most
