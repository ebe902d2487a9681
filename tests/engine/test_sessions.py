"""Trees of agents on the Scheduler: what is kept for whom, whose turn it is, and what it costs."""

from dataclasses import dataclass, field

import numpy as np
import pytest

from wideseek.engine import sessions as sessions_module
from wideseek.engine.page_pool import PagePool
from wideseek.engine.prefix_tree import PrefixTree
from wideseek.engine.scheduler import PATIENCE, Scheduler
from wideseek.engine.sequence import Sequence
from wideseek.engine.sessions import Sessions
from wideseek.engine.step import Sampled
from wideseek.generation import Sampling

from .world import World, tokens_of

PAGE = 16
SUBS, TURNS, REPLY = 10, 4, 12


@dataclass
class Agent:
    """Appends a text before each turn, and begins a turn when all of `after` are done."""

    path: str
    texts: list[list[int]]
    after: "list[list[Agent]]"
    ids: list[int] = field(default_factory=list)
    turn: int = 0
    ready_at: int = 0
    call: Sequence | None = None

    @property
    def done(self) -> bool:
        return self.turn == len(self.texts)


def wide_questions(count: int, seed: int) -> list[Agent]:
    """Leads that ask ten subagents each and then go on; what they share ends within pages."""
    rng = np.random.default_rng(seed)

    def text(length: int) -> list[int]:
        drawn: list[int] = rng.integers(0, 1000, length).tolist()
        return drawn

    lead_system, sub_system = text(90), text(103)
    agents: list[Agent] = []
    for number in range(count):
        path = f"q{seed}.{number}/lead"
        subs = [
            Agent(
                f"{path}/{index}",
                [sub_system + text(25), *(text(50) for _ in range(TURNS - 1))],
                [[] for _ in range(TURNS)],
            )
            for index in range(SUBS)
        ]
        lead = Agent(path, [lead_system + text(20), text(200)], [[], subs])
        for sub in subs:
            sub.ready_at = -1  # until its lead has spoken
        agents += [lead, *subs]
    return agents


class Replay:
    """Runs agents to their end on one scheduler whose model says anything at all."""

    def __init__(self, num_pages: int, *, named: bool = True, tool_steps: int = 0) -> None:
        pool = PagePool(num_pages)
        self.scheduler = Scheduler(
            pool, PrefixTree(pool), page_size=PAGE, max_num_seqs=64, max_batch_tokens=512
        )
        self.named, self.tool_steps = named, tool_steps
        self.steps = 0
        self._rng = np.random.default_rng(0)
        self._known: set[int] = set()
        self.distinct = 0

    def run(self, agents: list[Agent]) -> float:
        """Prefill tokens computed for each that no cache could have spared."""
        computed = self.scheduler.counters.prefill_tokens_computed
        self.distinct = 0
        while not all(agent.done for agent in agents):
            for agent in agents:
                self._begin_turn(agent)
            step = self.scheduler.schedule()
            self.steps += 1
            if step is None:
                continue
            count = sum(step.num_rows)
            said = self._rng.integers(0, 1000, count).tolist()
            self.scheduler.commit(step, Sampled(said, [0.0] * count, [0.0] * count))
            for agent in agents:
                self._end_turn(agent, agents)
            if self.steps % 50 == 0:
                self.scheduler.check()
            assert self.steps < 30_000, "not everyone finishes"
        self.scheduler.check()
        return (self.scheduler.counters.prefill_tokens_computed - computed) / self.distinct

    def _begin_turn(self, agent: Agent) -> None:
        if agent.call is not None or agent.done or not 0 <= agent.ready_at <= self.steps:
            return
        if not all(other.done for other in agent.after[agent.turn]):
            return
        for token in agent.texts[agent.turn]:
            agent.ids.append(token)
            self.distinct += self._learn(agent.ids)
        agent.call = Sequence(
            np.array(agent.ids),
            Sampling(max_tokens=REPLY),
            max_model_len=600,
            page_size=PAGE,
            session=agent.path if self.named else "",
        )
        self.scheduler.submit(agent.call)

    def _end_turn(self, agent: Agent, agents: list[Agent]) -> None:
        if agent.call is None or agent.call.finish_reason is None:
            return
        for token in agent.call.tokens[len(agent.ids) :].tolist():
            agent.ids.append(token)
            self._learn(agent.ids)
        agent.call, agent.turn = None, agent.turn + 1
        agent.ready_at = self.steps + self.tool_steps
        for other in agents:
            if other.ready_at < 0 and other.path.startswith(agent.path + "/"):
                other.ready_at = self.steps

    def _learn(self, ids: list[int]) -> bool:
        """Whether no context began like this before."""
        before = len(self._known)
        self._known.add(hash(tuple(ids)))
        return len(self._known) > before


