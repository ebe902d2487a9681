"""The ledger: issued = done + failed + live, and no limit is ever passed."""

import asyncio
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from wideseek.runs.ledger import Budget, Count, Ledger

CALLS = st.lists(
    st.tuples(
        st.integers(1, 60), st.integers(1, 60), st.floats(0, 1), st.integers(0, 3), st.booleans()
    ),
    max_size=30,
)  # prompt, wanted, share used, steps taken, whether the reply is good


@settings(deadline=None)
@given(calls=CALLS, max_tokens=st.integers(1, 300))
def test_concurrent_model_calls_never_overdraw_and_all_end(
    calls: list[tuple[int, int, float, int, bool]], max_tokens: int
) -> None:
    async def one(
        ledger: Ledger, prompt: int, wanted: int, used: float, steps: int, ok: bool
    ) -> int:
        granted = await ledger.reserve(prompt, wanted)
        assert 0 <= granted <= wanted
        if not granted:
            assert ledger.stop_reason == "max_tokens"
            return 0
        for _ in range(steps):
            assert_conserved(ledger)
            await asyncio.sleep(0)
        completion = round(used * granted)
        ledger.settle(prompt + granted, prompt=prompt, completion=completion, ok=ok)
        assert ledger.prompt_tokens + ledger.completion_tokens <= max_tokens
        return granted

    async def all_of_them() -> None:
        ledger = Ledger(Budget(max_tokens=max_tokens))
        granted = await asyncio.gather(*(one(ledger, *call) for call in calls))
        assert_conserved(ledger)
        assert ledger.model_calls.live == 0
        assert ledger.model_calls.issued == sum(tokens > 0 for tokens in granted)
        most = sum(prompt + wanted for prompt, wanted, *_ in calls)
        if most <= max_tokens:
            assert [call[1] for call in calls] == granted, "nobody is cut while there is enough"

    asyncio.run(all_of_them())


def assert_conserved(ledger: Ledger) -> None:
    for count in (ledger.agents, ledger.model_calls, ledger.tool_calls):
        assert count.issued == count.done + count.failed + count.live
        assert min(count.done, count.failed, count.live) >= 0


@given(wanted=st.lists(st.integers(0, 9)), limit=st.integers(1, 20))
def test_grants_stop_exactly_at_the_limit(wanted: list[int], limit: int) -> None:
    async def grant_all() -> None:
        ledger = Ledger(Budget(max_agents=limit, max_tool_calls=limit))
        ledger.agents.issue()  # the root
        agents = [ledger.grant_agents(number) for number in wanted]
        tools = [ledger.grant_tool_calls(number) for number in wanted]
        assert agents == tools
        assert sum(agents) == min(sum(wanted), limit)
        assert ledger.agents.issued == sum(agents) + 1
        assert_conserved(ledger)

    asyncio.run(grant_all())


def test_settling_what_was_not_issued_is_a_bug() -> None:
    with pytest.raises(AssertionError, match="settled more than was issued"):
        Count().settle(ok=True)


def test_first_reason_to_stop_is_kept() -> None:
    async def stop_twice() -> Ledger:
        ledger = Ledger(Budget())
        ledger.stop("max_tokens")
        ledger.stop("cancelled")
        assert await ledger.reserve(1, 1) == 0
        return ledger

    assert asyncio.run(stop_twice()).stop_reason == "max_tokens"


def test_stop_wakes_those_who_wait_for_tokens() -> None:
    async def wait_in_vain() -> int:
        ledger = Ledger(Budget(max_tokens=10))
        assert await ledger.reserve(5, 5) == 5
        waiting = asyncio.create_task(ledger.reserve(1, 1))
        await asyncio.sleep(0)
        assert not waiting.done()
        ledger.stop("cancelled")
        return await waiting

    assert asyncio.run(wait_in_vain()) == 0


def test_reply_is_not_cut_short_while_others_may_give_tokens_back() -> None:
    async def wait_for_enough() -> int:
        ledger = Ledger(Budget(max_tokens=20))
        assert await ledger.reserve(5, 10) == 10
        waiting = asyncio.create_task(ledger.reserve(1, 8))
        await asyncio.sleep(0)
        ledger.settle(15, prompt=5, completion=2, ok=True)
        return await waiting

    assert asyncio.run(wait_for_enough()) == 8


def test_last_tokens_are_granted_in_part() -> None:
    async def nearly_spent() -> int:
        return await Ledger(Budget(max_tokens=10)).reserve(7, 100)

    assert asyncio.run(nearly_spent()) == 3


def test_work_is_cancelled_when_the_run_stops_and_its_bugs_surface() -> None:
    async def works() -> None:
        ledger = Ledger(Budget())
        ended: list[str] = []

        async def hang() -> str:
            try:
                await asyncio.Event().wait()
            finally:
                ended.append("cancelled")
            return "never"

        async def fail() -> str:
            raise KeyError("bug")

        async def stop() -> None:
            ledger.stop("cancelled")

        with pytest.raises(KeyError):
            await ledger.unless_stopped(fail())
        result, _ = await asyncio.gather(ledger.unless_stopped(hang()), stop())
        assert result is None and ended == ["cancelled"]

    asyncio.run(works())


def test_usage_tells_all_that_was_spent() -> None:
    async def spend() -> dict[str, Any]:
        ledger = Ledger(Budget())
        ledger.agents.issue()
        granted = await ledger.reserve(10, 5)
        ledger.settle(10 + granted, prompt=10, completion=2, cached=4, ok=True)
        ledger.grant_tool_calls(2)
        ledger.tool_calls.settle(ok=False)
        return ledger.usage()

    usage = asyncio.run(spend())
    assert usage.pop("seconds") >= 0
    assert usage == {
        "agents": 1,
        "agents_failed": 0,
        "model_calls": 1,
        "prompt_tokens": 10,
        "completion_tokens": 2,
        "cached_tokens": 4,
        "tool_calls": 2,
        "tool_calls_failed": 1,
    }


@pytest.mark.parametrize("field", ["max_agents", "max_tokens", "max_tool_calls", "max_seconds"])
def test_limit_of_nothing_is_refused_by_name(field: str) -> None:
    with pytest.raises(ValueError, match=f"{field} must be more than 0, not 0"):
        Budget(**{field: 0})
