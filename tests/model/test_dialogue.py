"""A dialogue keeps the sampled ids, appends only deltas, and answers a full context with data."""

import asyncio
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest

from wideseek.generation import (
    Completion,
    Dialogue,
    FinishReason,
    Message,
    ModelFailure,
    ModelFailureKind,
    Reply,
    Sampling,
)
from wideseek.model.dialogue import TokenDialogue
from wideseek.model.renderer import Renderer

from .conftest import QWEN_TEMPLATE

START = [Message(role="system", content="You answer."), Message(role="user", content="Which?")]


class Script:
    """A Generate that returns prepared ids and remembers how it was called."""

    def __init__(self, *replies: tuple[list[int], FinishReason]) -> None:
        self.replies = list(replies)
        self.calls: list[tuple[list[int], Sampling, asyncio.Event | None]] = []

    async def __call__(
        self,
        token_ids: Sequence[int],
        sampling: Sampling,
        cancel: asyncio.Event | None = None,
    ) -> Completion:
        self.calls.append((list(token_ids), sampling, cancel))
        sampled, finish_reason = self.replies.pop(0)
        return Completion(
            token_ids=tuple(sampled),
            logprobs=(0.0,) * len(sampled),
            plain_logprobs=(0.0,) * len(sampled),
            finish_reason=finish_reason,
            weight_version=0,
            cached_tokens=3,
            prompt_tokens=len(token_ids),
        )


@pytest.fixture
def renderer(write_folder: Callable[[str], Path]) -> Renderer:
    return Renderer.load(write_folder(QWEN_TEMPLATE))


def reply(dialogue: Dialogue, sampling: Sampling | None = None) -> Reply:
    answer = asyncio.run(dialogue.reply(sampling or Sampling()))
    assert isinstance(answer, Reply)
    return answer


def test_the_context_is_the_sampled_ids_and_the_deltas(renderer: Renderer) -> None:
    # Character by character: ids no tokenizer would choose, which decoding would destroy.
    said = [id for char in "<think>x</think>the end" for id in renderer.encode(char)]
    end = renderer.end_of_turn_id
    generate = Script(([*said, end], "stop"), ([*said, end], "stop"))
    dialogue = TokenDialogue(renderer, generate, START, max_model_len=500)
    first = renderer.first(START)
    assert dialogue.token_ids == tuple(first)
    assert reply(dialogue).text == "<think>x</think>the end"
    assert dialogue.token_ids == (*first, *said, end)
    delta = renderer.tool_delta("found <|im_end|>")
    assert dialogue.count_tool_tokens("found <|im_end|>") == len(delta)
    dialogue.add_tool("found <|im_end|>")
    assert dialogue.num_tokens == len(first) + len(said) + 1 + len(delta)
    reply(dialogue)
    prompt, _, _ = generate.calls[1]
    assert prompt == [*first, *said, end, *delta]


def test_reply_reports_what_was_spent(renderer: Renderer) -> None:
    generate = Script(([*renderer.encode("ab"), renderer.end_of_turn_id], "stop"))
    answer = reply(TokenDialogue(renderer, generate, START, max_model_len=500))
    assert answer.prompt_tokens == len(renderer.first(START))
    assert answer.completion_tokens == len(renderer.encode("ab")) + 1
    assert answer.cached_tokens == 3
    assert answer.completion is not None and answer.completion.finish_reason == "stop"


def test_markup_stays_visible_and_only_the_stop_token_goes(renderer: Renderer) -> None:
    text = '<think>\nhm\n</think>\n\n<tool_call>\n{"a": 1}\n</tool_call>'
    for last, shown in (("<|im_end|>", text), ("", text), ("<|im_start|>", text + "<|im_start|>")):
        generate = Script((renderer.encode(text + last), "stop"))
        assert reply(TokenDialogue(renderer, generate, START, max_model_len=500)).text == shown