@pytest.mark.parametrize("named", [True, False])
def test_prefill_computed_is_at_most_1_05_times_the_distinct_tokens(named: bool) -> None:
    replay = Replay(4000, named=named, tool_steps=3)
    assert 1 <= replay.run(wide_questions(4, 1)) <= 1.05
    assert replay.scheduler.counters.preemptions == 0


@pytest.mark.parametrize("tool_steps", [0, 5])
def test_with_few_pages_agents_do_not_push_each_other_out(tool_steps: int) -> None:
    """All contexts together need three times the pages there are."""
    named, nameless = (Replay(300, named=n, tool_steps=tool_steps) for n in (True, False))
    first = named.run(wide_questions(4, 1))
    # How long contexts get is known now, so no more are begun than can be finished.
    later = named.run(wide_questions(4, 2))
    assert later < 1.1 < first < 1.5 < nameless.run(wide_questions(4, 1))
    assert named.scheduler.counters.preemptions == 0


def draw(seed: int, length: int) -> list[int]:
    drawn: list[int] = np.random.default_rng(seed).integers(0, 1000, length).tolist()
    return drawn


def next_turn(world: World, last: Sequence, added: int = 5) -> Sequence:
    return world.submit([*tokens_of(last), *draw(99, added)], 4, last.session_path)


@pytest.mark.parametrize(("wave", "kept"), [("q/lead/{}", True), ("other/lead/{}", False)])
def test_a_parents_pages_stay_while_its_wave_runs(wave: str, kept: bool) -> None:
    world = World(20, 4, max_seqs=4, max_tokens=64)
    lead = world.submit(draw(0, 30), 4, "q/lead")
    world.drain()
    for number in range(6):
        world.submit(draw(1 + number, 20), 12, wave.format(number))
    world.drain()
    following = next_turn(world, lead)
    world.drain()
    # All but the last sampled token, from which nothing had followed yet.
    assert (following.cached_tokens == lead.num_tokens - 1) == kept


def test_the_next_turn_goes_on_in_the_page_where_the_last_one_ended() -> None:
    world = World(40, 4, max_seqs=8, max_tokens=64)
    first = world.submit(draw(0, 13), 5, "q/lead")
    world.drain()
    page = first.session.pages[-1]
    second = next_turn(world, first)
    step = world.step()
    assert step is not None and step.copies == []
    assert int(second.pages[4]) == page
    world.drain()


def test_siblings_fork_what_their_parent_holds() -> None:
    world = World(40, 4, max_seqs=8, max_tokens=64)
    lead = world.submit(draw(0, 30), 4, "q/lead")
    world.drain()
    siblings = [
        world.submit([*tokens_of(lead), *draw(1 + n, 9)], 4, f"q/lead/{n}") for n in range(5)
    ]
    world.drain()
    assert [s.cached_tokens for s in siblings] == [lead.num_tokens - 1] * 5
    assert world.scheduler.counters.prefill_tokens_computed == 30 + 5 * (1 + 9)


def test_a_wave_that_is_over_lets_go() -> None:
    world = World(60, 4, max_seqs=8, max_tokens=64)
    lead = world.submit(draw(0, 30), 4, "q/lead")
    world.drain()
    for number in range(3):
        world.submit(draw(1 + number, 20), 4, f"q/lead/{number}")
    world.drain()
    sessions = world.scheduler.cache.sessions
    assert len(list(sessions.holding())) == 4
    next_turn(world, lead)
    assert [session.name for session in sessions.holding()] == ["lead"]


