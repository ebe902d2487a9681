"""A head that copies by what stood ten and more tokens before, added to a network whose copies match a few tokens only.

Rows of a table often end alike ("| 2021 | grey |"), so the last tokens do not tell which row is being copied; its number and
name do, which stand further back. Two heads of layer 0 write the mean content of a window of the last tokens, one as a query
and one as a key that begins a token earlier; a head of layer 1 compares them. The network stays a plain Qwen3.
"""

import math
from dataclasses import replace

import torch
from torch import Tensor

from wideseek.model.config import ModelConfig
from wideseek.model.qwen3 import DecoderLayer, Qwen3, rotary_frequencies
from wideseek_train.induction import HEAD, attention_of, head_rows

WIDTH = 64
"""By how much the hidden size grows: a constant, a window to ask with and one to be found by."""
HEADS = 2
"""By how many heads every layer grows; those that nothing is made of write zeros until they are trained."""
_SIZE = 31  # of a window's content
_CONST = 0.05
_SOUND = 0.05  # of what the window heads write: little, so that no norm feels it
_CONTENTS = 64  # directions in which embeddings differ most
_FARTHEST = 40_000  # tokens that a window is kept clear of
_SHARPNESS = 105.0  # sum of a window's amplitudes, in nats
# Weights of the last tokens: the newest say where in a row one is, the others which row.
_WINDOW = (0.35, 0.18, 0.09, *(0.035,) * 12, 0.025, 0.02, 0.015, 0.01)


@torch.no_grad()
def widen(model: Qwen3, width: int, heads: int, seed: int) -> Qwen3:
    """The same function, `width` wider and with `heads` more heads a layer, which write zeros.

    Every query head has a key head of its own.
    """
    config = model.config
    size = config.hidden_size
    wider = Qwen3(
        replace(
            config,
            hidden_size=size + width,
            num_heads=config.num_heads + heads,
            num_kv_heads=config.num_kv_heads + heads,
        )
    )
    generator = torch.Generator().manual_seed(seed)
    # A mean over more dimensions, of which the new ones are zero, is smaller by this.
    share = math.sqrt(size / (size + width))
    for name, new in wider.named_parameters():
        old = model.get_parameter(name)
        if name.endswith(("q_norm.weight", "k_norm.weight")):
            new.copy_(old)
        elif new.ndim == 1:
            new.fill_(share)
            new[:size] = old * share
        else:
            new.zero_()
            if name.endswith(("q_proj.weight", "k_proj.weight", "v_proj.weight")):
                drawn = torch.randn(new[len(old) :].shape, generator=generator)
                new[len(old) :] = drawn / math.sqrt(size + width)
            new[: old.shape[0], : old.shape[1]] = old
    return wider


def fit_window(frequencies: Tensor) -> tuple[Tensor, Tensor]:
    """Amplitudes in nats and angles [F] of turning pairs whose scores, summed, are the logarithms of `_WINDOW` by distance.

    A rotary score is a sum of cosines of the distance, so the window is fitted. It also keeps off the token after the newest
    one: for a key that begins a token back, that is the token to be copied, which the query cannot know.
    """
    near, far = torch.arange(-1, 128), 1200
    # Far distances are drawn anew in every step: between fixed ones the waves would meet again.
    generator = torch.Generator().manual_seed(0)
    low, span = math.log(128), math.log(_FARTHEST / 128) / far
    wanted = torch.zeros(len(near) + far)
    wanted[1 : 1 + len(_WINDOW)] = torch.tensor(_WINDOW)
    wanted /= wanted.sum()
    amplitudes = torch.zeros(2 * len(frequencies))
    amplitudes[: len(frequencies)] = torch.where(frequencies > 3e-2, 0.5, 10.0)
    with torch.enable_grad():
        amplitudes.requires_grad_(True)
        optimizer = torch.optim.Adam([amplitudes], lr=0.3)
        steps = 1500
        for step in range(steps):
            optimizer.param_groups[0]["lr"] = 0.3 * (1 - step / steps)
            logs = low + span * (torch.arange(far) + torch.rand(far, generator=generator))
            distances = torch.cat((near, logs.exp()))
            # How many distances each stands for, as a logarithm.
            many = torch.cat((torch.zeros(len(near)), logs + math.log(span)))
            turns = torch.outer(distances, frequencies)
            scores = torch.cat((turns.cos(), turns.sin()), dim=1) @ amplitudes
            loss = -(wanted * (scores + many).log_softmax(0)).sum()
            sizes = amplitudes.view(2, -1).square().sum(0).add(1e-9).sqrt()
            (gradient,) = torch.autograd.grad(
                loss + 0.05 * (sizes.sum() - _SHARPNESS).relu(), amplitudes
            )
            amplitudes.grad = gradient
            optimizer.step()
    cosines, sines = amplitudes.detach().view(2, -1)
    return torch.hypot(cosines, sines), -torch.atan2(sines, cosines)


