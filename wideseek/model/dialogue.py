"""A Dialogue on a Generate: the sampled token ids are the context, and nothing is encoded twice."""

import asyncio
import dataclasses
from collections.abc import Sequence

from wideseek.generation import (
    Generate,
    Message,
    ModelFailure,
    ModelFailureKind,
    Reply,
    Sampling,
    ToolSchema,
)
from wideseek.model.renderer import Renderer


class TokenDialogue:
    """One append-only context of at most `max_model_len` tokens, replies included.

    Opens with the rendered messages, waiting for a reply; from then on replies and tool messages
    alternate. A reply that failed leaves the context as it was and may be asked for again.
    """

    def __init__(
        self,
        renderer: Renderer,
        generate: Generate,
        messages: Sequence[Message],
        tools: Sequence[ToolSchema] = (),
        *,
        max_model_len: int,
    ) -> None:
        self._renderer = renderer
        self._generate = generate
        self._max_model_len = max_model_len
        self._token_ids = renderer.first(messages, tools)
        self._turn_is_open = True

    @property
    def num_tokens(self) -> int:
        return len(self._token_ids)

    @property
    def token_ids(self) -> tuple[int, ...]:
        return tuple(self._token_ids)

    def count_tool_tokens(self, text: str) -> int:
        return len(self._tool_delta(text))

    def add_tool(self, text: str) -> None:
        self._token_ids += self._tool_delta(text)
        self._turn_is_open = True

    async def reply(
        self, sampling: Sampling, cancel: asyncio.Event | None = None
    ) -> Reply | ModelFailure:
        """Sample the next turn, as long as max_tokens and the room left allow, and append it.

        The text keeps thinking and tool calls as they were sampled and loses only the stop token.
        A model that breaks, which is a RuntimeError of Generate, is UNAVAILABLE.
        """
        assert self._turn_is_open, "a reply must be followed by a tool message"
        num_prompt = len(self._token_ids)
        room = self._max_model_len - num_prompt
        if room < 1:
            return ModelFailure(
                kind=ModelFailureKind.CONTEXT_FULL,
                detail=f"{num_prompt} tokens leave no room in a context of {self._max_model_len}",
            )
        stops = {*sampling.stop_token_ids, *self._renderer.stop_token_ids}
        sampling = dataclasses.replace(
            sampling,
            max_tokens=min(sampling.max_tokens, room),
            stop_token_ids=tuple(sorted(stops)),
        )
        try:
            completion = await self._generate(tuple(self._token_ids), sampling, cancel)
        except RuntimeError as error:  # a step that failed, an engine that was closed
            return ModelFailure(kind=ModelFailureKind.UNAVAILABLE, detail=str(error))
        sampled = completion.token_ids
        self._token_ids += sampled
        self._turn_is_open = False
        ends = bool(sampled) and sampled[-1] in self._renderer.stop_token_ids
        return Reply(
            text=self._renderer.decode(sampled[:-1] if ends else sampled),
            finish_reason=completion.finish_reason,
            prompt_tokens=num_prompt,
            completion_tokens=len(sampled),
            cached_tokens=completion.cached_tokens,
            completion=completion,
        )

    def _tool_delta(self, text: str) -> list[int]:
        assert not self._turn_is_open, "a tool message must follow a reply"
        closed = self._token_ids[-1] == self._renderer.end_of_turn_id
        return self._renderer.tool_delta(text, closed=closed)
