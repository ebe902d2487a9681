"""Scheduler: which Sequences run this step and how many tokens each.

Everyone finishes: the oldest running sequence can always take pages from younger ones, the head of
the queue is admitted whenever nothing runs, and no sequence is longer than the pool.
"""

from collections import deque
from dataclasses import dataclass

from wideseek.engine.page_pool import PagePool
from wideseek.engine.prefix_tree import Node, PrefixTree
from wideseek.engine.sequence import Sequence


@dataclass(frozen=True, slots=True)
class Step:
    """One forward: `num_tokens[i]` uncomputed tokens of `sequences[i]`, whose pages are in place.

    A sequence whose last known token is among them is sampled.
    """

    sequences: list[Sequence]
    num_tokens: list[int]

    @property
    def sampled(self) -> list[Sequence]:
        """The sequences that get a next token, in order."""
        pairs = zip(self.sequences, self.num_tokens, strict=True)
        return [sequence for sequence, count in pairs if sequence.num_uncomputed == count]


@dataclass(frozen=True, slots=True)
class Sampled:
    """Next tokens of `Step.sampled`, with the log-probabilities of `generation.Completion`."""

    token_ids: list[int]
    logprobs: list[float]
    plain_logprobs: list[float]


@dataclass(slots=True)
class Counters:
    """Running totals; what is computed or found again after a preemption counts again."""

    prefix_hit_tokens: int = 0
    prefill_tokens_computed: int = 0
    generated_tokens: int = 0
    preemptions: int = 0
    steps: int = 0


