"""Start weights from which copying works at step 0; the network stays a plain Qwen3.

Layer 0 holds previous-token heads that write the contents of the four tokens before into subspaces of their own. Layer 1
holds match heads: where the last tokens stood before, copy the token that followed, the longest match first (Olsson et al.
2022, "In-context learning and induction heads", for one token). Everything else starts small.
"""

import math

import torch
from torch import Tensor
from wideseek_kernels.rotary import apply_rotary

from wideseek.model.qwen3 import (
    DecoderLayer,
    Qwen3,
    SelfAttention,
    rotary_frequencies,
    rotary_tables,
)

CONTENT = 56  # size of a token's content; must not exceed head_dim
HEAD = 64  # head_dim
OFFSETS = (1, 2, 3, 4)  # how far back the heads of layer 0 look
# The direction every embedding shares, from which position-only queries are made.
CONST = (1 + len(OFFSETS)) * CONTENT
# What each match head of layer 1 compares, from the newest token back, and how loudly it speaks.
MATCHES = (((0.40, 0.27, 0.20, 0.13), 10.0), ((0.6, 0.4), 4.0), ((0.0, 0.6, 0.4), 3.0))


@torch.no_grad()
def init_induction(model: Qwen3, seed: int, stems: list[tuple[int, int]]) -> None:
    """Overwrite `model`'s weights. `stems[v]` = (stem id, spelling) of token v: spellings of a stem start as near copies.

    Needs qk-norm, a tied head, as many key heads as query heads, at least 4 of them, head_dim 64 and hidden > 280.
    ValueError otherwise.
    """
    config = model.config
    if not (config.qk_norm and config.tied_head and config.num_kv_heads == config.num_heads >= 4):
        raise ValueError(
            "the induction start needs Qwen3 with a tied head and 4 or more key heads, one a query head"
        )
    if config.head_dim != HEAD or config.hidden_size <= CONST or config.num_layers < 2:
        raise ValueError(
            f"the induction start needs head_dim {HEAD}, hidden size above {CONST} and 2 layers"
        )
    generator = torch.Generator().manual_seed(seed)
    for name, parameter in model.named_parameters():
        if name.endswith("norm.weight"):
            parameter.fill_(1.0)
        else:
            fan_in = parameter.shape[-1]
            gain = 0.1 if name.endswith(("o_proj.weight", "down_proj.weight")) else 1.0
            parameter.copy_(
                torch.randn(parameter.shape, generator=generator) * gain / math.sqrt(fan_in)
            )
    _init_embedding(model.model.embed_tokens.weight, stems, generator)
    model.model.norm.weight.fill_(0.8)
    _init_previous_heads(model)
    _init_match_heads(model, generator)


def _init_embedding(
    weight: Tensor, stems: list[tuple[int, int]], generator: torch.Generator
) -> None:
    """Unit content a token, one shared constant; spellings differ by small shared vectors."""
    base = torch.randn(max(stem for stem, _ in stems) + 1, CONTENT, generator=generator)
    shift = torch.randn(4, CONTENT, generator=generator) * 0.35
    shift[0] = 0
    index = torch.tensor(stems)
    content = base[index[:, 0]] + shift[index[:, 1]]
    weight.copy_(torch.randn(weight.shape, generator=generator) * 0.02)
    weight[:, :CONTENT] = content / content.norm(dim=-1, keepdim=True)
    weight[:, CONST] = 1.0


def attention_of(model: Qwen3, layer: int) -> SelfAttention:
    """The attention of a layer."""
    found = model.model.layers[layer]
    assert isinstance(found, DecoderLayer)
    return found.self_attn


def _sharpen(attn: SelfAttention) -> None:
    """Let normalised queries and keys reach scores that single out one token."""
    for norm in (attn.q_norm, attn.k_norm):
        assert norm is not None
        norm.weight.fill_(4.0)


def head_rows(weight: Tensor, head: int) -> Tensor:
    """A view of a head's rows of a projection [H * HEAD, C]."""
    return weight[head * HEAD : (head + 1) * HEAD]


def _place(back: int) -> slice:
    """Where the residual stream holds the content of the token `back` places ago."""
    return slice(back * CONTENT, (back + 1) * CONTENT)


