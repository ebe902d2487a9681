"""POST /v1/chat/completions: messages in, one assistant message out, whole or piece by piece.

Both forms take the same road (sampled ids -> TextStream -> CallStream), so their text is the same.
"""

import asyncio
import json
import time
import uuid
from collections.abc import AsyncIterator, Callable, Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Any, Protocol

from wideseek.generation import Completion, Message, Sampling
from wideseek.model.renderer import Renderer
from wideseek.serve.bodies import ChatBody, ChatMessage
from wideseek.serve.errors import ApiError
from wideseek.serve.text_stream import Call, CallStream, TextStream

OnToken = Callable[[int, float], None]
"""Told of each sampled token and its plain log-probability, on whatever thread."""

JsonObject = dict[str, Any]


class StreamingGenerate(Protocol):
    """A Generate that can tell of tokens as they are sampled; `Engine.generate` is one."""

    async def __call__(
        self,
        token_ids: Sequence[int],
        sampling: Sampling,
        cancel: asyncio.Event | None = None,
        on_token: OnToken | None = None,
    ) -> Completion: ...


@dataclass(frozen=True, kw_only=True)
class ServedModel:
    """A loaded model under the name clients ask for.

    created: Unix seconds. numbers: what its engine counts and measures (`EngineStats.numbers`).
    """

    name: str
    renderer: Renderer
    generate: StreamingGenerate
    max_model_len: int
    created: int
    numbers: Callable[[], Mapping[str, float]]


class Chat:
    """One chat completion: `prepare` checks and renders, then call `answer` or `stream` once."""

    def __init__(
        self, model: ServedModel, body: ChatBody, prompt: Sequence[int], sampling: Sampling
    ) -> None:
        self._model = model
        self._body = body
        self._prompt = prompt
        self._sampling = sampling
        self._id = f"chatcmpl-{uuid.uuid4().hex}"
        self._created = int(time.time())
        self._text = TextStream(model.renderer.decode, sampling.stop)
        thinking = model.renderer.decode(prompt[-8:]).rstrip().endswith("<think>")
        uses_tools = bool(body.tools) and body.tool_choice == "auto"
        self._calls = CallStream(thinking=thinking) if uses_tools else None
        self._num_calls = 0

    @classmethod
    async def prepare(cls, model: ServedModel, body: ChatBody, seed: int) -> "Chat":
        """Check what the body asks for and render its messages; ApiError says what cannot be."""
        if body.model != model.name:
            message = f"the model {body.model!r} does not exist; there is {model.name!r}"
            raise ApiError(404, message, param="model", code="model_not_found")
        # Rendering megabytes takes seconds, which the other calls must not wait for.
        prompt = await asyncio.to_thread(_render, model.renderer, body)
        room = model.max_model_len - len(prompt)
        wanted = body.max_completion_tokens or body.max_tokens
        if (wanted or 1) > room:
            raise ApiError(
                400,
                f"the context holds {model.max_model_len} tokens, but the messages take "
                f"{len(prompt)} and the completion {wanted or 1}",
                param="messages",
                code="context_length_exceeded",
            )
        sampling = _sampling(body, model.renderer, max_tokens=wanted or room, seed=seed)
        return cls(model, body, prompt, sampling)

    async def answer(self, cancel: asyncio.Event) -> JsonObject:
        """The whole chat.completion object."""
        completion = await self._model.generate(self._prompt, self._sampling, cancel)
        content, calls = "", []
        for part in [*self._push(completion.token_ids), *self._finish()]:
            if isinstance(part, Call):
                calls.append(self._call(part))
            else:
                content += part
        message: JsonObject = {"role": "assistant", "content": content}
        if calls:
            message |= {"content": content or None, "tool_calls": calls}
        choice: JsonObject = {"index": 0, "message": message, "logprobs": None}
        if self._body.logprobs:
            pairs = zip(completion.token_ids, completion.plain_logprobs, strict=True)
            choice["logprobs"] = self._logprobs(pairs)
        choice["finish_reason"] = self._finish_reason(completion)
        return self._object("chat.completion", [choice]) | {"usage": _usage(completion)}

    async def stream(self) -> AsyncIterator[str]:
        """Server-sent events: chunks, then [DONE]. Closing the iterator ends the sampling."""
        cancel = asyncio.Event()
        sampled: asyncio.Queue[tuple[int, float] | None] = asyncio.Queue()
        loop = asyncio.get_running_loop()

        def on_token(token_id: int, logprob: float) -> None:
            with suppress(RuntimeError):  # the server's loop may have closed
                loop.call_soon_threadsafe(sampled.put_nowait, (token_id, logprob))

        work = asyncio.ensure_future(
            self._model.generate(self._prompt, self._sampling, cancel, on_token)
        )
        work.add_done_callback(lambda _: sampled.put_nowait(None))
        num_sent = 0
        try:
            yield self._chunk({"role": "assistant", "content": ""})
            while (token := await sampled.get()) is not None:
                num_sent += 1
                for chunk in self._deltas(self._push([token[0]]), [token]):
                    yield chunk
            completion = await work
            rest = list(zip(completion.token_ids, completion.plain_logprobs, strict=True))
            parts = [*self._push([id for id, _ in rest[num_sent:]]), *self._finish()]
            for chunk in self._deltas(parts, rest[num_sent:]):
                yield chunk
            yield self._chunk({}, finish_reason=self._finish_reason(completion))
            if self._body.stream_options and self._body.stream_options.include_usage:
                last = self._object("chat.completion.chunk", []) | {"usage": _usage(completion)}
                yield _event(last)
            yield "data: [DONE]\n\n"
        finally:
            cancel.set()

    def _push(self, token_ids: Iterable[int]) -> list[str | Call]:
        ends = self._model.renderer.stop_token_ids
        text = self._text.push([id for id in token_ids if id not in ends])
        return self._split(text)

    def _finish(self) -> list[str | Call]:
        parts = self._split(self._text.finish())
        return parts if self._calls is None else [*parts, *self._calls.finish()]

    def _split(self, text: str) -> list[str | Call]:
        if self._calls is None:
            return [text] if text else []
        return self._calls.push(text)

    def _call(self, call: Call) -> JsonObject:
        self._num_calls += 1
        return {
            "id": f"call_{uuid.uuid4().hex[:24]}",
            "type": "function",
            "function": {"name": call.name, "arguments": call.arguments},
        }

    def _finish_reason(self, completion: Completion) -> str:
        if self._num_calls:
            return "tool_calls"
        cut = completion.finish_reason == "length" and not self._text.stopped
        return "length" if cut else "stop"

    def _deltas(
        self, parts: Sequence[str | Call], tokens: Sequence[tuple[int, float]]
    ) -> list[str]:
        """Chunks of these parts; the first one holds the log-probs if they were asked for."""
        deltas: list[JsonObject] = []
        for part in parts:
            if isinstance(part, Call):
                place = {"index": self._num_calls}
                deltas.append({"tool_calls": [place | self._call(part)]})
            else:
                deltas.append({"content": part})
        if not self._body.logprobs:
            return [self._chunk(delta) for delta in deltas]
        first, *others = deltas or [{}]
        return [
            self._chunk(first, logprobs=self._logprobs(tokens)),
            *(self._chunk(delta) for delta in others),
        ]

    def _chunk(
        self,
        delta: JsonObject,
        *,
        logprobs: JsonObject | None = None,
        finish_reason: str | None = None,
    ) -> str:
        choice = {
            "index": 0,
            "delta": delta,
            "logprobs": logprobs,
            "finish_reason": finish_reason,
        }
        return _event(self._object("chat.completion.chunk", [choice]))

    def _object(self, kind: str, choices: list[JsonObject]) -> JsonObject:
        return {
            "id": self._id,
            "object": kind,
            "created": self._created,
            "model": self._model.name,
            "choices": choices,
        }

    def _logprobs(self, tokens: Iterable[tuple[int, float]]) -> JsonObject:
        renderer = self._model.renderer
        content = []
        for token_id, logprob in tokens:
            if token_id in renderer.stop_token_ids:
                continue
            text = renderer.decode([token_id])
            whole = "\ufffd" not in text
            content.append(
                {
                    "token": text,
                    "logprob": max(logprob, -9999.0),
                    "bytes": list(text.encode()) if whole else None,
                    "top_logprobs": [],
                }
            )
        return {"content": content}


