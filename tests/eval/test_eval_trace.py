"""Cost by agent, fetches and contamination: counted by hand from the events of a run."""

import asyncio
from dataclasses import replace
from itertools import count
from pathlib import Path

import pytest
from wideseek_eval.contamination import REFUSAL, GuardedTools, load_guard
from wideseek_eval.report import agent_costs, fetches
from wideseek_eval.results import Results
from wideseek_eval.run import run_trials
from wideseek_eval.suites import EvalTask
from wideseek_eval.trace import read_trace, read_traces

from tests.agents.scripted import Pages, call
from tests.eval.scripted_eval import SETTINGS, ScriptedModel
from wideseek.runs.events import EventType
from wideseek.runs.log import RunLog
from wideseek.tools.corpus import Corpus
from wideseek.tools.outcome import Page, Status

GUARD = load_guard()
CANARY = "Benchmark data should never appear\nin training corpora. canary GUID 1234"


def write_run(runs: Path, run_id: str = "q-t0") -> Path:
    """A lead of 10 s and a sub of 4 s, a second an event."""
    ticks = count()
    with RunLog(runs, run_id, clock=lambda: float(next(ticks))) as log:
        reply = {"text": "", "finish_reason": "stop", "cached_tokens": 0}
        fetched = {"call_id": "c", "detail": ""}
        page = {"url": "u", "title": "t", "text": CANARY}
        log.emit(EventType.RUN_STARTED, {"question": "列出所有国家"})
        log.emit(EventType.AGENT_SPAWNED, {"role": "lead"}, agent_id="lead")
        log.emit(
            EventType.LLM_DONE,
            reply | {"prompt_tokens": 100, "completion_tokens": 20},
            agent_id="lead",
        )
        log.emit(EventType.AGENT_SPAWNED, {"role": "sub"}, agent_id="sub-1", parent_id="lead")
        for outcome in (
            {"name": "search", "status": "ok", "hits": [{"snippet": "harmless"}]},
            {"name": "access", "status": "ok", "page": page},
            {"name": "access", "status": "timeout"},
            {"name": "access", "status": "refused_url", "detail": REFUSAL},
        ):
            log.emit(EventType.TOOL_RESULT, fetched | outcome, agent_id="sub-1")
        log.emit(
            EventType.LLM_DONE,
            reply | {"prompt_tokens": 30, "completion_tokens": 3},
            agent_id="sub-1",
        )
        log.emit(EventType.AGENT_STATE, {"state": "done", "end": "answered"}, agent_id="sub-1")
        log.emit(EventType.RUN_COMPLETED, {"answer": ""})
    return log.folder


def test_a_run_is_counted_by_hand(tmp_path: Path) -> None:
    trace = read_trace(write_run(tmp_path), GUARD)
    assert trace is not None and trace.language == "zh"
    lead, sub = trace.agents
    assert (lead.role, lead.tokens, lead.tool_calls, lead.seconds) == ("lead", 120, 0, 9.0)
    assert (sub.role, sub.tokens, sub.tool_calls, sub.seconds) == ("sub", 33, 4, 6.0)
    assert trace.fetches == {"search": (1, 1), "access": (1, 2)}, "a refused url was not fetched"
    assert (trace.blocked, trace.canaries) == (1, 1)
    traces = read_traces(tmp_path, [("q", 0), ("q", 1)])
    assert list(traces) == [("q", 0)] and read_trace(tmp_path / "none", GUARD) is None
    write_run(tmp_path, "q-t1")
    traces = read_traces(tmp_path, [("q", 0), ("q", 1)])
    assert agent_costs(traces.values())["sub"] == {
        "agents": 2,
        "tokens": 33,
        "tool_calls": 4,
        "seconds": 6.0,
    }
    assert fetches(traces.values())["access"] == {"succeeded": 2, "tried": 4}


