"""What an agent is told about its tool calls: outcomes as text, in the words of its Prompts."""

from collections.abc import Sequence
from string import ascii_lowercase

from wideseek.agents.prompts import Prompts, fill
from wideseek.tools.outcome import PageResult, SearchResult, Status
from wideseek.trajectory import End, ToolCall, Trajectory

MAX_TITLE_CHARACTERS = 200
"""Of a found page's title; a site may put a paragraph there."""


def tell_search(prompts: Prompts, query: str, result: SearchResult) -> str:
    """The hits of a search in rank order, or why there are none."""
    if result.status is not Status.OK:
        return fill(prompts.search_failed, query=query, reason=_words(result.status))
    hits = (
        fill(prompts.search_hit, rank=rank, url=hit.url, title=hit.title, snippet=hit.snippet)
        for rank, hit in enumerate(result.hits, 1)
    )
    return fill(prompts.search, query=query, result="\n".join(hits))


def tell_found(prompts: Prompts, titles: Sequence[str]) -> str:
    """The pages that a search for the question itself found, for the agent that begins with them."""
    lines = (
        fill(prompts.found_page, letter=letter, title=_one_line(title))
        for letter, title in zip(ascii_lowercase, titles, strict=False)
    )
    return fill(prompts.found, pages="".join(lines)) if titles else ""


def tell_page(prompts: Prompts, url: str, result: PageResult, page_chars: int) -> str:
    """The first `page_chars` characters of a page, or why it cannot be shown."""
    if result.status is not Status.OK:
        return fill(prompts.access_failed, url=url, reason=_words(result.status))
    return fill(prompts.access, url=url, text=result.text[:page_chars])


def tell_report(prompts: Prompts, index: int, trajectory: Trajectory) -> str:
    """The report of the index-th subagent of a call, or the fixed notice if it has none."""
    template = prompts.subtask_ok if trajectory.end is End.ANSWERED else prompts.subtask_failed
    return fill(
        template,
        index=index,
        subtask=trajectory.task,
        report=trajectory.report,
        reason=_words(trajectory.end),
    )


def tell_rejected(
    prompts: Prompts, rejected: tuple[ToolCall, ...], cut: int, limit: int
) -> list[str]:
    """One text for every call that was not run, one for all that the limit of a turn cut."""
    texts = [fill(prompts.malformed_call, error=call.error) for call in rejected]
    if cut:
        texts.append(fill(prompts.calls_cut, count=cut, limit=limit))
    return texts


def _one_line(title: str) -> str:
    """A title as one line that cannot be taken for several, however a site words it."""
    return " ".join(title.split())[:MAX_TITLE_CHARACTERS]


def _words(reason: Status | End) -> str:
    return reason.value.replace("_", " ")