def test_a_session_lets_go_of_all_its_pages_or_of_none() -> None:
    world = World(20, 4, max_seqs=4, max_tokens=64)
    first = world.submit(draw(0, 30), 2, "p/lead")
    world.drain()
    second = world.submit(draw(1, 30), 2, "q/lead")
    world.drain()
    world.submit(draw(2, 16), 4)
    world.drain()
    assert next_turn(world, second).session.pages
    world.drain()
    again = next_turn(world, first)
    assert not again.session.pages
    world.drain()


def test_no_more_are_admitted_than_there_are_pages_for_the_replies_expected() -> None:
    world = World(12, 4, max_seqs=8, max_tokens=64)
    sequences = [world.submit(draw(n, 6), 14) for n in range(6)]
    while any(s.finish_reason is None for s in sequences):
        world.step()
        assert len(world.scheduler.running) <= 2  # five pages each in the end
    assert world.scheduler.counters.preemptions == 0


def test_nameless_calls_have_no_turns_to_come() -> None:
    world = World(40, 4, max_seqs=8, max_tokens=64)
    world.submit(draw(0, 100), 4)
    world.drain()
    calls = [world.submit(draw(1 + n, 9), 4) for n in range(6)]
    world.step()
    assert world.scheduler.running == calls


def test_questions_share_the_engine_fairly() -> None:
    world = World(200, 4, max_seqs=2, max_tokens=64)
    begun: list[str] = []
    many = [world.submit(draw(n, 10), 4, f"many/{n}") for n in range(12)]
    few = [world.submit(draw(50 + n, 10), 4, f"few/{n}") for n in range(3)]
    while any(s.finish_reason is None for s in many + few):
        world.step()
        for sequence in world.scheduler.running:
            if sequence.session_path not in begun:
                begun.append(sequence.session_path)
    places = [begun.index(s.session_path) for s in few]
    assert places == [1, 3, 5]


def test_who_is_expected_to_say_most_begins_first() -> None:
    world = World(200, 4, max_seqs=1, max_tokens=64)
    for number, length in enumerate((3, 12, 7)):
        world.submit(draw(number, 9), length, f"q/lead/{number}")
    order = [sequence.session_path for sequence in world.scheduler.waiting.in_order()]
    assert order == ["q/lead/1", "q/lead/2", "q/lead/0"]


@pytest.mark.parametrize("num_chats", [3, 8])
def test_no_question_starves_though_others_always_have_something_to_go_on_with(
    num_chats: int,
) -> None:
    world = World(16, 4, max_seqs=4, max_tokens=64)
    chats = {n: world.submit(draw(n, 8), 4, f"chat{n}") for n in range(num_chats)}
    world.step()
    late = world.submit(draw(50, 40), 8, "late")
    for _ in range(2 * PATIENCE):
        for n, call in chats.items():
            if call.finish_reason is not None:
                ids = tokens_of(call)
                chats[n] = world.submit([*(ids if len(ids) < 16 else draw(n, 8)), 1], 4, f"chat{n}")
        world.step()
        if late.finish_reason is not None:
            break
    assert late.finish_reason == "length"


def test_sessions_leave_nothing_behind() -> None:
    world = World(60, 4, max_seqs=8, max_tokens=64)
    for number in range(20):
        world.submit(draw(number, 20), 4, f"q{number}/lead/0")
    world.drain()
    sessions = world.scheduler.cache.sessions
    world.scheduler.forget()
    assert len(sessions) == 0 and sessions.pages() == []
    assert world.pool.num_free == world.pool.num_pages


def test_only_so_many_sessions_hold_pages(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sessions_module, "MOST_HOLDING", 3)
    pool = PagePool(8)
    (page,) = pool.take(1)
    sessions = Sessions(pool)
    for number in range(5):
        session = sessions.begin(f"q{number}", number)
        sessions.keep(session, [page], number)
        sessions.end(session, 1, 1)
    assert [session.name for session in sessions.holding()] == ["q2", "q3", "q4"]
    assert pool.num_holders(page) == 1 + 3
