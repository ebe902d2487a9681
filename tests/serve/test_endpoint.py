"""EndpointDialogue: tool calls to text and back, every failure as data, and the key never shown."""

import asyncio
import json
import threading
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import httpx
import pytest

from wideseek.agents.endpoint import Endpoint, EndpointDialogue, normalise_base_url
from wideseek.agents.limits import Limits
from wideseek.agents.tool_calls import parse_tool_calls
from wideseek.generation import Message, ModelFailure, ModelFailureKind, Reply, Sampling

CANARY = "sk-canary-4242"
START = [Message(role="system", content="Be brief."), Message(role="user", content="Hello?")]
TOOLS = [{"type": "function", "function": {"name": "search", "parameters": {"type": "object"}}}]

Handler = Callable[[dict[str, Any]], httpx.Response]


def completion(message: dict[str, Any], finish: str = "stop", **usage: Any) -> httpx.Response:
    body: dict[str, Any] = {"choices": [{"index": 0, "message": message, "finish_reason": finish}]}
    if usage:
        body["usage"] = usage
    return httpx.Response(200, json=body)


def tool_call(call_id: str, name: str, arguments: str) -> dict[str, Any]:
    return {"id": call_id, "type": "function", "function": {"name": name, "arguments": arguments}}


class Server:
    """Answers each POST with the next scripted response (the last repeats); keeps the bodies."""

    def __init__(self, *responses: httpx.Response | Handler) -> None:
        self.bodies: list[dict[str, Any]] = []
        self.responses = list(responses)

    def __call__(self, request: httpx.Request) -> httpx.Response:
        body = json.loads(request.content)
        self.bodies.append(body)
        response = self.responses[min(len(self.bodies), len(self.responses)) - 1]
        if callable(response):
            return response(body)
        return httpx.Response(
            response.status_code, headers=response.headers, content=response.content
        )

    def dialogue(self, **settings: Any) -> EndpointDialogue:
        settings = {"key": CANARY, "longest_wait": 0.0, **settings}
        transport = httpx.MockTransport(self)
        return Endpoint("http://model.test", "some-model", transport=transport, **settings).open(
            START, TOOLS
        )


def reply_of(dialogue: EndpointDialogue, **sampling: Any) -> Reply:
    reply = asyncio.run(dialogue.reply(Sampling(**sampling)))
    assert isinstance(reply, Reply), reply
    return reply


def failure_of(dialogue: EndpointDialogue) -> ModelFailure:
    failure = asyncio.run(dialogue.reply(Sampling()))
    assert isinstance(failure, ModelFailure), failure
    return failure


def test_native_calls_become_text_and_every_id_is_answered() -> None:
    calls = [tool_call("a", "search", '{"query": "élan"}'), tool_call("b", "search", "{}")]
    server = Server(
        completion({"role": "assistant", "content": "Looking.", "tool_calls": calls}, "tool_calls"),
        completion({"role": "assistant", "content": "Done."}),
    )
    dialogue = server.dialogue()
    reply = reply_of(dialogue)
    assert reply.finish_reason == "stop"
    assert reply.text == (
        "Looking.\n"
        '<tool_call>\n{"name": "search", "arguments": {"query": "élan"}}\n</tool_call>\n'
        '<tool_call>\n{"name": "search", "arguments": {}}\n</tool_call>'
    )
    dialogue.add_tool("two results")
    assert reply_of(dialogue).text == "Done."
    sent = server.bodies[1]["messages"][2:]
    assert sent[0] == {"role": "assistant", "content": "Looking.", "tool_calls": calls}
    assert sent[1] == {"role": "tool", "tool_call_id": "a", "content": "two results"}
    assert sent[2]["tool_call_id"] == "b"
    assert "two results" not in sent[2]["content"]
    assert server.bodies[0]["tools"] == TOOLS


def test_a_call_in_plain_text_is_answered_as_a_user_message() -> None:
    text = '<tool_call>\n{"name": "search", "arguments": {}}\n</tool_call>'
    server = Server(completion({"role": "assistant", "content": text}))
    dialogue = server.dialogue()
    assert reply_of(dialogue).text == text
    dialogue.add_tool("nothing found")
    reply_of(dialogue)
    assert server.bodies[1]["messages"][-1] == {"role": "user", "content": "nothing found"}


