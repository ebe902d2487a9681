"""Many scores into one line, as the references do it (SPEC section 2).

`summarise` is the official WideSearch summary; corrected figures are summed up by the same
function. `evaluation_statistics` and `rollout_metrics` are those of the reference trainer.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, fields
from typing import Literal

from wideseek.grading.widesearch_figures import Figures

FIGURES = tuple(field.name for field in fields(Figures))


@dataclass(frozen=True, slots=True)
class Spread:
    """Means over questions of the mean, best and worst of their trials (Avg@n, Max@n, Min@n).

    Each figure's best stands alone: a precision and a recall may come from different trials. The
    best of `score` is Pass@n.
    """

    avg_n: float
    max_n: float
    min_n: float


@dataclass(frozen=True, slots=True)
class TurnRecord:
    """One turn: lengths in tokens; its role and calls, None when it had no readable call."""

    prompt_tokens: int
    response_tokens: int
    calls: "Calls | None"


@dataclass(frozen=True, slots=True)
class Calls:
    """Tool calls of one turn."""

    role: Literal["lead", "sub", "single"]
    subtask: int
    search: int
    access: int


@dataclass(frozen=True, slots=True)
class SampleRecord:
    """One trajectory. agent_turns: turns of every subagent, then of the lead; None for one agent
    alone."""

    reward: float
    answer_format: float
    turns: tuple[TurnRecord, ...]
    agent_turns: tuple[int, ...] | None


@dataclass(frozen=True, slots=True)
class QuestionRecord:
    """The samples of one question; group_size is how many there should be."""

    group_size: int
    samples: tuple[SampleRecord, ...]


@dataclass(frozen=True, kw_only=True, slots=True)
class RolloutBatch:
    """Counts of one question's rollout.

    subtasks, searches, accesses: by turn, of all turns. lead_turns, working_turns: turns with a
    readable call. agent_turns: as in SampleRecord, by trajectory; None if not kept.
    """

    subtasks: Sequence[int]
    searches: Sequence[int]
    accesses: Sequence[int]
    lead_turns: int
    working_turns: int
    agent_turns: Sequence[Sequence[int] | None] | None
    answer_format: Sequence[float] | None


def summarise(
    trials: Mapping[str, Sequence[Mapping[str, float] | None]], trial_num: int
) -> dict[str, Spread]:
    """Each figure over all questions; `trials` holds figures by name for every trial of a question.

    ValueError when a figure of a question is there for fewer than `trial_num` trials: what is not
    scored is never a zero. No questions give no figures.
    """
    if not trials:
        return {}
    summary = {}
    for name in FIGURES:
        by_question = []
        for question, results in trials.items():
            values = [result[name] for result in results if result and name in result]
            if not values or len(values) < trial_num:
                raise ValueError(
                    f"{name} of {question} is there for {len(values)} of {trial_num} trials"
                )
            by_question.append(values)
        summary[name] = Spread(
            _mean(map(_mean, by_question)),
            _mean(map(max, by_question)),
            _mean(map(min, by_question)),
        )
    return summary


def evaluation_statistics(questions: Sequence[QuestionRecord], *, tables: bool) -> dict[str, float]:
    """Rewards (not for tables), lengths, turns and tool calls of an evaluation.

    pass@1 looks at the first sample only. Lengths are over turns, calls by turn over the turns of
    those who may make them, calls by trajectory over group_size and then over questions.
    """
    rewards = [[sample.reward for sample in one.samples] for one in questions if one.samples]
    turns = [turn for one in questions for sample in one.samples for turn in sample.turns]
    trajectories = sum(one.group_size for one in questions)
    found = (
        {}
        if tables
        else {
            "pass@1": _mean(float(values[0] > 0) for values in rewards),
            "avg@k": _mean(map(_mean, rewards)),
            "pass@k": _mean(float(max(values) > 0) for values in rewards),
        }
    )
    return (
        found
        | {
            "avg_prompt_length": _mean(turn.prompt_tokens for turn in turns),
            "avg_response_length": _mean(turn.response_tokens for turn in turns),
            "avg_total_length": _mean(turn.prompt_tokens + turn.response_tokens for turn in turns),
            "total_num_trajectories": trajectories,
            "avg_turns_per_traj": _share(len(turns), trajectories),
        }
        | _call_statistics(questions)
        | {
            "final_answer_format": _mean(
                _mean(sample.answer_format for sample in one.samples) for one in questions
            )
        }
        | _team_statistics(questions)
    )


def _call_statistics(questions: Sequence[QuestionRecord]) -> dict[str, float]:
    made = [
        [turn.calls for sample in one.samples for turn in sample.turns if turn.calls]
        for one in questions
    ]
    lead = sum(calls.role == "lead" for group in made for calls in group)
    working = sum(map(len, made)) - lead
    groups = [(one.group_size, group) for one, group in zip(questions, made, strict=True)]

    def by_trajectory(kind: str) -> float:
        return _mean(
            _share(sum(getattr(calls, kind) for calls in group), size) for size, group in groups
        )

    return {
        "turn_avg_subtask": _share(sum(calls.subtask for group in made for calls in group), lead),
        "turn_avg_search": _share(sum(calls.search for group in made for calls in group), working),
        "turn_avg_access": _share(sum(calls.access for group in made for calls in group), working),
        "traj_avg_subtask": by_trajectory("subtask"),
        "traj_avg_search": by_trajectory("search"),
        "traj_avg_access": by_trajectory("access"),
    }


def _team_statistics(questions: Sequence[QuestionRecord]) -> dict[str, float]:
    teams = [sample.agent_turns for one in questions for sample in one.samples]
    lead, subs, agents, count = _team_sums(teams)
    if not count:
        return {}
    return {
        "avg_main_agent_turns_per_traj": lead / count,
        "avg_subagent_turns_per_traj": subs / count,
        "avg_num_subagents_per_traj": agents / count,
    }


def rollout_metrics(
    batch: RolloutBatch, trajectory_of_turn: Sequence[int], trajectories: int
) -> dict[str, tuple[float, float]]:
    """(numerator, denominator) of each mean, to be summed over questions and divided last.

    `trajectory_of_turn` knows the trained turns only while the counts are of all turns; only their
    common prefix is attributed (BUG, kept).
    """
    metrics: dict[str, tuple[float, float]] = {}
    if trajectories > 0:
        counts = (
            ("subtask", batch.subtasks, batch.lead_turns),
            ("search", batch.searches, batch.working_turns),
            ("access", batch.accesses, batch.working_turns),
        )
        mapped = min(len(trajectory_of_turn), *(len(by_turn) for _, by_turn, _ in counts))
        for kind, by_turn, makers in counts:
            attributed = sum(
                count
                for count, place in zip(by_turn[:mapped], trajectory_of_turn, strict=False)
                if 0 <= place < trajectories
            )
            metrics[f"traj/mean/{kind}"] = float(attributed), float(trajectories)
            metrics[f"turn/mean/{kind}"] = float(sum(by_turn)), float(makers)
    if batch.agent_turns is not None:
        lead, subs, agents, count = map(float, _team_sums(batch.agent_turns))
        metrics["avg_main_agent_turns_per_traj"] = lead, count
        metrics["avg_subagent_turns_per_traj"] = subs, count
        metrics["avg_num_subagents_per_traj"] = agents, count
    if batch.answer_format is not None:
        formats = batch.answer_format
        metrics["traj/mean/final_answer_format"] = float(sum(formats)), float(len(formats))
    return {f"wideseek_r1/{name}": pair for name, pair in metrics.items()}


def _team_sums(teams: Iterable[Sequence[int] | None]) -> tuple[int, int, int, int]:
    """Turns of leads, turns of subagents, subagents, and trajectories that have any."""
    known = [team for team in teams if team]
    lead = sum(team[-1] for team in known)
    return lead, sum(map(sum, known)) - lead, sum(map(len, known)) - len(known), len(known)


def _mean(values: Iterable[float]) -> float:
    """0 for no values."""
    values = list(values)
    return sum(values) / len(values) if values else 0.0


def _share(part: float, whole: float) -> float:
    return part / whole if whole else 0.0
