"""Models and tools that follow a script, for tests of agents: one token a code point."""

import asyncio
import json
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field

from wideseek.generation import (
    Completion,
    Dialogue,
    Message,
    ModelFailure,
    OpenDialogue,
    Reply,
    Sampling,
    ToolSchema,
)
from wideseek.tools.outcome import PageResult, SearchHit, SearchResult, Status


def call(name: str, **arguments: object) -> str:
    return f"<tool_call>{json.dumps({'name': name, 'arguments': arguments})}</tool_call>"


def spawn(*prompts: str) -> str:
    return call("create_sub_agents", sub_agents=[{"prompt": prompt} for prompt in prompts])


def search(*queries: str) -> str:
    return call("search", queries=[{"query": query} for query in queries])


def access(*urls: str) -> str:
    return call("access", urls=[{"url": url} for url in urls])


Said = str | ModelFailure | None
Speak = Callable[["Talk"], Said | Awaitable[Said]]


@dataclass
class Talk:
    """A Dialogue whose replies come from `speak`; None means to go on until it is cancelled."""

    messages: Sequence[Message]
    tools: Sequence[ToolSchema]
    speak: Speak
    tool_texts: list[str] = field(default_factory=list)
    samplings: list[Sampling] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.context = "".join(f"[{m.role}]{m.content}" for m in self.messages) + "[assistant]"

    @property
    def user(self) -> str:
        return self.messages[-1].content

    @property
    def turn(self) -> int:
        """Number of the reply being given, from 1."""
        return len(self.samplings)

    @property
    def num_tokens(self) -> int:
        return len(self.context)

    @property
    def token_ids(self) -> Sequence[int]:
        return [ord(character) for character in self.context]

    def count_tool_tokens(self, text: str) -> int:
        return len(f"[tool]{text}[assistant]")

    def add_tool(self, text: str) -> None:
        self.tool_texts.append(text)
        self.context += f"[tool]{text}[assistant]"

    async def reply(
        self, sampling: Sampling, cancel: asyncio.Event | None = None
    ) -> Reply | ModelFailure:
        self.samplings.append(sampling)
        said = self.speak(self)
        whole = said if isinstance(said, str | ModelFailure | None) else await said
        if isinstance(whole, ModelFailure):
            return whole
        if whole is None:
            assert cancel is not None
            await cancel.wait()
        text = (whole or "unfinis")[: sampling.max_tokens]
        cut = "length" if whole and len(text) < len(whole) else "stop"
        completion = Completion(
            token_ids=tuple(map(ord, text)),
            logprobs=(0.0,) * len(text),
            plain_logprobs=(0.0,) * len(text),
            finish_reason="cancelled" if whole is None else cut,
            weight_version=7,
            cached_tokens=0,
            prompt_tokens=len(self.context),
        )
        self.context += text
        return Reply(
            text=text,
            finish_reason=completion.finish_reason,
            prompt_tokens=completion.prompt_tokens,
            completion_tokens=len(text),
            cached_tokens=0,
            completion=completion,
        )


class Cast:
    """Opens Talks that all speak by one function, and keeps them and their sessions in order."""

    def __init__(self, speak: Speak) -> None:
        self.speak = speak
        self.talks: list[Talk] = []
        self.sessions: list[str] = []

    def open(
        self, messages: Sequence[Message], tools: Sequence[ToolSchema], session: str = ""
    ) -> Dialogue:
        self.talks.append(Talk(messages, tools, self.speak))
        self.sessions.append(session)
        return self.talks[-1]


def lines(*said: Said) -> OpenDialogue:
    """Opens Talks that each say these lines in order."""
    return Cast(lambda talk: said[talk.turn - 1]).open


@dataclass
class Pages:
    """Search and access over pages {url: text}; a query finds the pages whose text holds it."""

    pages: dict[str, str]
    opened: list[str] = field(default_factory=list)
    counts: list[int] = field(default_factory=list)

    async def search(self, query: str, count: int = 3) -> SearchResult:
        self.counts.append(count)
        found = [url for url, text in self.pages.items() if query in text][:count]
        if not found:
            return SearchResult(Status.NO_RESULTS)
        return SearchResult(Status.OK, tuple(SearchHit(title_of(u), u, "...") for u in found))

    async def access(self, url: str) -> PageResult:
        self.opened.append(url)
        if url not in self.pages:
            return PageResult(Status.NOT_FOUND, url)
        return PageResult(Status.OK, url, title_of(url), self.pages[url])


def title_of(url: str) -> str:
    return url.rpartition("/")[2]
