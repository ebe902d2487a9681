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

    def run(self, step: Step, version: int, kv_version: int) -> Sampled:
        said: list[int] = []
        scores: list[float] = []
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

    def submit(self, prompt: list[int], max_tokens: int) -> Sequence:
        sequence = Sequence(
            np.array(prompt),
            Sampling(max_tokens=max_tokens),
            max_model_len=self.pool.num_pages * self.page_size,
            page_size=self.page_size,
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


def test_equal_prompts_of_whole_pages_wait_once_and_then_start_together() -> None:
    world = World(40, 4, max_seqs=8, max_tokens=64)
    sequences = [world.submit([1, 2, 0, 1, 2, 2, 1, 0], 3) for _ in range(5)]
    world.step()
    step = world.step()
    # Their last page cannot be reused: its last token gives the logits of each.
    assert step is not None and step.num_tokens == [1, 4, 4, 4, 4]
    world.drain()
    assert [s.cached_tokens for s in sequences] == [0] + [4] * 4


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
    world.new_weights()
    world.scheduler.check()
    assert world.pool.num_free == world.pool.num_pages
    world.drain()
    assert tokens_of(sequence)[: len(said)] == said and sequence.finish_reason == "length"


def test_kept_kv_costs_no_page_and_no_token() -> None:
    world = World(20, 4, max_seqs=2, max_tokens=16)
    sequence = world.submit([1, 2, 0, 1, 1], 6)
    world.step()
    world.new_weights(keep_kv=True)
    assert world.scheduler.running == [sequence]
    world.drain()
    assert world.scheduler.counters.prefill_tokens_computed == 5
    assert sequence.weight_versions == [0] + [1] * 5


def test_scores_come_in_chunks_from_the_first_wanted_token_on() -> None:
    world = World(20, 4, max_seqs=2, max_tokens=5)
    sequence = world.score([1, 2, 0, 1, 1, 2, 2, 0, 1, 2, 1, 0], 3)
    rows = []
    while (step := world.step()) is not None:
        rows.append((step.num_tokens, step.num_rows))
    assert rows == [([5], [3]), ([5], [5]), ([1], [1])]
    assert sequence.plain_logprobs == [float(position) for position in range(2, 11)]
    assert sequence.finish_reason == "length"


def test_scores_reuse_what_stands_before_them_and_nothing_else() -> None:
    world = World(20, 4, max_seqs=2, max_tokens=32)
    ids = [1, 2, 0, 1, 1, 2, 2, 0, 1, 2, 1, 0]
    world.submit(ids, 1)
    world.drain()
    late, early = world.score(ids, 9), world.score(ids, 4)
    world.drain()
    assert (late.cached_tokens, early.cached_tokens) == (8, 0)
    assert late.plain_logprobs == [8.0, 9.0, 10.0] and len(early.plain_logprobs) == 8


def test_a_score_interrupted_by_new_weights_comes_from_these_alone() -> None:
    world = World(20, 4, max_seqs=2, max_tokens=4)
    sequence = world.score([1, 2, 0, 1, 1, 2, 2, 0, 1], 1)
    world.step()
    assert len(sequence.plain_logprobs) == 4
    world.new_weights()
    world.drain()
    assert sequence.weight_versions == [1] * 8
    assert sequence.plain_logprobs == [float(position) for position in range(8)]


def always_draft(world: World) -> World:
    world.scheduler.row_cost.break_even = lambda decoding: 0.0  # type: ignore[method-assign]
    return world


def test_guesses_come_true_without_changing_what_is_said() -> None:
    plain = World(40, 4, max_seqs=2, max_tokens=16)
    drafting = always_draft(World(40, 4, max_seqs=2, max_tokens=16, drafts=5))
    said = [world.submit([1, 2, 0, 1, 1], 40) for world in (plain, drafting)]
    steps = [world.drain() for world in (plain, drafting)]
    assert tokens_of(said[0]) == tokens_of(said[1])
    assert steps[1] < steps[0] - 5
    counters = drafting.scheduler.counters
    assert counters.generated_tokens == 40
    assert counters.accepted_tokens == steps[0] - steps[1] <= counters.draft_tokens
    assert counters.prefill_tokens_computed == 5


def test_guesses_take_what_the_budget_leaves() -> None:
    world = always_draft(World(60, 4, max_seqs=3, max_tokens=6, drafts=5))
    world.submit([1] * 6, 30)
    world.step()
    world.submit([2] * 12, 4)
    for _ in range(2):
        step = world.step()
        assert step is not None and step.num_drafts[0] == 0 and step.num_tokens[1] == 5


def test_a_guess_takes_no_page_that_another_may_need() -> None:
    world = always_draft(World(5, 4, max_seqs=2, max_tokens=16, drafts=7))
    sequence = world.submit([0] * 6, 9)
    world.step()
    world.pool.take(world.pool.num_free - 1)
    step = world.scheduler.schedule()
    assert step is not None and step.num_tokens == [2]
    assert sequence.num_pages == 2


class SchedulerMachine(RuleBasedStateMachine):
    """Random sequences, cancellations and weight updates under page pressure."""

    @initialize(
        num_pages=st.integers(3, 20),
        page_size=st.sampled_from([1, 2, 4]),
        max_seqs=st.integers(1, 4),
        slack=st.integers(0, 8),
        cached=st.booleans(),
        drafts=st.sampled_from([0, 1, 5]),
    )
    def start(
        self, num_pages: int, page_size: int, max_seqs: int, slack: int, cached: bool, drafts: int
    ) -> None:
        self.world = always_draft(
            World(num_pages, page_size, max_seqs, max_seqs + slack, cached, drafts)
        )
        self.sequences: list[Sequence] = []

    @rule(data=st.data(), max_tokens=st.integers(1, 12))
    def submit(self, data: st.DataObject, max_tokens: int) -> None:
        longest = self.world.pool.num_pages * self.world.page_size - 1
        prompt = data.draw(st.lists(st.integers(0, 1), min_size=1, max_size=min(16, longest)))
        self.sequences.append(self.world.submit(prompt, max_tokens))

    @rule(data=st.data())
    def score(self, data: st.DataObject) -> None:
        longest = self.world.pool.num_pages * self.world.page_size
        ids = data.draw(st.lists(st.integers(0, 1), min_size=2, max_size=min(16, longest)))
        self.sequences.append(self.world.score(ids, data.draw(st.integers(1, len(ids) - 1))))

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

    @rule(keep_kv=st.booleans())
    def new_weights(self, keep_kv: bool) -> None:
        self.world.new_weights(keep_kv=keep_kv)

    @rule()
    def sleep_and_wake(self) -> None:
        scheduler = self.world.scheduler
        scheduler.forget()
        assert self.world.pool.num_free == self.world.pool.num_pages and not scheduler.running
        self.world.runner = FakeRunner(self.world.pool.num_pages, self.world.page_size)
        self.world.kv_version = self.world.version

    @invariant()
    def sound(self) -> None:
        self.world.scheduler.check()
        scheduler = self.world.scheduler
        assert {*scheduler.running, *scheduler.waiting} == set(self.live())
        assert len(scheduler.running) + len(scheduler.waiting) == len(self.live())

    def teardown(self) -> None:
        if not hasattr(self, "world"):
            return
        self.world.drain()
        for sequence in self.sequences:
            assert sequence.finish_reason is not None
            if sequence.is_scored:
                first = sequence.num_prompt - 1
                expected = [float(first + i) for i in range(len(sequence.plain_logprobs))]
                assert sequence.plain_logprobs == expected
                continue
            said = tokens_of(sequence)
            for version, end in zip(
                sequence.weight_versions, range(sequence.num_prompt, len(said)), strict=True
            ):
                assert said[end] == next_token(said[:end], version)
        cached = 0 if self.world.tree is None else len(self.world.tree)
        assert self.world.pool.num_free + cached == self.world.pool.num_pages


TestSchedulerMachine = SchedulerMachine.TestCase
TestSchedulerMachine.settings = settings(max_examples=80, stateful_step_count=25, deadline=None)