def _render(renderer: Renderer, body: ChatBody) -> list[int]:
    messages = [
        Message(role="system" if m.role == "developer" else m.role, content=_text_of(m))
        for m in body.messages
    ]
    tools = body.tools if body.tools and body.tool_choice == "auto" else []
    try:
        return renderer.first(messages, [tool.model_dump(exclude_none=True) for tool in tools])
    except ValueError as error:
        raise ApiError(400, str(error), param="messages", code="invalid_value") from None


def _text_of(message: ChatMessage) -> str:
    """A message as the model writes it: the content, then the calls in tags."""
    content = message.content or ""
    if isinstance(content, list):
        content = "".join(part.text for part in content)
    calls = [
        f'<tool_call>\n{{"name": {json.dumps(call.function.name)}, '
        f'"arguments": {call.function.arguments}}}\n</tool_call>'
        for call in message.tool_calls or ()
    ]
    return "\n".join([content, *calls] if content else calls)


def _sampling(body: ChatBody, renderer: Renderer, *, max_tokens: int, seed: int) -> Sampling:
    stop = [body.stop] if isinstance(body.stop, str) else body.stop or []
    return Sampling(
        temperature=1.0 if body.temperature is None else body.temperature,
        top_p=1.0 if body.top_p is None else body.top_p,
        top_k=body.top_k or 0,
        min_p=body.min_p or 0.0,
        max_tokens=max_tokens,
        stop_token_ids=renderer.stop_token_ids,
        stop=tuple(stop),
        seed=seed if body.seed is None else body.seed,
    )


def _usage(completion: Completion) -> JsonObject:
    prompt, sampled = completion.prompt_tokens, len(completion.token_ids)
    return {
        "prompt_tokens": prompt,
        "completion_tokens": sampled,
        "total_tokens": prompt + sampled,
        "prompt_tokens_details": {"cached_tokens": completion.cached_tokens},
    }


def _event(data: JsonObject) -> str:
    return f"data: {json.dumps(data, ensure_ascii=False, separators=(',', ':'))}\n\n"