@pytest.mark.parametrize("field", ["reasoning_content", "reasoning"])
def test_reasoning_is_kept_as_thinking_and_sent_back_as_it_came(field: str) -> None:
    server = Server(completion({"role": "assistant", "content": "4", field: "2+2"}))
    dialogue = server.dialogue()
    assert reply_of(dialogue).text == "<think>\n2+2\n</think>\n\n4"
    dialogue.add_tool("go on")
    reply_of(dialogue)
    assert server.bodies[1]["messages"][2] == {"role": "assistant", "content": "4", field: "2+2"}


def test_arguments_that_are_no_json_stay_for_the_agent_to_refuse() -> None:
    calls = [tool_call("a", "search", '{"query": ')]
    dialogue = Server(completion({"content": None, "tool_calls": calls})).dialogue()
    expected = '<tool_call>\n{"name": "search", "arguments": {"query": }\n</tool_call>'
    assert reply_of(dialogue).text == expected


def test_a_closing_tag_inside_arguments_does_not_end_the_call() -> None:
    query = "what does </tool_call> mean"
    arguments = json.dumps({"queries": [{"query": query}]})
    calls = [tool_call("a", "search", arguments)]
    text = reply_of(Server(completion({"content": "", "tool_calls": calls})).dialogue()).text
    [read] = parse_tool_calls(text, "sub", Limits()).calls
    assert read.arguments == {"query": query}


K = ModelFailureKind
FAILURES = [
    (401, {"error": {"message": f"bad key {CANARY}"}}, K.UNAUTHORIZED, 1),
    (403, {"error": "forbidden"}, K.UNAUTHORIZED, 1),
    (429, {"error": {"message": "slow down"}}, K.RATE_LIMITED, 3),
    (429, {"error": {"message": "no credit", "code": "insufficient_quota"}}, K.RATE_LIMITED, 1),
    (404, {"error": {"message": "no such model"}}, K.UNAVAILABLE, 1),
    (500, {"detail": f"crashed while serving {CANARY}"}, K.UNAVAILABLE, 3),
    (503, {}, K.UNAVAILABLE, 3),
    (504, {}, K.TIMEOUT, 3),
    (400, {"error": {"message": "temperature must be finite"}}, K.BAD_REPLY, 1),
    (400, {"error": {"code": "context_length_exceeded"}}, K.CONTEXT_FULL, 2),
    (400, {"message": "This model's maximum context length is 4096"}, K.CONTEXT_FULL, 2),
    (200, {"choices": []}, K.BAD_REPLY, 1),
    (200, {"choices": [{"message": {"content": 7}}]}, K.BAD_REPLY, 1),
    (200, {"choices": [{"message": {"content": "", "tool_calls": [{}]}}]}, K.BAD_REPLY, 1),
    (200, {"choices": [{"message": {"content": "", "tool_calls": "x"}}]}, K.BAD_REPLY, 1),
    (200, [1, 2], K.BAD_REPLY, 1),
    (200, {"leak": CANARY}, K.BAD_REPLY, 1),
]


@pytest.mark.parametrize(("status", "body", "kind", "calls"), FAILURES)
def test_every_failure_is_typed_tried_boundedly_and_keyless(
    status: int, body: Any, kind: ModelFailureKind, calls: int
) -> None:
    server = Server(httpx.Response(status, json=body))
    dialogue = server.dialogue(tries=3)
    failure = failure_of(dialogue)
    assert failure.kind is kind
    assert CANARY not in failure.detail
    assert len(server.bodies) == calls
    assert len(server.bodies[-1]["messages"]) == 2, "a failed call appends nothing"


def test_blanks_around_the_key_are_not_sent_and_it_stays_hidden() -> None:
    def echo(request: httpx.Request) -> httpx.Response:
        return httpx.Response(400, json={"error": request.headers["authorization"]})

    async def scenario() -> ModelFailure:
        endpoint = Endpoint(
            "http://model.test", "m", key=f" {CANARY}\n", transport=httpx.MockTransport(echo)
        )
        failure = await endpoint.open(START, []).reply(Sampling())
        await endpoint.close()
        assert isinstance(failure, ModelFailure)
        return failure

    assert asyncio.run(scenario()).detail == "HTTP 400: Bearer ***"


@pytest.mark.parametrize("odd", ["\n", "\x00", "é", "\udce9"])
def test_a_key_that_no_header_can_hold_is_refused_unshown(odd: str) -> None:
    with pytest.raises(ValueError, match="OPENAI_API_KEY") as refused:
        Endpoint("http://model.test", "m", key=f"{CANARY}{odd}{CANARY}")
    assert CANARY not in str(refused.value)


