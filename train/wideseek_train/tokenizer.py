"""The mini model's tokenizer: byte-level BPE made so that copying is easy.

One stem has up to four spellings, with or without a leading space and with or without a capital; all four are cut into
pieces at the same places, so that "Morlen" in a list and " morlen" in a sentence differ only in their first piece. Numbers
are cut into runs of three digits. Fixed texts of the agents' prompts and tool calls are single (non-special) tokens.
The result is an ordinary Hugging Face folder.
"""

import json
import random
import re
from collections import Counter
from collections.abc import Iterable, Sequence
from pathlib import Path

from tokenizers import AddedToken, Regex, Tokenizer, models, pre_tokenizers, trainers
from tokenizers.decoders import ByteLevel as ByteLevelDecoder

from wideseek.agents.prompts import load_prompts
from wideseek.worlds.expert import FACT_LETTERS
from wideseek.worlds.grammar import training_words
from wideseek.worlds.lexicon import load_lexicon

SPECIAL = ("<|endoftext|>", "<|im_start|>", "<|im_end|>")
_TAGS = (
    "<think>",
    "</think>",
    "<tool_call>",
    "</tool_call>",
    "<tool_response>",
    "</tool_response>",
)
# Letters with their marks, then runs of up to three digits, then marks with the line breaks that follow them, then spaces.
_PATTERN = r" ?[\p{L}\p{M}]+| ?\p{N}{1,3}| ?[^\s\p{L}\p{M}\p{N}]+[\r\n]*|\s*[\r\n]+|\s"
CHAT_TEMPLATE = (
    "{%- for message in messages -%}"
    "{{ '<|im_start|>' + message.role + '\\n' + message.content }}"
    "{%- if loop.first and tools -%}"
    "{{ '\\nTools:' }}{%- for tool in tools -%}{{ ' ' + tool.function.name }}{%- endfor -%}"
    "{%- endif -%}"
    "{{ '<|im_end|>\\n' }}"
    "{%- endfor -%}"
    "{%- if add_generation_prompt -%}{{ '<|im_start|>assistant\\n' }}{%- endif -%}"
)


def boilerplate() -> list[str]:
    """Texts that are one token each: system prompts, parts of hints, and the JSON around what a call carries."""
    prompts = load_prompts("en")
    call = '<tool_call>\n{"name": "%s", "arguments": {%s'
    return [
        prompts.lead_system,
        prompts.sub_system,
        prompts.single_system,
        "system\n", "user\n", "assistant\n", "tool\n",
        "\nTools:", " create_sub_agents",
        "\n\n[turn ", " subagents a call]",
        "<think>\n", "\n</think>\n\n", "```markdown\n|", "\n```",
        call % ("create_sub_agents", '"sub_agents": [{"prompt": "'),
        '"}, {"prompt": "',
        call % ("search", '"queries": [{"query": "'),
        '"}]}}\n</tool_call>',
        call % ("access", '"urls": [{"url": "'),
        '", "info_to_extract": "all"}]}}\n</tool_call>',
        call % ("search", '"query": "'),
        '"}}\n</tool_call>',
        call % ("access", '"url": "'),
        '", "info_to_extract": "all"}}\n</tool_call>',
        "https://atlas.wideseek/",
        *(f" ({letter})" for letter in FACT_LETTERS),
        *(f" [{letter}]" for letter in FACT_LETTERS),
    ]  # fmt: skip


