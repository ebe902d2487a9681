"""Scheduler: which Sequences run this step and how many tokens each.

Everyone finishes: the oldest running sequence can always take pages from younger ones, the head of
the queue is admitted whenever nothing runs, and no sequence is longer than the pool.
"""

from wideseek.engine.copying import Copying, RowCost
from wideseek.engine.kv_cache import Begun, KvCache
from wideseek.engine.page_pool import PagePool
from wideseek.engine.prefix_tree import Match, PrefixTree
from wideseek.engine.sequence import Sequence
from wideseek.engine.sessions import Session
from wideseek.engine.step import Counters, Sampled, Step
from wideseek.engine.waiting import Waiting

PATIENCE = 256
"""Steps in which others go on before the next of a question to begin goes first."""


class Scheduler:
    """Continuous batching with chunked prefill over one PagePool.

    A step takes every sequence that decodes, then prompts in chunks, oldest first, up to
    max_batch_tokens, then guesses with what is left, up to max_draft_tokens for each that decodes.
    A sequence is admitted when there are pages for the replies that all are expected to make.
    `running` is in order of admission; should pages run out all the same, first an idle session
    lets go of its own, then the youngest goes back to the head of `waiting` and is computed again
    later, mostly from the tree. Without a tree nothing is shared.
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
        self.cache = KvCache(pool, tree, page_size)
        self.waiting = Waiting()
        self.running: list[Sequence] = []
        self.counters = Counters()
        self.row_cost = RowCost()
        self.version = 0
        self._max_num_seqs = max_num_seqs
        self._max_batch_tokens = max_batch_tokens
        self._max_draft_tokens = max_draft_tokens

    def submit(self, sequence: Sequence) -> None:
        """Queue a sequence; it must fit into the whole pool."""
        assert len(sequence.pages) <= self.cache.pool.num_pages
        if self._max_draft_tokens and not sequence.is_scored:
            sequence.copying = Copying()
        sequence.session = self.cache.sessions.begin(sequence.session_path, self.counters.steps)
        self.waiting.add(sequence)

    def cancel(self, sequence: Sequence) -> None:
        """Take out a sequence that waits or runs, and free its pages."""
        if sequence in self.running:
            self.running.remove(sequence)
            self.cache.release(sequence)
        else:
            self.waiting.remove(sequence)
        self.cache.sessions.end(sequence.session)
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
        while self.running:
            self._send_back()
        self.cache.clear(self.version)

    def schedule(self) -> Step | None:
        """Choose the next step and place its pages; None when there is nothing to do."""
        step = Step()
        self._add_decodes(step)
        num_decodes = len(step.sequences)
        begun: Begun = {}
        budget = self._add_chunks(step, self._max_batch_tokens - num_decodes, begun)
        budget = self._admit(step, budget, begun)
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
            self.cache.publish(sequence, first)
            if sequence.finish_reason is not None:
                finished.append(sequence)
        for sequence in finished:
            self.running.remove(sequence)
            self._leave(sequence)
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
            self.cache.release(sequence)
        for sequence in (*self.running, *self.waiting):
            self.cache.sessions.end(sequence.session)
        self.running.clear()
        self.waiting.clear()

    def check(self) -> None:
        """Assert that every page is accounted for, and that who waits holds none."""
        self.cache.check(self.running)
        assert all(sequence.num_pages == 0 for sequence in self.waiting)

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
        if sequence.num_pages * self.cache.page_size >= sequence.num_tokens:
            return True
        now, number = self.counters.steps, sequence.session.number
        while not self.cache.make_room(1, now, younger_than=number):
            if len(self.running) == 1 and self.cache.sessions.let_go_any():
                continue
            self.counters.preemptions += 1
            if self._send_back() is sequence:
                return False
        self.cache.add_pages(sequence, 1)
        return True

    def _add_chunks(self, step: Step, budget: int, begun: Begun) -> int:
        """Prompts that are under way, oldest first. Returns the budget left."""
        for sequence in self.running:
            if budget and sequence.num_uncomputed > 1:
                budget -= self._add_chunk(step, budget, sequence, begun)
        return budget

    def _add_chunk(self, step: Step, budget: int, sequence: Sequence, begun: Begun) -> int:
        count = min(budget, sequence.num_uncomputed)
        step.add(sequence, count)
        self.cache.begin(sequence, begun)
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
            placed = sequence.num_pages * self.cache.page_size - start
            if count > placed and self.cache.pool.num_free > len(self.running):
                self.cache.add_pages(sequence, 1)
                placed += self.cache.page_size
            count = min(count, placed)
            if count:
                step.add_drafts(index, count)
                budget -= count

    def _admit(self, step: Step, budget: int, begun: Begun) -> int:
        """Start waiting sequences as pages, seats and budget allow. Returns the budget left.

        One whose next tokens another is computing right now is passed over: it finds them in the
        tree a step later instead of computing them as well.
        """
        if not self.waiting or not budget or len(self.running) == self._max_num_seqs:
            return budget
        has_begun = others_first = False
        for sequence in self.waiting.in_order():
            is_first, goes_on = self.waiting.is_first(sequence), bool(sequence.session.pages)
            match = self.cache.match(sequence)
            if self.cache.is_begun(sequence, match, begun):
                continue
            if not self._place(sequence, match, step):
                others_first |= not is_first
                break
            has_begun |= not (is_first or goes_on)
            others_first |= goes_on
            self.waiting.remove(sequence)
            self.running.append(sequence)
            if sequence.cached_tokens is None:
                sequence.cached_tokens = sequence.num_computed
            self.counters.prefix_hit_tokens += sequence.num_computed
            sequence.session.question.served += sequence.num_uncomputed + sequence.expected_tokens
            budget -= self._add_chunk(step, budget, sequence, begun)
            if not budget or len(self.running) == self._max_num_seqs:
                break
        if others_first and not has_begun:
            self._lose_patience()
        return budget

    def _lose_patience(self) -> None:
        """Others went on where these had to wait; who had to too often goes first."""
        for sequence in reversed(self.waiting.next_to_begin()):
            sequence.num_refused += 1
            if sequence.num_refused >= PATIENCE:
                self.waiting.remove(sequence)
                self.waiting.put_first(sequence)

    def _place(self, sequence: Sequence, match: Match, step: Step) -> bool:
        """Give a waiting sequence its cached pages and new ones for the rest of its tokens.

        Leaves pages for what is expected of this sequence and of those that run, so that no one is
        admitted only to be preempted; False, and nothing changed, if there are not so many. With
        nobody else in its way a sequence needs only what it has said.
        """
        held = self.cache.hold(sequence, match)
        missing = self.cache.pages_for(sequence.num_tokens + 1) - len(held)
        if not self._make_room_to_start(sequence, missing):
            self.cache.pool.release(held)
            return False
        step.copies.extend(self.cache.start(sequence, match, held))
        return True

    def _make_room_to_start(self, sequence: Sequence, missing: int) -> bool:
        """See that `missing` pages are free for a sequence to start with, as `_place` has it."""
        make_room, sessions = self.cache.make_room, self.cache.sessions
        now, session, pages_for = self.counters.steps, sequence.session, self.cache.pages_for
        reply = 0 if sequence.is_scored else sequence.expected_tokens
        end = min(max(sequence.num_tokens + 1, sequence.num_prompt + reply), len(sequence.tokens))
        sequence.expected_pages = pages_for(end)
        if not self.running:
            while not make_room(missing, now):
                if not sessions.let_go_any():
                    return False
            return True
        reserve = sequence.expected_pages - pages_for(sequence.num_tokens + 1)
        for other in self.running:
            growth = max(1, other.expected_pages - other.num_pages)
            reserve += min(growth, len(other.pages) - other.num_pages)
        ended = now - sessions.patience
        if session.pages:
            return make_room(missing, ended, reserve=reserve, younger_than=session.number)
        if self.waiting.is_first(sequence):
            return make_room(missing, now, reserve=reserve)
        # Whoever begins will want to go on, and so will all who have begun.
        reserve += self._turns_to_come(session, sequence.expected_pages)
        for other in self.running:
            reserve += self._turns_to_come(
                other.session, max(other.num_pages, other.expected_pages)
            )
        for idle in sessions.holding():
            reserve += self._turns_to_come(idle, len(idle.pages))
        return make_room(missing, ended, reserve=reserve)

    def _turns_to_come(self, session: Session, num_pages: int) -> int:
        """Pages a session is expected to need beyond those that it has."""
        return max(
            0, self.cache.pages_for(self.cache.sessions.expected_context(session)) - num_pages
        )

    def _send_back(self) -> Sequence:
        """Send the youngest running sequence back to the head of the queue."""
        sequence = self.running.pop()
        self.cache.release(sequence)
        if sequence.is_scored:
            sequence.start_over()
        self.waiting.put_first(sequence)
        return sequence

    def _leave(self, sequence: Sequence) -> None:
        """A sequence came to its end: its session keeps its pages until its next turn."""
        if sequence.is_scored:
            self.cache.sessions.end(sequence.session)
        else:
            self.cache.keep(sequence, self.counters.steps)
            num_reply = len(sequence.logprobs)
            self.cache.sessions.end(sequence.session, num_reply, sequence.num_tokens)
        self.cache.release(sequence)
