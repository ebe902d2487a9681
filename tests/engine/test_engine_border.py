"""What the Engine is made from and what it refuses: folders, configs, prompts."""

import asyncio
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Literal

import pytest
import torch
from tokenizers import Tokenizer, models, pre_tokenizers

from wideseek.engine.config import EngineConfig
from wideseek.engine.engine import Engine
from wideseek.generation import Sampling
from wideseek.model.qwen3 import Qwen3
from wideseek.model.weights import save_model

Prompt = Callable[[int, int], list[int]]

GREEDY = Sampling(temperature=0.0, max_tokens=16)


@pytest.mark.parametrize(
    ("token_ids", "message"),
    [
        ([], "the prompt is empty"),
        ([3, 97], "token id 97 is outside the vocabulary of 97"),
        ([3, -1], "token id -1 is outside the vocabulary of 97"),
        ([1] * 50, "a prompt of 50 tokens leaves no room in a context of 50"),
        ([1.5], "a prompt is a row of integers"),
    ],
)
def test_a_bad_prompt_is_refused_and_harms_no_other(
    model: Qwen3, prompt: Prompt, token_ids: Sequence[int], message: str
) -> None:
    with Engine(model, EngineConfig(num_pages=64, max_model_len=50)) as engine:
        with pytest.raises(ValueError, match=message):
            asyncio.run(engine.generate(token_ids, GREEDY))
        with pytest.raises(ValueError, match=message):
            engine.generate_batch([(prompt(0, 9), GREEDY), (token_ids, GREEDY)])
        (fine,) = engine.generate_batch([(prompt(0, 9), GREEDY)])
    assert len(fine.token_ids) == 16


@pytest.mark.parametrize("session", ["/", "q//lead", "q/lead/"])
def test_a_session_is_names_with_slashes_between(
    model: Qwen3, prompt: Prompt, session: str
) -> None:
    with (
        Engine(model, EngineConfig(num_pages=8)) as engine,
        pytest.raises(ValueError, match=f"not '{session}'"),
    ):
        asyncio.run(engine.generate(prompt(0, 9), GREEDY, session=session))


def test_a_session_says_what_it_would_say_without_a_name(model: Qwen3, prompt: Prompt) -> None:
    async def turns(engine: Engine, session: str) -> list[int]:
        ids = prompt(0, 70)
        for _ in range(3):
            said = await engine.generate(ids, GREEDY, session=session)
            ids += [*said.token_ids, *prompt(len(ids), 9)]
        return ids

    async def both(engine: Engine) -> None:
        named = [turns(engine, f"q/lead/{n}") for n in range(4)]
        assert len({tuple(ids) for ids in await asyncio.gather(*named)}) == 1
        assert await turns(engine, "") == await turns(engine, "other/lead")

    with Engine(model, EngineConfig(num_pages=40, page_size=16)) as engine:
        asyncio.run(both(engine))
        engine._scheduler.check()


@pytest.mark.parametrize("top_k", [97, 2**63, 10**30])
def test_a_top_k_beyond_the_vocabulary_is_no_filter_and_harms_no_other(
    model: Qwen3, prompt: Prompt, top_k: int
) -> None:
    free, other = Sampling(seed=5, max_tokens=16), Sampling(seed=6, top_k=3, max_tokens=16)
    with Engine(model, EngineConfig(num_pages=64)) as engine:
        wanted = engine.generate_batch([(prompt(0, 9), free), (prompt(1, 9), other)])
        huge = replace(free, top_k=top_k)
        found = engine.generate_batch([(prompt(0, 9), huge), (prompt(1, 9), other)])
    assert [one.token_ids for one in found] == [one.token_ids for one in wanted]
    assert [one.logprobs for one in found] == [one.logprobs for one in wanted]


def test_a_prompt_larger_than_the_pool_is_refused_with_both_numbers(
    model: Qwen3, prompt: Prompt
) -> None:
    with (
        Engine(model, EngineConfig(num_pages=3, page_size=16)) as engine,
        pytest.raises(ValueError, match="60 tokens leaves no room in a context of 48"),
    ):
        engine.generate_batch([(prompt(0, 60), GREEDY)])