@pytest.mark.parametrize("field", ["content", "reasoning_content", "arguments"])
def test_half_a_surrogate_pair_from_the_server_harms_nothing(field: str) -> None:
    half = "a\ud83d"
    message: dict[str, Any] = {"content": "", "reasoning_content": ""}
    if field == "arguments":
        arguments = json.dumps({"query": half})
        message["tool_calls"] = [tool_call("a", "search", arguments)]
    else:
        message[field] = half
    body = json.dumps({"choices": [{"message": message}]}).encode()
    dialogue = Server(httpx.Response(200, content=body)).dialogue()
    assert "a?" in reply_of(dialogue).text
    dialogue.add_tool("go on")
    reply_of(dialogue).text.encode()


def test_half_a_surrogate_pair_in_an_error_is_replaced() -> None:
    body = b'{"error": {"message": "bad \\ud83d"}}'
    failure = failure_of(Server(httpx.Response(400, content=body)).dialogue())
    assert failure.detail == "HTTP 400: bad ?"


@pytest.mark.parametrize("junk", [b"<html>hi</html>", b"", b"\xff\xfe", b"[" * 100_000])
def test_a_body_that_is_no_json_is_a_bad_reply(junk: bytes) -> None:
    failure = failure_of(Server(httpx.Response(200, content=junk)).dialogue())
    assert failure.kind is ModelFailureKind.BAD_REPLY


@pytest.mark.parametrize(
    ("error", "kind"),
    [
        (httpx.ReadTimeout(""), ModelFailureKind.TIMEOUT),
        (httpx.ConnectTimeout(""), ModelFailureKind.TIMEOUT),
        (httpx.ConnectError("refused"), ModelFailureKind.UNAVAILABLE),
        (httpx.RemoteProtocolError("cut off"), ModelFailureKind.UNAVAILABLE),
    ],
)
def test_a_broken_connection_is_typed(error: httpx.HTTPError, kind: ModelFailureKind) -> None:
    def broken(body: dict[str, Any]) -> httpx.Response:
        raise error

    failure = failure_of(Server(broken).dialogue(tries=2))
    assert failure.kind is kind
    assert "model.test" in failure.detail


def test_retry_after_is_honoured_up_to_the_longest_wait(monkeypatch: pytest.MonkeyPatch) -> None:
    waits: list[float] = []

    async def sleep(seconds: float) -> None:
        waits.append(seconds)

    monkeypatch.setattr("wideseek.agents.endpoint.asyncio.sleep", sleep)
    server = Server(
        httpx.Response(429, headers={"retry-after": "3"}),
        httpx.Response(503),
        httpx.Response(429, headers={"retry-after": "3600"}),
        httpx.Response(429, headers={"retry-after": "Sat, 01 Jan 2000 00:00:00 GMT"}),
        completion({"content": "at last"}),
    )
    assert reply_of(server.dialogue(longest_wait=30.0)).text == "at last"
    assert waits == [3.0, 2.0, 30.0, 0.0]


def test_when_prompt_and_limit_do_not_fit_the_server_takes_the_room_left() -> None:
    def small_context(body: dict[str, Any]) -> httpx.Response:
        if "max_tokens" in body:
            return httpx.Response(400, json={"error": {"code": "context_length_exceeded"}})
        return completion({"content": "short"}, "length")

    server = Server(small_context)
    reply = reply_of(server.dialogue(), max_tokens=30_000)
    assert (reply.text, reply.finish_reason) == ("short", "length")
    assert len(server.bodies) == 2


def test_a_parameter_refused_by_name_is_left_out_from_then_on() -> None:
    def picky(body: dict[str, Any]) -> httpx.Response:
        for name in ("max_tokens", "temperature"):
            if name in body:
                error = {"message": "no", "code": "unsupported_parameter", "param": name}
                return httpx.Response(400, json={"error": error})
        return completion({"content": "fine"})

    server = Server(picky)
    dialogue = server.dialogue()
    reply_of(dialogue, max_tokens=77, temperature=0.5)
    assert len(server.bodies) == 3
    assert server.bodies[-1]["max_completion_tokens"] == 77
    reply_of(dialogue, max_tokens=77)
    assert len(server.bodies) == 4


def test_sampling_reaches_the_wire_and_switched_off_filters_do_not() -> None:
    server = Server(completion({"content": "ok"}))
    dialogue = server.dialogue()
    reply_of(dialogue, temperature=0.0, max_tokens=9, stop=("END",), seed=2**40 + 5)
    reply_of(dialogue, top_k=3, min_p=0.1)
    first, second = server.bodies
    assert first["temperature"] == 0.0
    assert (first["max_tokens"], first["stop"], first["seed"]) == (9, ["END"], 5)
    assert "top_k" not in first and "min_p" not in first
    assert (second["top_k"], second["min_p"]) == (3, 0.1)


