"""PrefixTree: from (weight version, tokens) to pages that already hold their KV.

A radix tree whose digit is one page of tokens: a node is one whole page, and its path from the root
spells every token before it, so equal paths mean equal KV. Sequences put pages in as soon as they
are computed. Each node holds its page in the pool; a page only the tree holds may be evicted.
"""

from collections import OrderedDict

from wideseek.engine.page_pool import PagePool


class Node:
    """One cached page, `key` its tokens as bytes; a root has no page and stands for a version."""

    __slots__ = ("children", "key", "page", "parent")

    def __init__(self, parent: "Node | None", key: bytes, page: int) -> None:
        self.parent = parent
        self.key = key
        self.page = page
        self.children: dict[bytes, Node] = {}


class PrefixTree:
    """Finds, keeps and evicts cached pages; see the module's first lines.

    `_by_use` lists every node, least recently used first. A path is always touched from its end up
    to the root, so children stand before their parents and eviction in order meets leaves first.
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

    def match(self, version: int, keys: list[bytes]) -> tuple[Node, list[int]]:
        """The deepest node reached by the leading page keys, and the pages on the way to it.

        Touches the path; holds nothing for the caller.
        """
        node = self.root(version)
        pages: list[int] = []
        for key in keys:
            child = node.children.get(key)
            if child is None:
                break
            node = child
            pages.append(node.page)
        self._touch(node)
        return node, pages

    def insert(self, node: Node, keys: list[bytes], pages: list[int]) -> tuple[Node, list[int]]:
        """Add computed pages below `node`; the caller holds them and every page above.

        Where the tree has a page of the same tokens already, the caller's hold moves to that one
        and its own page is let go. Returns the last node and the pages the caller now holds.
        """
        kept: list[int] = []
        for key, page in zip(keys, pages, strict=True):
            child = node.children.get(key)
            if child is None:
                child = Node(node, key, page)
                node.children[key] = child
                self._by_use[child] = None
                self._pool.hold((page,))
            else:
                self._pool.hold((child.page,))
                self._pool.release((page,))
            kept.append(child.page)
            node = child
        self._touch(node)
        return node, kept

    def evict(self, count: int) -> bool:
        """Free `count` pages held by the tree alone, least recently used first; all or none."""
        victims: list[Node] = []
        for node in self._by_use:
            if len(victims) == count:
                break
            if self._pool.num_holders(node.page) == 1:
                victims.append(node)
        if len(victims) < count:
            return False
        for node in victims:
            assert node.parent is not None and not node.children
            del node.parent.children[node.key]
            del self._by_use[node]
            self._pool.release((node.page,))
        return True

    def clear(self) -> None:
        """Forget everything; the weights have changed."""
        self._pool.release(node.page for node in self._by_use)
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
            for key, child in node.children.items():
                assert child.parent is node and child.key == key
                assert node.parent is None or order[child] < order[node]
                reached += 1
                stack.append(child)
        assert reached == len(order)

    def _touch(self, node: Node | None) -> None:
        while node is not None and node.parent is not None:
            self._by_use.move_to_end(node)
            node = node.parent
