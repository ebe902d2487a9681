"""The JSON of chat servers, read totally: any body becomes an Answer, a Refusal or None."""

import json
import re
import time
from dataclasses import dataclass
from email.utils import parsedate_to_datetime
from typing import Any

from wideseek.generation import FinishReason, ModelFailureKind

JsonObject = dict[str, Any]

# What servers say when prompt and max_tokens do not fit (OpenAI, vLLM, SGLang, llama.cpp, TGI).
_OVERFLOW = re.compile(
    r"context_length_exceeded|context.{0,12}(length|window|size)|prompt is too long|max_new_tokens",
    re.IGNORECASE,
)


@dataclass(frozen=True, kw_only=True, slots=True)
class Answer:
    """One assistant message: `message` as the wire wants it back, `text` as the agents read it.

    Token counts are None where the server reports no usage.
    """

    message: JsonObject
    text: str
    call_ids: tuple[str, ...]
    finish_reason: FinishReason
    prompt_tokens: int | None
    completion_tokens: int | None
    cached_tokens: int


@dataclass(frozen=True, kw_only=True, slots=True)
class Refusal:
    """An HTTP status that is not 200 (0: no connection), and what may be done about it.

    temporary: the same call may succeed later, after `retry_after` seconds if the server says so.
    unsupported: the parameter the server refuses by name, or "".
    """

    kind: ModelFailureKind
    message: str
    status: int
    temporary: bool
    retry_after: float | None = None
    unsupported: str = ""


def read_json(body: bytes) -> JsonObject | None:
    """The body as a JSON object; None if it is anything else."""
    try:
        parsed = _parse(body)
    except (ValueError, RecursionError):
        return None
    return parsed if isinstance(parsed, dict) else None


def _parse(text: bytes | str) -> object:
    """Any JSON value; a lone half of a surrogate pair, which no file can hold, becomes "?"."""
    return json.loads(json.dumps(json.loads(text), ensure_ascii=False).encode("utf-8", "replace"))


def read_answer(body: JsonObject) -> Answer | None:
    """The first choice of a chat completion; None if the body does not hold one."""
    match body:
        case {"choices": [{"message": {**message}, **choice}, *_]}:
            pass
        case _:
            return None
    content = message.get("content") or ""
    calls = message.get("tool_calls") or []
    thought_field = "reasoning" if "reasoning" in message else "reasoning_content"
    thought = message.get(thought_field) or ""
    if not (isinstance(content, str) and isinstance(thought, str) and isinstance(calls, list)):
        return None
    text = f"<think>\n{thought}\n</think>\n\n{content}" if thought else content
    call_ids: list[str] = []
    for call in calls:
        match call:
            case {"id": str(call_id), "function": {"name": str(name), "arguments": str(arguments)}}:
                call_ids.append(call_id)
                text += "\n" if text else ""
                text += f"<tool_call>\n{_call_json(name, arguments)}\n</tool_call>"
            case _:
                return None
    sent: JsonObject = {"role": "assistant", "content": content}
    if calls:
        sent["tool_calls"] = calls
    if thought:
        sent[thought_field] = thought
    prompt_tokens, completion_tokens, cached_tokens = _read_usage(body.get("usage"))
    return Answer(
        message=sent,
        text=text,
        call_ids=tuple(call_ids),
        finish_reason="length" if choice.get("finish_reason") == "length" else "stop",
        prompt_tokens=prompt_tokens,
        completion_tokens=completion_tokens,
        cached_tokens=cached_tokens,
    )


def read_refusal(status: int, retry_after: str, body: bytes) -> Refusal:
    """What a status other than 200 means; the error body may have any of the shapes servers use."""
    parsed = read_json(body)
    error: object = (parsed or {}).get("error", parsed)
    message, code, parameter = body.decode(errors="replace"), "", ""
    if isinstance(error, dict):
        message = str(error.get("message") or error.get("detail") or message)
        code, parameter = str(error.get("code") or ""), str(error.get("param") or "")
    elif isinstance(error, str):
        message = error
    return Refusal(
        kind=_kind_of(status, f"{code} {message}"),
        message=f"HTTP {status}: {' '.join(message.split())[:300]}",
        status=status,
        temporary=(status == 429 or status >= 500) and code != "insufficient_quota",
        retry_after=_seconds(retry_after),
        unsupported=parameter if code.startswith("unsupported_") else "",
    )


def _call_json(name: str, arguments: str) -> str:
    """The call as JSON; arguments that are no JSON stay as they are, for the agent to refuse."""
    try:
        call = json.dumps({"name": name, "arguments": _parse(arguments)}, ensure_ascii=False)
    except (ValueError, RecursionError):
        call = f'{{"name": {json.dumps(name)}, "arguments": {arguments}}}'
    return call.replace("</tool_call>", "<\\/tool_call>")


def _read_usage(usage: object) -> tuple[int | None, int | None, int]:
    match usage:
        case {"prompt_tokens": int(prompt), "completion_tokens": int(sampled)}:
            pass
        case _:
            return None, None, 0
    match usage:
        case {"prompt_tokens_details": {"cached_tokens": int(cached)}}:
            return prompt, sampled, cached
    return prompt, sampled, 0


def _kind_of(status: int, text: str) -> ModelFailureKind:
    if status in (401, 403):
        return ModelFailureKind.UNAUTHORIZED
    if status == 429:
        return ModelFailureKind.RATE_LIMITED
    if status in (408, 504):
        return ModelFailureKind.TIMEOUT
    if status == 404 or status >= 500:
        return ModelFailureKind.UNAVAILABLE
    if status in (400, 413, 422) and _OVERFLOW.search(text):
        return ModelFailureKind.CONTEXT_FULL
    return ModelFailureKind.BAD_REPLY


def _seconds(retry_after: str) -> float | None:
    """Seconds to wait, from either form of a Retry-After header; None where it says nothing."""
    try:
        return max(0.0, float(retry_after))
    except ValueError:
        pass
    try:
        return max(0.0, parsedate_to_datetime(retry_after).timestamp() - time.time())
    except ValueError:
        return None
