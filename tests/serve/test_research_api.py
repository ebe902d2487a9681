"""POST /v1/research over ASGI with a scripted team: the answer, limits, and runs that go on."""

import asyncio
import json
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.agents.scripted import Cast, Said, Speak, Talk, access, search, spawn
from tests.serve.tiny import ScriptedGenerate, ScriptedModel, write_tokenizer
from wideseek.answering import Answered
from wideseek.backends import Backends
from wideseek.model.renderer import Renderer
from wideseek.runs.ledger import Budget
from wideseek.runs.log import read_events
from wideseek.serve.app import create_app
from wideseek.serve.bodies import ResearchBody
from wideseek.serve.chat import ServedModel
from wideseek.serve.runs import MAX_RUNS, Runs
from wideseek.tools.corpus import Corpus
from wideseek.tools.outcome import Page

URL = "https://atlas.test/chile"
PAGES = [Page("Chile", URL, "Chile\nA country.\ncapital: Santiago")]
TABLE = "```markdown\n| country | capital |\n| --- | --- |\n| Chile | Santiago |\n```"
QUESTION = {"question": "Which countries, with capital?"}


def team(talk: Talk) -> Said:
    """A lead that asks one subagent, which searches, reads and reports."""
    lead = any(tool["function"]["name"] == "create_sub_agents" for tool in talk.tools)
    said = [spawn("Chile"), TABLE] if lead else [search("Chile"), access(URL), "Chile | Santiago"]
    return said[talk.turn - 1]


class Desk:
    """An app for research with a scripted model."""

    def __init__(
        self, folder: Path, speak: Speak = team, *, context: int | None = None, width: int = 4
    ) -> None:
        write_tokenizer(folder)
        renderer = Renderer.load(folder)
        self.model = ScriptedModel(Cast(speak).open, context)
        self.runs_dir = folder / "runs"
        self.runs = Runs(
            Backends(
                lead=self.model, sub=self.model, corpus=Corpus.from_pages(PAGES), bundled=True
            ),
            self.runs_dir,
            width=width,
            budget=Budget(max_seconds=60.0, max_tokens=100_000),
            config={"model": "scripted"},
        )
        served = ServedModel(
            name="tiny",
            renderer=renderer,
            generate=ScriptedGenerate("", renderer.encode),
            max_model_len=100,
            created=0,
            numbers=dict,
        )
        self.app = create_app(served, self.runs, key=None, max_calls=100)

    def client(self) -> httpx.AsyncClient:
        transport = httpx.ASGITransport(self.app)
        return httpx.AsyncClient(transport=transport, base_url="http://localhost")

    def post(self, body: Any) -> httpx.Response:
        async def call() -> httpx.Response:
            async with self.client() as client:
                return await client.post("/v1/research", json=body)

        return asyncio.run(call())


def test_research_answers_with_the_object_of_ask_and_a_run_id(tmp_path: Path) -> None:
    desk = Desk(tmp_path)
    response = desk.post({**QUESTION, "seed": 5})
    assert response.status_code == 200, response.text
    body = response.json()
    keys = ["run_id", "columns", "rows", "markdown", "sources", "stop_reason", "usage"]
    assert list(body) == keys
    assert body["rows"] == [{"country": "Chile", "capital": "Santiago"}]
    assert body["sources"][0]["pages"][0]["url"] == URL
    assert body["stop_reason"] == "answered"
    folder = desk.runs_dir / body["run_id"]
    events = read_events(folder)
    assert events[0].data["seed"] == 5
    assert events[0].data["limits"]["width"] == 4
    config = json.loads((folder / "config.resolved.json").read_text())
    assert config["model"] == "scripted"
    assert config["question"] == QUESTION["question"]


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({"question": ""}, "question"),
        ({"question": "  \n "}, "question"),
        ({"question": None}, "question"),
        ({"max_agents": 0}, "max_agents"),
        ({"max_agents": 5}, "max_agents"),
        ({"workflow": "solo"}, "workflow"),
        ({"language": "fr"}, "language"),
        ({"budget": {"tokens": 100_001}}, "budget.tokens"),
        ({"budget": {"seconds": 0}}, "budget.seconds"),
        ({"budget": {"seconds": 61}}, "budget.seconds"),
        ({"budget": {"usd": 1}}, "budget.usd"),
        ({"columns": ["a"]}, "columns"),
    ],
)
def test_a_mistake_in_the_body_is_named(tmp_path: Path, fields: dict[str, Any], param: str) -> None:
    desk = Desk(tmp_path)
    response = desk.post({**QUESTION, **fields})
    assert response.status_code == 400, response.text
    assert response.json()["error"]["param"] == param
    assert not desk.runs_dir.exists()


