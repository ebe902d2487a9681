"""A small byte-level tokenizer in Qwen's manner, and two templates, as a model folder has them."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest
from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, pre_tokenizers, trainers

# Every message alike; the tools are named after the system message.
MINI_TEMPLATE = """\
{%- for message in messages %}
    {{- '<|im_start|>' + message.role + '\\n' + message.content }}
    {%- if tools and loop.first and message.role == 'system' %}
        {{- '\\nTools: ' + tools | map(attribute='function.name') | join(', ') }}
    {%- endif %}
    {{- '<|im_end|>\\n' }}
{%- endfor %}
{%- if add_generation_prompt %}
    {{- '<|im_start|>assistant\\n' }}
{%- endif %}
"""

# The traits of Qwen3's own: tools as JSON in the system turn, runs of tool messages in one user
# turn, and thinking kept only after the last real question, in one canonical spacing.
QWEN_TEMPLATE = """\
{%- set last = namespace(question=-1) %}
{%- for m in messages %}
    {%- if m.role == 'user' %}{% set last.question = loop.index0 %}{% endif %}
{%- endfor %}
{%- for m in messages %}
    {%- if m.role == 'system' %}
        {{- '<|im_start|>system\\n' + m.content }}
        {%- if tools %}
            {{- '\\n\\n# Functions\\n<functions>' }}
            {%- for tool in tools %}{{ '\\n' + tool | tojson }}{% endfor %}
            {{- '\\n</functions>\\nCall one between <tool_call> and </tool_call>.' }}
        {%- endif %}
        {{- '<|im_end|>\\n' }}
    {%- elif m.role == 'assistant' %}
        {%- set thought, answer = '', m.content %}
        {%- if '</think>' in m.content %}
            {%- set thought = m.content.split('</think>')[0].split('<think>')[-1].strip('\\n') %}
            {%- set answer = m.content.split('</think>')[-1].lstrip('\\n') %}
        {%- endif %}
        {{- '<|im_start|>assistant\\n' }}
        {%- if loop.index0 > last.question and (loop.last or thought) %}
            {{- '<think>\\n' + thought + '\\n</think>\\n\\n' }}
        {%- endif %}
        {{- answer + '<|im_end|>\\n' }}
    {%- elif m.role == 'tool' %}
        {%- if loop.previtem.role != 'tool' %}{{ '<|im_start|>user' }}{% endif %}
        {{- '\\n<tool_response>\\n' + m.content + '\\n</tool_response>' }}
        {%- if loop.last or loop.nextitem.role != 'tool' %}{{ '<|im_end|>\\n' }}{% endif %}
    {%- elif m.role == 'user' %}
        {{- '<|im_start|>user\\n' + m.content + '<|im_end|>\\n' }}
    {%- else %}
        {{- raise_exception('no role ' + m.role) }}
    {%- endif %}
{%- endfor %}
{%- if add_generation_prompt %}{{ '<|im_start|>assistant\\n' }}{% endif %}
"""

SPECIAL = ["<|endoftext|>", "<|im_start|>", "<|im_end|>"]
ADDED = [
    "<think>",
    "</think>",
    "<tool_call>",
    "</tool_call>",
    "<tool_response>",
    "</tool_response>",
]
BOILERPLATE = 'Results for "'


@pytest.fixture(scope="session")
def tokenizer_json() -> str:
    tokenizer = Tokenizer(models.BPE())
    words = Regex(r"\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+")
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(words, "isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=400,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(
        ["user\n\nthe end.\n system\n assistant\n im_end. |>\n"] * 9, trainer
    )
    tokenizer.add_special_tokens(SPECIAL)
    tokenizer.add_tokens([AddedToken(t, normalized=False) for t in (*ADDED, BOILERPLATE)])
    return str(tokenizer.to_str())


@pytest.fixture
def write_folder(tokenizer_json: str, tmp_path: Path) -> Callable[[str], Path]:
    """Writes a model folder (no weights) with a chat template."""

    def write(template: str) -> Path:
        (tmp_path / "tokenizer.json").write_text(tokenizer_json)
        (tmp_path / "chat_template.jinja").write_text(template)
        (tmp_path / "tokenizer_config.json").write_text(json.dumps({"eos_token": "<|im_end|>"}))
        return tmp_path

    return write