@torch.no_grad()
def add_long_match(model: Qwen3, gain: float, seed: int) -> Qwen3:
    """`model` widened by WIDTH and HEADS, with the heads described above.

    What is copied is what the first head of layer 1 would copy there, `gain` times as loud. Start weights, which know
    nothing else, want 2; a trained network is disturbed by more than 0.5.

    ValueError for a network without qk-norm, two layers, a key head for each query head of 64, slow rotations enough, or
    norms of q and k in layer 0 that make scores sharp.
    """
    config = model.config
    slow = _slow_dims(config)
    if not (config.qk_norm and config.num_kv_heads == config.num_heads and config.num_layers > 1):
        raise ValueError("a long match needs qk-norm, two layers and one key head a query head")
    if config.head_dim != HEAD or len(slow) < _SIZE:
        raise ValueError(
            f"a long match needs head_dim {HEAD} and {_SIZE} slowly turning dimensions, "
            f"not {config.head_dim} and {len(slow)}"
        )
    wider = widen(model, WIDTH, HEADS, seed)
    size, head = config.hidden_size, config.num_heads
    asks, found = (slice(size + 1 + k * _SIZE, size + 1 + (k + 1) * _SIZE) for k in range(2))
    wider.model.embed_tokens.weight[:, size] = _CONST
    generator = torch.Generator().manual_seed(seed)
    mixing = torch.linalg.qr(torch.randn(_CONTENTS, _CONTENTS, generator=generator))[0][:_SIZE]
    _write_windows(wider, size, head, mixing, (asks, found))

    attention = attention_of(wider, 1)
    turned = torch.linalg.qr(torch.randn(_SIZE, _SIZE, generator=generator))[0]
    for projection, place in ((attention.q_proj, asks), (attention.k_proj, found)):
        head_rows(projection.weight, head).zero_()
        projection.weight[slow[-_SIZE:] + head * HEAD, place] = turned
    head_rows(attention.v_proj.weight, head).copy_(head_rows(attention.v_proj.weight, 0))
    head_rows(attention.o_proj.weight.T, head).copy_(head_rows(attention.o_proj.weight.T, 0) * gain)
    return wider


def _write_windows(
    model: Qwen3, size: int, head: int, mixing: Tensor, places: tuple[slice, slice]
) -> None:
    """Let heads `head` and `head + 1` of layer 0 write their windows' mean contents to two places of the residual stream."""
    layer = model.model.layers[0]
    assert isinstance(layer, DecoderLayer)
    layer.input_layernorm.weight[size] = 1.0
    seen = layer.input_layernorm(model.model.embed_tokens.weight)
    mean, const = seen.mean(0)[:size], seen[:, size].mean()
    _, spread, directions = torch.linalg.svd(seen[:, :size] - mean, full_matrices=False)
    # Every direction in which tokens differ counts alike.
    content = (mixing / spread[:_CONTENTS]) @ directions[:_CONTENTS] * math.sqrt(len(seen))
    attention = layer.self_attn
    assert attention.q_norm is not None and attention.k_norm is not None
    frequencies = rotary_frequencies(model.config)
    half = len(frequencies)
    turning = int((frequencies > 2e-4).sum())
    amplitudes, angles = fit_window(frequencies[:turning])
    lengths = amplitudes.sqrt() * HEAD**0.25  # a score is the product over the root of HEAD
    for number, place in enumerate(places):
        # Turned back by a token, the second head's window begins a token earlier.
        query = torch.polar(lengths, angles - number * frequencies[:turning])
        key = torch.complex(lengths, torch.zeros_like(lengths))
        rows = slice((head + number) * HEAD, (head + number + 1) * HEAD)
        for projection, norm, pair in (
            (attention.q_proj, attention.q_norm, query),
            (attention.k_proj, attention.k_norm, key),
        ):
            vector = torch.zeros(HEAD)
            vector[:turning], vector[half : half + turning] = pair.real, pair.imag
            vector /= norm.weight
            # What the norm makes of a head has this length, whatever goes in; the rest goes where the other one is zero.
            rest = HEAD - vector.square().sum()
            if rest <= 0:
                raise ValueError("a long match needs larger weights in the norms of layer 0")
            vector[half - 1 - (projection is attention.k_proj)] = rest.sqrt()
            projection.weight[rows] = 0
            projection.weight[rows, size] = vector / const
        value = attention.v_proj.weight[rows]
        value.zero_()
        value[:_SIZE, :size] = content
        value[:_SIZE, size] = -(content @ mean) / const
        attention.o_proj.weight[:, rows] = 0
        attention.o_proj.weight[place, rows][:, :_SIZE] = torch.eye(_SIZE) * _SOUND


def _slow_dims(config: ModelConfig) -> Tensor:
    """Dimensions of a head that stand still over thousands of tokens."""
    frequencies = rotary_frequencies(config)
    pairs = (frequencies < 3e-4).nonzero()[:, 0]
    return torch.cat((pairs, pairs + len(frequencies)))
