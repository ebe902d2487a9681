"""Sequence: one growing list of token ids in the engine, with its pages and computed length."""

from collections.abc import Callable

import numpy as np
import numpy.typing as npt

from wideseek.engine.prefix_tree import Node
from wideseek.engine.stop_text import StopText
from wideseek.generation import Completion, FinishReason, Sampling

OnToken = Callable[[int, float], None]
"""Told of each sampled token and its plain log-prob, on the engine's thread; returns at once."""


class Sequence:
    """What one completion has said so far and which pages hold its KV.

    tokens [capacity] int64: the prompt, then what was sampled; `num_tokens` of them are known,
    `num_computed` have their KV in `pages` [num_pages]. The Scheduler writes pages, node and
    num_computed; `append` does the rest. Full when capacity, the room for prompt and reply, is.
    """

    def __init__(
        self,
        token_ids: npt.NDArray[np.int64],
        sampling: Sampling,
        *,
        max_model_len: int,
        page_size: int,
        stop_text: StopText | None = None,
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
        self.node: Node | None = None  # the deepest node of the tree among its pages
        self.sampling = sampling
        self.logprobs: list[float] = []
        self.plain_logprobs: list[float] = []
        self.cached_tokens: int | None = None  # found in the tree when first admitted
        self.finish_reason: FinishReason | None = None
        self.on_token: OnToken | None = None
        self._stop_text = stop_text
        self._stop_token_ids = frozenset(sampling.stop_token_ids)

    @property
    def num_uncomputed(self) -> int:
        """Tokens that must be computed before the next one can be sampled."""
        return self.num_tokens - self.num_computed

    def append(self, token: int, logprob: float, plain_logprob: float) -> None:
        """Add a sampled token; sets finish_reason when it is the last one."""
        assert self.finish_reason is None
        self.tokens[self.num_tokens] = token
        self.num_tokens += 1
        self.logprobs.append(logprob)
        self.plain_logprobs.append(plain_logprob)
        if token in self._stop_token_ids or (
            self._stop_text is not None and self._stop_text.completed_by(token)
        ):
            self.finish_reason = "stop"
        elif self.num_tokens == len(self.tokens):
            self.finish_reason = "length"
        if self.on_token is not None:
            self.on_token(token, plain_logprob)

    def completion(self, weight_version: int) -> Completion:
        """What was said, once finish_reason is set."""
        assert self.finish_reason is not None
        return Completion(
            token_ids=tuple(self.tokens[self.num_prompt : self.num_tokens].tolist()),
            logprobs=tuple(self.logprobs),
            plain_logprobs=tuple(self.plain_logprobs),
            finish_reason=self.finish_reason,
            weight_version=weight_version,
            cached_tokens=self.cached_tokens or 0,
            prompt_tokens=self.num_prompt,
        )