def _copy_content(attn: SelfAttention, head: int, rows: slice, gain: float) -> None:
    """Let a head read the content of what it attends to and add it to `rows` of the residual stream."""
    value, columns = head_rows(attn.v_proj.weight, head), slice(head * HEAD, head * HEAD + CONTENT)
    value.zero_()
    value[:CONTENT, :CONTENT] = torch.eye(CONTENT)
    attn.o_proj.weight[:, head * HEAD : (head + 1) * HEAD] = 0
    # Values come normalised to rms 1 over the hidden size; the factor brings them back to unit content.
    unit = math.sqrt(2.0 / attn.o_proj.weight.shape[0])
    attn.o_proj.weight[rows, columns] = torch.eye(CONTENT) * gain * unit


def _init_previous_heads(model: Qwen3) -> None:
    """Head h of layer 0 attends to the token OFFSETS[h] back and copies its content to that token's place."""
    attn = attention_of(model, 0)
    cos, sin = rotary_tables(model.config, torch.device("cpu"))
    key = torch.zeros(1, 1, HEAD)
    # Three fast pairs with unlike periods: their sum peaks at the wanted offset only.
    frequencies = rotary_frequencies(model.config)
    fast = [int((frequencies - f).abs().argmin()) for f in (1.0, 0.42, 0.17)]
    for pair, share in zip(fast, (0.5, 0.3, 0.2), strict=True):
        key[0, 0, pair] = math.sqrt(share)
    _sharpen(attn)
    for head, offset in enumerate(OFFSETS):
        # A query turned back by `offset` meets the key of that many tokens before at angle zero.
        back, _ = apply_rotary(key, key, cos[offset : offset + 1], -sin[offset : offset + 1])
        for weight, vector in ((attn.q_proj.weight, back), (attn.k_proj.weight, key)):
            head_rows(weight, head).zero_()
            head_rows(weight, head)[:, CONST] = vector[0, 0]
        _copy_content(attn, head, _place(offset), 1.0)


def _init_match_heads(model: Qwen3, generator: torch.Generator) -> None:
    """Layer 1: each head looks where the last tokens stood before and copies what followed there.

    A head's dimensions hold the sum of all compared tokens, each turned by a matrix of its own: the more of the last tokens
    agree with those before a place, the higher its score.
    """
    attn = attention_of(model, 1)
    frequencies = rotary_frequencies(model.config)
    # Pairs that stand still over thousands of tokens.
    slow = [f for f in range(HEAD // 2) if frequencies[f] < 3e-4]
    dims = torch.tensor([*slow, *(f + HEAD // 2 for f in slow)])
    _sharpen(attn)
    for head, (shares, gain) in enumerate(MATCHES):
        head_rows(attn.q_proj.weight, head).zero_()
        head_rows(attn.k_proj.weight, head).zero_()
        for back, share in enumerate(shares):
            square = torch.linalg.qr(torch.randn(CONTENT, CONTENT, generator=generator))[0]
            turn = square[: len(dims)] * math.sqrt(share)
            attn.q_proj.weight[dims + head * HEAD, _place(back)] = turn
            attn.k_proj.weight[dims + head * HEAD, _place(back + 1)] = turn
        _copy_content(attn, head, _place(0), gain)


def spelling_of(token: str) -> tuple[str, int]:
    """(stem, spelling 0 to 3) of a byte-level token: bit 0 leading space, bit 1 capital."""
    space = token.startswith("Ġ") and len(token) > 1
    stem = token[1:] if space else token
    capital = stem[:1].isascii() and stem[:1].isupper()
    return (stem[:1].lower() + stem[1:] if capital else stem), space + 2 * capital


def stem_ids(vocab: dict[str, int], size: int) -> list[tuple[int, int]]:
    """(stem id, spelling) for every token id below `size`; ids without a token get stems of their own."""
    ids: dict[str, int] = {}
    result = [(-1, 0)] * size
    for token, index in sorted(vocab.items(), key=lambda item: item[1]):
        stem, spelling = spelling_of(token)
        result[index] = (ids.setdefault(stem, len(ids)), spelling)
    fresh = len(ids)
    return [
        (fresh + i, 0) if stem < 0 else (stem, spelling)
        for i, (stem, spelling) in enumerate(result)
    ]
