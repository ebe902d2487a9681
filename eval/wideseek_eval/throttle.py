"""Fewer replies at once than there are agents, for a server that would refuse so many."""

import asyncio
from collections.abc import Sequence

from wideseek.backends import Model
from wideseek.generation import Dialogue, Message, ModelFailure, Reply, Sampling, ToolSchema


class ThrottledModel:
    """A model of which at most `connections` replies are under way at a time; others wait."""

    def __init__(self, model: Model, connections: int) -> None:
        self._model = model
        self._open = asyncio.Semaphore(connections)

    @property
    def name(self) -> str:
        return self._model.name

    @property
    def max_model_len(self) -> int | None:
        return self._model.max_model_len

    def open(
        self, messages: Sequence[Message], tools: Sequence[ToolSchema], session: str = ""
    ) -> "ThrottledDialogue":
        """Start a Dialogue of the model."""
        return ThrottledDialogue(self._model.open(messages, tools, session), self._open)

    async def close(self) -> None:
        await self._model.close()


class ThrottledDialogue:
    """A Dialogue that waits for its turn to reply."""

    def __init__(self, dialogue: Dialogue, slots: asyncio.Semaphore) -> None:
        self._dialogue = dialogue
        self._slots = slots

    @property
    def num_tokens(self) -> int:
        return self._dialogue.num_tokens

    @property
    def token_ids(self) -> Sequence[int]:
        return self._dialogue.token_ids

    def count_tool_tokens(self, text: str) -> int:
        return self._dialogue.count_tool_tokens(text)

    def add_tool(self, text: str) -> None:
        self._dialogue.add_tool(text)

    async def reply(
        self, sampling: Sampling, cancel: asyncio.Event | None = None
    ) -> Reply | ModelFailure:
        async with self._slots:
            return await self._dialogue.reply(sampling, cancel)
