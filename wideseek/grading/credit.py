"""Which turns the reference trains on and with what reward (SPEC section 3, BUG cases kept)."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal


@dataclass(frozen=True, kw_only=True, slots=True)
class CreditConfig:
    """Shaping of the outcome reward; lengths in tokens, defaults of the reference library."""

    format_reward: float = 0.0
    call_search_reward: float = 0.0
    length_limit: int = 5000
    max_length_limit: int = 7000
    length_penalty: float = 0.0

    def __post_init__(self) -> None:
        if self.max_length_limit <= self.length_limit:
            raise ValueError(
                f"max_length_limit must be above length_limit {self.length_limit}, "
                f"not {self.max_length_limit}"
            )


@dataclass(frozen=True, kw_only=True, slots=True)
class CreditTurn:
    """What credit assignment looks at in one turn. `content` stands for its prompt and response.

    Turns are told apart by value, as the reference does: two equal failed turns are trained once
    (BUG, kept).
    """

    role: Literal["lead", "sub", "single"]
    response_tokens: int
    accesses: int
    context_failed: bool
    turn_limit_failed: bool
    runaway: bool
    content: object

    @property
    def failed(self) -> bool:
        """Did its agent run out of context or turns?"""
        return self.context_failed or self.turn_limit_failed


@dataclass(frozen=True, slots=True)
class Credit:
    """Trained turns in training order, whether the format counted, and the reward of every turn."""

    train_turns: tuple[int, ...]
    final_answer_format: bool
    reward: float


def credit_assignment(
    config: CreditConfig,
    turns: Sequence[CreditTurn],
    *,
    outcome: float,
    natural_end: bool,
    answer_format: bool,
) -> Credit:
    """Select the turns to train and shape the `outcome` reward of one trajectory.

    A well-formed answer pays outcome + format + access credit - length term and trains every turn
    of agents that did not fail, unless the lead or single agent itself failed: then reward 0 on its
    turns. An ill-formed one trains, with reward 0, the last turn if the end was natural, and the
    runaway turns, or without any the failed ones.
    """
    if not turns:
        raise ValueError("turns must not be empty")
    main_failed = [i for i, turn in enumerate(turns) if turn.failed and turn.role != "sub"]
    if answer_format and not main_failed:
        trained = tuple(i for i, turn in enumerate(turns) if not turn.failed)
        accessed = any(turn.accesses > 0 for turn in turns)
        bonus = config.format_reward + (config.call_search_reward if accessed else 0.0)
        longest = max(turn.response_tokens for turn in turns)
        return Credit(trained, True, outcome + bonus - overlong_penalty(config, longest))
    if answer_format:
        return Credit(tuple(main_failed), False, 0.0)
    trained_last = [len(turns) - 1] if natural_end else []
    runaway = [i for i, turn in enumerate(turns) if turn.runaway]
    failed = [i for i, turn in enumerate(turns) if turn.failed]
    return Credit(_distinct(turns, trained_last + (runaway or failed)), False, 0.0)


def overlong_penalty(config: CreditConfig, longest: int) -> float:
    """What the longest response of any role costs: from 0 at the lower length limit linearly to
    `length_penalty` at the upper one and beyond. `longest` in tokens.
    """
    span = config.max_length_limit - config.length_limit
    return config.length_penalty * min(1.0, max(0.0, (longest - config.length_limit) / span))


def _distinct(turns: Sequence[CreditTurn], indices: Sequence[int]) -> tuple[int, ...]:
    chosen: dict[CreditTurn, int] = {}
    for index in indices:
        chosen.setdefault(turns[index], index)
    return tuple(chosen.values())