@pytest.mark.parametrize("finish_reason", ["length", "stop", "cancelled"])
def test_an_unfinished_turn_is_closed_by_the_delta(
    renderer: Renderer, finish_reason: FinishReason
) -> None:
    said = renderer.encode("the e")
    generate = Script((said, finish_reason))
    dialogue = TokenDialogue(renderer, generate, START, max_model_len=500)
    assert reply(dialogue).finish_reason == finish_reason
    dialogue.add_tool("go on")
    added = dialogue.token_ids[len(renderer.first(START)) + len(said) :]
    assert added == (renderer.end_of_turn_id, *renderer.tool_delta("go on"))


def test_a_turn_cancelled_before_its_first_token_is_closed_too(renderer: Renderer) -> None:
    dialogue = TokenDialogue(renderer, Script(([], "cancelled")), START, max_model_len=500)
    assert reply(dialogue).text == ""
    dialogue.add_tool("go on")
    added = dialogue.token_ids[len(renderer.first(START)) :]
    assert added == (renderer.end_of_turn_id, *renderer.tool_delta("go on"))


def test_max_tokens_is_clamped_to_the_room(renderer: Renderer) -> None:
    num_first = len(renderer.first(START))
    for asked, given in ((5, 5), (7, 7), (8, 7), (1024, 7)):
        generate = Script((renderer.encode("a"), "length"))
        dialogue = TokenDialogue(renderer, generate, START, max_model_len=num_first + 7)
        reply(dialogue, Sampling(max_tokens=asked, temperature=0.5, seed=9, stop_token_ids=(1,)))
        _, sampling, _ = generate.calls[0]
        assert sampling == Sampling(
            max_tokens=given,
            temperature=0.5,
            seed=9,
            stop_token_ids=tuple(sorted({1, *renderer.stop_token_ids})),
        )


@pytest.mark.parametrize("room", [0, -5])
def test_a_full_context_is_a_failure_and_calls_no_model(renderer: Renderer, room: int) -> None:
    num_first = len(renderer.first(START))
    generate = Script()
    dialogue = TokenDialogue(renderer, generate, START, max_model_len=num_first + room)
    failure = asyncio.run(dialogue.reply(Sampling()))
    assert isinstance(failure, ModelFailure)
    assert failure.kind is ModelFailureKind.CONTEXT_FULL
    assert str(num_first) in failure.detail
    assert generate.calls == [] and dialogue.num_tokens == num_first


def test_a_model_that_breaks_is_a_failure_and_may_be_asked_again(renderer: Renderer) -> None:
    script = Script((renderer.encode("a"), "stop"))
    broken = True

    async def generate(
        token_ids: Sequence[int], sampling: Sampling, cancel: asyncio.Event | None = None
    ) -> Completion:
        if broken:
            raise RuntimeError("a step of the engine failed: NaN")
        return await script(token_ids, sampling, cancel)

    dialogue = TokenDialogue(renderer, generate, START, max_model_len=500)
    before = dialogue.token_ids
    assert asyncio.run(dialogue.reply(Sampling())) == ModelFailure(
        kind=ModelFailureKind.UNAVAILABLE, detail="a step of the engine failed: NaN"
    )
    assert dialogue.token_ids == before
    broken = False
    assert reply(dialogue).text == "a"


def test_cancel_is_handed_on(renderer: Renderer) -> None:
    async def run() -> None:
        cancel = asyncio.Event()
        generate = Script((renderer.encode("a"), "cancelled"))
        dialogue = TokenDialogue(renderer, generate, START, max_model_len=500)
        await dialogue.reply(Sampling(), cancel)
        assert generate.calls[0][2] is cancel

    asyncio.run(run())


def test_replies_and_tool_messages_alternate(renderer: Renderer) -> None:
    dialogue = TokenDialogue(renderer, Script(([1], "length")), START, max_model_len=500)
    with pytest.raises(AssertionError, match="must follow a reply"):
        dialogue.add_tool("too early")
    reply(dialogue)
    with pytest.raises(AssertionError, match="must be followed by a tool message"):
        reply(dialogue)
