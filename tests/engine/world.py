"""A Scheduler with a fake model that remembers what stands in every slot."""

import numpy as np

from wideseek.engine.page_pool import PagePool
from wideseek.engine.prefix_tree import PrefixTree
from wideseek.engine.scheduler import Scheduler
from wideseek.engine.sequence import Sequence
from wideseek.engine.step import Sampled, Step
from wideseek.generation import Sampling


def next_token(tokens: list[int], version: int) -> int:
    """What the fake model says: any fixed function of all that was said before."""
    return (sum((i + 1) * token for i, token in enumerate(tokens)) + version) % 3


class FakeRunner:
    """Remembers what stands in every slot, and refuses to read anything else."""

    def __init__(self, num_pages: int, page_size: int) -> None:
        self.slots: list[list[object]] = [[None] * page_size for _ in range(num_pages)]
        self.page_size = page_size

    def run(self, step: Step, version: int, kv_version: int) -> Sampled:
        said: list[int] = []
        scores: list[float] = []
        copied = [list(self.slots[source]) for source, _ in step.copies]
        for (_, target), slots in zip(step.copies, copied, strict=True):
            self.slots[target] = slots
        parts = (step.sequences, step.num_tokens, step.num_drafts, step.num_rows)
        for sequence, count, drafts, rows in zip(*parts, strict=True):
            tokens = sequence.tokens[: sequence.num_tokens + drafts].tolist()
            end = sequence.num_computed + count
            assert count >= 1 and end <= len(tokens)
            assert sequence.num_pages * self.page_size >= end
            for position in range(end):
                slot = self.slots[sequence.pages[position // self.page_size]]
                known = (kv_version, tuple(tokens[: position + 1]))
                if position >= sequence.num_computed:
                    slot[position % self.page_size] = known
                assert slot[position % self.page_size] == known, "the slot holds another's KV"
            for position in range(end - rows, end):
                said.append(next_token(tokens[: position + 1], version))
                scores.append(float(position))
        return Sampled(said, scores, scores)


class World:
    """One scheduler with its pool and fake model."""

    def __init__(
        self,
        num_pages: int,
        page_size: int,
        max_seqs: int,
        max_tokens: int,
        cached: bool = True,
        drafts: int = 0,
    ) -> None:
        self.pool = PagePool(num_pages)
        self.tree = PrefixTree(self.pool) if cached else None
        self.scheduler = Scheduler(
            self.pool,
            self.tree,
            page_size=page_size,
            max_num_seqs=max_seqs,
            max_batch_tokens=max_tokens,
            max_draft_tokens=drafts,
        )
        self.runner = FakeRunner(num_pages, page_size)
        self.page_size = page_size
        self.max_seqs, self.max_tokens = max_seqs, max_tokens
        self.version = self.kv_version = 0

    def submit(self, prompt: list[int], max_tokens: int, session: str = "") -> Sequence:
        sequence = Sequence(
            np.array(prompt),
            Sampling(max_tokens=max_tokens),
            max_model_len=self.pool.num_pages * self.page_size,
            page_size=self.page_size,
            session=session,
        )
        self.scheduler.submit(sequence)
        return sequence

    def score(self, token_ids: list[int], first: int) -> Sequence:
        sequence = Sequence.scored(np.array(token_ids), first, self.page_size)
        self.scheduler.submit(sequence)
        return sequence

    def new_weights(self, *, keep_kv: bool = False) -> None:
        self.version += 1
        if not keep_kv:
            self.kv_version = self.version
        self.scheduler.new_weights(self.version, keep_kv=keep_kv)

    def step(self) -> Step | None:
        step = self.scheduler.schedule()
        self.scheduler.check()
        if step is not None:
            assert sum(step.num_tokens) <= self.max_tokens
            assert len(self.scheduler.running) <= self.max_seqs
            assert len({id(sequence) for sequence in step.sequences}) == len(step.sequences)
            for sequence, rows in zip(step.sequences, step.num_rows, strict=True):
                room = len(sequence.tokens) - sequence.num_tokens
                assert rows <= room or sequence.is_scored, "a row is computed for no token"
            sampled = self.runner.run(step, self.version, self.kv_version)
            self.scheduler.commit(step, sampled)
            self.scheduler.check()
        return step

    def drain(self, limit: int = 2000) -> int:
        """Step until nothing is left; the number of steps."""
        for count in range(limit):
            if self.step() is None:
                assert not self.scheduler.running and not self.scheduler.waiting
                return count
        raise AssertionError("not everyone finishes")


def expect_short_replies(world: World) -> None:
    """So that more is admitted than there are pages for in the end."""
    world.submit([2], 1)
    world.drain()


def tokens_of(sequence: Sequence) -> list[int]:
    tokens: list[int] = sequence.tokens[: sequence.num_tokens].tolist()
    return tokens


def always_draft(world: World) -> World:
    world.scheduler.row_cost.break_even = lambda decoding: 0.0  # type: ignore[method-assign]
    return world
