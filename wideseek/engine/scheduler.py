"""Scheduler: which Sequences run this step and how many tokens each.

Everyone finishes: the oldest running sequence can always take pages from younger ones, the head of
the queue is admitted whenever nothing runs, and no sequence is longer than the pool.
"""

from collections import deque
from dataclasses import dataclass, field

from wideseek.engine.copying import Copying, RowCost
from wideseek.engine.page_pool import PagePool
from wideseek.engine.prefix_tree import Node, PrefixTree
from wideseek.engine.sequence import Sequence


@dataclass(frozen=True, slots=True)
class Step:
    """One forward: `num_tokens[i]` uncomputed tokens of `sequences[i]`, whose pages are in place.

    The last `num_drafts[i]` of them are guesses that stand behind the known tokens. What follows
    each of the last `num_rows[i]` is wanted: a sampled token, or a given one's log-probability.
    """

    sequences: list[Sequence] = field(default_factory=list)
    num_tokens: list[int] = field(default_factory=list)
    num_drafts: list[int] = field(default_factory=list)
    num_rows: list[int] = field(default_factory=list)

    def add(self, sequence: Sequence, count: int) -> None:
        """Compute the next `count` known tokens of a sequence."""
        end = sequence.num_computed + count
        rows = int(end == sequence.num_tokens)
        if sequence.is_scored:
            rows = max(0, min(count, end + 1 - sequence.num_prompt))
        self.sequences.append(sequence)
        self.num_tokens.append(count)
        self.num_drafts.append(0)
        self.num_rows.append(rows)

    def add_drafts(self, index: int, count: int) -> None:
        """Compute `count` guesses behind the last known token of sequence `index` as well."""
        self.num_tokens[index] += count
        self.num_drafts[index] += count
        self.num_rows[index] += count


@dataclass(frozen=True, slots=True)
class Sampled:
    """What follows each wanted row of a Step, with the log-probs of `generation.Completion`."""

    token_ids: list[int]
    logprobs: list[float]
    plain_logprobs: list[float]


@dataclass(slots=True)
class Counters:
    """Running totals; what is computed or found again after a preemption counts again.

    draft_tokens were guessed, accepted_tokens of them came true.
    """

    prefix_hit_tokens: int = 0
    prefill_tokens_computed: int = 0
    generated_tokens: int = 0
    draft_tokens: int = 0
    accepted_tokens: int = 0
    preemptions: int = 0
    steps: int = 0


