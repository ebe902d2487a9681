"""Bodies of the HTTP API. What is not supported is refused by name, never ignored."""

import json
from typing import Annotated, Any, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, model_validator
from pydantic_core import PydanticCustomError

# Parameters we do not have, at the value that asks for nothing; anything else is refused.
_NEUTRAL: dict[str, object] = {
    "n": 1,
    "frequency_penalty": 0,
    "presence_penalty": 0,
    "top_logprobs": 0,
    "logit_bias": {},
    "response_format": {"type": "text"},
    "parallel_tool_calls": True,
    "store": False,
    "annotations": [],
    "strict": False,
}
# Parameters that by their meaning change nothing here: who asked, for the books of a provider.
_BOOKKEEPING = frozenset({"user", "metadata", "safety_identifier", "prompt_cache_key"})


class Body(BaseModel):
    """The fields we know, and others only at a value that asks for nothing."""

    model_config = ConfigDict(extra="allow", strict=True)

    @model_validator(mode="after")
    def refuse_unsupported(self) -> Self:
        for name, value in (self.model_extra or {}).items():
            neutral = value is None or (name in _NEUTRAL and value == _NEUTRAL[name])
            if not neutral and name not in _BOOKKEEPING:
                raise PydanticCustomError(
                    "unsupported_parameter", "{name} is not supported", {"name": name}
                )
        return self


class TextPart(Body):
    """One piece of a message's content; images and sound are refused."""

    type: Literal["text"]
    text: str


class FunctionCall(Body):
    """Name and JSON arguments of a call the assistant made."""

    name: str
    arguments: str


class AssistantCall(Body):
    """One tool call of an earlier assistant turn."""

    id: str
    type: Literal["function"] = "function"
    function: FunctionCall


class ChatMessage(Body):
    """One message of the conversation so far."""

    role: Literal["system", "developer", "user", "assistant", "tool"]
    content: str | list[TextPart] | None = None
    tool_calls: list[AssistantCall] | None = None
    tool_call_id: str | None = None
    name: str | None = None


class FunctionSchema(Body):
    """What a tool is called and what it takes."""

    name: str
    description: str | None = None
    parameters: dict[str, Any] | None = None


class Tool(Body):
    """One tool the model may call."""

    type: Literal["function"]
    function: FunctionSchema


class StreamOptions(Body):
    """include_usage: a last chunk without choices reports the tokens."""

    include_usage: bool = False


Stop = Annotated[str, Field(min_length=1, max_length=1000)]


class CallBody(Body):
    """The whole body of a call; every text in it can be encoded."""

    @model_validator(mode="before")
    @classmethod
    def refuse_half_characters(cls, data: Any) -> Any:
        try:
            json.dumps(data, ensure_ascii=False).encode()
        except (UnicodeEncodeError, RecursionError):
            raise PydanticCustomError(
                "invalid_text", "holds half a surrogate pair, or is nested too deep"
            ) from None
        return data


class ChatBody(CallBody):
    """POST /v1/chat/completions."""

    model: str
    messages: Annotated[list[ChatMessage], Field(min_length=1, max_length=4096)]
    tools: Annotated[list[Tool], Field(max_length=128)] | None = None
    tool_choice: Literal["auto", "none"] = "auto"
    temperature: Annotated[float, Field(ge=0, le=2)] | None = None
    top_p: Annotated[float, Field(gt=0, le=1)] | None = None
    top_k: Annotated[int, Field(ge=0)] | None = None
    min_p: Annotated[float, Field(ge=0, le=1)] | None = None
    max_tokens: Annotated[int, Field(ge=1)] | None = None
    max_completion_tokens: Annotated[int, Field(ge=1)] | None = None
    stop: Stop | Annotated[list[Stop], Field(max_length=16)] | None = None
    seed: Annotated[int, Field(ge=0, lt=2**63)] | None = None
    logprobs: bool | None = None
    stream: bool | None = None
    stream_options: StreamOptions | None = None


class BudgetBody(Body):
    """What one research run may spend in all; absent means the server's own limit."""

    agents: Annotated[int, Field(ge=1)] | None = None
    tokens: Annotated[int, Field(ge=1)] | None = None
    seconds: Annotated[float, Field(gt=0)] | None = None


class ResearchBody(CallBody):
    """POST /v1/research. max_agents: subagents a call."""

    question: Annotated[str, Field(pattern=r"\S", max_length=100_000)]
    workflow: Literal["team", "single"] = "team"
    max_agents: Annotated[int, Field(ge=1)] | None = None
    language: Literal["auto", "en", "zh"] = "auto"
    seed: Annotated[int, Field(ge=0, lt=2**63)] | None = None
    budget: BudgetBody = Field(default_factory=BudgetBody)
