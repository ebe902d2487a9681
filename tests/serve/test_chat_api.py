"""The HTTP API over ASGI, with a scripted model: shapes, errors, limits, cancellation."""

import asyncio
import json
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import httpx
import pytest
from fastapi import FastAPI
from fastapi.routing import APIRoute

from tests.agents.scripted import lines
from tests.serve.tiny import ScriptedGenerate, ScriptedModel, write_tokenizer
from wideseek.backends import Backends
from wideseek.model.renderer import Renderer
from wideseek.serve.app import create_app
from wideseek.serve.chat import ServedModel
from wideseek.serve.runs import Runs
from wideseek.tools.corpus import Corpus
from wideseek.tools.outcome import Page

KEY = "a-key"
HELLO = [{"role": "user", "content": "Hello"}]
CALL_TEXT = 'Wait.\n<tool_call>\n{"name": "search", "arguments": {"q": "Åre"}}\n</tool_call>'
TOOLS = [{"type": "function", "function": {"name": "search", "parameters": {"type": "object"}}}]


@pytest.fixture(scope="module")
def renderer(tmp_path_factory: pytest.TempPathFactory) -> Renderer:
    folder = tmp_path_factory.mktemp("model")
    write_tokenizer(folder)
    return Renderer.load(folder)


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


def test_a_completion_has_the_shape_of_openai(renderer: Renderer) -> None:
    api = Api(renderer)
    body = api.chat()
    assert body["object"] == "chat.completion"
    assert body["model"] == "tiny"
    assert body["id"].startswith("chatcmpl-")
    choice = body["choices"][0]
    assert choice["message"] == {"role": "assistant", "content": "Grüße 🦎!"}
    assert choice["finish_reason"] == "stop"
    assert choice["logprobs"] is None
    prompt, sampled = len(api.generate.prompts[0]), len(api.generate.token_ids)
    assert body["usage"] == {
        "prompt_tokens": prompt,
        "completion_tokens": sampled,
        "total_tokens": prompt + sampled,
        "prompt_tokens_details": {"cached_tokens": 3},
    }
    prompt_text = "<|im_start|>user\nHello<|im_end|>\n<|im_start|>assistant\n"
    assert renderer.decode(api.generate.prompts[0]) == prompt_text


def test_streamed_text_equals_unstreamed_text(renderer: Renderer) -> None:
    api = Api(renderer)
    chunks = api.chunks(stream_options={"include_usage": True})
    assert chunks[0]["choices"][0]["delta"] == {"role": "assistant", "content": ""}
    pieces = [c["choices"][0]["delta"].get("content", "") for c in chunks[:-1]]
    assert "".join(pieces) == "Grüße 🦎!"
    assert pieces == ["", "G", "r", "ü", "ß", "e", " ", "🦎", "!", ""], "a character comes whole"
    assert [c["choices"][0]["finish_reason"] for c in chunks[:-1]] == [None] * 9 + ["stop"]
    assert chunks[-1]["choices"] == []
    assert chunks[-1]["usage"]["completion_tokens"] == len(api.generate.token_ids)
    assert len({chunk["id"] for chunk in chunks}) == 1


def test_a_stop_string_is_cut_off_in_both_forms(renderer: Renderer) -> None:
    api = Api(renderer, "one, two")
    choice = api.chat(stop=[", "])["choices"][0]
    assert (choice["message"]["content"], choice["finish_reason"]) == ("one", "stop")
    chunks = api.chunks(stop=", ")
    assert "".join(c["choices"][0]["delta"].get("content", "") for c in chunks) == "one"
    assert api.generate.samplings[0].stop == (", ",)


def test_max_tokens_ends_with_length(renderer: Renderer) -> None:
    choice = Api(renderer, "abcdef").chat(max_completion_tokens=3)["choices"][0]
    assert (choice["message"]["content"], choice["finish_reason"]) == ("abc", "length")


