"""POST /v1/chat/completions over ASGI, with a scripted model."""

import json
from pathlib import Path
from typing import Any

import pytest

from tests.serve.api import HELLO, Api, error_of
from tests.serve.tiny import write_tokenizer
from wideseek.model.renderer import Renderer

CALL_TEXT = 'Wait.\n<tool_call>\n{"name": "search", "arguments": {"q": "Åre"}}\n</tool_call>'
TOOLS = [{"type": "function", "function": {"name": "search", "parameters": {"type": "object"}}}]


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
