"""A tiny model folder with random weights, and scripted stand-ins for the engine."""

import asyncio
import json
from collections.abc import Callable, Sequence
from pathlib import Path

import torch
from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers

from wideseek.generation import Completion, OpenDialogue, Sampling
from wideseek.model.config import ModelConfig
from wideseek.model.qwen3 import Qwen3
from wideseek.model.weights import save_model

TEMPLATE = """\
{%- for m in messages %}
    {{- '<|im_start|>' + m.role + '\\n' + m.content }}
    {%- if tools and loop.first %}
        {{- '\\nTools: ' + tools | map(attribute='function.name') | join(', ') }}
    {%- endif %}
    {{- '<|im_end|>\\n' }}
{%- endfor %}
{%- if add_generation_prompt %}{{ '<|im_start|>assistant\\n' }}{% endif %}
"""
SPECIAL = ("<|endoftext|>", "<|im_start|>", "<|im_end|>")
ADDED = ("<think>", "</think>", "<tool_call>", "</tool_call>")


def write_tokenizer(folder: Path) -> None:
    """A byte-level tokenizer without merges: one token a byte, so that characters are split."""
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    tokenizer = Tokenizer(models.BPE(vocab={byte: i for i, byte in enumerate(alphabet)}, merges=[]))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.add_special_tokens(list(SPECIAL))
    tokenizer.add_tokens([AddedToken(text, normalized=False) for text in ADDED])
    tokenizer.save(str(folder / "tokenizer.json"))
    (folder / "chat_template.jinja").write_text(TEMPLATE)
    (folder / "tokenizer_config.json").write_text(json.dumps({"eos_token": "<|im_end|>"}))


def write_model(folder: Path, max_positions: int = 512, num_kv_heads: int = 1) -> Path:
    """A loadable model folder; its weights are random, always the same."""
    torch.manual_seed(0)
    config = ModelConfig(
        architecture="Qwen3ForCausalLM",
        vocab_size=256 + len(SPECIAL) + len(ADDED),
        hidden_size=32,
        intermediate_size=48,
        num_layers=2,
        num_heads=2,
        num_kv_heads=num_kv_heads,
        head_dim=16,
        max_position_embeddings=max_positions,
    )
    model = Qwen3(config)
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter, std=0.3)
    save_model(model, folder)
    write_tokenizer(folder)
    return folder


class ScriptedModel:
    """A Model of scripted Dialogues."""

    def __init__(self, open: OpenDialogue, max_model_len: int | None = None) -> None:
        self.name = "scripted"
        self.max_model_len = max_model_len
        self.open = open
        self.closed = False

    async def close(self) -> None:
        self.closed = True


class ScriptedGenerate:
    """Samples the ids of a fixed text, one every `pause` seconds; remembers how it was called."""

    def __init__(
        self,
        text: str,
        encode: Callable[[str], list[int]],
        *,
        end: str = "<|im_end|>",
        pause: float = 0.0,
    ) -> None:
        self.token_ids = encode(text + end)
        self.pause = pause
        self.prompts: list[tuple[int, ...]] = []
        self.samplings: list[Sampling] = []
        self.num_cancelled = 0

    async def __call__(
        self,
        token_ids: Sequence[int],
        sampling: Sampling,
        cancel: asyncio.Event | None = None,
        on_token: Callable[[int, float], None] | None = None,
    ) -> Completion:
        self.prompts.append(tuple(token_ids))
        self.samplings.append(sampling)
        sampled: list[int] = []
        for token_id in self.token_ids[: sampling.max_tokens]:
            await asyncio.sleep(self.pause)
            if cancel is not None and cancel.is_set():
                self.num_cancelled += 1
                break
            sampled.append(token_id)
            if on_token is not None:
                on_token(token_id, -0.5)
        whole = len(sampled) == len(self.token_ids)
        cancelled = cancel is not None and cancel.is_set()
        return Completion(
            token_ids=tuple(sampled),
            logprobs=(-0.25,) * len(sampled),
            plain_logprobs=(-0.5,) * len(sampled),
            finish_reason="cancelled" if cancelled else "stop" if whole else "length",
            weight_version=0,
            cached_tokens=3,
            prompt_tokens=len(token_ids),
        )
