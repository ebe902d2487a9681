"""Collecting a step: which questions it holds, what its rollouts earn, and traces it can be computed again from."""

import asyncio
import threading
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
import torch
import torch.distributed as dist
from wideseek_train.batch import make_batch
from wideseek_train.collect import QuestionQueue, draw_width
from wideseek_train.graded import (
    Graded,
    GradedGroup,
    Reward,
    Share,
    Unscored,
    assign_advantages,
    grade,
)
from wideseek_train.loss import LossConfig
from wideseek_train.traces import drop_traces_after
from wideseek_train.trainer import Trainer, TrainerConfig

from tests.train.moody import CONFIG, SEED, SOURCE, SilentModel, collector, moody, tasks_of
from tests.train.start import lone_rank, tokenizer_size, write_start
from wideseek.agents.limits import Limits
from wideseek.grading.credit import CreditConfig
from wideseek.model.config import ModelConfig
from wideseek.model.qwen3 import Qwen3
from wideseek.model.renderer import Renderer
from wideseek.trajectory import End


@pytest.fixture(scope="module")
def renderer(tmp_path_factory: pytest.TempPathFactory) -> Renderer:
    return Renderer.load(write_start(tmp_path_factory.mktemp("start")))


def attempts_of(groups: list[GradedGroup]) -> list[tuple[int, tuple[Graded, ...]]]:
    return [(group.question, group.attempts) for group in groups]


def without_times(groups: list[GradedGroup]) -> list[tuple[int, tuple[Graded, ...]]]:
    return [
        (g.question, tuple(replace(a, started=0.0, ended=0.0) for a in g.attempts)) for g in groups
    ]


def test_a_step_holds_rollouts_of_teams_with_their_rewards(
    tmp_path: Path, renderer: Renderer
) -> None:
    groups = collector(tmp_path, moody(renderer)).collect(0, {})
    attempts = [attempt for group in groups for attempt in group.attempts]
    assert sum(group.has_signal for group in groups) == CONFIG.questions
    assert {(a.question, a.attempt) for a in attempts} == {
        (group.question, i) for group in groups for i in range(3)
    }
    right = [a for a in attempts if isinstance(a.reward, Reward) and a.reward.item_f1 == 1.0]
    wrong = [a for a in attempts if isinstance(a.reward, Reward) and a.reward.item_f1 == 0.0]
    assert right and wrong and len(right) + len(wrong) == len(attempts)
    assert all(t.role in ("lead", "sub") for a in right for t in a.rollout.trajectories)
    assert all(len(a.rollout.trajectories) >= 2 and a.tools.get("sub.search.ok") for a in right)
    assert len({a.rollout.seed for a in attempts}) == len(attempts)
    assert all(a.ended >= a.started > 1e9 for a in attempts)


def test_a_search_for_the_question_itself_is_no_agents_call(
    tmp_path: Path, renderer: Renderer
) -> None:
    made = collector(tmp_path, moody(renderer), limits=Limits(found_count=3))
    attempts = [a for group in made.collect(0, {}) for a in group.attempts]
    begun = [a.rollout.trajectories[0].prompt_token_ids for a in attempts]
    assert all("Found:" in renderer.decode(ids) for ids in begun)
    roles = {name.partition(".")[0] for a in attempts for name in a.tools}
    assert "sub" in roles and roles <= {"lead", "sub"}


def test_what_a_step_holds_depends_on_seed_and_step_alone(renderer: Renderer) -> None:
    first, again, later = (SOURCE.draw(s, 1, {}) for s in (0, 0, 1))
    assert (first.id, first.gold) == (again.id, again.gold) and first.id != later.id
    assert first.id.startswith("train-")
    widths = {draw_width(replace(CONFIG, min_width=2), 4, SEED, s, 0) for s in range(40)}
    assert widths == {2, 3, 4}


@pytest.fixture
def one_rank() -> Iterator[None]:
    with lone_rank():
        yield


def train_on(groups: list[GradedGroup]) -> Qwen3:
    """The weights after one step of a fresh trainer."""
    config = ModelConfig(
        architecture="Qwen3ForCausalLM",
        vocab_size=tokenizer_size(),
        hidden_size=16,
        intermediate_size=16,
        num_layers=1,
        num_heads=2,
        num_kv_heads=1,
        head_dim=8,
        max_position_embeddings=4096,
    )
    model = Qwen3(config)
    model.init_weights(0)
    trainer = Trainer(model, TrainerConfig(learning_rate=1e-3), LossConfig(), steps=1)
    samples = assign_advantages(
        groups, baseline="normalized", share="outcome", num_rollouts=6, credit=CreditConfig()
    )
    report = trainer.step(make_batch(samples, token_budget=4096, hidden_size=16))
    assert report.tokens > 500 and report.grad_norm > 0
    return trainer.whole_model()


