"""Search and access for one agent, on the account of its run.

An agent may open only urls that the question, a search or a page has shown it, or that agents of
earlier waves were shown: a url a model made up, or built to carry something out, is refused here,
whatever backend stands behind.
"""

import asyncio
import re
from collections.abc import Iterable
from dataclasses import asdict, replace
from functools import partial
from typing import Any

from wideseek.agents.agent import Shared, tell_reply
from wideseek.agents.model_call import call_model, derive_seed
from wideseek.agents.prompts import fill
from wideseek.agents.replies import tell_page, tell_search
from wideseek.generation import Message, OpenDialogue, Reply
from wideseek.grading.answer import after_thinking
from wideseek.runs.events import EventType
from wideseek.tools.outcome import Access, PageResult, Search, SearchResult, Status
from wideseek.trajectory import ToolCall

MAX_SEARCH_COUNT = 20
"""Hits a call may ask for; more would fill the context with snippets."""

_URL = re.compile(r"[A-Za-z][A-Za-z0-9+.-]{0,20}://[^\s<>\"'`|\[\]{}\\^,;。,、;)】》」]+")


def urls_in(text: str) -> set[str]:
    """The urls written in a text, each with and without the punctuation that may follow it."""
    found = set(_URL.findall(text))
    return (
        found | {url.rstrip(".:!?)*_") for url in found} | {url.partition("#")[0] for url in found}
    )


class Toolbox:
    """Runs the searches and accesses of one agent; `seen` are the urls it may open so far.

    agent_id None: those of the run itself, before it has an agent.
    """

    def __init__(
        self,
        shared: Shared,
        *,
        search: Search,
        access: Access,
        open_reader: OpenDialogue | None,
        seen: Iterable[str],
        agent_id: str | None,
        parent_id: str | None,
        session: str,
    ) -> None:
        self.seen = set(seen)
        self._shared = shared
        self._search_backend = search
        self._access_backend = access
        self._open_reader = open_reader
        self._agent_id = agent_id
        self._session = session
        self._emit = partial(shared.emit, agent_id=agent_id, parent_id=parent_id)
        self._issued = 0

    async def run(self, calls: tuple[ToolCall, ...]) -> list[str]:
        """Run all calls of a turn at once; texts in call order. One over the budget stops the run."""
        ledger = self._shared.ledger
        granted = ledger.grant_tool_calls(len(calls))
        async with asyncio.TaskGroup() as group:
            tasks = [group.create_task(self._run_one(call)) for call in calls[:granted]]
        if granted < len(calls):
            ledger.stop("max_tool_calls")
        return [text for text, _ in (task.result() for task in tasks)]

    async def find(self, question: str, count: int) -> list[str]:
        """Titles of at most `count` pages that a search for the question itself finds."""
        self._shared.ledger.tool_calls.issue()
        call = ToolCall(name="search", arguments={"query": question, "count": count})
        _, outcome = await self._run_one(call)
        return [hit["title"] for hit in outcome.get("hits", ())]

    async def _run_one(self, call: ToolCall) -> tuple[str, dict[str, Any]]:
        """The text that tells a call's outcome, and the outcome itself."""
        self._issued += 1
        call_id = f"{self._agent_id or 'run'}/{self._issued}"
        told = {"call_id": call_id, "name": call.name}
        self._emit(EventType.TOOL_CALLED, told | {"arguments": call.arguments})
        ok = False
        try:
            tool = self._search if call.name == "search" else self._access
            text, outcome = await tool(call_id, call.arguments)
            ok = outcome["status"] in (Status.OK, Status.NO_RESULTS)
        finally:
            self._shared.ledger.tool_calls.settle(ok=ok)
        self._emit(EventType.TOOL_RESULT, told | outcome)
        return text, outcome

    async def _search(self, call_id: str, arguments: dict[str, Any]) -> tuple[str, dict[str, Any]]:
        query = arguments["query"]
        count = _count(arguments.get("count"), self._shared.limits.search_count)
        result = await self._shared.ledger.unless_stopped(self._search_backend.search(query, count))
        if result is None:
            return _stopped()
        for hit in result.hits:
            self.seen |= {hit.url} | urls_in(hit.snippet)
        outcome = {"hits": [asdict(hit) for hit in result.hits]} | _outcome(result)
        return tell_search(self._shared.prompts, query, result), outcome

    async def _access(self, call_id: str, arguments: dict[str, Any]) -> tuple[str, dict[str, Any]]:
        url = arguments["url"].strip()
        result = await self._open(url)
        if result is None:
            return _stopped()
        outcome: dict[str, Any] = {"url": url} | _outcome(result)
        if result.status is not Status.OK:
            return tell_page(self._shared.prompts, url, result, 0), outcome
        self.seen |= {result.url} | urls_in(result.text)
        outcome["page"] = {"url": result.url, "title": result.title, "text": result.text}
        asked = arguments.get("info_to_extract")
        if self._open_reader is not None and asked:
            read = await self._read(self._open_reader, call_id, str(asked), result.text)
            if read:
                told = fill(self._shared.prompts.access_read, url=url, info=asked, text=read)
                return told, outcome
        page_chars = self._shared.limits.page_chars
        return tell_page(self._shared.prompts, url, result, page_chars), outcome

    async def _open(self, url: str) -> PageResult | None:
        if url not in self.seen and url.partition("#")[0] not in self.seen:
            detail = "no search result or page of this run has shown this url"
            return PageResult(Status.REFUSED_URL, url, detail=detail)
        return await self._shared.ledger.unless_stopped(self._access_backend.access(url))

    async def _read(
        self, open_reader: OpenDialogue, call_id: str, asked: str, text: str
    ) -> str | None:
        """What a model without tools finds on a page; None if it fails: the page itself is shown."""
        prompts, limits = self._shared.prompts, self._shared.limits
        user = fill(prompts.reader_user, info=asked, text=text[: limits.page_chars])
        messages = (
            Message(role="system", content=prompts.reader_system),
            Message(role="user", content=user),
        )
        dialogue = open_reader(messages, (), f"{self._session}/{call_id.rpartition('/')[2]}")
        room = limits.seq_length - dialogue.num_tokens
        if room < 1:
            return None
        seed = derive_seed(self._shared.seed, call_id)
        sampling = replace(self._shared.sampling, seed=seed)
        called = await call_model(dialogue, sampling, room, self._shared.ledger)
        if called is None or not isinstance(called[0], Reply):
            return None
        self._emit(EventType.LLM_DONE, {"call_id": call_id, "seed": seed} | tell_reply(called[0]))
        return after_thinking(called[0].text)


def _count(asked: object, usual: int) -> int:
    if isinstance(asked, int) and not isinstance(asked, bool) and asked > 0:
        return min(asked, MAX_SEARCH_COUNT)
    return usual


def _outcome(result: SearchResult | PageResult) -> dict[str, Any]:
    return {"status": result.status, "detail": result.detail}


def _stopped() -> tuple[str, dict[str, Any]]:
    return "", {"status": Status.CANCELLED, "detail": "the run was stopped"}
