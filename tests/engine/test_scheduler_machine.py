"""Scheduler under random calls, turns, cancellations and weight updates with few pages."""

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from wideseek.engine.sequence import Sequence

from .world import FakeRunner, World, always_draft, next_token, tokens_of

SESSIONS = ["", "", "p/lead", "p/lead/0", "p/lead/1", "q/lead", "q/lead/0", "q"]
"""None, and two questions with their agents."""


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

    @rule(data=st.data(), max_tokens=st.integers(1, 12), session=st.sampled_from(SESSIONS))
    def submit(self, data: st.DataObject, max_tokens: int, session: str) -> None:
        longest = self.world.pool.num_pages * self.world.page_size - 1
        prompt = data.draw(st.lists(st.integers(0, 1), min_size=1, max_size=min(16, longest)))
        self.sequences.append(self.world.submit(prompt, max_tokens, session))

    @precondition(lambda self: any(s.finish_reason == "length" for s in self.sequences))
    @rule(data=st.data(), added=st.lists(st.integers(0, 1), max_size=4))
    def next_turn(self, data: st.DataObject, added: list[int]) -> None:
        """An agent goes on where an earlier call of it ended."""
        ended = [s for s in self.sequences if s.finish_reason == "length" and not s.is_scored]
        if not ended:
            return
        last = data.draw(st.sampled_from(ended))
        ids = [*tokens_of(last), *added]
        if len(ids) < self.world.pool.num_pages * self.world.page_size:
            self.sequences.append(self.world.submit(ids, 5, last.session_path))

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
        assert len(scheduler.cache.sessions) <= len({s.session_path for s in self.live()}) * 3
        self.world.runner = FakeRunner(self.world.pool.num_pages, self.world.page_size)
        self.world.kv_version = self.world.version

    @invariant()
    def sound(self) -> None:
        self.world.scheduler.check()
        scheduler = self.world.scheduler
        assert {*scheduler.running, *scheduler.waiting} == set(self.live())
        assert len(scheduler.running) + len(scheduler.waiting) == len(self.live())
        root = scheduler.cache.sessions.root
        assert root.num_calls + root.num_calls_below == len(self.live())

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
