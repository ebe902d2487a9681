"""A Dialogue on any OpenAI-compatible chat server.

The agents speak text with `<tool_call>` inside; the wire speaks `tool_calls` with ids. The two are
mapped here and in chat_wire, nowhere else. Whatever goes wrong comes back as a ModelFailure; the
key is sent, and never shown.
"""

import asyncio
import json
import math
from collections.abc import Coroutine, Sequence
from typing import Any, TypeVar

import httpx

from wideseek.agents.chat_wire import (
    Answer,
    JsonObject,
    Refusal,
    read_answer,
    read_json,
    read_refusal,
)
from wideseek.generation import (
    Message,
    ModelFailure,
    ModelFailureKind,
    Reply,
    Sampling,
    ToolSchema,
)

T = TypeVar("T")

_OPTIONAL = frozenset({"temperature", "top_p", "top_k", "min_p", "seed", "stop"})
_FIRST_GUESS_BYTES_PER_TOKEN = 3.5
_BYTES_AROUND_A_MESSAGE = 16
_POINTER = "Answered together with the first call of this turn."


class Endpoint:
    """One chat server and the name of one model on it.

    base_url ends in the API version ("http://host:8000/v1"; a bare host means /v1). What may pass
    (429, 5xx, no connection) is tried at most `tries` times in all, after the server's Retry-After
    or 1, 2, 4 ... seconds, never more than `longest_wait`. Raises ValueError for a base_url that is
    not http(s) and for a key that no header can hold.
    """

    def __init__(
        self,
        base_url: str,
        name: str,
        *,
        key: str | None = None,
        tries: int = 5,
        timeout: float = 600.0,
        longest_wait: float = 60.0,
        transport: httpx.AsyncBaseTransport | None = None,
    ) -> None:
        self.base_url = normalise_base_url(base_url)
        self.name = name
        self._key = normalise_key(key)
        self._tries = tries
        self._longest_wait = longest_wait
        self._refused: set[str] = set()
        self._limit_name = "max_tokens"
        self._client = httpx.AsyncClient(
            base_url=self.base_url,
            headers={"Authorization": f"Bearer {self._key}"} if self._key else {},
            timeout=httpx.Timeout(timeout, connect=min(timeout, 10.0), pool=None),
            limits=httpx.Limits(max_connections=None),
            transport=transport,
        )

    @property
    def max_model_len(self) -> int | None:
        """Unknown: the server says when a context is full."""
        return None

    def open(
        self, messages: Sequence[Message], tools: Sequence[ToolSchema], session: str = ""
    ) -> "EndpointDialogue":
        """Start a Dialogue; this method is an OpenDialogue. Servers know no sessions."""
        return EndpointDialogue(self, messages, tools)

    async def close(self) -> None:
        """Close the connections."""
        await self._client.aclose()

    async def list_models(self) -> list[str] | ModelFailure:
        """Names of the models the server offers, asked once; none if it does not say."""
        body = await self._send("GET", "/models", None)
        match body:
            case ModelFailure():
                return body
            case Refusal(status=404 | 405 | 501):
                return []
            case Refusal():
                return self._failure(body.kind, body.message)
            case {"data": [*models]}:
                return [
                    model["id"] for model in models if isinstance(model, dict) and "id" in model
                ]
        return self._failure(ModelFailureKind.BAD_REPLY, f"no list of models in {body}")

    async def complete(
        self, messages: Sequence[JsonObject], tools: Sequence[ToolSchema], sampling: Sampling
    ) -> Answer | ModelFailure:
        """One chat completion, asked again in another form if the server names what it refuses."""
        body = self._body(messages, tools, sampling)
        while True:
            reply = await self._send_patiently("POST", "/chat/completions", body)
            if not isinstance(reply, Refusal):
                break
            if reply.unsupported in body and self._do_without(reply.unsupported):
                body = self._body(messages, tools, sampling)
            elif reply.kind is ModelFailureKind.CONTEXT_FULL and self._limit_name in body:
                # The prompt alone may still fit: let the server take the room that is left.
                del body[self._limit_name]
            else:
                return self._failure(reply.kind, reply.message)
        if isinstance(reply, ModelFailure):
            return reply
        return read_answer(reply) or self._failure(
            ModelFailureKind.BAD_REPLY, f"no completion in {json.dumps(reply, ensure_ascii=False)}"
        )

    def _body(
        self, messages: Sequence[JsonObject], tools: Sequence[ToolSchema], sampling: Sampling
    ) -> JsonObject:
        body: JsonObject = {
            "model": self.name,
            "messages": list(messages),
            "temperature": sampling.temperature,
            "top_p": sampling.top_p,
            "seed": sampling.seed & 0x7FFF_FFFF,
            self._limit_name: sampling.max_tokens,
        }
        if tools:
            body["tools"] = list(tools)
        if sampling.stop:
            body["stop"] = list(sampling.stop)
        if sampling.top_k:
            body["top_k"] = sampling.top_k
        if sampling.min_p:
            body["min_p"] = sampling.min_p
        return {name: value for name, value in body.items() if name not in self._refused}

    def _do_without(self, parameter: str) -> bool:
        """Remember a parameter this server refuses by name; False if it is needed."""
        if parameter == "max_tokens":
            self._limit_name = "max_completion_tokens"
            return True
        if parameter in _OPTIONAL:
            self._refused.add(parameter)
            return True
        return False

    async def _send_patiently(
        self, method: str, path: str, body: JsonObject
    ) -> JsonObject | Refusal | ModelFailure:
        for attempt in range(self._tries):
            reply = await self._send(method, path, body)
            if not (isinstance(reply, Refusal) and reply.temporary):
                return reply
            if attempt + 1 < self._tries:
                wait = 2.0**attempt if reply.retry_after is None else reply.retry_after
                await asyncio.sleep(min(wait, self._longest_wait))
        return reply

    async def _send(
        self, method: str, path: str, body: JsonObject | None
    ) -> JsonObject | Refusal | ModelFailure:
        try:
            response = await self._client.request(method, path, json=body)
        except httpx.TimeoutException as error:
            # A connection that never opened may be tried again; a lost reply was paid for.
            waited = f"{self.base_url} did not answer in time ({type(error).__name__})"
            if isinstance(error, httpx.ConnectTimeout):
                return Refusal(
                    kind=ModelFailureKind.TIMEOUT, message=waited, status=0, temporary=True
                )
            return self._failure(ModelFailureKind.TIMEOUT, waited)
        except (httpx.TransportError, httpx.DecodingError) as error:
            reason = f"{self.base_url} cannot be reached: {error or type(error).__name__}"
            return Refusal(
                kind=ModelFailureKind.UNAVAILABLE, message=reason, status=0, temporary=True
            )
        if response.status_code == 200:
            return read_json(response.content) or self._failure(
                ModelFailureKind.BAD_REPLY, f"no JSON object in {response.text!r}"
            )
        retry_after = response.headers.get("retry-after", "")
        return read_refusal(response.status_code, retry_after, response.content)

    def _failure(self, kind: ModelFailureKind, detail: str) -> ModelFailure:
        if kind is ModelFailureKind.UNAUTHORIZED:  # servers like to repeat a part of the key
            told = "the key in OPENAI_API_KEY" if self._key else "a call without OPENAI_API_KEY"
            detail = f"{self.base_url} refused {told}"
        detail = detail.replace(self._key, "***") if self._key else detail
        return ModelFailure(kind=kind, detail=" ".join(detail.split())[:400])