class Scheduler:
    """Continuous batching with chunked prefill over one PagePool.

    A step takes every sequence that decodes, then prompts in chunks, oldest first, up to
    max_batch_tokens. `running` is in order of admission; when pages run out its youngest goes back
    to the head of `waiting` and is computed again later, mostly from the tree. Without a tree
    nothing is shared.
    """

    def __init__(
        self,
        pool: PagePool,
        tree: PrefixTree | None,
        *,
        page_size: int,
        max_num_seqs: int,
        max_batch_tokens: int,
    ) -> None:
        assert max_batch_tokens >= max_num_seqs, (max_batch_tokens, max_num_seqs)
        self.pool = pool
        self.tree = tree
        self.waiting: deque[Sequence] = deque()
        self.running: list[Sequence] = []
        self.counters = Counters()
        self._version = 0
        self._page_size = page_size
        self._max_num_seqs = max_num_seqs
        self._max_batch_tokens = max_batch_tokens

    def submit(self, sequence: Sequence) -> None:
        """Queue a sequence; it must fit into the whole pool."""
        assert len(sequence.pages) <= self.pool.num_pages
        self.waiting.append(sequence)

    def cancel(self, sequence: Sequence) -> None:
        """Take out a sequence that waits or runs, and free its pages."""
        if sequence in self.running:
            self.running.remove(sequence)
            self._release(sequence)
        else:
            self.waiting.remove(sequence)
        sequence.finish_reason = "cancelled"

    def reset(self, version: int) -> None:
        """The weights are now `version`: all KV is forgotten, what runs will be computed again."""
        self._version = version
        while self.running:
            self._preempt()
        if self.tree is not None:
            self.tree.clear()

    def schedule(self) -> Step | None:
        """Choose the next step and place its pages; None when there is nothing to do."""
        step = Step([], [])
        self._add_decodes(step)
        budget = self._max_batch_tokens - len(step.sequences)
        budget, frontiers = self._add_chunks(step, budget)
        self._admit(step, budget, frontiers)
        return step if step.sequences else None

    def commit(self, step: Step, sampled: Sampled) -> list[Sequence]:
        """Enter what a step computed and sampled; returns the sequences it finished."""
        self.counters.steps += 1
        self.counters.generated_tokens += len(sampled.token_ids)
        chosen = step.sampled
        for sequence, count in zip(step.sequences, step.num_tokens, strict=True):
            if count > 1 or sequence.num_computed < sequence.num_prompt:
                self.counters.prefill_tokens_computed += count
            sequence.num_computed += count
            self._publish(sequence, count)
        results = zip(sampled.token_ids, sampled.logprobs, sampled.plain_logprobs, strict=True)
        for sequence, result in zip(chosen, results, strict=True):
            sequence.append(*result)
        finished = [sequence for sequence in chosen if sequence.finish_reason is not None]
        for sequence in finished:
            self.running.remove(sequence)
            self._release(sequence)
        return finished

    def drop_all(self) -> None:
        """Take out every sequence and free its pages, as after a failed step."""
        for sequence in self.running:
            self._release(sequence)
        self.running.clear()
        self.waiting.clear()

    def check(self) -> None:
        """Assert that the holders of every page are the sequences and nodes that name it."""
        self.pool.check()
        holders = [0] * self.pool.num_pages
        for sequence in self.running:
            assert sequence.num_pages * self._page_size >= sequence.num_computed
            for page in sequence.pages[: sequence.num_pages].tolist():
                holders[page] += 1
        assert all(sequence.num_pages == 0 for sequence in self.waiting)
        if self.tree is not None:
            self.tree.check()
            for page in self.tree.pages():
                holders[page] += 1
        assert holders == [self.pool.num_holders(page) for page in range(self.pool.num_pages)]

    def _add_decodes(self, step: Step) -> None:
        """Every running sequence with one token to compute; a new page may cost the youngest."""
        index = 0
        while index < len(self.running):
            sequence = self.running[index]
            if sequence.num_uncomputed == 1 and self._grow(sequence):
                step.sequences.append(sequence)
                step.num_tokens.append(1)
            index += 1

    def _grow(self, sequence: Sequence) -> bool:
        """Make sure the last known token has a page; False if the sequence itself had to go."""
        if sequence.num_pages * self._page_size >= sequence.num_tokens:
            return True
        while not self._make_room(1):
            if self._preempt() is sequence:
                return False
        self._add_pages(sequence, 1)
        return True

    def _add_chunks(self, step: Step, budget: int) -> tuple[int, set[tuple[Node, bytes]]]:
        """Prompts that are under way, oldest first. Returns the budget left and the pages begun."""
        frontiers: set[tuple[Node, bytes]] = set()
        for sequence in self.running:
            if budget and sequence.num_uncomputed > 1:
                budget -= self._add_chunk(step, budget, sequence, frontiers)
        return budget, frontiers

    def _add_chunk(
        self, step: Step, budget: int, sequence: Sequence, frontiers: set[tuple[Node, bytes]]
    ) -> int:
        count = min(budget, sequence.num_uncomputed)
        step.sequences.append(sequence)
        step.num_tokens.append(count)
        frontier = self._frontier(sequence.node, sequence, sequence.num_computed)
        if frontier is not None:
            frontiers.add(frontier)
        return count

    def _admit(self, step: Step, budget: int, frontiers: set[tuple[Node, bytes]]) -> None:
        """Start waiting sequences, first come first served, as pages, seats and budget allow.

        One whose next page another is computing right now is passed over: it finds the page in
        the tree a step later instead of computing it as well.
        """
        passed_over: list[Sequence] = []
        while self.waiting and budget and len(self.running) < self._max_num_seqs:
            sequence = self.waiting.popleft()
            node, pages = self._match(sequence)
            num_cached = len(pages) * self._page_size
            if self._frontier(node, sequence, num_cached) in frontiers:
                passed_over.append(sequence)
                continue
            if not self._place(sequence, pages):
                self.waiting.appendleft(sequence)
                break
            sequence.node = node
            sequence.num_computed = num_cached
            if sequence.cached_tokens is None:
                sequence.cached_tokens = num_cached
            self.counters.prefix_hit_tokens += num_cached
            self.running.append(sequence)
            budget -= self._add_chunk(step, budget, sequence, frontiers)
        self.waiting.extendleft(reversed(passed_over))

    def _match(self, sequence: Sequence) -> tuple[Node | None, list[int]]:
        """Cached pages of a sequence; its last token is always computed, for its logits."""
        if self.tree is None:
            return None, []
        keys = self._keys(sequence, 0, (sequence.num_tokens - 1) // self._page_size)
        return self.tree.match(self._version, keys)

    def _place(self, sequence: Sequence, cached: list[int]) -> bool:
        """Give a waiting sequence the cached pages and new ones for the rest of its tokens.

        Leaves a page for each running sequence to grow, so that no one is admitted only to be
        preempted; False, and nothing changed, if there are not so many.
        """
        self.pool.hold(cached)
        missing = -(-(sequence.num_tokens + 1) // self._page_size) - len(cached)
        if not self._make_room(missing + len(self.running)):
            self.pool.release(cached)
            return False
        sequence.pages[: len(cached)] = cached
        sequence.num_pages = len(cached)
        self._add_pages(sequence, missing)
        return True

    def _frontier(
        self, node: Node | None, sequence: Sequence, computed: int
    ) -> tuple[Node, bytes] | None:
        """The page a sequence computes next, as its place in the tree; None if it has no whole."""
        index = computed // self._page_size
        if node is None or (index + 1) * self._page_size > sequence.num_tokens:
            return None
        return node, self._keys(sequence, index, index + 1)[0]

    def _publish(self, sequence: Sequence, count: int) -> None:
        """Put the pages that the last `count` computed tokens filled into the tree."""
        first = (sequence.num_computed - count) // self._page_size
        end = sequence.num_computed // self._page_size
        if self.tree is None or first == end:
            return
        assert sequence.node is not None
        pages = sequence.pages[first:end].tolist()
        keys = self._keys(sequence, first, end)
        sequence.node, sequence.pages[first:end] = self.tree.insert(sequence.node, keys, pages)

    def _keys(self, sequence: Sequence, first: int, end: int) -> list[bytes]:
        """Tokens of the pages first to end, as the tree names them."""
        size = self._page_size
        return [sequence.tokens[i * size : (i + 1) * size].tobytes() for i in range(first, end)]

    def _make_room(self, count: int) -> bool:
        """See that `count` pages are free, evicting cached ones if that is enough."""
        missing = count - self.pool.num_free
        return missing <= 0 or (self.tree is not None and self.tree.evict(missing))

    def _add_pages(self, sequence: Sequence, count: int) -> None:
        end = sequence.num_pages + count
        sequence.pages[sequence.num_pages : end] = self.pool.take(count)
        sequence.num_pages = end

    def _preempt(self) -> Sequence:
        """Send the youngest running sequence back to the head of the queue."""
        sequence = self.running.pop()
        self._release(sequence)
        self.waiting.appendleft(sequence)
        self.counters.preemptions += 1
        return sequence

    def _release(self, sequence: Sequence) -> None:
        self.pool.release(sequence.pages[: sequence.num_pages].tolist())
        sequence.num_pages = 0
        sequence.num_computed = 0
        sequence.node = None
