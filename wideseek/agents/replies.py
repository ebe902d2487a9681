"""What an agent is told about its tool calls: outcomes as text, in the words of its Prompts."""

from wideseek.agents.prompts import Prompts, fill
from wideseek.tools.outcome import PageResult, SearchResult, Status
from wideseek.trajectory import End, ToolCall, Trajectory


def tell_search(prompts: Prompts, query: str, result: SearchResult) -> str:
    """The hits of a search in rank order, or why there are none."""
    if result.status is not Status.OK:
        return fill(prompts.search_failed, query=query, reason=_words(result.status))
    hits = (
        fill(prompts.search_hit, rank=rank, url=hit.url, title=hit.title, snippet=hit.snippet)
        for rank, hit in enumerate(result.hits, 1)
    )
    return fill(prompts.search, query=query, result="\n".join(hits))


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


def _words(reason: Status | End) -> str:
    return reason.value.replace("_", " ")
