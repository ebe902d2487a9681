"""The turn loop of one agent: room, limits, ends, and that nothing that happened is lost."""

import asyncio
from typing import Any

from tests.agents.scripted import Cast, Pages, Said, Speak, Talk, call, lines
from wideseek.agents.limits import Limits
from wideseek.agents.model_call import derive_seed
from wideseek.agents.prompts import load_prompts
from wideseek.agents.research import Research
from wideseek.generation import ModelFailure, ModelFailureKind, Sampling
from wideseek.trajectory import End, Rollout, Trajectory

PAGES = Pages({"https://w/Brazil": "Brazil\nCapital: Brasília"})
SEARCH = call("search", query="Brazil")


def alone(speak: Speak, seed: int = 0, **limits: Any) -> tuple[Trajectory, Talk]:
    """Run one single agent; its trajectory and dialogue."""
    cast = Cast(speak)
    research = Research(
        open_lead=cast.open,
        open_sub=cast.open,
        search=PAGES,
        access=PAGES,
        prompts=load_prompts("en"),
        limits=Limits(**limits),
        sampling=Sampling(temperature=0.5, top_p=0.9, max_tokens=3),
    )
    rollout = asyncio.run(research.run("Capital of Brazil?", "single", seed))
    return rollout.trajectories[0], cast.talks[0]


def saying(*said: Said) -> Speak:
    return lambda talk: said[talk.turn - 1]


def test_answer_is_the_text_after_thinking() -> None:
    trajectory, _ = alone(saying("<think>hm</think> \\boxed{Brasília}\n"))
    assert trajectory.end is End.ANSWERED
    assert trajectory.report == "\\boxed{Brasília}"
    assert trajectory.turns[0].text == "<think>hm</think> \\boxed{Brasília}\n"


def test_trajectory_is_the_context_token_for_token() -> None:
    trajectory, talk = alone(saying(SEARCH, call("access", url="https://w/Brazil"), "done"))
    assert [token for token, _ in trajectory.token_ids()] == list(talk.token_ids)
    sampled = "".join(chr(token) for token, was_sampled in trajectory.token_ids() if was_sampled)
    assert sampled == "".join(turn.text for turn in trajectory.turns)
    assert trajectory.turns[1].tool_text == talk.tool_texts[1]
    assert trajectory.turns[2].tool_token_ids == ()


def test_room_is_what_the_context_leaves_and_replies_may_be_capped() -> None:
    trajectory, talk = alone(saying(SEARCH, "done"), seq_length=5000)
    first = len(trajectory.prompt_token_ids)
    second = first + len(SEARCH) + len(trajectory.turns[0].tool_token_ids)
    assert [s.max_tokens for s in talk.samplings] == [5000 - first, 5000 - second]
    _, talk = alone(saying("done"), seq_length=5000, max_turn_tokens=77)
    assert [s.max_tokens for s in talk.samplings] == [77]


def test_sampling_settings_reach_the_model() -> None:
    _, talk = alone(saying("done"))
    assert (talk.samplings[0].temperature, talk.samplings[0].top_p) == (0.5, 0.9)


def test_reply_that_fills_the_room_is_context_full_and_8000_tokens_of_it_a_runaway() -> None:
    assert alone(saying("z" * 10**5), seq_length=4000)[0].end is End.CONTEXT_FULL
    first = len(alone(saying("done"))[0].prompt_token_ids)
    assert alone(saying("z" * 10**5), seq_length=first + 7999)[0].end is End.CONTEXT_FULL
    assert alone(saying("z" * 10**5), seq_length=first + 8000)[0].end is End.RUNAWAY
    full = alone(saying("z" * 100), seq_length=first + 100)[0]
    assert full.end is End.CONTEXT_FULL, "ends by itself, on the last token of room"
    assert full.report == ""


def test_reply_cut_by_its_own_cap_is_a_runaway() -> None:
    assert alone(saying("z" * 51), max_turn_tokens=50)[0].end is End.RUNAWAY
    assert alone(saying("z" * 50), max_turn_tokens=50)[0].end is End.ANSWERED


def test_first_prompt_that_leaves_no_room_ends_before_any_turn() -> None:
    trajectory, talk = alone(saying("done"), seq_length=20)
    assert trajectory.end is End.CONTEXT_FULL
    assert trajectory.turns == () and talk.samplings == []


