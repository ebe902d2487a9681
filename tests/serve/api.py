"""An app around a scripted model, and calls to it."""

import asyncio
import json
from collections.abc import Callable
from dataclasses import fields
from pathlib import Path
from typing import Any

import httpx
from fastapi import FastAPI

from tests.agents.scripted import lines
from tests.serve.tiny import ScriptedGenerate, ScriptedModel
from wideseek.backends import Backends
from wideseek.engine.stats import EngineStats
from wideseek.model.renderer import Renderer
from wideseek.serve.app import create_app
from wideseek.serve.chat import ServedModel
from wideseek.serve.runs import Runs
from wideseek.tools.corpus import Corpus
from wideseek.tools.outcome import Page

COUNTED = {field.name: n for n, field in enumerate(fields(EngineStats), 1) if field.name != "times"}
HELLO = [{"role": "user", "content": "Hello"}]


class Api:
    """An app around a scripted reply, and calls to it."""

    def __init__(
        self,
        renderer: Renderer,
        text: str = "Grüße 🦎!",
        *,
        key: str | None = None,
        max_calls: int = 8,
        pause: float = 0.0,
        end: str = "<|im_end|>",
    ) -> None:
        self.generate = ScriptedGenerate(text, renderer.encode, pause=pause, end=end)
        self.model = ServedModel(
            name="tiny",
            renderer=renderer,
            generate=self.generate,
            max_model_len=200,
            created=1_700_000_000,
            numbers=EngineStats(**COUNTED).numbers,
        )
        self.key, self.max_calls = key, max_calls
        self.app = self.create_app()

    def create_app(self) -> FastAPI:
        model = ScriptedModel(lines())
        corpus = Corpus.from_pages([Page("Chile", "https://x.test/chile", "Chile")])
        runs = Runs(Backends(lead=model, sub=model, corpus=corpus, bundled=True), Path("/nowhere"))
        return create_app(self.model, runs, key=self.key, max_calls=self.max_calls)

    def client(self) -> httpx.AsyncClient:
        transport = httpx.ASGITransport(self.app, raise_app_exceptions=False)
        return httpx.AsyncClient(transport=transport, base_url="http://127.0.0.1:8000")

    def post(self, body: Any, path: str = "/v1/chat/completions", **extra: Any) -> httpx.Response:
        async def call() -> httpx.Response:
            async with self.client() as client:
                return await client.post(path, json=body, **extra)

        return asyncio.run(call())

    def get(self, path: str, **extra: Any) -> httpx.Response:
        async def call() -> httpx.Response:
            async with self.client() as client:
                return await client.get(path, **extra)

        return asyncio.run(call())

    def chat(self, **fields: Any) -> dict[str, Any]:
        response = self.post({"model": "tiny", "messages": HELLO, **fields})
        assert response.status_code == 200, response.text
        body: dict[str, Any] = response.json()
        return body

    def chunks(self, **fields: Any) -> list[dict[str, Any]]:
        response = self.post({"model": "tiny", "messages": HELLO, "stream": True, **fields})
        assert response.status_code == 200, response.text
        assert response.headers["content-type"].startswith("text/event-stream")
        lines = [line for line in response.text.split("\n\n") if line]
        assert lines.pop() == "data: [DONE]"
        return [json.loads(line.removeprefix("data: ")) for line in lines]


def error_of(response: httpx.Response, status: int) -> dict[str, Any]:
    assert response.status_code == status, response.text
    error = response.json()["error"]
    assert set(error) == {"message", "type", "param", "code"}
    assert isinstance(error["message"], str) and error["message"]
    assert isinstance(error["type"], str)
    assert response.headers["x-request-id"]
    found: dict[str, Any] = error
    return found


async def until(true: Callable[[], bool]) -> None:
    """Wait for a condition, at most five seconds."""

    async def poll() -> None:
        while not true():
            await asyncio.sleep(0.005)

    await asyncio.wait_for(poll(), 5)