def test_replay_from_traces_is_bitwise(tmp_path: Path, renderer: Renderer, one_rank: None) -> None:
    """A step computed again from its traces: no tool, no model is asked, and the weights are the same to the bit."""
    groups = collector(tmp_path, moody(renderer)).collect(0, {})
    replayed = collector(tmp_path, SilentModel(renderer, tasks_of(0))).collect(0, {})
    assert attempts_of(replayed) == attempts_of(groups)
    ours, theirs = train_on(groups), train_on(replayed)
    for name, tensor in ours.state_dict().items():
        assert torch.equal(tensor, theirs.state_dict()[name]), name


def test_a_torn_trace_costs_only_the_torn_rollout(tmp_path: Path, renderer: Renderer) -> None:
    groups = collector(tmp_path, moody(renderer)).collect(0, {})
    (path,) = tmp_path.iterdir()
    path.write_bytes(path.read_bytes()[:-700])
    whole = path.read_bytes().count(b"\n")
    model = moody(renderer)
    again = collector(tmp_path, model, rank=1).collect(0, {})
    assert without_times(again) == without_times(groups)
    assert len(list(tmp_path.iterdir())) == 2
    assert 0 < model.replies < 20
    total = sum(p.read_bytes().count(b"\n") for p in tmp_path.iterdir())
    assert total == whole + 1 == sum(len(g.attempts) for g in groups)


def test_questions_without_a_signal_are_drawn_again_up_to_a_bound(
    tmp_path: Path, renderer: Renderer
) -> None:
    groups = collector(tmp_path, moody(renderer, moody=False)).collect(0, {})
    assert [g.question for g in groups] == list(range(CONFIG.most_questions))
    assert not any(g.has_signal for g in groups)
    assert not assign_advantages(
        groups, baseline="normalized", share="outcome", num_rollouts=6, credit=CreditConfig()
    )


def test_the_next_question_waits_for_what_is_not_done_yet() -> None:
    """Whether a third question is needed shows only when the second is done; then whoever waits takes it."""

    async def play() -> list[int | None]:
        queue = QuestionQueue(dist.HashStore(), 0, CONFIG)
        taken = [await queue.take(), await queue.take()]
        waiting = asyncio.create_task(queue.take())
        queue.settle(signal=True)
        await asyncio.sleep(0.1)
        assert not waiting.done()
        queue.settle(signal=False)
        taken.append(await waiting)
        queue.settle(signal=True)
        return [*taken, await queue.take(), await queue.take()]

    assert asyncio.run(play()) == [0, 1, 2, None, None]


