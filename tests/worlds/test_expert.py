"""The scripted expert answers every task exactly, through the real agent loop."""

from pathlib import Path

import pytest
from wideseek_train.demonstrations import demonstrate, to_example
from wideseek_train.tokenizer import build_tokenizer, save_tokenizer

from wideseek.agents.prompts import load_prompts
from wideseek.agents.replies import tell_found
from wideseek.model.renderer import Renderer
from wideseek.trajectory import End
from wideseek.worlds.expert import LeadExpert, SingleExpert
from wideseek.worlds.tasks import Task, make_task, make_tasks


@pytest.fixture(scope="module")
def renderer(tmp_path_factory: pytest.TempPathFactory) -> Renderer:
    folder: Path = tmp_path_factory.mktemp("tokenizer")
    save_tokenizer(build_tokenizer(stems=600), folder)
    return Renderer.load(folder)


@pytest.mark.parametrize("workflow", ["team", "single"])
@pytest.mark.parametrize("split", ["train", "test"])
def test_the_expert_is_always_right(renderer: Renderer, split: str, workflow: str) -> None:
    for task in make_tasks(split, 30, seed=5, rows=(1, 13)):  # type: ignore[arg-type]
        rollout = demonstrate(task, renderer, workflow, 10)
        assert all(t.end is End.ANSWERED for t in rollout.trajectories)
        if task.kind == "boxed":
            assert f"\\boxed{{{task.answer}}}" in rollout.answer
        for row in task.rows:
            assert f"| {' | '.join(row)} |" in rollout.answer


@pytest.mark.parametrize("workflow", ["team", "single"])
def test_the_expert_is_right_with_titles_too(renderer: Renderer, workflow: str) -> None:
    """An item that was typed in small letters is then told as its page is called."""
    for task in make_tasks("train", 20, seed=5, rows=(1, 13), kind="table"):
        rollout = demonstrate(task, renderer, workflow, 10, found_count=5)
        for row in task.rows:
            assert f"| {' | '.join(row)} |".lower() in rollout.answer.lower()


@pytest.mark.parametrize("workflow", ["team", "single"])
def test_the_expert_asks_again_for_what_failed(renderer: Renderer, workflow: str) -> None:
    for task in make_tasks("train", 12, seed=6, rows=(2, 5), kind="table"):
        rollout = demonstrate(task, renderer, workflow, 10, flaky=0.3)
        for row in task.rows:
            assert f"| {' | '.join(row)} |" in rollout.answer


def test_a_narrow_team_runs_out_of_turns_and_says_what_it_has(renderer: Renderer) -> None:
    """One subagent a call and ten lead turns leave room for eight items after the list."""
    drawn = (make_task(seed, "test", (12, 14), "table") for seed in range(100))
    task = next(t for t in drawn if len(t.rows) >= 12 and len(t.columns) > 1)
    rollout = demonstrate(task, renderer, "team", 1)
    assert [" | ".join(row) in rollout.answer for row in task.rows].count(True) == 8


def test_examples_mark_exactly_what_was_said(renderer: Renderer) -> None:
    task = make_task(3, "train", (3, 4), "table")
    lead = demonstrate(task, renderer, "team", 10).trajectories[0]
    example = to_example(lead, "lead")
    said = renderer.decode(example.token_ids[example.said].tolist())
    assert said == "".join(turn.text + "<|im_end|>" for turn in lead.turns)
    assert len(example.token_ids) > example.said.sum() > 0


def first_message(task: Task, *titles: str) -> str:
    found = tell_found(load_prompts("en"), titles)
    return f"Question: {task.question}{found}\n\n[turn 1 of 10, up to 10 subagents a call]"


def test_a_list_is_looked_for_by_the_title_that_was_found() -> None:
    drawn = (make_task(seed, "train", (3, 5), "table") for seed in range(100))
    task = next(t for t in drawn if not t.phrasing.entities and t.phrasing.span != t.pages[0].title)
    title, other = task.pages[0].title, task.pages[1].title
    told = LeadExpert(task, first_message(task, other, title)).speak()
    assert f"find: [b] {title}\n" in told and f'"list: {title}"' in told
    told = SingleExpert(task, first_message(task, other, title)).speak()
    assert f"find: [b] {title}\n" in told and f'"query": "{title}"' in told
    told = LeadExpert(task, first_message(task, other)).speak()
    assert f"find: {task.phrasing.span}\n" in told, "in the asker's words where it was not found"


def test_a_single_item_is_called_as_its_page_and_several_as_the_asker_calls_them() -> None:
    drawn = [make_task(seed, "train", (3, 5), "table") for seed in range(2000)]
    small = [t for t in drawn if t.phrasing.entities and t.question.islower()]
    for one in (True, False):
        task = next(t for t in small if (len(t.phrasing.entities) == 1) is one)
        asked = task.phrasing.entities[0]
        title = next(p.title for p in task.pages if p.title.lower() == asked)
        told = LeadExpert(task, first_message(task, title)).speak()
        assert (f"find: [a] {title}\n" if one else f"find: 1. {asked}, 2. ") in told
        assert f'"1. {title if one else asked}: (a) ' in told