class EndpointDialogue:
    """One agent's messages with one model on an Endpoint; see `wideseek.generation.Dialogue`.

    What the server returned is sent back as it came, reasoning included. Sizes are estimates: the
    last usage report plus the bytes added since, at the bytes per token that report implies.
    """

    def __init__(
        self, endpoint: Endpoint, messages: Sequence[Message], tools: Sequence[ToolSchema]
    ) -> None:
        self._endpoint = endpoint
        self._messages: list[JsonObject] = [
            {"role": message.role, "content": message.content} for message in messages
        ]
        self._tools = tuple(tools)
        self._bytes_per_token = _FIRST_GUESS_BYTES_PER_TOKEN
        self._num_tokens = self._estimate([*self._messages, *self._tools])
        self._open_calls: tuple[str, ...] = ()

    @property
    def num_tokens(self) -> int:
        """Estimated tokens of the next prompt."""
        return self._num_tokens

    @property
    def token_ids(self) -> Sequence[int]:
        """Always empty: the server keeps the ids."""
        return ()

    def count_tool_tokens(self, text: str) -> int:
        """Estimated tokens that `add_tool(text)` would add."""
        return self._estimate(self._tool_messages(text))

    def add_tool(self, text: str) -> None:
        """Append the tool text: it answers the turn's first call, the others point to it."""
        added = self._tool_messages(text)
        self._num_tokens += self._estimate(added)
        self._messages += added
        self._open_calls = ()

    async def reply(
        self, sampling: Sampling, cancel: asyncio.Event | None = None
    ) -> Reply | ModelFailure:
        """Ask for the next assistant turn and append it."""
        answer = await _unless(
            cancel, self._endpoint.complete(self._messages, self._tools, sampling)
        )
        if isinstance(answer, ModelFailure):
            return answer
        if answer is None:
            return Reply(
                text="",
                finish_reason="cancelled",
                prompt_tokens=self._num_tokens,
                completion_tokens=0,
                cached_tokens=0,
            )
        prompt_tokens, completion_tokens = self._count(answer)
        self._messages.append(answer.message)
        self._open_calls = answer.call_ids
        self._num_tokens = prompt_tokens + completion_tokens
        return Reply(
            text=answer.text,
            finish_reason=answer.finish_reason,
            prompt_tokens=prompt_tokens,
            completion_tokens=completion_tokens,
            cached_tokens=answer.cached_tokens,
        )

    def _count(self, answer: Answer) -> tuple[int, int]:
        """(prompt, completion) tokens of a call, as reported or else estimated."""
        if not answer.prompt_tokens or answer.completion_tokens is None:
            return self._num_tokens, self._estimate([answer.message])
        sent = _num_bytes([*self._messages, *self._tools])
        self._bytes_per_token = sent / answer.prompt_tokens
        return answer.prompt_tokens, answer.completion_tokens

    def _tool_messages(self, text: str) -> list[JsonObject]:
        if not self._open_calls:  # the call stood in the text, so there is no id to answer
            return [{"role": "user", "content": text}]
        first, *others = self._open_calls
        return [
            {"role": "tool", "tool_call_id": first, "content": text},
            *({"role": "tool", "tool_call_id": other, "content": _POINTER} for other in others),
        ]

    def _estimate(self, messages: Sequence[JsonObject]) -> int:
        return math.ceil(_num_bytes(messages) / self._bytes_per_token)


