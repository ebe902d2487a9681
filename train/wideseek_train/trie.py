"""What samples have in common: a trie of token sequences, as neighbours in one order and what they share.

Sorted by their tokens, sequences that begin alike are neighbours, and whatever one shares with any before it, it
shares with the one before it. So lengths and the tokens shared with the neighbour say all there is to know of the
trie: its depth-first layout, its size, and where it is best cut.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
import torch
from torch import Tensor


@dataclass(frozen=True, slots=True)
class Trie:
    """Sequences by index, in an order as above.

    lengths: of each in tokens; shared: how many of them are the first tokens of the sequence before it, too. The
    others are the sequence's own: they are laid out, and computed, for it and all after it that share them.
    """

    indices: tuple[int, ...]
    lengths: tuple[int, ...]
    shared: tuple[int, ...]

    @classmethod
    def of(cls, sequences: Sequence[Tensor]) -> "Trie":
        """The trie of token ids, each int64 [T] on the CPU; of equal ones the first comes first."""
        ids = [sequence.numpy() for sequence in sequences]
        # Any order will do in which equal beginnings are neighbours; this is that of the bytes.
        order = sorted(range(len(ids)), key=lambda i: ids[i].tobytes())
        shared = [0] * min(1, len(ids))
        shared += [common_prefix(ids[a], ids[b]) for a, b in pairwise(order)]
        return cls(tuple(order), tuple(len(ids[i]) for i in order), tuple(shared))

    @classmethod
    def flat(cls, lengths: Sequence[int]) -> "Trie":
        """Sequences in the order given, of which no two share anything."""
        return cls(tuple(range(len(lengths))), tuple(lengths), (0,) * len(lengths))

    @property
    def num_tokens(self) -> int:
        """Distinct prefixes: rows of the layout."""
        return sum(self.lengths) - sum(self.shared)

    @property
    def num_pairs(self) -> int:
        """How many (row, row it reads) attention computes."""
        return sum(
            (length * (length + 1) - depth * (depth + 1)) // 2
            for length, depth in zip(self.lengths, self.shared, strict=True)
        )

    def part(self, start: int, stop: int) -> "Trie":
        """The trie of the sequences at these places of the order alone."""
        shared = self.shared[start:stop]
        return Trie(
            self.indices[start:stop], self.lengths[start:stop], (0, *shared[1:])[: len(shared)]
        )

    def rows(self) -> dict[int, Tensor]:
        """By index, the row of the layout that holds each token of a sequence, int64 [T].

        Rows are the sequences' own tokens, one sequence after the other.
        """
        found, start = {}, 0
        path = torch.empty(0, dtype=torch.int64)
        for index, length, depth in zip(self.indices, self.lengths, self.shared, strict=True):
            path = torch.cat((path[:depth], torch.arange(start, start + length - depth)))
            found[index] = path
            start += length - depth
        return found

    def bundles(self, limit: int) -> list["Trie"]:
        """Cut where nothing is shared, and where a bundle has more than `limit` tokens at its shallowest fork.

        Of forks equally shallow, the middle one. A sequence longer than the limit is a bundle by itself.
        """
        done, left = [], [self] if self.indices else []
        while left:
            trie = left.pop()
            count = len(trie.indices)
            cut = min(
                range(1, count), key=lambda i: (trie.shared[i], abs(2 * i - count)), default=0
            )
            if cut and (trie.shared[cut] == 0 or trie.num_tokens > limit):
                left += (trie.part(cut, count), trie.part(0, cut))
            else:
                done.append(trie)
        return done


def common_prefix(a: np.ndarray, b: np.ndarray) -> int:
    """How many first entries of two rows are equal."""
    shortest = min(len(a), len(b))
    differ = np.flatnonzero(a[:shortest] != b[:shortest])
    return int(differ[0]) if len(differ) else shortest
