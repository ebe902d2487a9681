"""Means with 95 % intervals, by resampling tasks: what another draw of questions would have given."""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

RESAMPLES = 2_000


class Interval(NamedTuple):
    """A mean and the ends of its 95 % percentile interval."""

    mean: float
    low: float
    high: float


def bootstrap(values: Sequence[float], seed: int) -> Interval:
    """The mean of one value a task. The same seed gives the same interval, whatever the order.

    For differences between two systems at the same tasks this is the paired bootstrap.
    """
    drawn_from = np.sort(np.asarray(values, dtype=np.float64))
    draws = np.random.default_rng(seed).integers(len(drawn_from), size=(RESAMPLES, len(drawn_from)))
    low, high = np.quantile(drawn_from[draws].mean(axis=1), (0.025, 0.975))
    return Interval(float(drawn_from.mean()), float(low), float(high))


def bootstrap_mean(groups: Sequence[Sequence[float]], seed: int) -> Interval:
    """The mean of group means. A group (the trials of one task) is drawn whole: they are alike."""
    return bootstrap([float(np.mean(group)) for group in groups], seed)