def test_tool_text_must_leave_room_for_a_reply() -> None:
    trajectory, talk = alone(saying(SEARCH, "x"))
    needed = talk.num_tokens - len("x")
    trajectory, talk = alone(saying(SEARCH, "x"), seq_length=needed)
    assert trajectory.end is End.CONTEXT_FULL
    assert len(trajectory.turns) == 1 and talk.tool_texts == []
    assert "https://w/Brazil" in trajectory.turns[0].tool_text, "what the tools gave is kept"
    assert len(alone(saying(SEARCH, "x"), seq_length=needed + 1)[0].turns) == 2


def test_turn_limit_still_runs_the_tools_of_the_last_turn() -> None:
    before = len(PAGES.counts)
    trajectory, _ = alone(lambda talk: SEARCH, single_turns=3)
    assert trajectory.end is End.TURN_LIMIT
    assert len(trajectory.turns) == 3
    assert len(PAGES.counts) - before == 3
    assert trajectory.turns[2].tool_text.startswith("Search: Brazil\n1 ")
    assert trajectory.turns[2].tool_token_ids == (), "no reply will be conditioned on it"


def test_hints_count_the_turns() -> None:
    _, talk = alone(saying(SEARCH, SEARCH, "done"), single_turns=4)
    assert talk.user.endswith("[turn 1 of 4]")
    assert [text[-13:] for text in talk.tool_texts] == ["[turn 2 of 4]", "[turn 3 of 4]"]


def test_malformed_call_is_answered_and_the_agent_goes_on() -> None:
    trajectory, talk = alone(saying("<tool_call>{oops</tool_call>", "done"))
    assert trajectory.end is End.ANSWERED
    assert talk.tool_texts[0].startswith("Call not run: not valid JSON")
    assert trajectory.turns[0].calls[0].error is not None


def test_malformed_calls_without_end_are_bounded_by_the_turn_limit() -> None:
    trajectory, _ = alone(lambda talk: "<tool_call>{oops</tool_call>", single_turns=6)
    assert trajectory.end is End.TURN_LIMIT
    assert len(trajectory.turns) == 6


def test_count_of_a_search_is_checked_where_it_is_used() -> None:
    def counted(count: object) -> int:
        alone(saying(call("search", query="Brazil", count=count), "done"), search_count=4)
        return PAGES.counts[-1]

    assert [counted(n) for n in (7, 10**9, "7", -1, True, None)] == [7, 20, 4, 4, 4, 4]


def test_model_failure_ends_the_agent_as_data() -> None:
    down = ModelFailure(kind=ModelFailureKind.UNAVAILABLE, detail="no server")
    trajectory, _ = alone(saying(SEARCH, down))
    assert trajectory.end is End.MODEL_FAILED
    assert len(trajectory.turns) == 1
    full = ModelFailure(kind=ModelFailureKind.CONTEXT_FULL, detail="too long")
    assert alone(saying(full))[0].end is End.CONTEXT_FULL


def test_page_is_shown_up_to_page_chars() -> None:
    _, talk = alone(saying(SEARCH, call("access", url="https://w/Brazil"), "done"), page_chars=6)
    assert talk.tool_texts[1].startswith("Page: https://w/Brazil\nBrazil\n\n[turn")


def test_seed_of_a_turn_depends_on_run_agent_and_turn_alone() -> None:
    def seeds(seed: int) -> list[int]:
        return [s.seed for s in alone(saying(SEARCH, SEARCH, "done"), seed)[1].samplings]

    assert seeds(3) == seeds(3)
    assert len({*seeds(3), *seeds(4)}) == 6
    assert seeds(3)[1] == derive_seed(3, "single", 2)
    assert (
        derive_seed(3, "single", 2) == 1752435357807341655
    )  # blake2b of '[3, "single", 2]', 63 bits


def test_seeds_of_a_run_are_recorded_with_its_turns() -> None:
    trajectory, talk = alone(saying(SEARCH, "done"))
    assert [turn.seed for turn in trajectory.turns] == [s.seed for s in talk.samplings]


def test_weight_version_of_a_rollout_is_that_of_its_first_reply() -> None:
    research = Research(
        open_lead=lines("done"),
        open_sub=lines("done"),
        search=PAGES,
        access=PAGES,
        prompts=load_prompts("en"),
    )
    rollout: Rollout = asyncio.run(research.run("Q?", "single", 5))
    assert (rollout.weight_version, rollout.seed) == (7, 5)