def _stem_merges(words: Counter[str], vocab_size: int) -> list[tuple[str, str]]:
    """Merges learned on lower-case stems."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator((w for w, n in words.items() for _ in range(n)), trainer)
    return [tuple(pair) for pair in json.loads(tokenizer.to_str())["model"]["merges"]]


def _spellings(
    merges: Sequence[tuple[str, str]], alphabet: Iterable[str]
) -> tuple[dict[str, int], list[tuple[str, str]]]:
    """Vocabulary and merges in which capital and space variants are cut like their lower-case stem."""
    vocab = {piece: index for index, piece in enumerate(sorted(alphabet))}
    ranked: list[tuple[str, str]] = []

    def merge(left: str, right: str) -> None:
        if left in vocab and right in vocab and (left, right) not in seen:
            seen.add((left, right))
            ranked.append((left, right))
            vocab.setdefault(left + right, len(vocab))

    seen: set[tuple[str, str]] = set()
    for left, right in merges:
        merge(left, right)
        if left[0].isascii() and left[0].islower():
            merge(left[0].upper() + left[1:], right)
    digits = "0123456789"
    for a in digits:
        for b in digits:
            merge(a, b)
    for a in digits:
        for b in digits:
            for c in digits:
                merge(a + b, c)
                merge(a, b + c)
    for mark in (
        " ---",
        " |\n",
        " |",
        ".\n",
        ":\n",
        ")\n",
        "?\n",
        " -",
        " (",
        "),",
        ").",
        "\n\n",
        '"}',
        " &",
    ):
        pieces = mark.replace(" ", "Ġ").replace("\n", "Ċ")
        for end in range(1, len(pieces)):
            merge(pieces[:end], pieces[end])
    for piece in [p for p in vocab if p[0].isalnum() and p[0] not in "ĠĊ"]:
        merge("Ġ", piece)
    return vocab, ranked


def build_tokenizer(stems: int = 1500, seed: int = 0) -> Tokenizer:
    """Learn stems from the training lexicon, the words of the training phrasings and made-up names; add fixed texts.

    `stems` bounds the lower-case vocabulary, bytes included. Nothing of the bundled corpus is read.
    """
    lexicon = load_lexicon("train")
    rng = random.Random(f"tokenizer/{seed}")
    words: Counter[str] = Counter()
    for text in training_words():
        words.update({word: 60 for word in re.findall(r"[a-z]+", text.lower())})
    for attribute in lexicon.attributes:
        for form in (attribute.label, *attribute.asked):
            words.update({word: 60 for word in re.findall(r"[a-z]+", form.lower())})
    for one, many in lexicon.kinds:
        words.update({one: 25, many: 25})
    words.update(dict.fromkeys((*lexicon.words, *lexicon.groups, *lexicon.adjectives), 25))
    words.update(
        {
            word: 10_000
            for word in (
                "items unknown done nothing show search page subagent subtask question name find columns list next turn "
                "access report none known"
            ).split()
        }
    )
    for _ in range(30_000):
        words[lexicon.word(rng)] += 1
    vocab, merges = _spellings(_stem_merges(words, stems), pre_tokenizers.ByteLevel.alphabet())
    tokenizer = Tokenizer(models.BPE(vocab=vocab, merges=merges))
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(_PATTERN), behavior="isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    tokenizer.decoder = ByteLevelDecoder()
    tokenizer.add_special_tokens(
        [AddedToken(text, special=True, normalized=False) for text in SPECIAL]
    )
    tokenizer.add_tokens([AddedToken(text, normalized=False) for text in (*_TAGS, *boilerplate())])
    return tokenizer


def save_tokenizer(tokenizer: Tokenizer, folder: Path) -> None:
    """Write tokenizer.json, tokenizer_config.json, chat_template.jinja and generation_config.json."""
    folder.mkdir(parents=True, exist_ok=True)
    tokenizer.save(str(folder / "tokenizer.json"))
    end = tokenizer.token_to_id("<|im_end|>")
    (folder / "tokenizer_config.json").write_text(
        json.dumps(
            {
                "tokenizer_class": "PreTrainedTokenizerFast",
                "eos_token": "<|im_end|>",
                "pad_token": "<|endoftext|>",
                "model_max_length": 32768,
            },
            indent=2,
        )
        + "\n"
    )
    (folder / "chat_template.jinja").write_text(CHAT_TEMPLATE)
    generation = {
        "eos_token_id": [end],
        "pad_token_id": tokenizer.token_to_id("<|endoftext|>"),
        "do_sample": False,
    }
    (folder / "generation_config.json").write_text(json.dumps(generation, indent=2) + "\n")