@pytest.mark.parametrize(
    "url",
    [
        "https://huggingface.co/datasets/ByteDance-Seed/WideSearch",
        "http://www.HuggingFace.co:443/datasets",
        "https://r.jina.ai/https://huggingface.co/datasets/x",
        "https://web.archive.org/web/2025/https%3A%2F%2Fhuggingface.co%2Fdatasets%2Fx",
        "https://proxy.org/?url=https%253A%252F%252Fhuggingface.co%252Fdatasets",
        "https://github.com/bytedance-seed/WideSearch/blob/main/README.md",
        "https://raw.githubusercontent.com/ByteDance-Seed/WideSearch/main/data.jsonl",
        "https://widesearch-seed.github.io/",
        "https://arxiv.org/pdf/2508.07999v2",
        "https://arxiv.org/pdf/2508.07999.pdf",
        "https://github.com/RLinf/RLinf.git",
    ],
)
def test_pages_of_benchmarks_are_out_of_bounds(url: str) -> None:
    assert GUARD.blocks(url)


@pytest.mark.parametrize(
    "url",
    [
        "https://en.wikipedia.org/wiki/List_of_datasets",
        "https://huggingface.co/models",
        "https://huggingface.co/datasetsomething",
        "https://github.com/ByteDance-Seed/WideSearching",
        "https://nothuggingface.co/datasets-of-2024",
        "https://arxiv.org/abs/2508.07998",
        "https://widesearch-seed.github.io.example.org/",
        "wideseek://atlas/huggingface",
    ],
)
def test_other_pages_are_not(url: str) -> None:
    assert not GUARD.blocks(url)


def test_a_canary_is_found_however_it_is_broken() -> None:
    assert GUARD.count_canaries(CANARY) == 2
    assert GUARD.count_canaries("The canary is a bird of the Canary Islands.") == 0


LEAK = "https://huggingface.co/datasets/a"


def test_the_guard_hides_and_refuses_and_leaves_the_rest() -> None:
    pages = Pages({LEAK: "gold", "https://a.org/b": "gold too"})
    tools = GuardedTools(pages, pages, GUARD)

    async def use() -> None:
        result = await tools.search("gold", 5)
        assert [hit.url for hit in result.hits] == ["https://a.org/b"]
        assert result.status is Status.OK and result.detail == f"1 hits left out: {REFUSAL}"
        assert (await tools.search("too")).detail == ""
        assert (await tools.access("https://a.org/b")).text == "gold too"
        assert (await tools.access(LEAK)).status is Status.REFUSED_URL
        only = GuardedTools(Pages({LEAK: "gold"}), pages, GUARD)
        assert (await only.search("gold")).status is Status.NO_RESULTS

    asyncio.run(use())
    assert pages.opened == ["https://a.org/b"]


def test_an_evaluated_agent_is_kept_from_the_benchmark_and_it_is_counted(tmp_path: Path) -> None:
    corpus = Corpus.from_pages(
        [
            Page("Leak", LEAK, "Leak\nThe gold answers of the benchmark."),
            Page("Marked", "https://a.org/m", f"Marked\nA page on gold.\n{CANARY}"),
        ]
    )
    task = EvalTask(
        id="q",
        question=f"See {LEAK} https://a.org/m",
        kind="boxed",
        open_corpus=lambda: corpus,
        answers=("x",),
    )
    opened = [call("access", url=LEAK), call("access", url="https://a.org/m")]
    said = iter([call("search", query="gold"), *opened, "\\boxed{x}"])
    model = ScriptedModel([task], lambda task: next(said))

    async def evaluate() -> None:
        with Results(tmp_path, {}, resume=True) as results:
            settings = replace(SETTINGS, workflow="single")
            await run_trials(
                [task], 1, model, settings, results, concurrency=1, show=lambda record: None
            )

    asyncio.run(evaluate())
    trace = read_trace(tmp_path / "runs" / "q-t0", GUARD)
    assert trace is not None
    assert trace.blocked == 2, "the search hid it, and the url in the question was refused"
    assert trace.canaries >= 1
    assert trace.fetches == {"search": (1, 1), "access": (1, 1)}
    log = (tmp_path / "runs" / "q-t0" / "events.jsonl").read_text()
    assert "gold answers of the benchmark" not in log