def test_a_question_longer_than_the_context_is_a_400(tmp_path: Path) -> None:
    response = Desk(tmp_path, context=200).post({"question": "x" * 300})
    assert response.status_code == 400
    assert response.json()["error"]["code"] == "context_length_exceeded"


def test_what_may_be_spent_can_be_lowered_by_the_call(tmp_path: Path) -> None:
    desk = Desk(tmp_path)
    body = desk.post({**QUESTION, "max_agents": 2, "budget": {"tokens": 5000}}).json()
    started = read_events(desk.runs_dir / body["run_id"])[0].data
    assert started["limits"]["width"] == 2
    assert started["budget"]["max_tokens"] == 5000
    assert started["budget"]["max_seconds"] == 60.0


def gate() -> tuple[asyncio.Event, Callable[[Talk], Awaitable[Said]]]:
    """A lead that answers only once the event is set."""
    opened = asyncio.Event()

    async def speak(talk: Talk) -> Said:
        await opened.wait()
        return TABLE

    return opened, speak


def test_a_client_that_leaves_ends_no_run(tmp_path: Path) -> None:
    async def scenario() -> None:
        opened, speak = gate()
        desk = Desk(tmp_path, speak)
        async with desk.client() as client:
            call = asyncio.ensure_future(client.post("/v1/research", json=QUESTION))
            await asyncio.sleep(0.05)
            call.cancel()
            await asyncio.gather(call, return_exceptions=True)
        opened.set()
        for _ in range(500):
            await asyncio.sleep(0.01)
            if list(desk.runs_dir.glob("*/table.md")):
                break
        [folder] = desk.runs_dir.iterdir()
        assert "Santiago" in (folder / "table.md").read_text()

    asyncio.run(scenario())


def test_one_run_too_many_is_asked_to_come_back(tmp_path: Path) -> None:
    async def scenario() -> None:
        opened, speak = gate()
        desk = Desk(tmp_path, speak)
        async with desk.client() as client:
            calls = [
                asyncio.ensure_future(client.post("/v1/research", json=QUESTION))
                for _ in range(MAX_RUNS)
            ]
            await asyncio.sleep(0.1)
            refused = await client.post("/v1/research", json=QUESTION)
            assert refused.status_code == 503
            assert refused.headers["retry-after"]
            opened.set()
            assert [(await call).status_code for call in calls] == [200] * MAX_RUNS
            assert (await client.post("/v1/research", json=QUESTION)).status_code == 200

    asyncio.run(scenario())


def test_stopping_the_server_ends_runs_with_what_they_have(tmp_path: Path) -> None:
    def stuck(talk: Talk) -> Said:
        return None if talk.turn == 2 and "create" in str(talk.tools) else team(talk)

    async def scenario() -> Answered:
        desk = Desk(tmp_path, stuck)
        async with desk.app.router.lifespan_context(desk.app):
            run = desk.runs.start(ResearchBody(question="Which countries?"))
            await asyncio.sleep(0.2)
        assert desk.model.closed
        return await run

    answered = asyncio.run(scenario())
    assert answered.answer.stop_reason == "cancelled"
    assert list(answered.answer.rows[0].values()) == ["Chile", "Santiago"]
