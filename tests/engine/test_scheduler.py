"""Scheduler with a fake model: nothing is lost, nothing shared wrongly, everyone finishes."""

import numpy as np
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from wideseek.engine.page_pool import PagePool
from wideseek.engine.prefix_tree import PrefixTree
from wideseek.engine.scheduler import Sampled, Scheduler, Step
from wideseek.engine.sequence import Sequence
from wideseek.generation import Sampling


def next_token(tokens: list[int], version: int) -> int:
    """What the fake model says: any fixed function of all that was said before."""
    return (sum((i + 1) * token for i, token in enumerate(tokens)) + version) % 3


class FakeRunner:
    """Remembers what stands in every slot, and refuses to read anything else."""

    def __init__(self, num_pages: int, page_size: int) -> None:
        self.slots: list[list[object]] = [[None] * page_size for _ in range(num_pages)]
        self.page_size = page_size

    def run(self, step: Step, version: int) -> Sampled:
        for sequence, count in zip(step.sequences, step.num_tokens, strict=True):
            tokens = sequence.tokens[: sequence.num_tokens].tolist()
            end = sequence.num_computed + count
            assert count >= 1 and end <= len(tokens)
            assert sequence.num_pages * self.page_size >= end
            for position in range(end):
                slot = self.slots[sequence.pages[position // self.page_size]]
                known = (version, tuple(tokens[: position + 1]))
                if position >= sequence.num_computed:
                    slot[position % self.page_size] = known
                assert slot[position % self.page_size] == known, "the slot holds another's KV"
        says = [next_token(s.tokens[: s.num_tokens].tolist(), version) for s in step.sampled]
        return Sampled(says, [0.0] * len(says), [0.0] * len(says))


class World:
    """One scheduler with its pool and fake model."""

    def __init__(
        self, num_pages: int, page_size: int, max_seqs: int, max_tokens: int, cached: bool = True
    ) -> None:
        self.pool = PagePool(num_pages)
        self.tree = PrefixTree(self.pool) if cached else None
        self.scheduler = Scheduler(
            self.pool,
            self.tree,
            page_size=page_size,
            max_num_seqs=max_seqs,
            max_batch_tokens=max_tokens,
        )
        self.runner = FakeRunner(num_pages, page_size)
        self.page_size = page_size
        self.max_seqs, self.max_tokens = max_seqs, max_tokens
        self.version = 0

    def submit(self, prompt: list[int], max_tokens: int) -> Sequence:
        sequence = Sequence(
            np.array(prompt),
            Sampling(max_tokens=max_tokens),
            max_model_len=self.pool.num_pages * self.page_size,
            page_size=self.page_size,
        )
        self.scheduler.submit(sequence)
        return sequence

    def step(self) -> Step | None:
        step = self.scheduler.schedule()
        self.scheduler.check()
        if step is not None:
            assert sum(step.num_tokens) <= self.max_tokens
            assert len(self.scheduler.running) <= self.max_seqs
            assert len({id(sequence) for sequence in step.sequences}) == len(step.sequences)
            self.scheduler.commit(step, self.runner.run(step, self.version))
            self.scheduler.check()
        return step

    def drain(self, limit: int = 2000) -> int:
        """Step until nothing is left; the number of steps."""
        for count in range(limit):
            if self.step() is None:
                assert not self.scheduler.running and not self.scheduler.waiting
                return count
        raise AssertionError("not everyone finishes")


def tokens_of(sequence: Sequence) -> list[int]:
    tokens: list[int] = sequence.tokens[: sequence.num_tokens].tolist()
    return tokens


def test_prompts_are_computed_in_chunks_beside_decodes() -> None:
    world = World(20, 4, max_seqs=4, max_tokens=6)
    world.submit([1, 2], 8)
    world.step()
    world.submit([2] * 12, 4)
    step = world.step()
    assert step is not None and step.num_tokens == [1, 5]
    step = world.step()
    assert step is not None and step.num_tokens == [1, 5]
    step = world.step()
    assert step is not None and step.num_tokens == [1, 2]


def test_a_step_computes_no_more_tokens_than_its_budget() -> None:
    world = World(20, 4, max_seqs=4, max_tokens=6)
    for first in range(3):
        world.submit([first] * 8, 3)
    taken = []
    while (step := world.step()) is not None:
        taken.append(step.num_tokens)
    assert taken[:4] == [[6], [2, 4], [1, 4, 1], [1, 1, 4]]


def test_several_contexts_are_prefilled_in_one_forward() -> None:
    world = World(40, 4, max_seqs=8, max_tokens=64)
    for first in range(5):
        world.submit([first, 1, 2, first, 5, 6], 2)
    step = world.step()
    assert step is not None and step.num_tokens == [6] * 5


def test_identical_prompts_submitted_together_compute_their_prefix_once() -> None:
    world = World(40, 4, max_seqs=8, max_tokens=64)
    prompt = [1, 2, 0, 1, 1, 0, 2, 2, 1, 0]
    sequences = [world.submit(prompt, 3) for _ in range(6)]
    world.drain()
    # Two whole pages are shared; each computes the two tokens after them.
    assert world.scheduler.counters.prefill_tokens_computed == 10 + 5 * 2
    assert world.scheduler.counters.prefix_hit_tokens == 5 * 8
    assert [s.cached_tokens for s in sequences] == [0] + [8] * 5
    assert len({tuple(tokens_of(s)) for s in sequences}) == 1


def test_a_sequence_whose_prefix_is_under_way_waits_but_others_pass() -> None:
    world = World(40, 4, max_seqs=8, max_tokens=64)
    first = world.submit([1] * 9, 3)
    same = world.submit([1] * 9, 3)
    other = world.submit([2] * 9, 3)
    step = world.step()
    assert step is not None and step.sequences == [first, other]
    assert list(world.scheduler.waiting) == [same]
    step = world.step()
    assert step is not None and same in step.sequences


def test_who_is_passed_over_keeps_the_place_in_the_queue() -> None:
    world = World(40, 4, max_seqs=8, max_tokens=64)
    sequences = [world.submit([1] * (8 + n), 3) for n in range(4)]
    world.step()
    assert list(world.scheduler.waiting) == sequences[1:]


def test_who_is_preempted_goes_to_the_head_of_the_queue() -> None:
    world = World(6, 2, max_seqs=2, max_tokens=16, cached=False)
    first, second, third = (world.submit([i, 1], 10) for i in range(3))
    while world.scheduler.counters.preemptions == 0:
        assert world.step() is not None
    assert first in world.scheduler.running
    assert list(world.scheduler.waiting) == [second, third]


def test_a_generated_page_is_reused_by_the_next_turn() -> None:
    world = World(20, 4, max_seqs=2, max_tokens=32)
    turn = world.submit([1, 2, 0], 8)
    world.drain()
    following = world.submit([*tokens_of(turn), 1, 1], 2)
    world.drain()
    assert following.cached_tokens == 8  # 10 of its tokens have KV, in two whole pages


def test_the_youngest_is_preempted_and_still_says_the_same() -> None:
    world = World(6, 2, max_seqs=3, max_tokens=16)
    sequences = [world.submit([i, 1, 2], 8) for i in range(2)]
    world.drain()
    assert world.scheduler.counters.preemptions > 0
    for i, sequence in enumerate(sequences):
        alone = World(6, 2, max_seqs=1, max_tokens=16)
        said = alone.submit([i, 1, 2], 8)
        alone.drain()
        assert tokens_of(sequence) == tokens_of(said)


def test_a_cancelled_sequence_frees_its_pages() -> None:
    world = World(8, 2, max_seqs=2, max_tokens=16, cached=False)
    running, waiting = world.submit([1, 2, 3], 8), world.submit([1] * 9, 4)
    world.step()
    waits = world.submit([2], 4)
    world.scheduler.cancel(running)
    world.scheduler.cancel(waits)
    assert running.finish_reason == waits.finish_reason == "cancelled"
    world.drain()
    assert waiting.finish_reason == "length"
    assert world.pool.num_free == world.pool.num_pages


def test_new_weights_recompute_what_is_under_way() -> None:
    world = World(20, 4, max_seqs=2, max_tokens=16)
    sequence = world.submit([1, 2, 0, 1, 1], 6)
    world.step()
    world.step()
    said = tokens_of(sequence)
    world.version = 1
    world.scheduler.reset(1)
    world.scheduler.check()
    assert world.pool.num_free == world.pool.num_pages
    world.drain()
    assert tokens_of(sequence)[: len(said)] == said and sequence.finish_reason == "length"


class SchedulerMachine(RuleBasedStateMachine):
    """Random sequences, cancellations and weight updates under page pressure."""

    @initialize(
        num_pages=st.integers(3, 20),
        page_size=st.sampled_from([1, 2, 4]),
        max_seqs=st.integers(1, 4),
        slack=st.integers(0, 8),
        cached=st.booleans(),
    )
    def start(
        self, num_pages: int, page_size: int, max_seqs: int, slack: int, cached: bool
    ) -> None:
        self.world = World(num_pages, page_size, max_seqs, max_seqs + slack, cached)
        self.sequences: dict[Sequence, int] = {}  # with the version they were submitted under
        self.updated: set[Sequence] = set()

    @rule(data=st.data(), max_tokens=st.integers(1, 12))
    def submit(self, data: st.DataObject, max_tokens: int) -> None:
        longest = self.world.pool.num_pages * self.world.page_size - 1
        prompt = data.draw(st.lists(st.integers(0, 1), min_size=1, max_size=min(16, longest)))
        self.sequences[self.world.submit(prompt, max_tokens)] = self.world.version

    @rule(count=st.integers(1, 5))
    def steps(self, count: int) -> None:
        for _ in range(count):
            self.world.step()

    def live(self) -> list[Sequence]:
        return [sequence for sequence in self.sequences if sequence.finish_reason is None]

    @precondition(lambda self: self.live())
    @rule(data=st.data())
    def cancel(self, data: st.DataObject) -> None:
        self.world.scheduler.cancel(data.draw(st.sampled_from(self.live())))

    @rule()
    def new_weights(self) -> None:
        self.world.version += 1
        self.world.scheduler.reset(self.world.version)
        self.updated.update(self.live())

    @invariant()
    def sound(self) -> None:
        self.world.scheduler.check()
        scheduler = self.world.scheduler
        assert {*scheduler.running, *scheduler.waiting} == set(self.live())

    def teardown(self) -> None:
        if not hasattr(self, "world"):
            return
        self.world.drain()
        for sequence, version in self.sequences.items():
            assert sequence.finish_reason is not None
            if sequence not in self.updated:
                said = tokens_of(sequence)
                for end in range(sequence.num_prompt, len(said)):
                    assert said[end] == next_token(said[:end], version)
        cached = 0 if self.world.tree is None else len(self.world.tree)
        assert self.world.pool.num_free + cached == self.world.pool.num_pages


TestSchedulerMachine = SchedulerMachine.TestCase
TestSchedulerMachine.settings = settings(max_examples=80, stateful_step_count=25, deadline=None)