def test_tool_calls_take_the_openai_form_only_when_tools_are_given(renderer: Renderer) -> None:
    api = Api(renderer, CALL_TEXT)
    assert api.chat()["choices"][0]["message"]["content"] == CALL_TEXT
    assert api.chat(tools=TOOLS, tool_choice="none")["choices"][0]["finish_reason"] == "stop"
    choice = api.chat(tools=TOOLS)["choices"][0]
    assert choice["finish_reason"] == "tool_calls"
    assert choice["message"]["content"] == "Wait."
    [call] = choice["message"]["tool_calls"]
    assert call["id"].startswith("call_")
    assert call["function"] == {"name": "search", "arguments": '{"q": "Åre"}'}
    assert "\nTools: search" in renderer.decode(api.generate.prompts[-1])

    chunks = api.chunks(tools=TOOLS)
    deltas = [chunk["choices"][0]["delta"] for chunk in chunks]
    assert "".join(delta.get("content") or "" for delta in deltas) == "Wait."
    [[streamed]] = [delta["tool_calls"] for delta in deltas if "tool_calls" in delta]
    assert streamed["index"] == 0
    assert streamed["function"] == call["function"]
    assert chunks[-1]["choices"][0]["finish_reason"] == "tool_calls"


def test_an_earlier_call_and_its_result_are_rendered_as_the_model_wrote_them(
    renderer: Renderer,
) -> None:
    api = Api(renderer)
    function = {"name": "search", "arguments": '{"q": "Åre"}'}
    api.chat(
        messages=[
            {"role": "developer", "content": [{"type": "text", "text": "Be brief."}]},
            {
                "role": "assistant",
                "content": "Wait.",
                "tool_calls": [{"id": "c1", "type": "function", "function": function}],
            },
            {"role": "tool", "tool_call_id": "c1", "content": "nothing"},
        ]
    )
    assert renderer.decode(api.generate.prompts[0]) == (
        f"<|im_start|>system\nBe brief.<|im_end|>\n<|im_start|>assistant\n{CALL_TEXT}<|im_end|>\n"
        "<|im_start|>tool\nnothing<|im_end|>\n<|im_start|>assistant\n"
    )


@pytest.mark.parametrize("stream", [False, True])
def test_logprobs_tell_of_every_token_but_the_last(renderer: Renderer, stream: bool) -> None:
    api = Api(renderer, "aü")
    if stream:
        choices = [chunk["choices"][0] for chunk in api.chunks(logprobs=True)]
        content = [entry for c in choices if c["logprobs"] for entry in c["logprobs"]["content"]]
    else:
        content = api.chat(logprobs=True)["choices"][0]["logprobs"]["content"]
    assert [entry["token"] for entry in content] == ["a", "\ufffd", "\ufffd"]
    assert content[0] == {"token": "a", "logprob": -0.5, "bytes": [97], "top_logprobs": []}
    assert content[1]["bytes"] is None


def test_sampling_parameters_reach_the_model(renderer: Renderer) -> None:
    api = Api(renderer)
    api.chat(temperature=0, top_p=0.5, top_k=7, min_p=0.25, seed=11, max_tokens=5)
    api.chat()
    api.chat()
    first, second, third = api.generate.samplings
    assert (first.temperature, first.top_p, first.top_k, first.min_p) == (0.0, 0.5, 7, 0.25)
    assert (first.seed, first.max_tokens) == (11, 5)
    assert second.temperature == 1.0
    assert second.max_tokens == 200 - len(api.generate.prompts[1])
    assert second.seed != third.seed


