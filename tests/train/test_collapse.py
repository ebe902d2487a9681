"""Collapse monitors: each trips on what it watches, after PATIENCE steps in a row, and on nothing else."""

import json
import math
from dataclasses import asdict

import pytest
from wideseek_train.collapse import PATIENCE, CollapseConfig, find_collapse
from wideseek_train.measure import STRETCH, repeats_itself

BOUNDS = CollapseConfig(min_entropy=0.05, max_broken=0.5, max_mismatch=1.0, max_grad_norm=20.0)
WELL = {
    "critic/groups/drawn": 4.0,
    "actor/entropy": 0.3,
    "rollouts/repeating": 0.01,
    "rollouts/answered": 0.9,
    "mismatch/p99_9": 0.2,
    "actor/grad_norm": 1.0,
}
ILL = {
    "actor/entropy": 0.01,
    "rollouts/repeating": 0.7,
    "rollouts/answered": 0.3,
    "mismatch/p99_9": 3.0,
    "actor/grad_norm": 500.0,
}


@pytest.mark.parametrize("name", ILL)
def test_collapse_is_told_by_each_monitor(name: str) -> None:
    ill = WELL | {name: ILL[name]}
    told = find_collapse(BOUNDS, [WELL] * 5 + [ill] * PATIENCE)
    assert told is not None and told.startswith(f"{name} was {ILL[name]:.4g}")
    assert find_collapse(CollapseConfig(), [ill] * PATIENCE) is None


@pytest.mark.parametrize("name", ILL)
def test_collapse_takes_several_steps_in_a_row(name: str) -> None:
    ill = WELL | {name: ILL[name]}
    few = [ill] * (PATIENCE - 1)
    assert find_collapse(BOUNDS, few) is None
    assert find_collapse(BOUNDS, [*few, WELL, *few]) is None
    assert find_collapse(BOUNDS, [WELL] * 5) is None


@pytest.mark.parametrize("name", ILL)
def test_collapse_is_a_number_that_is_none(name: str) -> None:
    """NaN in every step is out of any bounds, also of none."""
    ill = WELL | {name: math.nan}
    assert find_collapse(CollapseConfig(), [ill] * PATIENCE) is not None


def test_collapse_looks_at_training_steps_alone() -> None:
    """A line of an evaluation is no step, and what a step without a signal did not measure is within."""
    ill = WELL | {"actor/entropy": 0.0}
    steps = [ill, {"val-core/worlds/item_f1/mean@1": 0.0}] * PATIENCE
    assert find_collapse(BOUNDS, steps) is not None
    silent = {name: value for name, value in WELL.items() if not name.startswith("actor/")}
    assert find_collapse(BOUNDS, [ill] * (PATIENCE - 1) + [silent]) is None
    assert find_collapse(BOUNDS, [silent | {"rollouts/answered": 0.0}] * PATIENCE) is not None


def test_a_turn_repeats_itself_when_most_of_it_was_said_before() -> None:
    loop = list(range(40))
    assert repeats_itself(loop * 4)
    assert not repeats_itself(list(range(160)))
    assert not repeats_itself(loop * 2 + list(range(100, 160)))
    listed = [token for item in range(30) for token in (*range(20), 1000 + item)]
    assert not repeats_itself(listed)  # a list of like items, each with a name of its own
    assert not repeats_itself([7] * STRETCH)  # too short to tell


@pytest.mark.parametrize("name", ["min_entropy", "max_broken", "max_mismatch", "max_grad_norm"])
def test_bounds_that_bound_nothing_are_refused(name: str) -> None:
    with pytest.raises(ValueError, match=f"{name} must be at least 0, not -1"):
        CollapseConfig(**{name: -1.0})


def test_bounds_can_be_kept_as_json() -> None:
    """Without the Infinity that only some readers take."""
    assert json.loads(json.dumps(asdict(CollapseConfig()), allow_nan=False))["max_broken"] == 1.0
