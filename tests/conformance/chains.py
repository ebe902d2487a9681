"""The reference's loose turns as our records: chains of appended turns are Trajectories."""

from dataclasses import replace
from typing import Any

from wideseek_train.sample import Sample, make_sample
from wideseek_train.selection import TrainedTurns
from wideseek_train.weights import equal_agents, equal_turns

from wideseek.generation import Completion
from wideseek.trajectory import End, Trajectory, Turn

Json = dict[str, Any]

WEIGHTINGS = {
    ("group_level", "agent_level", "turn_level"): equal_agents,
    ("group_level", "agent_level"): equal_turns,
}


def build_trajectories(
    turns: list[Json], *, merge: bool = True
) -> list[tuple[Trajectory, list[int]]]:
    """Trajectories of one rollout with the indices of their turns, by agent.

    A turn continues the agent's Trajectory whose ids open its prompt; otherwise its history was
    changed, and it starts a branch. Without `merge` every turn does.
    """
    chains: dict[int, list[list[int]]] = {}
    for index in sorted(range(len(turns)), key=lambda i: len(turns[i]["prompt_ids"])):
        prompt, own = turns[index]["prompt_ids"], chains.setdefault(turns[index]["agent"], [])
        for chain in own:
            context = turns[chain[-1]]["prompt_ids"] + turns[chain[-1]]["response_ids"]
            if merge and prompt[: len(context)] == context:
                chain.append(index)
                break
        else:
            own.append([index])
    return [
        (_trajectory([turns[index] for index in chain]), chain)
        for agent in sorted(chains)
        for chain in chains[agent]
    ]


def count_tokens(trajectory: Trajectory, chain: list[int], turns: list[Json]) -> TrainedTurns:
    return TrainedTurns(
        agent_id=trajectory.agent_id,
        turns=tuple(range(len(chain))),
        tokens=tuple(len(turns[index]["response_ids"]) for index in chain),
    )


def weigh(
    levels: list[str], rollouts: list[list[TrainedTurns]], num_rollouts: int
) -> list[list[tuple[float, ...]]]:
    """Token weights by rollout, Trajectory and turn. KeyError for levels in another order.

    Without levels the reference weighs the sequences at hand alike, whatever rollout they are from:
    each turn is then a rollout of its own.
    """
    if not levels:
        sequences = sum(map(len, rollouts))
        return [[_weigh_alone(part, sequences) for part in rollout] for rollout in rollouts]
    return WEIGHTINGS[tuple(levels)](rollouts, num_rollouts)


def _weigh_alone(part: TrainedTurns, sequences: int) -> tuple[float, ...]:
    alone = [replace(part, turns=(0,), tokens=(tokens,)) for tokens in part.tokens]
    return tuple(equal_agents([[turn]], sequences)[0][0][0] for turn in alone)


def build_samples(
    turns: list[Json],
    advantages: list[float],
    levels: list[str],
    num_rollouts: int,
    *,
    merge: bool = True,
) -> list[tuple[int, Trajectory, list[int], Sample]]:
    """(rollout, Trajectory, indices of its turns, Sample) of all of a vector's turns."""
    names = sorted({turn["traj"] for turn in turns})
    places = [[i for i, turn in enumerate(turns) if turn["traj"] == name] for name in names]
    built = [
        [
            (trajectory, [own[i] for i in chain])
            for trajectory, chain in build_trajectories([turns[i] for i in own], merge=merge)
        ]
        for own in places
    ]
    trained = [[count_tokens(t, chain, turns) for t, chain in rollout] for rollout in built]
    weights = weigh(levels, trained, num_rollouts)
    return [
        (name, t, chain, make_sample(t, part, [advantages[i] for i in chain], weight))
        for name, rollout, parts, own in zip(names, built, trained, weights, strict=True)
        for (t, chain), part, weight in zip(rollout, parts, own, strict=True)
    ]


def _trajectory(turns: list[Json]) -> Trajectory:
    built = []
    for turn, following in zip(turns, [*turns[1:], None], strict=True):
        context = turn["prompt_ids"] + turn["response_ids"]
        tool = following["prompt_ids"][len(context) :] if following else ()
        built.append(Turn(text="", completion=_completion(turn), tool_token_ids=tuple(tool)))
    agent = turns[0]["agent"]
    return Trajectory(
        agent_id=str(agent),
        parent_id=None,
        role="sub" if agent else "lead",
        task="",
        prompt_token_ids=tuple(turns[0]["prompt_ids"]),
        turns=tuple(built),
        end=End.ANSWERED,
        report="",
    )


def _completion(turn: Json) -> Completion:
    logprobs = tuple(turn.get("logprobs", [0.0] * len(turn["response_ids"])))
    return Completion(
        token_ids=tuple(turn["response_ids"]),
        logprobs=logprobs,
        plain_logprobs=logprobs,
        finish_reason="length" if turn.get("is_end") else "stop",
        weight_version=0,
        cached_tokens=0,
        prompt_tokens=len(turn["prompt_ids"]),
    )