def test_stop_strings_need_a_decoder(model: Qwen3, prompt: Prompt) -> None:
    with (
        Engine(model, EngineConfig(num_pages=3)) as engine,
        pytest.raises(ValueError, match="decoder"),
    ):
        engine.generate_batch([(prompt(0, 6), Sampling(stop=("x",)))])


def test_more_context_than_the_model_has_is_refused(model: Qwen3) -> None:
    with pytest.raises(ValueError, match="max_model_len 2000 exceeds the model's 1024"):
        Engine(model, EngineConfig(max_model_len=2000))


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"page_size": 48}, "page_size must be a power of two up to 512, not 48"),
        ({"num_pages": 0}, "num_pages must be at least 1, not 0"),
        ({"num_pages": 9, "kv_memory_gb": 1.0}, "not both"),
        ({"kv_memory_gb": 0.0}, "kv_memory_gb must be above 0"),
        ({"max_num_seqs": 9, "max_batch_tokens": 8}, "max_batch_tokens 8 is less than"),
        ({"dtype": "fp8"}, "^dtype must be"),
        ({"kv_dtype": "int8"}, "^kv_dtype must be auto or fp8, not 'int8'"),
    ],
)
def test_a_bad_config_is_refused(settings: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        EngineConfig(**settings)  # type: ignore[arg-type]


def test_kv_memory_is_counted_in_pages(model: Qwen3) -> None:
    # 2 (keys, values) * 3 layers * 2 heads * 16 * 4 bytes * 64 tokens = 49,152 bytes a page.
    with Engine(model, EngineConfig(kv_memory_gb=10 * 49_152 / 2**30)) as engine:
        assert engine.stats().total_pages == 10
    with pytest.raises(ValueError, match="less than one page of 49152 bytes"):
        Engine(model, EngineConfig(kv_memory_gb=1e-5))


TEMPLATE = (
    "{% for m in messages %}<|im_start|> {{ m.role }} {{ m.content }}<|im_end|> {% endfor %}"
    "{% if add_generation_prompt %}<|im_start|> assistant {% endif %}"
)


@pytest.mark.parametrize("dtype", ["auto", "float32", "bfloat16"])
def test_a_folder_is_loaded_with_its_weights_and_its_tokenizer(
    model: Qwen3, prompt: Prompt, tmp_path: Path, dtype: Literal["auto", "float32", "bfloat16"]
) -> None:
    words = {f"w{i}": i for i in range(95)}
    tokenizer = Tokenizer(models.WordLevel(words, unk_token="w0"))
    tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    tokenizer.add_special_tokens(["<|im_start|>", "<|im_end|>"])
    tokenizer.save(str(tmp_path / "tokenizer.json"))
    (tmp_path / "chat_template.jinja").write_text(TEMPLATE)
    save_model(model, tmp_path)
    config = EngineConfig(num_pages=8, dtype=dtype, device="cpu")
    with Engine.load(tmp_path, config) as engine:
        (whole,) = engine.generate_batch([(prompt(6, 30), GREEDY)])
        words_said = [f"w{token}" for token in whole.token_ids]
        stop = " ".join(words_said[3:5])
        sampling = Sampling(temperature=0.0, max_tokens=16, stop=(stop,))
        (cut,) = engine.generate_batch([(prompt(6, 30), sampling)])
    end = next(i for i in range(17) if stop in " ".join(words_said[:i]))
    assert cut.token_ids == whole.token_ids[:end] and cut.finish_reason == "stop"
    weight = engine.model.model.embed_tokens.weight
    assert weight.dtype == (torch.bfloat16 if dtype == "bfloat16" else torch.float32)
    if dtype != "bfloat16":
        with Engine(model, EngineConfig(num_pages=8)) as in_memory:
            (same,) = in_memory.generate_batch([(prompt(6, 30), GREEDY)])
        assert same.token_ids == whole.token_ids


def test_a_missing_folder_is_refused_by_name(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="nowhere"):
        Engine.load(tmp_path / "nowhere")
