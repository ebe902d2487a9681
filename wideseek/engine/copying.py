"""Copying: guesses what a sequence says next from what already stands in it, and learns when not.

Answers and reports repeat long spans of their context word for word. A guess costs a row of the
next forward and saves a whole step where it comes true; the caller says how likely it must be.
"""

import numpy as np
import numpy.typing as npt

LONGEST_MATCH = 16
"""Tokens of context, at most, that a search compares."""

FIRST_CHANCES = (0.25, 0.5, 0.75, 0.9)
"""How likely a guess is at first whose context matches in 1, 2 to 3, 4 to 7, 8 or more tokens."""

FIRST_WEIGHT, MEMORY = 3.0, 0.98
"""Guesses that the first chances count for, and what each further guess leaves of older ones."""


class Copying:
    """Follows one sequence beside the place it seems to copy from.

    `source` is the index of the token that comes next if it does, or -1; `length` tokens before it
    are the same as the sequence's last ones. Every guess is judged, made use of or not.
    """

    __slots__ = ("_hits", "_misses", "length", "source")

    def __init__(self) -> None:
        self.source = -1
        self.length = 0
        self._hits = [chance * FIRST_WEIGHT for chance in FIRST_CHANCES]
        self._misses = [(1 - chance) * FIRST_WEIGHT for chance in FIRST_CHANCES]

    def chance(self, length: int) -> float:
        """How likely the next guess comes true after a match of so many tokens."""
        kind = _kind(length)
        return self._hits[kind] / (self._hits[kind] + self._misses[kind])

    def draft(self, tokens: npt.NDArray[np.int64], end: int, most: int, least: float) -> int:
        """Write guesses behind tokens[:end], at most `most`; returns how many.

        Goes on as long as all of them together come true with at least the chance `least`.
        """
        if self.source < 0:
            self._search(tokens[:end])
        count, chance = 0, 1.0
        while self.source >= 0 and count < most:
            chance *= self.chance(self.length + count)
            if chance < least:
                break
            tokens[end + count] = tokens[self.source + count]
            count += 1
        return count

    def heard(self, tokens: npt.NDArray[np.int64], end: int) -> None:
        """tokens[end - 1] has been said."""
        if self.source < 0:
            return
        kind, hit = _kind(self.length), tokens[end - 1] == tokens[self.source]
        self._hits[kind] = self._hits[kind] * MEMORY + hit
        self._misses[kind] = self._misses[kind] * MEMORY + (not hit)
        self.source = self.source + 1 if hit else -1
        self.length = self.length + 1 if hit else 0

    def _search(self, tokens: npt.NDArray[np.int64]) -> None:
        """Find the longest earlier match of the last tokens, the latest of equally long ones."""
        last = len(tokens) - 1
        places = np.flatnonzero(tokens[:last] == tokens[last])
        length = 0
        while len(places):
            self.source, length = int(places[-1]) + 1, length + 1
            if length == LONGEST_MATCH:
                break
            places = places[places >= length]
            places = places[tokens[places - length] == tokens[last - length]]
        self.length = length


def _kind(length: int) -> int:
    return min(length.bit_length(), len(FIRST_CHANCES)) - 1


class RowCost:
    """Learns what one more row adds to a decode step: seconds = fixed + per_row * rows."""

    PRIOR_ROWS = 16.0
    """Rows that the fixed part is worth until steps of different sizes have shown it."""

    MEMORY = 0.98
    SLOWEST = 4.0
    """Times the mean that a step counts for at most: a busy machine is no property of rows."""

    def __init__(self) -> None:
        self._weight = self._rows = self._seconds = self._rows_rows = self._rows_seconds = 0.0

    def observe(self, rows: int, seconds: float) -> None:
        """A step of so many rows, none of them of a prompt, took so long."""
        if self._weight > 1:
            seconds = min(seconds, self.SLOWEST * self._seconds / self._weight)
        self._weight = self._weight * self.MEMORY + 1
        self._rows = self._rows * self.MEMORY + rows
        self._seconds = self._seconds * self.MEMORY + seconds
        self._rows_rows = self._rows_rows * self.MEMORY + rows * rows
        self._rows_seconds = self._rows_seconds * self.MEMORY + rows * seconds

    def break_even(self, decoding: int) -> float:
        """The chance from which on a guess saves more than it costs, `decoding` sequences at once.

        A guess costs a row. One that comes true saves its own row and its sequence's share of a
        step's fixed part.
        """
        if self._weight == 0:
            return decoding / (self.PRIOR_ROWS + decoding)
        rows, seconds = self._rows / self._weight, self._seconds / self._weight
        variance = self._rows_rows / self._weight - rows * rows
        covariance = self._rows_seconds / self._weight - rows * seconds
        doubt = 1 + rows * rows / 16
        prior = seconds / (rows + self.PRIOR_ROWS)
        per_row = (covariance + doubt * prior) / (variance + doubt)
        per_row = min(max(per_row, 0.0), seconds / rows)
        fixed = seconds - per_row * rows
        return decoding * per_row / max(fixed + decoding * per_row, 1e-9)
