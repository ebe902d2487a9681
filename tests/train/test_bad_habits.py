"""The imperfect start: its demonstrations show each habit as often as asked, and none when not."""

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from wideseek_train.bad_habits import Habits, act_hastily, draw_hasty_examples
from wideseek_train.graded import Reward, grade
from wideseek_train.tasks import from_world

from tests.train.start import write_start
from wideseek.grading.credit import CreditConfig
from wideseek.model.renderer import Renderer
from wideseek.model.weights import load_model
from wideseek.trajectory import Rollout
from wideseek.worlds.tasks import Task, make_tasks

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def start(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_start(tmp_path_factory.mktemp("start"))


def rollouts(start: Path, few: float, guess: float) -> Iterator[tuple[Task, Rollout, float]]:
    """Of 24 worlds with facts to find out, with the item F1 of each."""
    renderer = Renderer.load(start)
    for task in make_tasks("train", 24, 5, (4, 6), "table"):
        if len(task.columns) > 1 and len(task.rows) > 1:
            rollout = act_hastily(task, renderer, Habits(few=few, guess=guess), 10, found_count=5)
            reward = grade(from_world(task), rollout, CreditConfig())
            assert isinstance(reward, Reward)
            yield task, rollout, reward.item_f1


def subs_of(rollout: Rollout) -> list[int]:
    """Turns of each subagent that was asked for a row."""
    asked = (t for t in rollout.trajectories if t.role == "sub" and not t.task.startswith("list: "))
    return [len(trajectory.turns) for trajectory in asked]


def test_without_habits_it_is_the_expert(start: Path) -> None:
    assert all(f1 == 1.0 for *_, f1 in rollouts(start, 0.0, 0.0))


def test_hasty_leads_start_too_few_subagents(start: Path) -> None:
    found = list(rollouts(start, 1.0, 0.0))
    assert all(len(subs_of(rollout)) == min(2, len(task.rows) - 1) for task, rollout, _ in found)
    assert all(0 < f1 < 1 for *_, f1 in found)
    sometimes = list(rollouts(start, 0.5, 0.0))
    whole = sum(len(subs_of(rollout)) == len(task.rows) for task, rollout, _ in sometimes)
    assert 0 < whole < len(sometimes)


def test_hasty_subagents_guess_without_opening_a_page(start: Path) -> None:
    found = list(rollouts(start, 0.0, 1.0))
    assert all(set(subs_of(rollout)) == {2} for _, rollout, _ in found)
    assert all(f1 < 1 for *_, f1 in found) and sum(f1 for *_, f1 in found) / len(found) < 0.75


def test_examples_go_on_and_on(start: Path) -> None:
    examples = draw_hasty_examples(0, Renderer.load(start), Habits(few=0.5, guess=0.5), (2, 3), 5)
    drawn = [next(examples) for _ in range(12)]
    assert {example.role for example in drawn} == {"lead", "sub"}
    assert all(example.said.any() and not example.said[0] for example in drawn)


def test_habits_are_shares() -> None:
    with pytest.raises(ValueError, match="guess"):
        Habits(few=0.5, guess=1.5)


def test_the_script_writes_a_folder_and_refuses_in_one_line(start: Path, tmp_path: Path) -> None:
    def run(*words: str) -> subprocess.CompletedProcess[str]:
        path = ":".join(str(ROOT / part) for part in ("", "kernels", "train"))
        script = [sys.executable, str(ROOT / "train" / "imperfect.py"), str(tmp_path / "out")]
        return subprocess.run(
            [*script, f"start={start}", *words],
            capture_output=True,
            text=True,
            env={"PYTHONPATH": path, "OMP_NUM_THREADS": "1"},
            timeout=280,
        )

    refused = run("few=2")
    assert (
        refused.returncode == 2 and refused.stderr == "imperfect: few must be in [0, 1], not 2.0\n"
    )
    done = run("steps=2", "tokens_per_step=500", "max_rows=3")
    assert done.returncode == 0, done.stderr
    moved = load_model(tmp_path / "out").model.embed_tokens.weight
    assert (moved != load_model(start).model.embed_tokens.weight).any()
    assert Renderer.load(tmp_path / "out").stop_token_ids == Renderer.load(start).stop_token_ids
