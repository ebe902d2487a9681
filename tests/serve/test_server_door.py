"""The door of the server: keys, hosts, sizes, turns, and clients that leave."""

import asyncio
import json
from collections.abc import AsyncIterator, Awaitable
from dataclasses import replace
from typing import Any

import httpx
import pytest
from fastapi.routing import APIRoute

from tests.serve.api import HELLO, Api, error_of, until
from wideseek.model.renderer import Renderer

KEY = "a-key"


def test_unknown_paths_and_methods_keep_the_error_shape(renderer: Renderer) -> None:
    api = Api(renderer)
    assert error_of(api.get("/v2/models"), 404)["code"] == "not_found"
    assert error_of(api.get("/v1/chat/completions"), 405)["code"] == "method_not_allowed"
    assert error_of(api.get("/docs"), 404)
    assert error_of(api.get("/openapi.json"), 404)


def test_a_defect_of_ours_is_a_500_that_tells_nothing(renderer: Renderer) -> None:
    api = Api(renderer)

    async def broken(*_: Any, **__: Any) -> Any:
        raise RuntimeError("secret detail")

    api.model = replace(api.model, generate=broken)
    api.app = api.create_app()
    response = api.post({"model": "tiny", "messages": HELLO})
    assert response.status_code == 500
    assert response.json()["error"]["type"] == "server_error"
    assert "secret" not in response.text


def test_every_route_but_health_needs_the_key(renderer: Renderer) -> None:
    api = Api(renderer, key=KEY)
    routes = [route for route in api.app.routes if isinstance(route, APIRoute)]
    assert len(routes) >= 4
    for route in routes:
        for headers in ({}, {"authorization": "Bearer wrong"}, {"authorization": KEY}):
            call = (
                api.get if "GET" in (route.methods or ()) else (lambda p, **k: api.post({}, p, **k))
            )
            response = call(route.path, headers=headers)
            if route.path == "/health":
                assert response.status_code == 200
            else:
                assert error_of(response, 401)["type"] == "authentication_error"
    assert error_of(api.get("/nowhere"), 401)
    good = {"authorization": f"Bearer {KEY}"}
    assert api.get("/v1/models", headers=good).json()["data"][0]["id"] == "tiny"


@pytest.mark.parametrize(
    "headers",
    [
        {"host": "evil.example:8000"},
        {"host": "127.0.0.1.evil.example"},
        {"origin": "https://evil.example"},
        {"origin": "null"},
        {"host": "192.168.0.7"},
        {"host": "["},
    ],
)
def test_without_a_key_only_this_machine_is_served(
    renderer: Renderer, headers: dict[str, str]
) -> None:
    api = Api(renderer)
    assert error_of(api.get("/v1/models", headers=headers), 400)["code"] == "bad_host"
    assert error_of(api.get("/health", headers=headers), 400)


@pytest.mark.parametrize("host", ["localhost:8000", "127.0.0.1", "[::1]:8000", "127.9.9.9"])
def test_the_names_of_this_machine_are_served(renderer: Renderer, host: str) -> None:
    headers = {"host": host, "origin": f"http://{host}"}
    assert Api(renderer).get("/health", headers=headers).json() == {"status": "ok"}


def test_the_call_id_is_echoed_if_it_is_harmless(renderer: Renderer) -> None:
    api = Api(renderer)
    assert api.get("/health", headers={"x-request-id": "abc-1"}).headers["x-request-id"] == "abc-1"
    made = api.get("/health", headers={"x-request-id": "a b"}).headers["x-request-id"]
    assert len(made) == 32


def test_a_body_past_the_limit_is_a_413_whatever_its_headers_say(renderer: Renderer) -> None:
    api = Api(renderer)
    big = {"model": "tiny", "messages": [{"role": "user", "content": "x" * 5_000_000}]}
    assert error_of(api.post(big), 413)["code"] == "body_too_large"

    async def endless() -> AsyncIterator[bytes]:
        for _ in range(100):
            yield b"x" * 100_000

    headers = {"content-type": "application/json"}
    assert error_of(api.post(None, content=endless(), headers=headers), 413)


def test_one_call_too_many_is_asked_to_come_back(renderer: Renderer) -> None:
    api = Api(renderer, max_calls=1, pause=0.01)

    async def scenario() -> None:
        async with api.client() as client:
            body = {"model": "tiny", "messages": HELLO}
            first = asyncio.ensure_future(client.post("/v1/chat/completions", json=body))
            await until(lambda: bool(api.generate.prompts))
            refused = await client.post("/v1/chat/completions", json=body)
            assert error_of(refused, 503)["code"] == "overloaded"
            assert refused.headers["retry-after"] == "1"
            assert (await client.get("/health")).status_code == 200
            assert (await first).status_code == 200
            assert (await client.post("/v1/chat/completions", json=body)).status_code == 200

    asyncio.run(scenario())


@pytest.mark.parametrize("stream", [False, True])
def test_a_client_that_leaves_ends_the_sampling(renderer: Renderer, stream: bool) -> None:
    api = Api(renderer, "x" * 100, pause=0.01)
    body = json.dumps({"model": "tiny", "messages": HELLO, "stream": stream}).encode()

    async def scenario() -> None:
        gone = asyncio.Event()
        incoming = [{"type": "http.request", "body": body, "more_body": False}]

        async def receive() -> dict[str, Any]:
            if incoming:
                return incoming.pop()
            await gone.wait()
            return {"type": "http.disconnect"}

        async def send(message: Any) -> None:
            pass

        headers = [(b"host", b"localhost"), (b"content-type", b"application/json")]
        scope = {
            "type": "http",
            "asgi": {"version": "3.0", "spec_version": "2.3"},
            "method": "POST",
            "path": "/v1/chat/completions",
            "raw_path": b"/v1/chat/completions",
            "query_string": b"",
            "headers": headers,
        }
        call = asyncio.ensure_future(api.app(scope, receive, send))
        await until(lambda: bool(api.generate.prompts))
        gone.set()
        await asyncio.wait_for(call, 5)
        await until(lambda: api.generate.num_cancelled == 1)

    asyncio.run(scenario())


def test_a_long_prompt_does_not_hold_up_the_others(renderer: Renderer) -> None:
    """Rendering runs beside the event loop: a call that comes later is answered first."""
    api = Api(renderer)
    done: list[str] = []

    async def mark(name: str, call: Awaitable[httpx.Response]) -> None:
        await call
        done.append(name)

    async def scenario() -> None:
        async with api.client() as client:
            long = {"model": "tiny", "messages": [{"role": "user", "content": "x " * 200_000}]}
            first = mark("long", client.post("/v1/chat/completions", json=long))
            task = asyncio.ensure_future(first)
            await asyncio.sleep(0.05)
            await mark("short", client.get("/health"))
            await task

    asyncio.run(scenario())
    assert done == ["short", "long"]