def collect_on_two_ranks(
    folder: Path, renderer: Renderer, seconds: tuple[float, float]
) -> list[list[GradedGroup]]:
    """What each of two ranks in threads collects, whose models take so long a turn."""
    store = dist.HashStore()
    models = [moody(renderer, seconds=s) for s in seconds]
    found: list[list[GradedGroup]] = [[], []]

    def work(rank: int) -> None:
        own = collector(folder, models[rank], store=store, rank=rank, num_ranks=2)
        found[rank] = own.collect(0, {})

    threads = [threading.Thread(target=work, args=(rank,), daemon=True) for rank in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(timeout=120)
        assert not thread.is_alive(), "a rank hangs"
    return found


def test_uneven_ranks_do_not_hang(tmp_path: Path, renderer: Renderer) -> None:
    """One rank's turns take far longer: the other takes the questions, and the step holds the same ones."""
    lone = collector(tmp_path / "one", moody(renderer)).collect(0, {})
    slow, fast = collect_on_two_ranks(tmp_path / "two", renderer, (0.5, 0.0))
    together = sorted(slow + fast, key=lambda group: group.question)
    assert without_times(together) == without_times(lone)
    assert len(slow) == 1 and len(fast) == len(lone) - 1 > 0


def test_a_rollout_whose_model_is_down_leaves_the_group(tmp_path: Path, renderer: Renderer) -> None:
    groups = collector(tmp_path, moody(renderer, fails=True)).collect(0, {})
    attempts = [a for g in groups for a in g.attempts]
    failed = [a for a in attempts if isinstance(a.reward, Unscored)]
    assert failed and {a.reward.kind for a in failed if isinstance(a.reward, Unscored)} == {
        "model_failed"
    }
    for group in groups:
        assert len(group.scored.rewards) + sum(a in failed for a in group.attempts) == 3
    again = collector(tmp_path, SilentModel(renderer, {})).collect(0, {})
    assert attempts_of(again) == attempts_of(groups)


def test_what_was_down_is_asked_again_after_a_restart(tmp_path: Path, renderer: Renderer) -> None:
    collector(tmp_path, moody(renderer, fails=True)).collect(0, {})
    drop_traces_after(tmp_path, 0)
    groups = collector(tmp_path, moody(renderer)).collect(0, {})
    assert all(isinstance(a.reward, Reward) for g in groups for a in g.attempts)


def test_what_a_rollout_earns(tmp_path: Path, renderer: Renderer) -> None:
    groups = collector(tmp_path, moody(renderer, moody=False)).collect(0, {})
    group = next(g for g in groups if g.task.kind == "table")
    rollout = group.attempts[0].rollout
    strict = CreditConfig(length_limit=1, max_length_limit=2, length_penalty=0.25)
    paid = grade(group.task, rollout, strict)
    assert isinstance(paid, Reward) and paid.answered
    assert (paid.value, paid.item_f1, paid.overlong) == (0.75, 1.0, 0.25)
    cut = replace(rollout.trajectories[0], end=End.TURN_LIMIT)
    ended = replace(rollout, trajectories=(cut, *rollout.trajectories[1:]))
    unpaid = grade(group.task, ended, CreditConfig())
    assert isinstance(unpaid, Reward) and (unpaid.value, unpaid.answered) == (0.0, False)
    lead, *subs = rollout.trajectories
    broken = replace(subs[0], end=End.MODEL_FAILED)
    outage = grade(
        group.task, replace(rollout, trajectories=(lead, broken, *subs[1:])), CreditConfig()
    )
    assert isinstance(outage, Unscored) and outage.kind == "model_failed"
    mute = replace(rollout.trajectories[0], end=End.CONTEXT_FULL, turns=())
    for turns in ("all", "reference"):
        never = grade(group.task, replace(rollout, trajectories=(mute,)), CreditConfig(), turns)
        assert isinstance(never, Unscored) and never.kind == "context_full"


def test_turns_and_rewards_of_the_reference(tmp_path: Path, renderer: Renderer) -> None:
    """A form that failed pays 0 and trains its last turn alone; the outcome is paid with bonuses."""
    credit = CreditConfig(format_reward=0.1, call_search_reward=0.05)
    groups = collector(tmp_path, moody(renderer), credit=credit, turns="reference").collect(0, {})
    table = next(group for group in groups if group.has_signal)
    rewards = sorted(table.scored.rewards)
    assert rewards[0] == 0.0 and rewards[-1] == pytest.approx(1.15)
    samples = assign_advantages(
        [table],
        baseline="centered",
        share="outcome",
        num_rollouts=6,
        credit=credit,
        turns="reference",
    )[table.question]
    losers = [s for s in samples if float(s.advantages[s.trained][0]) < 0]
    assert len(losers) == rewards.count(0.0)
    ends = [s.trained.nonzero()[0, 0] > len(s) - 30 for s in losers]
    assert all(ends)


def test_a_frozen_role_is_played_by_another_model_and_not_trained(
    tmp_path: Path, renderer: Renderer
) -> None:
    lead, sub = moody(renderer), moody(renderer)
    groups = collector(tmp_path, lead, sub=sub).collect(0, {})
    assert lead.replies and sub.replies
    samples = assign_advantages(
        groups,
        baseline="normalized",
        share="outcome",
        num_rollouts=6,
        credit=CreditConfig(),
        frozen="sub",
    )
    trained = [sample for own in samples.values() for sample in own]
    assert {sample.role for sample in trained} == {"lead"}
    total = sum(float(sample.weights.sum()) for sample in trained)
    assert total == pytest.approx(len(samples) * 3 / 6)  # the lead has all of its rollout's weight


def test_advantages_by_subagent_pay_for_cells_supplied(tmp_path: Path, renderer: Renderer) -> None:
    """Leads get the outcome either way; a subagent of a good table gets what its cells were worth."""
    groups = collector(tmp_path, moody(renderer, step=5)).collect(5, {})
    table = groups[-1]
    assert table.has_signal
    assert all(len(a.rollout.trajectories) > 2 for a in table.attempts)

    def shared(share: Share) -> list[tuple[str, float]]:
        samples = assign_advantages(
            [table], baseline="centered", share=share, num_rollouts=6, credit=CreditConfig()
        )
        return [(s.role, float(s.advantages[s.trained][0])) for s in samples[table.question]]

    def of(role: str, share: Share) -> list[float]:
        return [advantage for own, advantage in shared(share) if own == role]

    assert of("lead", "outcome") == of("lead", "subagent") == of("lead", "role")
    assert of("lead", "cells") == of("lead", "outcome")
    # Every cell that came from a subagent is right here, and attempts without a table tell nothing.
    assert set(of("sub", "cells")) == {0.0}
    assert set(of("sub", "outcome")) == set(of("lead", "outcome"))
    good = [
        a for a, whole in zip(of("sub", "subagent"), of("sub", "outcome"), strict=True) if whole > 0
    ]
    # One that supplied less than others may earn less than the average, together they earn more.
    assert good and sum(good) > 0 and max(good) < max(of("lead", "outcome"))
    assert len(set(good)) > 1
    assert sum(of("sub", "subagent")) == pytest.approx(0.0, abs=1e-6)


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({"group_size": 1}, "group_size"),
        ({"most_questions": 1}, "most_questions"),
        ({"max_rows": 1}, "max_rows"),
        ({"temperature": 0.0}, "temperature"),
    ],
)
def test_settings_that_cannot_be_collected_with(changes: dict[str, float], told: str) -> None:
    with pytest.raises(ValueError, match=told):
        replace(CONFIG, **changes)  # type: ignore[arg-type]
