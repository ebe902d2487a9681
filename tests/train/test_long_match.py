"""The long match: a network widened without a change, and a head that tells rows apart which end alike."""

import math

import pytest
import torch
from wideseek_train.induction import init_induction
from wideseek_train.long_match import HEADS, WIDTH, add_long_match, fit_window, widen

from tests.train.test_induction import config
from wideseek.model.qwen3 import PackedAttention, Qwen3, rotary_frequencies

NAME, ALIKE = 6, 6


def logits(model: Qwen3, ids: torch.Tensor) -> torch.Tensor:
    with torch.no_grad():
        hidden = model(ids, torch.arange(len(ids)), PackedAttention(torch.tensor([0, len(ids)])))
        return model.logits(hidden)


def test_widening_changes_nothing() -> None:
    model = Qwen3(config())
    init_induction(model, 0, [(i, 0) for i in range(2048)])
    wider = widen(model, WIDTH, HEADS, 0)
    assert (wider.config.hidden_size, wider.config.num_heads) == (320 + WIDTH, 4 + HEADS)
    ids = torch.randint(0, 2048, (200,), generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(logits(wider, ids), logits(model, ids), atol=0.01, rtol=1e-3)


def test_a_window_holds_the_last_tokens_and_not_the_one_after() -> None:
    frequencies = rotary_frequencies(config())[:15]
    amplitudes, angles = fit_window(frequencies)
    distances = torch.arange(-1, 30_000)[:, None]
    scores = (amplitudes * (distances * frequencies + angles).cos()).sum(1)
    after, *weights = scores.softmax(0).tolist()
    assert weights[0] > 0.15 and min(weights[:16]) > 0.01
    assert sum(weights[:20]) > 0.94 and after < 0.05 and sum(weights[40:]) < 0.001


def rows_that_end_alike() -> tuple[torch.Tensor, list[int], list[int]]:
    """Twelve rows of a name, alike tokens and a value, then all in another order; where values are wanted, and which."""
    generator = torch.Generator().manual_seed(3)
    drawn = torch.randperm(2048, generator=generator).tolist()
    alike, values, names = drawn[:ALIKE], drawn[6:18], drawn[18:]
    row = NAME + ALIKE + 1
    ids: list[int] = []
    for k in [*range(12), *torch.randperm(12, generator=generator).tolist()]:
        ids += [*names[NAME * k : NAME * (k + 1)], *alike, values[k]]
    places = list(range(13 * row - 2, len(ids), row))
    return torch.tensor(ids), places, [ids[place + 1] for place in places]


def test_rows_that_end_alike_are_told_apart() -> None:
    """Six tokens stand between a value and the name that tells whose it is: more than the short matches see."""
    short = Qwen3(config())
    init_induction(short, 0, [(i, 0) for i in range(2048)])
    ids, places, wanted = rows_that_end_alike()

    def right(model: Qwen3) -> int:
        chosen = logits(model, ids).argmax(-1)[places].tolist()
        return sum(a == b for a, b in zip(chosen, wanted, strict=True))

    assert right(short) <= 3
    assert right(add_long_match(short, 2.0, 0)) >= 11


def test_a_long_match_still_copies_everything_else() -> None:
    model = Qwen3(config())
    init_induction(model, 0, [(i, 0) for i in range(2048)])
    once = torch.randint(0, 2048, (300,), generator=torch.Generator().manual_seed(0))
    ids = torch.cat([once, once])
    chosen = logits(add_long_match(model, 2.0, 0), ids).argmax(-1)
    assert (chosen[301:-1] == ids[302:]).float().mean().item() > 0.9


@pytest.mark.parametrize(
    "changes", [{"num_kv_heads": 2}, {"head_dim": 32}, {"num_layers": 1}, {"rope_theta": 1e4}]
)
def test_shapes_that_cannot_hold_it_are_refused(changes: dict[str, object]) -> None:
    with pytest.raises(ValueError, match="long match"):
        add_long_match(Qwen3(config(**changes)), 2.0, 0)


def test_new_heads_take_part_in_learning() -> None:
    """Heads that write zeros still get a gradient: nothing is dead."""
    model = Qwen3(config())
    model.init_weights(0)
    wider = widen(model, WIDTH, HEADS, 0)
    ids = torch.arange(40)
    hidden = wider(ids, ids, PackedAttention(torch.tensor([0, 40])))
    wider.logits(hidden).logsumexp(-1).sum().backward()
    for name, parameter in wider.named_parameters():
        if name.endswith("o_proj.weight"):
            assert parameter.grad is not None
            size = parameter.grad[:, -HEADS * 64 :].norm().item()
            assert math.isfinite(size) and size > 0, name
