"""StepInputs: what the model is given in one step, as plain integers that can be sent to other ranks."""

from dataclasses import dataclass
from typing import Self

import numpy as np
import numpy.typing as npt

from wideseek.engine.sequence import Sequence

Integers = npt.NDArray[np.int64]


@dataclass(frozen=True, slots=True)
class StepInputs:
    """tokens and positions [rows], of which the first len(slots) are the step's and the others padding.

    slots [T]: where their KV goes. copies [n, 2]: pages (from, to) that are copied before, all at once.
    pages, kv_lens, q_lens: what `plan_attention` wants to know of each sequence.
    """

    tokens: Integers
    positions: Integers
    slots: Integers
    copies: Integers
    pages: list[Integers]
    kv_lens: list[int]
    q_lens: list[int]

    @classmethod
    def of(
        cls,
        sequences: list[Sequence],
        counts: list[int],
        copies: list[tuple[int, int]],
        page_size: int,
        row_tile: int,
    ) -> Self:
        """Inputs for the next counts[i] tokens of sequences[i], side by side in this order, padded to tiles of rows."""
        num_tokens = sum(counts)
        num_rows = num_tokens + -num_tokens % row_tile
        tokens, positions = np.zeros(num_rows, np.int64), np.zeros(num_rows, np.int64)
        pages = np.empty(num_tokens, np.int64)
        row = 0
        for sequence, count in zip(sequences, counts, strict=True):
            first, end = sequence.num_computed, sequence.num_computed + count
            if count == 1:
                tokens[row], positions[row] = sequence.tokens[first], first
                pages[row] = sequence.pages[first // page_size]
            else:
                tokens[row : row + count] = sequence.tokens[first:end]
                span = positions[row : row + count] = np.arange(first, end)
                pages[row : row + count] = sequence.pages[span // page_size]
            row += count
        return cls(
            tokens=tokens,
            positions=positions,
            slots=pages * page_size + positions[:num_tokens] % page_size,
            copies=np.array(copies, np.int64).reshape(-1, 2),
            pages=[sequence.pages[: sequence.num_pages] for sequence in sequences],
            kv_lens=[s.num_computed + count for s, count in zip(sequences, counts, strict=True)],
            q_lens=counts,
        )

    def packed(self) -> Integers:
        """All of it as one row: how many parts there are, the length of each, the parts."""
        lens = np.array([self.kv_lens, self.q_lens], np.int64)
        parts = [self.tokens, self.positions, self.slots, self.copies.ravel(), *lens, *self.pages]
        return np.concatenate([[len(parts)], [len(part) for part in parts], *parts])

    @classmethod
    def unpacked(cls, packed: Integers) -> Self:
        """What `packed` was made from."""
        begin = 1 + int(packed[0])
        parts = np.split(packed[begin:], np.cumsum(packed[1 : begin - 1]))
        tokens, positions, slots, copies, kv_lens, q_lens, *pages = parts
        return cls(
            tokens=tokens,
            positions=positions,
            slots=slots,
            copies=copies.reshape(-1, 2),
            pages=pages,
            kv_lens=kv_lens.tolist(),
            q_lens=q_lens.tolist(),
        )
