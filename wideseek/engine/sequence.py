"""Sequence: one growing list of token ids in the engine, with its pages and computed length."""

from collections.abc import Callable
from collections.abc import Sequence as ReadOnly
from typing import Self

import numpy as np
import numpy.typing as npt

from wideseek.engine.copying import Copying
from wideseek.engine.prefix_tree import Node
from wideseek.engine.sessions import Session
from wideseek.engine.stop_text import StopText
from wideseek.generation import Completion, FinishReason, Sampling

FIRST_GUESS = 256
"""Tokens that a reply is expected to have while no other reply is known."""

OnToken = Callable[[int, float], None]
"""Told of each sampled token and its plain log-prob, on the engine's thread; returns at once."""


def checked_ids(token_ids: ReadOnly[int], vocab_size: int) -> npt.NDArray[np.int64]:
    """Token ids [n] of a caller; ValueError unless they are some, whole and in the vocabulary."""
    ids = np.asarray(token_ids)
    if ids.size == 0:
        raise ValueError("the prompt is empty")
    if ids.ndim != 1 or ids.dtype.kind not in "iu":
        raise ValueError(f"a prompt is a row of integers, not {ids.ndim}-d {ids.dtype}")
    outside = ids[(ids < 0) | (ids >= vocab_size)]
    if outside.size:
        raise ValueError(f"token id {outside[0]} is outside the vocabulary of {vocab_size}")
    return ids.astype(np.int64)


class Sequence:
    """What one completion has said so far and which pages hold its KV.

    tokens [capacity] int64: the prompt, then what was sampled; `num_tokens` of them are known,
    `num_computed` have their KV in `pages` [num_pages]. The Scheduler writes pages, node and
    num_computed; `append` does the rest. Full when capacity, the room for prompt and reply, is.
    Behind the known tokens stand, during a step, guesses at the next ones.

    Of a scored sequence all tokens are given and the log-probabilities from num_prompt on are
    wanted; its last token is no part of num_tokens, since nothing follows from it.
    """

    def __init__(
        self,
        token_ids: npt.NDArray[np.int64],
        sampling: Sampling,
        *,
        max_model_len: int,
        page_size: int,
        stop_text: StopText | None = None,
        session: str = "",
    ) -> None:
        self.num_prompt = len(token_ids)
        capacity = min(self.num_prompt + sampling.max_tokens, max_model_len)
        assert 0 < self.num_prompt < capacity, (self.num_prompt, capacity)
        self.tokens = np.empty(capacity, np.int64)
        self.tokens[: self.num_prompt] = token_ids
        self.num_tokens = self.num_prompt
        self.num_computed = 0
        self.pages = np.empty(-(-capacity // page_size), np.int64)
        self.num_pages = 0
        self.node: Node | None = None  # the deepest node of whole pages in the tree among its own
        self.tail: Node | None = None  # below it, the page being filled, as far as the tree knows
        self.session_path = session
        self.session = Session(None, "")  # until the Scheduler knows it
        self.expected_pages = 0  # that it will have when it ends, as far as one could tell
        self.num_refused = 0  # steps in which it was next to begin and did not
        self.sampling = sampling
        self.logprobs: list[float] = []
        self.plain_logprobs: list[float] = []
        self.weight_versions: list[int] = []
        self.cached_tokens: int | None = None  # found in the tree when first admitted
        self.finish_reason: FinishReason | None = None
        self.on_token: OnToken | None = None
        self.copying: Copying | None = None
        self.is_scored = False
        self.timed_at = 0.0  # when it was submitted, then when it last got a token
        self.num_timed = 0
        self._stop_text = stop_text
        self._stop_token_ids = frozenset(sampling.stop_token_ids)

    @classmethod
    def scored(cls, token_ids: npt.NDArray[np.int64], first: int, page_size: int) -> Self:
        """A sequence of given tokens, of which those from `first` on are to be scored."""
        length = len(token_ids)
        room = Sampling(max_tokens=length - first)
        sequence = cls(token_ids[:first], room, max_model_len=length, page_size=page_size)
        sequence.tokens[first:] = token_ids[first:]
        sequence.num_tokens = length - 1
        sequence.is_scored = True
        return sequence

    @property
    def num_uncomputed(self) -> int:
        """Tokens that must be computed before the next one can be sampled."""
        return self.num_tokens - self.num_computed

    @property
    def expected_tokens(self) -> int:
        """Length of the whole reply; one that outgrew what was expected is expected to double."""
        known = self.session.expected_reply() or FIRST_GUESS
        return min(self.sampling.max_tokens, max(known, 2 * len(self.logprobs)))

    def append(self, token: int, logprob: float, plain_logprob: float, version: int) -> None:
        """Add a token that weights `version` sampled; sets finish_reason when it is the last."""
        assert self.finish_reason is None
        self.tokens[self.num_tokens] = token
        self.num_tokens += 1
        self.logprobs.append(logprob)
        self.plain_logprobs.append(plain_logprob)
        self.weight_versions.append(version)
        if token in self._stop_token_ids or (
            self._stop_text is not None and self._stop_text.completed_by(token)
        ):
            self.finish_reason = "stop"
        elif self.num_tokens == len(self.tokens):
            self.finish_reason = "length"
        elif self.copying is not None:
            self.copying.heard(self.tokens, self.num_tokens)
        if self.on_token is not None:
            self.on_token(token, plain_logprob)

    def record(self, logprobs: list[float], version: int) -> None:
        """Add log-probabilities of the next given tokens; sets finish_reason with the last."""
        assert self.is_scored and self.finish_reason is None
        self.logprobs += logprobs
        self.plain_logprobs += logprobs
        self.weight_versions += [version] * len(logprobs)
        if self.num_prompt + len(self.logprobs) == len(self.tokens):
            self.finish_reason = "length"

    def start_over(self) -> None:
        """Forget the scores so far, so that all come from the same weights."""
        assert self.is_scored
        self.logprobs.clear()
        self.plain_logprobs.clear()
        self.weight_versions.clear()

    def completion(self, weight_version: int) -> Completion:
        """What was said, once finish_reason is set."""
        assert self.finish_reason is not None
        return Completion(
            token_ids=tuple(self.tokens[self.num_prompt :][: len(self.logprobs)].tolist()),
            logprobs=tuple(self.logprobs),
            plain_logprobs=tuple(self.plain_logprobs),
            finish_reason=self.finish_reason,
            weight_version=weight_version,
            cached_tokens=self.cached_tokens or 0,
            prompt_tokens=self.num_prompt,
            weight_versions=tuple(self.weight_versions),
        )
