"""Checks one case of widesearch_aggregate.json against wideseek.grading.widesearch_aggregate."""

from collections.abc import Callable
from dataclasses import asdict
from typing import Any

from compare import difference

from wideseek.grading.widesearch_aggregate import (
    Calls,
    QuestionRecord,
    RolloutBatch,
    SampleRecord,
    TurnRecord,
    evaluation_statistics,
    rollout_metrics,
    summarise,
)

Json = dict[str, Any]
_ROLES = {"planner": "lead", "worker": "sub", "single": "single"}


def recognises(case: Json) -> bool:
    """Whether a case is one of this format."""
    return case["input"].get("kind") in _COMPUTE


def check_widesearch_aggregate(case: Json) -> str | None:
    """None when the case passes, else what differs."""
    given = case["input"]
    return difference(_COMPUTE[given["kind"]](given), case["expected"])


def _summary(given: Json) -> Json:
    groups: dict[str, dict[str, list[Json | None]]] = {"all": {}, "en": {}, "zh": {}}
    for instance in given["instances"]:
        for name in ("all", instance["language"]):
            trials = groups.setdefault(name, {}).setdefault(instance["instance_id"], [])
            trials += instance["trials"]
    return {name: _summarised(trials, given["trial_num"]) for name, trials in groups.items()}


def _summarised(trials: dict[str, list[Json | None]], trial_num: int) -> Json:
    try:
        summary = summarise(trials, trial_num)
    except ValueError:
        return {"error": "ValueError"}
    return {name: asdict(spread) for name, spread in summary.items()}


def _statistics(given: Json) -> Json:
    questions = [
        QuestionRecord(question["group_size"], tuple(map(_sample, question["samples"])))
        for question in given["questions"]
    ]
    return dict(evaluation_statistics(questions, tables=given["is_markdown"]))


def _sample(sample: Json) -> SampleRecord:
    team = sample["total_turn_list"]
    return SampleRecord(
        float(sample["llm_reward"] or 0),
        float(sample["final_answer_format"] or 0),
        tuple(
            TurnRecord(turn["prompt_ids_length"], turn["response_ids_length"], _calls(turn))
            for turn in sample["turns"]
        ),
        None if team is None else tuple(team),
    )


def _calls(turn: Json) -> Calls | None:
    calls = turn["tool_call_info"]
    if calls is None:
        return None
    role: Any = _ROLES[calls["role"]]
    return Calls(role, calls["subtask"], calls["search"], calls["access"])


def _rollout(given: Json) -> Json:
    batch = given["batch"]
    metrics = rollout_metrics(
        RolloutBatch(
            subtasks=batch["turn_subtask_counts"],
            searches=batch["turn_search_counts"],
            accesses=batch["turn_access_counts"],
            lead_turns=batch["num_valid_planner_turns"],
            working_turns=batch["num_valid_worker_turns"],
            agent_turns=batch.get("total_turn_list_metric"),
            answer_format=batch.get("final_answer_format"),
        ),
        given["idx_to_traj"],
        given["num_trajectories"],
    )
    return {name: list(pair) for name, pair in metrics.items()}


_COMPUTE: dict[str, Callable[[Json], Json]] = {
    "widesearch_summary": _summary,
    "rlinf_eval": _statistics,
    "rollout_metrics": _rollout,
}