def normalise_key(key: str | None) -> str:
    """The key without blanks around it, "" for none; ValueError, not quoting it, if not ASCII."""
    key = (key or "").strip()
    if not (key.isascii() and key.isprintable()):
        raise ValueError("the key in OPENAI_API_KEY must be printable ASCII characters")
    return key


def normalise_base_url(base_url: str) -> str:
    """The URL with its API version, without a trailing slash; ValueError if not http(s)."""
    try:
        url = httpx.URL(base_url.strip())
    except httpx.InvalidURL as error:
        raise ValueError(f"base-url {base_url!r} is not a URL: {error}") from None
    if url.scheme not in ("http", "https") or not url.host:
        raise ValueError(f"base-url must start with http:// or https://, not {base_url!r}")
    if url.userinfo:
        raise ValueError("base-url must not hold a user name or password")
    return str(url.copy_with(path=url.path.rstrip("/") or "/v1", query=None, fragment=None))


async def _unless(cancel: asyncio.Event | None, work: Coroutine[Any, Any, T]) -> T | None:
    """The result of `work`, or None once `cancel` is set, with the work cancelled."""
    if cancel is None:
        return await work
    if cancel.is_set():
        work.close()
        return None
    task, cancelled = asyncio.ensure_future(work), asyncio.ensure_future(cancel.wait())
    try:
        await asyncio.wait({task, cancelled}, return_when=asyncio.FIRST_COMPLETED)
        return task.result() if task.done() else None
    finally:
        task.cancel()
        cancelled.cancel()
        await asyncio.gather(task, cancelled, return_exceptions=True)


def _num_bytes(messages: Sequence[JsonObject]) -> int:
    return sum(
        len(json.dumps(message, ensure_ascii=False).encode()) + _BYTES_AROUND_A_MESSAGE
        for message in messages
    )
