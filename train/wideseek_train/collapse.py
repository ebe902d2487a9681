"""Collapse monitors: numbers that leave their bounds for several steps in a row end a run before more is lost.

A policy that collapses is still paid now and then, so the reward shows it last. What shows it first: entropy that is
gone, turns that repeat themselves, answers of no form, a trainer that no longer agrees with the engine about what was
sampled, gradients out of all proportion.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields

PATIENCE = 3
"""So many steps in a row out of bounds are a collapse; one alone is chance."""


@dataclass(frozen=True, kw_only=True, slots=True)
class CollapseConfig:
    """Bounds of a healthy step, None for none; the defaults bound nothing.

    min_entropy: nats a token. max_broken: share, both of turns that repeat themselves and of rollouts without an answer
    of the right form. max_mismatch: nats at the 99.9th percentile of |trainer - engine| log-probability, the tail of the
    ratio. max_grad_norm: before clipping.
    """

    min_entropy: float = 0.0
    max_broken: float = 1.0
    max_mismatch: float | None = None
    max_grad_norm: float | None = None

    def __post_init__(self) -> None:
        for field in fields(self):
            bound = getattr(self, field.name)
            if bound is not None and not bound >= 0:
                raise ValueError(f"{field.name} must be at least 0, not {bound}")


def find_collapse(config: CollapseConfig, steps: Sequence[Mapping[str, float]]) -> str | None:
    """What has been out of bounds in each of the last PATIENCE training steps of a run, in words; None if nothing.

    NaN is out of any bounds; a number that a step did not measure is within.
    """
    last = [step for step in steps if "critic/groups/drawn" in step][-PATIENCE:]
    if len(last) < PATIENCE:
        return None
    for name, (setting, low, high) in _bounds(config).items():
        values = [step[name] for step in last if name in step]
        if len(values) == PATIENCE and not any(low <= value <= high for value in values):
            told = ", ".join(f"{value:.4g}" for value in values)
            bound = getattr(config, setting)
            return f"{name} was {told} in {PATIENCE} steps, collapse.{setting} is {bound}"
    return None


def _top(bound: float | None) -> float:
    return math.inf if bound is None else bound


def _bounds(config: CollapseConfig) -> dict[str, tuple[str, float, float]]:
    """Metric -> the setting that bounds it, the lowest and the highest value that are well."""
    return {
        "actor/entropy": ("min_entropy", config.min_entropy, math.inf),
        "rollouts/repeating": ("max_broken", 0.0, config.max_broken),
        "rollouts/answered": ("max_broken", 1.0 - config.max_broken, 1.0),
        "mismatch/p99_9": ("max_mismatch", 0.0, _top(config.max_mismatch)),
        "actor/grad_norm": ("max_grad_norm", 0.0, _top(config.max_grad_norm)),
    }
