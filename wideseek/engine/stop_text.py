"""Finds stop strings in what a sequence says, token by token."""

from collections.abc import Callable, Sequence

Decode = Callable[[Sequence[int]], str]

UNFINISHED = "\ufffd"
"""What a decoder writes for the bytes of a character that is not complete yet."""

LONGEST_CHARACTER = 4
"""Bytes of the longest UTF-8 character, and so the most tokens that can leave one unfinished."""


class StopText:
    """Decodes a few tokens at a time and remembers only text that may begin a stop string."""

    def __init__(self, stops: tuple[str, ...], decode: Decode) -> None:
        self._stops = stops
        self._decode = decode
        self._keep = max(map(len, stops)) - 1
        self._tail = ""
        # The tokens last read stay as context: some decoders space a token by the one before it.
        self._token_ids: list[int] = []
        self._num_read = 0

    def completed_by(self, token: int) -> bool:
        """Take the next token; whether a stop string now stands in the text."""
        self._token_ids.append(token)
        known = self._decode(self._token_ids[: self._num_read])
        text = self._decode(self._token_ids)
        said = self._tail + text[len(known) :]
        if any(stop in said for stop in self._stops):
            return True
        num_new = len(self._token_ids) - self._num_read
        if not text.endswith(UNFINISHED) or num_new >= LONGEST_CHARACTER:
            self._tail = said[-self._keep :] if self._keep else ""
            self._token_ids = self._token_ids[self._num_read :]
            self._num_read = len(self._token_ids)
        return False