def test_token_counts_come_from_usage_and_size_what_is_added() -> None:
    usage: dict[str, Any] = {
        "prompt_tokens": 40,
        "completion_tokens": 10,
        "prompt_tokens_details": {"cached_tokens": 32},
    }
    dialogue = Server(completion({"content": "x"}, **usage)).dialogue()
    assert dialogue.num_tokens > 0
    reply = reply_of(dialogue)
    assert (reply.prompt_tokens, reply.completion_tokens, reply.cached_tokens) == (40, 10, 32)
    assert dialogue.num_tokens == 50
    more = dialogue.count_tool_tokens("word " * 100)
    tenfold = Server(completion({"content": "x"}, **{**usage, "prompt_tokens": 400})).dialogue()
    reply_of(tenfold)
    assert tenfold.count_tool_tokens("word " * 100) == pytest.approx(10 * more, rel=0.05)
    dialogue.add_tool("word " * 100)
    assert dialogue.num_tokens == 50 + more
    assert dialogue.token_ids == ()


def test_without_usage_the_sizes_are_estimated() -> None:
    dialogue = Server(completion({"content": "x" * 350})).dialogue()
    before = dialogue.num_tokens
    reply = reply_of(dialogue)
    assert reply.prompt_tokens == before
    assert 100 <= reply.completion_tokens <= 140
    assert dialogue.num_tokens == reply.prompt_tokens + reply.completion_tokens


def test_cancel_ends_the_call_in_flight() -> None:
    dropped: list[bool] = []

    async def slow(request: httpx.Request) -> httpx.Response:
        try:
            await asyncio.sleep(60)
        except asyncio.CancelledError:
            dropped.append(True)
            raise
        raise AssertionError("never cancelled")

    async def scenario() -> None:
        endpoint = Endpoint("http://model.test", "m", transport=httpx.MockTransport(slow))
        dialogue = endpoint.open(START, [])
        cancel = asyncio.Event()
        waiting = asyncio.ensure_future(dialogue.reply(Sampling(), cancel))
        await asyncio.sleep(0.05)
        cancel.set()
        reply = await asyncio.wait_for(waiting, 5)
        assert isinstance(reply, Reply)
        assert (reply.finish_reason, reply.text) == ("cancelled", "")
        again = await dialogue.reply(Sampling(), cancel)
        assert isinstance(again, Reply) and again.finish_reason == "cancelled"
        await endpoint.close()

    asyncio.run(scenario())
    assert dropped == [True]


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ("http://127.0.0.1:8000", "http://127.0.0.1:8000/v1"),
        (" https://api.example.com/v1/ ", "https://api.example.com/v1"),
        ("http://host/openai/v4?x=1", "http://host/openai/v4"),
    ],
)
def test_base_url_forms(given: str, expected: str) -> None:
    assert normalise_base_url(given) == expected


@pytest.mark.parametrize(
    "bad", ["", "localhost:8000", "ftp://x/v1", "http://", "http://u:p@h/v1", "http://[::1"]
)
def test_a_base_url_that_is_not_http_is_refused(bad: str) -> None:
    with pytest.raises(ValueError, match="base-url"):
        normalise_base_url(bad)


class _Local(BaseHTTPRequestHandler):
    """A real server: lists one model and says which key and words it was given."""

    def do_GET(self) -> None:
        self._answer({"object": "list", "data": [{"id": "tiny"}]})

    def do_POST(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers["content-length"])))
        said = f"{self.headers['authorization']}|{self.path}|{body['messages'][-1]['content']}"
        self._answer({"choices": [{"message": {"content": said}, "finish_reason": "stop"}]})

    def _answer(self, body: dict[str, Any]) -> None:
        data = json.dumps(body).encode()
        self.send_response(200)
        self.send_header("content-length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    def log_message(self, format: str, *args: Any) -> None:
        pass


def test_against_a_real_server() -> None:
    with ThreadingHTTPServer(("127.0.0.1", 0), _Local) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()

        async def scenario() -> None:
            endpoint = Endpoint(f"http://127.0.0.1:{server.server_port}", "tiny", key=CANARY)
            assert await endpoint.list_models() == ["tiny"]
            reply = await endpoint.open(START, []).reply(Sampling())
            assert isinstance(reply, Reply)
            assert reply.text == f"Bearer {CANARY}|/v1/chat/completions|Hello?"
            await endpoint.close()

        try:
            asyncio.run(scenario())
        finally:
            server.shutdown()
            thread.join()