BAD = [
    ({"messages": HELLO}, 400, "model", "invalid_value"),
    ({"model": "gpt-4", "messages": HELLO}, 404, "model", "model_not_found"),
    ({"model": "tiny"}, 400, "messages", "invalid_value"),
    ({"model": "tiny", "messages": []}, 400, "messages", "invalid_value"),
    ({"model": "tiny", "messages": "hi"}, 400, "messages", "invalid_value"),
    ({"temperature": 3}, 400, "temperature", "invalid_value"),
    ({"temperature": "hot"}, 400, "temperature", "invalid_value"),
    ({"top_p": 0}, 400, "top_p", "invalid_value"),
    ({"max_tokens": 0}, 400, "max_tokens", "invalid_value"),
    ({"max_tokens": 199}, 400, "messages", "context_length_exceeded"),
    ({"messages": [{"role": "user", "content": "x" * 300}]}, 400, "messages", None),
    ({"stop": ""}, 400, None, "invalid_value"),
    ({"seed": -1}, 400, "seed", "invalid_value"),
    ({"n": 2}, 400, "n", "unsupported_parameter"),
    ({"top_logprobs": 5}, 400, "top_logprobs", "unsupported_parameter"),
    ({"response_format": {"type": "json_object"}}, 400, "response_format", None),
    ({"frequency_penalty": 0.5}, 400, "frequency_penalty", "unsupported_parameter"),
    ({"frobnicate": True}, 400, "frobnicate", "unsupported_parameter"),
    ({"\ud800": True}, 400, None, "invalid_value"),
    ({"tool_choice": "required", "tools": TOOLS}, 400, "tool_choice", "invalid_value"),
    ({"messages": [{"role": "wizard", "content": ""}]}, 400, "messages.0.role", None),
    ({"messages": [{"role": "user", "content": "x", "audio": 1}]}, 400, "messages.0.audio", None),
    ({"messages": [{"role": "user", "content": "\ud800"}]}, 400, None, None),
    ({"tools": [{"type": "function", "function": {"name": "\ud800"}}]}, 400, None, None),
    (
        {"tools": [{"type": "function", "function": {"name": "a", "parameters": {"x": "\ud800"}}}]},
        400,
        None,
        None,
    ),
    ([], 400, None, "invalid_value"),
]


@pytest.mark.parametrize(("fields", "status", "param", "code"), BAD)
def test_a_mistake_of_the_client_is_named_and_never_a_500(
    renderer: Renderer, fields: Any, status: int, param: str | None, code: str | None
) -> None:
    api = Api(renderer)
    whole = isinstance(fields, list) or "model" in fields or fields == {"messages": HELLO}
    body = fields if whole else {"model": "tiny", "messages": HELLO, **fields}
    raw = json.dumps(body).encode()
    headers = {"content-type": "application/json"}
    error = error_of(api.post(None, content=raw, headers=headers), status)
    assert error["type"] == "invalid_request_error"
    if param is not None:
        assert error["param"] == param
    if code is not None:
        assert error["code"] == code
    assert not api.generate.prompts, "nothing was sampled"


@pytest.mark.parametrize("raw", [b"", b"{", b"\xff", b"[" * 100_000, b'{"model": NaN}'])
def test_a_body_that_is_no_json_is_a_400(renderer: Renderer, raw: bytes) -> None:
    headers = {"content-type": "application/json"}
    error_of(Api(renderer).post(None, content=raw, headers=headers), 400)


def test_parameters_that_ask_for_nothing_are_accepted(renderer: Renderer) -> None:
    neutral = {
        "n": 1,
        "presence_penalty": 0.0,
        "user": "me",
        "top_logprobs": None,
        "logit_bias": {},
    }
    assert Api(renderer).chat(**neutral)["choices"]


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


async def until(true: Callable[[], bool]) -> None:
    """Wait for a condition, at most five seconds."""

    async def poll() -> None:
        while not true():
            await asyncio.sleep(0.005)

    await asyncio.wait_for(poll(), 5)


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


def test_models_lists_the_served_name(renderer: Renderer) -> None:
    [entry] = Api(renderer).get("/v1/models").json()["data"]
    assert entry == {
        "id": "tiny",
        "object": "model",
        "created": 1_700_000_000,
        "owned_by": "wideseek",
        "max_model_len": 200,
    }


def test_thinking_opened_by_the_template_hides_calls(tmp_path: Path) -> None:
    write_tokenizer(tmp_path)
    template = tmp_path / "chat_template.jinja"
    text = template.read_text().replace("assistant\\n' }}", "assistant\\n<think>\\n' }}")
    template.write_text(text)
    renderer = Renderer.load(tmp_path)
    api = Api(renderer, f"{CALL_TEXT}</think>{CALL_TEXT}")
    message = api.chat(tools=TOOLS)["choices"][0]["message"]
    assert message["content"] == f"{CALL_TEXT}</think>Wait."
    assert len(message["tool_calls"]) == 1