class Scheduler:
    """Continuous batching with chunked prefill over one PagePool.

    A step takes every sequence that decodes, then prompts in chunks, oldest first, up to
    max_batch_tokens, then guesses with what is left, up to max_draft_tokens for each that decodes.
    `running` is in order of admission; when pages run out its youngest goes back to the head of
    `waiting` and is computed again later, mostly from the tree. Without a tree nothing is shared.
    """

    def __init__(
        self,
        pool: PagePool,
        tree: PrefixTree | None,
        *,
        page_size: int,
        max_num_seqs: int,
        max_batch_tokens: int,
        max_draft_tokens: int = 0,
    ) -> None:
        assert max_batch_tokens >= max_num_seqs, (max_batch_tokens, max_num_seqs)
        self.pool = pool
        self.tree = tree
        self.waiting: deque[Sequence] = deque()
        self.running: list[Sequence] = []
        self.counters = Counters()
        self.row_cost = RowCost()
        self.version = 0
        self._kv_version = 0
        self._page_size = page_size
        self._max_num_seqs = max_num_seqs
        self._max_batch_tokens = max_batch_tokens
        self._max_draft_tokens = max_draft_tokens

    def submit(self, sequence: Sequence) -> None:
        """Queue a sequence; it must fit into the whole pool."""
        assert len(sequence.pages) <= self.pool.num_pages
        if self._max_draft_tokens and not sequence.is_scored:
            sequence.copying = Copying()
        self.waiting.append(sequence)

    def cancel(self, sequence: Sequence) -> None:
        """Take out a sequence that waits or runs, and free its pages."""
        if sequence in self.running:
            self.running.remove(sequence)
            self._release(sequence)
        else:
            self.waiting.remove(sequence)
        sequence.finish_reason = "cancelled"

    def new_weights(self, version: int, *, keep_kv: bool) -> None:
        """The weights are now `version`; KV of older ones is forgotten unless it is to be kept.

        What is kept is read, found in the tree and added to as if these weights had made it.
        """
        self.version = version
        if not keep_kv:
            self.forget()

    def forget(self) -> None:
        """Free every page: the tree is emptied, what runs waits and will be computed again."""
        self._kv_version = self.version
        while self.running:
            self._preempt()
        if self.tree is not None:
            self.tree.clear()

    def schedule(self) -> Step | None:
        """Choose the next step and place its pages; None when there is nothing to do."""
        step = Step()
        self._add_decodes(step)
        num_decodes = len(step.sequences)
        budget, frontiers = self._add_chunks(step, self._max_batch_tokens - num_decodes)
        budget = self._admit(step, budget, frontiers)
        if self._max_draft_tokens and num_decodes:
            self._add_drafts(step, num_decodes, budget)
        return step if step.sequences else None

    def commit(self, step: Step, sampled: Sampled) -> list[Sequence]:
        """Enter what a step computed and sampled; returns the sequences it finished."""
        self.counters.steps += 1
        row = 0
        finished: list[Sequence] = []
        parts = (step.sequences, step.num_tokens, step.num_drafts, step.num_rows)
        for sequence, count, drafts, rows in zip(*parts, strict=True):
            first, known = sequence.num_computed, count - drafts
            if known > 1 or first < sequence.num_prompt or sequence.is_scored:
                self.counters.prefill_tokens_computed += known
            if sequence.is_scored:
                sequence.record(sampled.plain_logprobs[row : row + rows], self.version)
                accepted = 0
            else:
                accepted = self._enter(sequence, sampled, row, rows)
            row += rows
            sequence.num_computed += known + accepted
            self.counters.draft_tokens += drafts
            self.counters.accepted_tokens += accepted
            self._publish(sequence, first)
            if sequence.finish_reason is not None:
                finished.append(sequence)
        for sequence in finished:
            self.running.remove(sequence)
            self._release(sequence)
        return finished

    def observe(self, step: Step, seconds: float) -> None:
        """The model took so long over a step; those without prompts tell the price of a guess."""
        if all(n == d + 1 for n, d in zip(step.num_tokens, step.num_drafts, strict=True)):
            self.row_cost.observe(sum(step.num_tokens), seconds)

    def _enter(self, sequence: Sequence, sampled: Sampled, first: int, rows: int) -> int:
        """Append what was sampled until it differs from a guess; the number of guesses come true.

        A guess is followed by what would have been sampled without it: nothing else counts it.
        """
        for row in range(first, first + rows):
            token, is_last = sampled.token_ids[row], row == first + rows - 1
            true = not is_last and token == sequence.tokens[sequence.num_tokens]
            logprobs = sampled.logprobs[row], sampled.plain_logprobs[row]
            sequence.append(token, *logprobs, self.version)
            self.counters.generated_tokens += 1
            if not true or sequence.finish_reason is not None:
                return row - first
        return 0

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
                step.add(sequence, 1)
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
        step.add(sequence, count)
        whole = sequence.num_tokens // self._page_size
        frontier = self._frontier(sequence.node, sequence, sequence.num_computed, whole)
        if frontier is not None:
            frontiers.add(frontier)
        return count

    def _add_drafts(self, step: Step, num_decodes: int, budget: int) -> None:
        """Guesses for the first `num_decodes` sequences, where they pay and cost no one a page."""
        least = self.row_cost.break_even(num_decodes)
        for index, sequence in enumerate(step.sequences[:num_decodes]):
            if sequence.copying is None:
                continue
            start = sequence.num_tokens
            # One less than there is room for: a token follows the last guess.
            most = min(self._max_draft_tokens, len(sequence.tokens) - start - 1, budget)
            count = sequence.copying.draft(sequence.tokens, start, most, least)
            placed = sequence.num_pages * self._page_size - start
            if count > placed and self.pool.num_free > len(self.running):
                self._add_pages(sequence, 1)
                placed += self._page_size
            count = min(count, placed)
            if count:
                step.add_drafts(index, count)
                budget -= count

    def _admit(self, step: Step, budget: int, frontiers: set[tuple[Node, bytes]]) -> int:
        """Start waiting sequences, first come first served, as pages, seats and budget allow.

        Returns the budget left.

        One whose next page another is computing right now is passed over: it finds the page in
        the tree a step later instead of computing it as well.
        """
        passed_over: list[Sequence] = []
        while self.waiting and budget and len(self.running) < self._max_num_seqs:
            sequence = self.waiting.popleft()
            node, pages = self._match(sequence)
            num_cached = len(pages) * self._page_size
            reusable = self._num_reusable(sequence)
            if self._frontier(node, sequence, num_cached, reusable) in frontiers:
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
        return budget

    def _match(self, sequence: Sequence) -> tuple[Node | None, list[int]]:
        """Cached pages of a sequence."""
        if self.tree is None:
            return None, []
        keys = self._keys(sequence, 0, self._num_reusable(sequence))
        return self.tree.match(self._kv_version, keys)

    def _num_reusable(self, sequence: Sequence) -> int:
        """Leading pages that may come from the tree: before any token whose logits are wanted."""
        wanted = sequence.num_prompt if sequence.is_scored else sequence.num_tokens
        return (wanted - 1) // self._page_size

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
        self, node: Node | None, sequence: Sequence, computed: int, num_pages: int
    ) -> tuple[Node, bytes] | None:
        """The page a sequence computes next, as its place in the tree; None past num_pages."""
        index = computed // self._page_size
        if node is None or index >= num_pages:
            return None
        return node, self._keys(sequence, index, index + 1)[0]

    def _publish(self, sequence: Sequence, computed_before: int) -> None:
        """Put the pages that were filled since only so many tokens were computed into the tree."""
        first = computed_before // self._page_size
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
        if sequence.is_scored:
            sequence.start_over()
        self.waiting.appendleft(sequence)
        self.counters.preemptions += 1
        return sequence

    def _release(self, sequence: Sequence) -> None:
        self.pool.release(sequence.pages[: sequence.num_pages].tolist())
        sequence.num_pages = 0
        sequence.num_computed = 0
        sequence.node = None
