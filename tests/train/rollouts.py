"""Small rollouts by their numbers: agents with so many sampled tokens a turn."""

from collections.abc import Sequence

from wideseek.generation import Completion
from wideseek.trajectory import End, Rollout, RolloutGroup, ToolCall, Trajectory, Turn


def completion(token_ids: Sequence[int], logprobs: Sequence[float] | None = None) -> Completion:
    plain = tuple(logprobs if logprobs is not None else [-1.0] * len(token_ids))
    return Completion(
        token_ids=tuple(token_ids),
        logprobs=tuple(0.0 for _ in plain),
        plain_logprobs=plain,
        finish_reason="stop",
        weight_version=0,
        cached_tokens=0,
        prompt_tokens=1,
    )


def agent(
    agent_id: str,
    *tokens: int,
    end: End = End.ANSWERED,
    calls: Sequence[ToolCall] = (),
    task: str = "",
    report: str = "",
) -> Trajectory:
    """An agent that sampled `tokens[i]` tokens in turn i, after a prompt of 2 and with 1 tool token between turns."""
    turns = [
        Turn(
            text="",
            completion=completion([10 + i] * count),
            calls=tuple(calls),
            tool_token_ids=(9,) if i < len(tokens) - 1 else (),
        )
        for i, count in enumerate(tokens)
    ]
    return Trajectory(
        agent_id=agent_id,
        parent_id="lead" if agent_id.startswith("sub") else None,
        role="sub" if agent_id.startswith("sub") else "single" if agent_id == "single" else "lead",
        task=task,
        prompt_token_ids=(1, 2),
        turns=tuple(turns),
        end=end,
        report=report,
    )


def rollout(*trajectories: Trajectory) -> Rollout:
    return Rollout(question="q", trajectories=trajectories, answer="", stop_reason="answered")


def group(*rewarded: tuple[float, Rollout]) -> RolloutGroup:
    return RolloutGroup(
        question="q",
        rollouts=tuple(attempt for _, attempt in rewarded),
        rewards=tuple(reward for reward, _ in rewarded),
    )
